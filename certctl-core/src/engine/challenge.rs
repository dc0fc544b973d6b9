//! Jobs that show a challenge's answer, or take it away: by whoever the name points to.

use serde::{Deserialize, Serialize};

use crate::{
    Challenge, Context, Id, Result,
    engine::{Inner, deploy, held::Held},
    records::{Certificate, Job, JobState, Place},
    store::LeaseUse,
    worker::{MemoryJournal, Work},
};

/// The step of both kinds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) challenge: Challenge,
}

pub(super) const PRESENT: &str = "present";
pub(super) const RETRACT: &str = "retract";

/// A job that presents, for `parent` to wait for.
pub(super) fn present_job(engine: &Inner, parent: &Job, challenge: &Challenge) -> Result<Job> {
    let mut job =
        deploy::blank_job(engine, PRESENT, parent.id.as_str(), &parent.certificate, Place::default());
    job.parent = Some(parent.id.clone());
    job.step = step(challenge)?;
    Ok(job)
}

/// A job that takes it away; nobody waits for it.
pub(super) fn retract_job(
    engine: &Inner,
    of: &Id<Job>,
    certificate: &Id<Certificate>,
    challenge: &Challenge,
) -> Result<Job> {
    let mut job = deploy::blank_job(engine, RETRACT, of.as_str(), certificate, Place::default());
    job.step = step(challenge)?;
    Ok(job)
}

pub(super) async fn run(engine: &Inner, mut held: Held, cx: &Context) -> Result<()> {
    let Step { challenge } = held.step()?;
    let name = challenge.name.to_string();
    let work = if &*held.job.kind == PRESENT { Work::Present(challenge) } else { Work::Retract(challenge) };
    engine.worker.execute(cx, work, &MemoryJournal::default()).await?;
    let parent = held.job.parent.take();
    held.finish(engine, JobState::Done);
    let event = held.event(engine, &format!("challenge.{}ed", held.job.kind)).with("name", name);
    deploy::save_and_wake(engine, &mut held, event, LeaseUse::Release, parent.as_ref()).await
}

fn step(challenge: &Challenge) -> Result<serde_json::Value> {
    serde_json::to_value(Step { challenge: challenge.clone() })
        .map_err(|e| crate::Error::internal("a challenge has no JSON form").with_source(e))
}
