//! Who asks, and whether they may.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Who asks for something. Every command of the engine takes one, and decides here whether it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    name: Box<str>,
    role: Role,
}

/// What an actor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

impl Role {
    /// As stored and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
            Self::Agent => "agent",
        }
    }

    /// Whether it includes this.
    pub fn allows(self, permission: Permission) -> bool {
        match self {
            Self::Admin => true,
            Self::Operator => matches!(permission, Permission::Read | Permission::ManageCertificates),
            Self::Viewer => matches!(permission, Permission::Read),
            Self::Agent => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Admin, Self::Operator, Self::Viewer, Self::Agent];
        all.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let message = format!("{} is no role", crate::x509::shown(text));
            Error::invalid_field("", message, "use admin, operator, viewer or agent")
        })
    }
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
    /// Admit, turn away and forget agents.
    ManageAgents,
    /// Make, see and revoke API keys.
    ManageAccess,
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
        if self.role.allows(permission) {
            return Ok(());
        }
        let roles = [Role::Operator, Role::Admin].map(|role| (role.allows(permission), role.as_str()));
        let others: Vec<&str> = roles.into_iter().filter(|(may, _)| *may).map(|(_, name)| name).collect();
        let message = format!(
            "{} has the role {}, which may not {}: ask as {}",
            self.name,
            self.role,
            permission.as_str(),
            others.join(" or ")
        );
        Err(Error::new(ErrorKind::Denied, message))
    }
}

impl Permission {
    /// What it allows, after "may".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "look at records",
            Self::ManageCertificates => "manage certificates and jobs",
            Self::ManageConnectors => "manage issuers, targets, hosts and profiles",
            Self::ManageAgents => "manage agents",
            Self::ManageAccess => "manage API keys",
            Self::ReadKeys => "take private keys out",
        }
    }
}
