//! What an agent is asked for besides deploying: a request for a certificate, the end of a key, a dry run. One job each; its
//! step holds what is asked, and then the answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Actor, Context, Error, ErrorKind, ErrorReport, Id, Result,
    engine::{
        Inner, csr, deploy,
        held::{Held, is_conflict, is_stale, set_step_of, step_of},
        holders::{self, Forget},
        plan::{self, AfterFailure},
        sessions,
    },
    random,
    records::{
        Agent, Certificate, CertificateStatus, Checked, Deployment, Job, JobState, TargetRecord, Version,
    },
    store::{Change, LeaseUse, StoreExt, Stored},
    target::Plan,
    worker::{MemoryJournal, Outcome, Work, WorkReport},
};

/// The kind of the jobs that ask what a deployment would change.
pub(super) const PLAN: &str = "plan";

/// The step of a dry run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanStep {
    pub(super) version: Id<Version>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plan: Option<Plan>,
}

/// The kind of the jobs that have an agent look at a target's configuration.
pub(super) const CHECK: &str = "check";

/// The step of such a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CheckStep {
    /// The version of the target's record that is meant.
    version: u64,
}

/// The record with what is known of its configuration already: an answer about the same one, unless that was a refusal.
pub(super) fn as_checked(known: Option<&TargetRecord>, record: TargetRecord) -> TargetRecord {
    let Some(known) = known else { return record };
    let same = TargetRecord { checked: known.checked.clone(), ..record.clone() };
    let liked = known.checked.as_ref().is_none_or(|checked| checked.error.is_none());
    if *known == same && liked { same } else { record }
}

/// A job that has the target's agent look at its configuration, which is about to be written over the version `before`; none
/// if it has none, or has said so already.
pub(super) fn check_job(
    engine: &Inner,
    actor: &Actor,
    target: &TargetRecord,
    before: u64,
) -> Result<Option<Job>> {
    if target.place.agent.is_none() || target.checked.is_some() {
        return Ok(None);
    }
    let mut job = deploy::job_about(engine, CHECK, target.id.as_str(), target.place.clone());
    job.actor = actor.clone();
    set_step_of(&mut job, &CheckStep { version: before + 1 })?;
    Ok(Some(job))
}

/// The target of such a job, as it was meant.
async fn to_check(engine: &Inner, job: &Job) -> Result<Option<Stored<TargetRecord>>> {
    let step: CheckStep = step_of(job)?;
    let target: Option<Stored<TargetRecord>> = engine.store.find(&Id::parse(&job.subject)?).await?;
    Ok(target.filter(|target| target.version() == step.version))
}

async fn checked(engine: &Inner, mut held: Held, error: Option<&ErrorReport>) -> Result<()> {
    held.finish(engine, JobState::Done);
    held.job.last_error = error.cloned();
    let mut event = held.event(engine, "target.checked").with("agent", held.job.place.as_column());
    if let Some(error) = error {
        event = event.with("error", error.message.as_str());
    }
    loop {
        let mut target = to_check(engine, &held.job).await?;
        if let Some(target) = &mut target {
            target.checked = Some(Checked { at: engine.clock.now(), error: error.cloned() });
        }
        let written = held
            .save(engine, event.clone(), LeaseUse::Release, |change| match &target {
                Some(target) => change.update(target),
                None => Ok(change),
            })
            .await;
        match written {
            Err(e) if is_stale(&e, &held.job.subject) || is_conflict(&e, "missing") => {}
            done => return done,
        }
    }
}

/// The work of a job; none if there is nothing to do any more, which is recorded then.
pub(super) async fn work(engine: &Inner, mut held: Held) -> Result<Option<Work>> {
    if held.job.cancel {
        if &*held.job.kind == csr::KIND && held.lease.token <= 1 {
            // Nobody has leased it before.
            let step = csr::Step { unheard: true, ..held.step()? };
            held.set_step(&step)?;
        }
        return end(engine, held, JobState::Cancelled).await.map(|()| None);
    }
    match &*held.job.kind {
        csr::KIND => Ok(Some(Work::MakeCsr(held.step::<csr::Step>()?.work))),
        CHECK => match to_check(engine, &held.job).await? {
            Some(target) => Ok(Some(Work::Check(Box::new(target.into_inner())))),
            None => end(engine, held, JobState::Cancelled).await.map(|()| None),
        },
        holders::FORGET => Ok(Some(Work::ForgetKey(held.step::<Forget>()?.key))),
        PLAN => {
            let step: PlanStep = held.step()?;
            let deployment: Option<Stored<Deployment>> =
                engine.store.find(&Id::parse(&held.job.subject)?).await?;
            let item = match deployment {
                Some(mut deployment) => {
                    deployment.wanted = Some(step.version);
                    deploy::item_for_plan(engine, &deployment).await?
                }
                None => None,
            };
            match item {
                Some(item) => Ok(Some(Work::Plan(Box::new(item)))),
                None => end(engine, held, JobState::Cancelled).await.map(|()| None),
            }
        }
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("this program does not know jobs of the kind {other:?} for agents: a newer one made it"),
        )),
    }
}

async fn end(engine: &Inner, mut held: Held, state: JobState) -> Result<()> {
    held.finish(engine, state);
    let event = held.event(engine, &format!("{}.{}", held.job.kind, state.as_str()));
    deploy::save_and_wake(engine, &mut held, event).await
}

/// Records an agent's answer.
///
/// # Errors
/// `Conflict` with the reason `lease` if the job is somebody else's by now.
pub(super) async fn answered(engine: &Inner, held: Held, outcome: &Outcome) -> Result<()> {
    match outcome {
        Outcome::Failed(error) if &*held.job.kind == CHECK && error.kind != ErrorKind::Cancelled => {
            checked(engine, held, Some(error)).await
        }
        Outcome::Failed(error) => failed(engine, held, error).await,
        Outcome::Report(report) => match (&*held.job.kind, report) {
            (csr::KIND, WorkReport::Csr(csr)) => {
                let step: csr::Step = held.step()?;
                match csr::check(engine, &held.job, &step.work, csr).await {
                    Ok(()) => done(engine, held, &csr::Step { csr: Some(csr.clone()), ..step }).await,
                    Err(wrong) if wrong.kind() == ErrorKind::BadResponse => {
                        failed(engine, held, &wrong.report()).await
                    }
                    Err(e) => Err(e),
                }
            }
            (PLAN, WorkReport::Plan(plan)) => {
                let step: PlanStep = held.step()?;
                done(engine, held, &PlanStep { plan: Some(plan.clone()), ..step }).await
            }
            (holders::FORGET, WorkReport::Done) => gone(engine, held).await,
            (CHECK, WorkReport::Done) => checked(engine, held, None).await,
            (kind, _) => {
                let message = format!("the agent's report is none about a job of the kind {kind}");
                failed(engine, held, &Error::new(ErrorKind::BadResponse, message).report()).await
            }
        },
    }
}

/// Destroys a key that this process holds.
pub(super) async fn forget_here(engine: &Inner, held: Held, cx: &Context) -> Result<()> {
    let step: Forget = held.step()?;
    engine.worker.execute(cx, Work::ForgetKey(step.key), &MemoryJournal::default()).await?;
    gone(engine, held).await
}

async fn gone(engine: &Inner, mut held: Held) -> Result<()> {
    let step: Forget = held.step()?;
    held.job.last_error = None;
    held.finish(engine, JobState::Done);
    let event = held.event(engine, "key.forgotten").with("key", step.key.as_str());
    loop {
        let rows = holders::Forgotten::read(engine, &step).await?;
        match held.save(engine, event.clone(), LeaseUse::Release, |change| rows.add_to(change)).await {
            Err(e) if rows.is_stale(&e) => {}
            done => return done,
        }
    }
}

async fn done<S: Serialize>(engine: &Inner, mut held: Held, step: &S) -> Result<()> {
    held.set_step(step)?;
    held.job.last_error = None;
    held.finish(engine, JobState::Done);
    let event =
        held.event(engine, &format!("{}.done", held.job.kind)).with("agent", held.job.place.as_column());
    deploy::save_and_wake(engine, &mut held, event).await
}

/// Tries again later, or leaves it to the job that waits for this one, or to a person.
async fn failed(engine: &Inner, mut held: Held, error: &ErrorReport) -> Result<()> {
    let now = engine.clock.now();
    if held.job.cancel {
        return end(engine, held, JobState::Cancelled).await;
    }
    held.job.failures += 1;
    held.job.last_error = Some(error.clone());
    let spread = f64::from(random::bytes::<1>()[0]) / 255.0;
    let event = held
        .event(engine, &format!("{}.failed", held.job.kind))
        .with("agent", held.job.place.as_column())
        .with("error", error.message.as_str());
    let given_back =
        error.kind == ErrorKind::Cancelled && held.job.failures < plan::FAILURES_BEFORE_ATTENTION;
    let after = match plan::after_failure(error, held.job.failures, now, spread) {
        // Nobody waits longer than the one who asked.
        _ if &*held.job.kind == PLAN => AfterFailure::Attention,
        _ if given_back => AfterFailure::Again(now + deploy::GIVEN_BACK),
        after => after,
    };
    match after {
        AfterFailure::Again(at) => {
            held.wait_until(at);
            held.save(engine, event, LeaseUse::Release, Ok).await
        }
        AfterFailure::Attention if &*held.job.kind == holders::FORGET => {
            held.job.state = JobState::Attention;
            held.job.due = None;
            held.save(engine, event, LeaseUse::Release, Ok).await
        }
        AfterFailure::Attention => {
            held.finish(engine, JobState::Failed);
            deploy::save_and_wake(engine, &mut held, event).await
        }
    }
}

/// How old the last sign of life of an agent may be that is there: they are written down once a minute.
const PRESENT: Duration = Duration::from_secs(150);

/// Says of a certificate that waits for an agent which one that is, once.
pub(super) async fn note_absence(engine: &Inner, agent: &Agent, job: &Job) -> Result<()> {
    if !matches!(&*job.kind, csr::KIND | deploy::KIND) {
        return Ok(());
    }
    let Some(mut certificate) = engine.store.find::<Certificate>(job.certificate()?).await? else {
        return Ok(());
    };
    let waits = matches!(certificate.status, CertificateStatus::Pending | CertificateStatus::Partial);
    if !waits || certificate.reason.is_some() {
        return Ok(());
    }
    let served = agent.revoked.is_none() && agent.clash.is_none();
    let presence = sessions::presence(engine, &agent.id).await?;
    if served && presence.is_some_and(|presence| presence.now.last_seen + PRESENT > engine.clock.now()) {
        // It is there: it is at it, or will be.
        return Ok(());
    }
    let error = absent(engine, &agent.id).await?;
    certificate.reason = Some(error.report());
    let event = deploy::event_about(engine, job, "certificate.waits").with("agent", agent.id.as_str());
    match engine.commit(Change::new(event).update(&certificate)?).await {
        Err(e) if e.kind() != ErrorKind::Conflict => Err(e),
        _ => Ok(()),
    }
}

/// That an agent does not take its work, and since when it was not seen.
pub(super) async fn absent(engine: &Inner, agent: &Id<Agent>) -> Result<Error> {
    let record = engine.store.find(agent).await?;
    let name = record.as_ref().map_or_else(|| agent.to_string(), |agent| agent.name.to_string());
    let presence = sessions::presence(engine, agent).await?;
    let why = match (record, presence) {
        (None, _) => "there is no such agent any more".to_owned(),
        (Some(agent), _) if agent.revoked.is_some() => "it was revoked: enrol it anew".to_owned(),
        (Some(agent), _) if agent.clash.is_some() => {
            format!("two processes use its identity: see certctl agents resolve {name}")
        }
        (Some(agent), _) if agent.enrolled.is_none() => "it has not enrolled yet".to_owned(),
        (Some(_), None) => "it has not been seen since it enrolled".to_owned(),
        (Some(_), Some(presence)) => format!("it was seen last at {}", presence.now.last_seen),
    };
    Ok(Error::unavailable(format!("waits for the agent {name}: {why}"))
        .with("agent", agent)
        .with("reason", ABSENT))
}

/// The `reason` of a certificate that waits for an agent.
pub(super) const ABSENT: &str = "agent_absent";
