//! Jobs that show a challenge's answer, or take it away: by whoever the name points to.

use serde::{Deserialize, Serialize};

use crate::{
    Challenge, Context, Id, Result,
    engine::{
        Inner, deploy,
        held::{Held, step_of},
        issue,
    },
    records::{Job, JobState, Place},
    store::{Change, StoreExt},
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
        deploy::blank_job(engine, PRESENT, parent.id.as_str(), parent.certificate()?, Place::default());
    job.parent = Some(parent.id.clone());
    job.step = step(challenge)?;
    Ok(job)
}

/// Jobs that take them away; nobody waits for those.
pub(super) fn retract_jobs(engine: &Inner, of: &Job, shown: &[Challenge]) -> Result<Vec<Job>> {
    let job = |challenge| {
        let mut job = deploy::blank_job(engine, RETRACT, of.id.as_str(), of.certificate()?, Place::default());
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
    if !presents && is_needed(engine, &held.job, &challenge).await? {
        held.finish(engine, JobState::Done);
        let event = held.event(engine, "challenge.kept").with("name", name);
        return deploy::save_and_wake(engine, &mut held, event).await;
    }
    let shows = challenge.clone();
    let work = if presents { Work::Present(challenge) } else { Work::Retract(challenge) };
    engine.worker.execute(cx, work, &MemoryJournal::default()).await?;
    held.finish(engine, JobState::Done);
    let event = held.event(engine, &format!("challenge.{}ed", held.job.kind)).with("name", name.as_str());
    deploy::save_and_wake(engine, &mut held, event).await?;
    if presents && held.job.cancel && !is_needed(engine, &held.job, &shows).await? {
        // Its order had come to rest before it was shown, and has not taken it away.
        let mut job =
            deploy::blank_job(engine, RETRACT, &held.job.subject, held.job.certificate()?, Place::default());
        job.step = step(&shows)?;
        let event = held.event(engine, "challenge.late").with("name", name);
        engine.commit(Change::new(event).insert(&job)?).await?;
    }
    Ok(())
}

/// Whether the order that a job belongs to has this challenge shown now: it may have gone on since it came to rest.
async fn is_needed(engine: &Inner, job: &Job, challenge: &Challenge) -> Result<bool> {
    let Some(order) = engine.store.find::<Job>(&Id::parse(&job.subject)?).await? else { return Ok(false) };
    if order.state.is_finished() {
        return Ok(false);
    }
    let at: issue::Step = step_of(&order)?;
    Ok(at.shown().contains(challenge))
}

fn step(challenge: &Challenge) -> Result<serde_json::Value> {
    serde_json::to_value(Step { challenge: challenge.clone() })
        .map_err(|e| crate::Error::internal("a challenge has no JSON form").with_source(e))
}
