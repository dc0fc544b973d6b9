//! Who asks, and whether they may.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Who asks for something. Every command of the engine takes one, and decides here whether it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    name: Box<str>,
    role: Role,
}

/// What an actor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Certificates and jobs, but neither connectors nor people.
    Operator,
    /// To look.
    Viewer,
    /// What is addressed to this agent.
    Agent,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Look at records.
    Read,
    /// Create, change, renew, deploy and revoke certificates; cancel and retry jobs.
    ManageCertificates,
    /// Change issuers, targets, hosts and profiles.
    ManageConnectors,
    /// Take private keys out.
    ReadKeys,
}

impl Actor {
    /// The program that embeds the library, acting for itself.
    pub fn process() -> Self {
        Self::new("process", Role::Admin)
    }

    /// The engine, acting on what was decided before: a renewal that is due, a deployment that follows an issuance.
    pub fn engine() -> Self {
        Self::new("engine", Role::Admin)
    }

    /// Somebody with a role.
    pub fn new(name: impl Into<Box<str>>, role: Role) -> Self {
        Self { name: name.into(), role }
    }

    /// Who.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In which role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// # Errors
    /// `Denied` if the role does not include it.
    pub fn require(&self, permission: Permission) -> Result<()> {
        let allowed = match self.role {
            Role::Admin => true,
            Role::Operator => matches!(permission, Permission::Read | Permission::ManageCertificates),
            Role::Viewer => matches!(permission, Permission::Read),
            Role::Agent => false,
        };
        if allowed {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Denied,
            format!("{} has the role {:?}, which does not include {permission:?}", self.name, self.role),
        ))
    }
}
