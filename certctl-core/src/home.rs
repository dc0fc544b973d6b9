use std::{fmt::Debug, sync::Arc};

use crate::{
    Keys, MemoryKeys, NoHosts, Result, SealedOnly, Sealer, Secrets,
    connectors::Connectors,
    host::Hosts,
    store::{MemoryStore, Store},
};

/// What a program brings along: where records and keys live, which hosts it reaches, which connectors it knows.
///
/// A store that lives in a directory makes a whole home of it ([`IntoHome`]): keys, sealing key and all.
#[derive(Clone, Debug)]
pub struct Home {
    /// Where records live.
    pub store: Arc<dyn Store>,
    /// Where private keys live.
    pub keys: Arc<dyn Keys>,
    /// The hosts that it reaches.
    pub hosts: Arc<dyn Hosts>,
    /// Seals what connectors keep in the store.
    pub sealer: Arc<Sealer>,
    /// Resolves references to secrets.
    pub secrets: Arc<dyn Secrets>,
    /// The connector tables.
    pub connectors: Connectors,
}

impl Home {
    /// Records and keys in memory, no hosts, no connectors: what is not replaced, through the public fields, is gone with
    /// the process.
    pub fn in_memory() -> Self {
        let sealer = Arc::new(Sealer::ephemeral());
        Self {
            store: Arc::new(MemoryStore::default()),
            keys: Arc::new(MemoryKeys::default()),
            hosts: Arc::new(NoHosts),
            secrets: Arc::new(SealedOnly(sealer.clone())),
            sealer,
            connectors: Connectors::default(),
        }
    }
}

/// What an engine can live in.
pub trait IntoHome {
    /// Opens what belongs to it.
    ///
    /// # Errors
    /// `Precondition` if a part can't be opened.
    fn into_home(self) -> Result<Home>;
}

impl IntoHome for Home {
    fn into_home(self) -> Result<Home> {
        Ok(self)
    }
}

impl IntoHome for MemoryStore {
    fn into_home(self) -> Result<Home> {
        Ok(Home { store: Arc::new(self), ..Home::in_memory() })
    }
}
