//! Where private keys live. A key is made where it is used, and stays there.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::{Error, ErrorKind, Id, Identified, KeyAlgorithm, PrivateKey, PublicKey, Result, Retry, Signer};

/// A private key, for [`Id`]s: the key itself never takes part in a record.
#[derive(Debug)]
pub enum Key {}

impl Identified for Key {
    const PREFIX: &'static str = "key";
    const NOUN: &'static str = "key";
}

/// A key store: a directory, a token, a process's memory. Keys are immutable, each belongs to one version.
#[async_trait]
pub trait Keys: Send + Sync + Debug {
    /// Makes a key, durably, before it answers; if there is one with this id already, gives that one.
    ///
    /// # Errors
    /// `Unsupported` for an algorithm that the store can't make, `Conflict` if the existing key has another one.
    async fn create(&self, id: &Id<Key>, algorithm: KeyAlgorithm) -> Result<PublicKey>;

    /// A signer that uses the key where it is.
    ///
    /// # Errors
    /// `NotFound`.
    async fn signer(&self, id: &Id<Key>) -> Result<Arc<dyn Signer>>;

    /// The key itself, for a server that reads it from a file.
    ///
    /// # Errors
    /// `NotFound`, or `Unsupported` where keys can't leave a token.
    async fn export(&self, id: &Id<Key>) -> Result<PrivateKey>;

    /// Destroys the key; what is not there is fine.
    async fn forget(&self, id: &Id<Key>) -> Result<()>;
}

/// Keys in this process's memory, gone when it ends.
#[derive(Debug, Default)]
pub struct MemoryKeys(Mutex<BTreeMap<Id<Key>, PrivateKey>>);

#[async_trait]
impl Keys for MemoryKeys {
    async fn create(&self, id: &Id<Key>, algorithm: KeyAlgorithm) -> Result<PublicKey> {
        let mut keys = self.0.lock().await;
        if let Some(key) = keys.get(id) {
            let kind = key.public_key().kind();
            if kind != algorithm.kind() {
                let message = format!("the key {id} exists and is of kind {kind}, not {algorithm}");
                return Err(Error::new(ErrorKind::Conflict, message).with_retry(Retry::Never).with("id", id));
            }
            return Ok(key.public_key().clone());
        }
        let key = PrivateKey::generate(algorithm)?;
        let public = key.public_key().clone();
        keys.insert(id.clone(), key);
        Ok(public)
    }

    async fn signer(&self, id: &Id<Key>) -> Result<Arc<dyn Signer>> {
        Ok(Arc::new(self.export(id).await?))
    }

    async fn export(&self, id: &Id<Key>) -> Result<PrivateKey> {
        self.0.lock().await.get(id).cloned().ok_or_else(|| Error::not_found("key", id))
    }

    async fn forget(&self, id: &Id<Key>) -> Result<()> {
        self.0.lock().await.remove(id);
        Ok(())
    }
}
