use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Actor, Error, ErrorKind, Id, Result,
    engine::Inner,
    records::{AuditEvent, Job, JobState},
    store::{Change, Lease, LeaseUse, StoreExt, Stored},
};

/// A job that this process has leased.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) job: Stored<Job>,
    pub(super) lease: Lease,
}

impl Held {
    /// Where the job is in its kind's sequence.
    pub(super) fn step<S: DeserializeOwned>(&self) -> Result<S> {
        step_of(&self.job)
    }

    pub(super) fn set_step<S: Serialize>(&mut self, step: &S) -> Result<()> {
        set_step_of(&mut self.job, step)
    }

    /// An event about the job's certificate.
    pub(super) fn event(&self, engine: &Inner, action: &str) -> AuditEvent {
        AuditEvent::new(engine.clock.now(), &Actor::engine(), action, self.job.about())
            .with("job", self.job.id.as_str())
    }

    /// Commits the job as it is here, fenced by the lease, together with `more`. `more` is called again if somebody asked
    /// the job to stop meanwhile: that is all that others write to a leased job.
    pub(super) async fn save(
        &mut self,
        engine: &Inner,
        event: AuditEvent,
        then: LeaseUse,
        more: impl Fn(Change) -> Result<Change> + Send + Sync,
    ) -> Result<()> {
        loop {
            let change = Change::new(event.clone()).update(&self.job)?.lease(&self.lease, then);
            match engine.commit(more(change)?).await {
                Ok(versions) => {
                    let version = versions.first().copied().unwrap_or_default();
                    self.job = self.job.clone().at_version(version);
                    return Ok(());
                }
                Err(e) if is_stale(&e, self.job.id.as_str()) => {
                    let now = engine.store.read(&self.job.id).await?;
                    let version = now.version();
                    if now.cancel && !self.job.cancel && self.job.state == JobState::Ready {
                        // It obeys at its next step, which may be days away otherwise.
                        self.job.due = Some(engine.clock.now());
                    }
                    self.job.cancel = now.cancel;
                    self.job.parent.clone_from(&now.parent);
                    self.job = self.job.clone().at_version(version);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until `due`.
    pub(super) fn wait_until(&mut self, due: crate::Timestamp) {
        self.job.state = JobState::Ready;
        self.job.due = Some(due);
    }

    /// Waits for so many jobs that are written with it; due at once if there are none.
    pub(super) fn wait_for_children(&mut self, engine: &Inner, children: usize) {
        self.job.open_children = u32::try_from(children).unwrap_or(u32::MAX);
        if children == 0 {
            self.wait_until(engine.clock.now());
        } else {
            self.job.state = JobState::Waiting;
        }
    }

    /// Takes an end back that could not be committed.
    pub(super) fn reopen(&mut self, engine: &Inner) {
        self.job.finished = None;
        self.wait_until(engine.clock.now());
    }

    /// Ends the job.
    pub(super) fn finish(&mut self, engine: &Inner, state: JobState) {
        self.job.state = state;
        self.job.due = None;
        self.job.finished = Some(engine.clock.now());
    }
}

/// Where a job is in its kind's sequence.
pub(super) fn step_of<S: DeserializeOwned>(job: &Job) -> Result<S> {
    serde_json::from_value(job.step.clone())
        .map_err(|e| Error::internal(format!("the step of {} does not read", job.id)).with_source(e))
}

pub(super) fn set_step_of<S: Serialize>(job: &mut Job, step: &S) -> Result<()> {
    job.step = serde_json::to_value(step)
        .map_err(|e| Error::internal("a job's step has no JSON form").with_source(e))?;
    Ok(())
}

/// Whether a commit failed because the row `id` has changed since it was read.
pub(super) fn is_stale(error: &Error, id: &str) -> bool {
    is_conflict(error, "version") && error.context_value("id") == Some(id)
}

/// Whether a commit failed for this reason.
pub(super) fn is_conflict(error: &Error, reason: &str) -> bool {
    error.kind() == ErrorKind::Conflict && error.context_value("reason") == Some(reason)
}

/// Reads the job again, for a failure that has to be recorded on top of whatever was committed last.
pub(super) async fn reload(engine: &Inner, id: &Id<Job>) -> Result<Stored<Job>> {
    engine.store.read(id).await
}
