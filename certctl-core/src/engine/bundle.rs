//! A certificate with its key, for a program that serves it itself.

use crate::{
    Actor, Bundle, Error, ErrorKind, Permission, Result,
    engine::{Engine, Inner},
    records::{Certificate, Placement, Version},
    store::{StoreExt, Stored},
};

impl Engine {
    /// The newest version of a certificate, with its key: for a program that serves it itself, without a target.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` if there is no version yet, or its key is not held here; `Denied` unless the actor is an
    /// administrator.
    pub async fn bundle(&self, actor: &Actor, id_or_name: &str) -> Result<Bundle> {
        actor.require(Permission::ReadKeys)?;
        let inner = &self.inner;
        let certificate: Stored<Certificate> = inner.store.resolve(id_or_name).await?;
        let missing = |why: &str| {
            Error::new(ErrorKind::Precondition, format!("certificate {}: {why}", certificate.name))
                .with("id", &certificate.id)
        };
        let version = newest(inner, &certificate).await?.ok_or_else(|| missing("there is no version yet"))?;
        inner.bundle_of(version).await?.ok_or_else(|| missing("its key is not held by this program"))
    }
}

impl Inner {
    /// None if the key is not held here.
    pub(super) async fn bundle_of(&self, version: Version) -> Result<Option<Bundle>> {
        let Some(key) = version.key.filter(|_| !version.key_forgotten) else { return Ok(None) };
        match self.keys.export(&key).await {
            Ok(key) => Ok(Some(Bundle { chain: version.chain, key })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The newest version of the placement that has the newest; ids sort by time.
pub(super) async fn newest(engine: &Inner, certificate: &Certificate) -> Result<Option<Version>> {
    let placements: Vec<Stored<Placement>> =
        engine.store.list_by("certificate", (&certificate.id).into()).await?;
    match placements.iter().filter_map(|placement| placement.version.as_ref()).max() {
        Some(version) => Ok(engine.store.find(version).await?.map(Stored::into_inner)),
        None => Ok(None),
    }
}
