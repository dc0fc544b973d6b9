//! Jobs that show a challenge's answer, or take it away: by whoever the name points to.

use serde::{Deserialize, Serialize};

use crate::{
    Challenge, Context, Result,
    engine::{Inner, deploy, held::Held},
    records::{Job, JobState, Place},
    worker::{MemoryJournal, Work},
};

/// The step of both kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// Jobs that take them away; nobody waits for those.
pub(super) fn retract_jobs(engine: &Inner, of: &Job, shown: &[Challenge]) -> Result<Vec<Job>> {
    let job = |challenge| {
        let mut job = deploy::blank_job(engine, RETRACT, of.id.as_str(), &of.certificate, Place::default());
        job.step = step(challenge)?;
        Ok(job)
    };
    shown.iter().map(job).collect()
}

pub(super) async fn run(engine: &Inner, mut held: Held, cx: &Context) -> Result<()> {
    let Step { challenge } = held.step()?;
    let name = challenge.name.to_string();
    let presents = &*held.job.kind == PRESENT;
    if presents && held.job.cancel {
        held.finish(engine, JobState::Cancelled);
        let event = held.event(engine, "challenge.cancelled").with("name", name);
        return deploy::save_and_wake(engine, &mut held, event).await;
    }
    let work = if presents { Work::Present(challenge) } else { Work::Retract(challenge) };
    engine.worker.execute(cx, work, &MemoryJournal::default()).await?;
    held.finish(engine, JobState::Done);
    let event = held.event(engine, &format!("challenge.{}ed", held.job.kind)).with("name", name);
    deploy::save_and_wake(engine, &mut held, event).await
}

fn step(challenge: &Challenge) -> Result<serde_json::Value> {
    serde_json::to_value(Step { challenge: challenge.clone() })
        .map_err(|e| crate::Error::internal("a challenge has no JSON form").with_source(e))
}
