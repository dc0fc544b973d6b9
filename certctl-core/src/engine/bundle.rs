//! A certificate with its key, for a program that serves it itself.

use std::sync::Arc;

use crate::{
    Actor, Bundle, Error, ErrorKind, Id, Permission, Result,
    engine::{
        Engine, Inner, JobWatch,
        commands::{again_if_stale, event},
    },
    records::{Certificate, Holder, Placement, Version},
    store::{Change, StoreExt, Stored},
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
        let placement = inner.store.find(&version.placement).await?;
        if let Some(Holder::Agent(agent)) =
            placement.as_ref().map(|placement: &Stored<Placement>| &placement.holder)
        {
            let name = inner
                .store
                .find(agent)
                .await?
                .map_or_else(|| agent.to_string(), |agent| agent.name.to_string());
            return Err(missing(&format!("its key is held by the agent {name}, and never leaves it")));
        }
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

impl Inner {
    /// No renewal comes by itself from now on, until somebody asks for one. One that is under way is cancelled, if it still can
    /// be.
    pub(super) async fn stop_renewing(
        self: &Arc<Self>,
        actor: &Actor,
        certificate: &Id<Certificate>,
    ) -> Result<()> {
        let engine = Engine { inner: self.clone() };
        let jobs: Vec<_> = placements(self, certificate)
            .await?
            .iter()
            .filter_map(|placement| placement.job.clone())
            .collect();
        for job in &jobs {
            engine.cancel(actor, job).await?;
        }
        if !jobs.is_empty() {
            let watch = JobWatch { engine: self.clone(), certificate: certificate.clone(), jobs };
            watch.step().await?;
        }
        again_if_stale(|| async {
            let mut change = Change::new(event(self, actor, "renewals.stopped", certificate));
            let mut writes = false;
            for mut placement in placements(self, certificate).await? {
                if placement.renew_at.is_some() || placement.ask_at.is_some() {
                    placement.renew_at = None;
                    placement.ask_at = None;
                    change = change.update(&placement)?;
                    writes = true;
                }
            }
            if writes {
                self.commit(change).await?;
            }
            Ok(())
        })
        .await
    }
}

async fn placements(engine: &Inner, certificate: &Id<Certificate>) -> Result<Vec<Stored<Placement>>> {
    engine.store.list_by("certificate", certificate.into()).await
}

/// The newest version of the placement that has the newest; ids sort by time.
pub(super) async fn newest(engine: &Inner, certificate: &Certificate) -> Result<Option<Version>> {
    let placements = placements(engine, &certificate.id).await?;
    match placements.iter().filter_map(|placement| placement.version.as_ref()).max() {
        Some(version) => Ok(engine.store.find(version).await?.map(Stored::into_inner)),
        None => Ok(None),
    }
}
