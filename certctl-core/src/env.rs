//! What a connector's constructor gets besides its configuration.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;

use crate::{
    Clock, Error, ErrorKind, Result, SealedAt, SealedOnly, Sealer, Secret, SecretRef, Secrets, SystemClock,
    host::{Host, Hosts},
    state::MemoryState,
};

/// All that a connector's constructor gets besides its configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Env {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Resolves references to secrets.
    pub secrets: Arc<dyn Secrets>,
    /// The instance's own sealed state.
    pub state: Arc<dyn State>,
    /// Hosts by id.
    pub hosts: Arc<dyn Hosts>,
    /// The record that the configuration is of: its table and id. Secrets are sealed for it.
    pub owner: (&'static str, Box<str>),
}

impl Env {
    /// From its parts.
    pub fn new(
        clock: Arc<dyn Clock>,
        secrets: Arc<dyn Secrets>,
        state: Arc<dyn State>,
        hosts: Arc<dyn Hosts>,
    ) -> Self {
        Self { clock, secrets, state, hosts, owner: ("", "".into()) }
    }

    /// Of the connector with this table and id.
    #[must_use]
    pub fn owned_by(mut self, table: &'static str, id: impl Into<Box<str>>) -> Self {
        self.owner = (table, id.into());
        self
    }

    /// The secret that the configuration's field of this name refers to.
    ///
    /// # Errors
    /// As for [`Secrets::resolve`].
    pub async fn secret(&self, field: &str, reference: &SecretRef) -> Result<Secret> {
        match reference {
            SecretRef::Value(secret) => Ok(secret.clone()),
            reference => {
                let at = SealedAt { table: self.owner.0, id: &self.owner.1, field };
                self.secrets.resolve(&at, reference).await
            }
        }
    }

    /// For a program that wants one connector and no engine: this machine's clock, state in memory, no hosts.
    pub fn in_memory() -> Self {
        Self::new(
            Arc::new(SystemClock),
            Arc::new(SealedOnly(Arc::new(Sealer::ephemeral()))),
            Arc::new(MemoryState::default()),
            Arc::new(NoHosts),
        )
    }
}

/// A connector's own state, sealed: an account, a counter, a CA's keys. Entries are small.
#[async_trait]
pub trait State: Send + Sync + Debug {
    /// The entry of this name and its version.
    async fn load(&self, name: &str) -> Result<Option<(Secret, u64)>>;

    /// Writes the entry durably; `expected` is the version that it must have now, none if it must not exist. Gives the
    /// new version.
    ///
    /// # Errors
    /// `Conflict` if somebody else was faster: load again.
    async fn save(&self, name: &str, value: &Secret, expected: Option<u64>) -> Result<u64>;
}

/// [`Hosts`] of a program that reaches none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHosts;

#[async_trait]
impl Hosts for NoHosts {
    async fn host(&self, id: Option<&str>) -> Result<Arc<dyn Host>> {
        Err(Error::new(
            ErrorKind::Precondition,
            match id {
                Some(id) => format!("this program reaches no hosts, and {id} is asked for"),
                None => {
                    "this program was built without access to its own machine (feature local-host)".to_owned()
                }
            },
        ))
    }
}
