//! The end of a certificate that is wanted no more.

use std::time::Duration;

use crate::{
    Actor, Error, ErrorKind, Id, Permission, Result, Retry,
    engine::{
        Engine, Inner, JobWatch,
        commands::{again_if_stale, event},
        holders, revoke,
    },
    records::{Certificate, Job, Placement},
    store::{Change, StoreExt, Stored},
};

/// How long a caller waits for what has begun to end.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Forgets a certificate: its jobs are stopped, and its keys are destroyed where they are held. What is deployed stays in
    /// service as it is, and what was issued stays recorded: revoke it first if it shall not be trusted any more.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if `expected` is not the stored version, or, with the reason `busy`, if something that has begun
    /// has not ended yet: it was asked to stop, so try again; `Precondition` while a revocation is under way; `Denied` if the
    /// actor may not.
    pub async fn delete_certificate(
        &self,
        actor: &Actor,
        id_or_name: &str,
        expected: Option<u64>,
    ) -> Result<()> {
        actor.require(Permission::ManageCertificates)?;
        let inner = &self.inner;
        let first = || stop(inner, actor, id_or_name, expected);
        let Stopping { certificate, name, jobs } = again_if_stale(first).await?;
        if jobs.is_empty() {
            return Ok(());
        }
        // What has begun ends first: here, or wherever it is being stepped.
        let ending = JobWatch { engine: inner.clone(), certificate: certificate.clone(), jobs };
        tokio::select! {
            ended = ending.step() => drop(ended?),
            () = inner.clock.pause(PATIENCE) => {}
        }
        let again = || stop(inner, actor, certificate.as_str(), None);
        if again_if_stale(again).await?.jobs.is_empty() {
            return Ok(());
        }
        let message = format!(
            "certificate {name} has jobs that have begun, and were asked to stop: delete it again once they have ended"
        );
        Err(Error::new(ErrorKind::Conflict, message).with("reason", "busy").with_retry(Retry::Backoff))
    }
}

/// What is left to wait for; nothing if the certificate is gone.
struct Stopping {
    certificate: Id<Certificate>,
    name: Box<str>,
    jobs: Vec<Id<Job>>,
}

async fn stop(inner: &Inner, actor: &Actor, id_or_name: &str, expected: Option<u64>) -> Result<Stopping> {
    let certificate: Stored<Certificate> = inner.store.resolve(id_or_name).await?;
    let stored = certificate.version();
    if let Some(expected) = expected.filter(|expected| *expected != stored) {
        let message = format!(
            "certificate {} has version {stored} and not {expected}: read it again",
            certificate.name
        );
        return Err(Error::new(ErrorKind::Conflict, message)
            .with("reason", "version")
            .with("expected", expected)
            .with("version", stored));
    }
    let all: Vec<Stored<Job>> = inner.store.list_by("certificate", (&certificate.id).into()).await?;
    if let Some(job) = all.iter().find(|job| &*job.kind == revoke::KIND && !job.state.is_finished()) {
        let message = format!(
            "certificate {} is being revoked ({}): delete it once that has ended, or cancel it first",
            certificate.name, job.id
        );
        return Err(Error::new(ErrorKind::Precondition, message));
    }
    let placements: Vec<Stored<Placement>> =
        inner.store.list_by("certificate", (&certificate.id).into()).await?;
    let mut jobs = Vec::new();
    let deleted =
        event(inner, actor, "certificate.deleted", &certificate.id).with("name", &*certificate.name);
    let mut change = Change::new(deleted).delete(&certificate);
    for placement in &placements {
        change = holders::leave(inner, change, placement.clone(), &mut jobs).await?;
    }
    if !jobs.is_empty() {
        let requested = event(inner, actor, "certificate.deletion_requested", &certificate.id);
        change = Change::new(requested);
        jobs.clear();
        for placement in placements {
            change = holders::leave(inner, change, placement, &mut jobs).await?;
        }
    }
    inner.commit(change).await?;
    let certificate = certificate.into_inner();
    Ok(Stopping { certificate: certificate.id, name: certificate.name, jobs })
}
