//! Sending a version to its targets.

use crate::{
    Error, ErrorKind, Id, Result,
    engine::{Inner, deploy},
    records::{Deployment, Job, Placement, Version},
    store::{Change, StoreExt, Stored},
};

/// What has to be written so that a version goes to its targets.
#[derive(Debug)]
pub(super) struct Dispatch {
    deployments: Vec<Stored<Deployment>>,
    jobs: Vec<Job>,
    /// Open jobs of an earlier version take what is wanted now; those that waited for a later try are taken up.
    open: Vec<Stored<Job>>,
}

impl Dispatch {
    /// For each deployment of the placement, or only for those that want something else so far (`late`).
    pub(super) async fn prepare(
        engine: &Inner,
        placement: &Id<Placement>,
        version: &Id<Version>,
        parent: &Id<Job>,
        late: bool,
    ) -> Result<Self> {
        let mut all = Self { deployments: Vec::new(), jobs: Vec::new(), open: Vec::new() };
        let deployments: Vec<Stored<Deployment>> =
            engine.store.list_by("placement", placement.into()).await?;
        for mut deployment in deployments {
            if late && deployment.wanted.as_ref() == Some(version) {
                continue;
            }
            deployment.wanted = Some(version.clone());
            match deploy::open_job(engine, &deployment.id).await? {
                None => all.jobs.push(deploy::job(engine, &deployment, Some(parent)).await?),
                // It takes what is wanted now, and nobody waits for it.
                Some(job) => all.open.extend(deploy::take_up(engine, job, deployment.state)),
            }
            all.deployments.push(deployment);
        }
        Ok(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deployments.is_empty()
    }

    /// How many jobs the parent waits for.
    pub(super) fn children(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn add_to(&self, mut change: Change) -> Result<Change> {
        change = self.deployments.iter().try_fold(change, Change::update)?;
        change = self.open.iter().try_fold(change, Change::update)?;
        self.jobs.iter().try_fold(change, Change::insert)
    }

    /// Whether a commit failed because something in here has changed meanwhile: prepare it again then.
    pub(super) fn is_stale(&self, error: &Error) -> bool {
        let id = error.context_value("id").unwrap_or_default();
        error.kind() == ErrorKind::Conflict
            && (self.deployments.iter().any(|deployment| deployment.id.as_str() == id)
                || self
                    .jobs
                    .iter()
                    .chain(self.open.iter().map(|open| &**open))
                    .any(|job| job.id.as_str() == id))
    }
}
