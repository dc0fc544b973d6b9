//! A directory as an engine's home: records, keys and the sealing key lie beside each other.

use std::{path::Path, sync::Arc};

use certctl_core::{
    Error, ErrorKind, Home, IntoHome, Result, SealedAt, Sealer, Secret, SecretRef, Secrets, store::Store,
};

use crate::{hosts::LocalHosts, keys::DiskKeys, stores::SqliteStore};

/// Keys go to `keys/`, the sealing key to `master.key` (0600, made on first use), both beside the database.
impl IntoHome for SqliteStore {
    fn into_home(self) -> Result<Home> {
        let directory = self.directory().unwrap_or(Path::new(".")).to_owned();
        home_in(&directory, self)
    }
}

/// A home whose keys and sealing key are in this directory, wherever the store is.
///
/// # Errors
/// `Precondition` if a part can't be opened.
pub fn home_in(directory: &Path, store: SqliteStore) -> Result<Home> {
    let directory = std::path::absolute(directory).map_err(|e| {
        Error::new(ErrorKind::Precondition, "the store's directory has no path").with_source(e)
    })?;
    let sealer = Arc::new(Sealer::new(&crate::keys::sealing_key(&directory.join("master.key"))?)?);
    Ok(Home {
        keys: Arc::new(DiskKeys::open(directory.join("keys"))?),
        hosts: Arc::new(LocalHosts),
        secrets: Arc::new(ProcessSecrets(sealer.clone())),
        sealer,
        connectors: crate::connectors(),
        store: Arc::new(store),
    })
}

/// Secrets of this process: its environment, files it can read, and what is sealed.
#[derive(Debug)]
pub struct ProcessSecrets(pub Arc<Sealer>);

#[async_trait::async_trait]
impl Secrets for ProcessSecrets {
    async fn resolve(&self, at: &SealedAt<'_>, reference: &SecretRef) -> Result<Secret> {
        match reference {
            SecretRef::Sealed(sealed) => self.0.open(at, sealed),
            SecretRef::Value(secret) => Ok(secret.clone()),
            SecretRef::Env(name) => {
                // The one implementation that reads the environment.
                #[allow(clippy::disallowed_methods)]
                let value = std::env::var_os(name).ok_or_else(|| {
                    missing(at, reference, "there is no such environment variable in this process")
                })?;
                Ok(Secret::new(value.into_encoded_bytes()))
            }
            SecretRef::File(path) => {
                let mut bytes = std::fs::read(path).map_err(|e| missing(at, reference, &e.to_string()))?;
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                }
                Ok(Secret::new(bytes))
            }
        }
    }
}

fn missing(at: &SealedAt<'_>, reference: &SecretRef, why: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("the secret {} of {} {} ({reference:?}) can't be read: {why}", at.field, at.table, at.id),
    )
}
