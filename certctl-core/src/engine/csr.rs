//! The request for a certificate whose key an agent holds: made there, by a job that the one that issues waits for.

use serde::{Deserialize, Serialize};

use crate::{
    Csr, Error, ErrorKind, Id, Result, Retry, SubjectAltName,
    engine::{
        Inner, deploy,
        failure::Failure,
        held::{self, Held, step_of},
        holders::{self, Forget},
        issue::{self, Next, Subject},
    },
    records::{Attempt, Certificate, Holder, Job, JobState, Placement},
    store::{Change, LeaseUse, StoreExt, Stored},
    worker::MakeCsr,
};

pub(super) const KIND: &str = "csr";

/// The step of such a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) work: MakeCsr,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) csr: Option<Csr>,
    /// It was stopped before any agent had heard of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unheard: bool,
}

/// A job that has an agent make a request, for `parent` to wait for.
fn job(engine: &Inner, parent: &Job, placement: &Placement, work: MakeCsr) -> Result<Job> {
    let place = placement.holder.place();
    let mut job = deploy::blank_job(engine, KIND, placement.id.as_str(), &placement.certificate, place);
    job.parent = Some(parent.id.clone());
    held::set_step_of(&mut job, &Step { work, csr: None, unheard: false })?;
    Ok(job)
}

/// Has the holder of the placement make a request, and waits for it.
pub(super) async fn ask(
    engine: &Inner,
    held: &mut Held,
    placement: &Placement,
    generation: u32,
    work: MakeCsr,
) -> Result<Next> {
    let job = job(engine, &held.job, placement, work)?;
    held.set_step(&issue::Step::Csr { generation, child: job.id.clone() })?;
    held.wait_for_children(engine, 1);
    let event = held.event(engine, "request.wanted").with("agent", job.place.as_column());
    held.save(engine, event, LeaseUse::Release, |change| change.insert(&job)).await?;
    Ok(Next::Released)
}

/// Goes on with what the agent has answered.
pub(super) async fn run(
    engine: &Inner,
    held: &mut Held,
    generation: u32,
    child: &Id<Job>,
) -> Result<Next, Failure> {
    let Subject { placement, certificate } = issue::subject(engine, &held.job).await?;
    if held.job.cancel {
        forget_key(engine, held, &placement, child).await?;
        return Ok(issue::cancel(engine, held, None, &[]).await?);
    }
    match made(engine, child).await {
        Ok(Made::Csr(csr, work)) if asks_for(&work, &certificate) => {
            let csr = (csr, Some(work.key));
            issue::begin(engine, held, &certificate, &placement, generation, csr).await?;
        }
        Ok(_) => {
            held.set_step(&issue::Step::Request { generation })?;
            let event = held.event(engine, "request.repeated");
            held.save(engine, event, LeaseUse::Keep, Ok).await?;
        }
        Err(error) => {
            // Whatever is wrong with its key, there will be another one.
            forget_key(engine, held, &placement, child).await?;
            let step = Some(issue::Step::Request { generation: generation + 1 });
            return Err(Failure { error, step, dead: None, ended: false });
        }
    }
    Ok(Next::Again)
}

/// Has the agent destroy the key of a request that nothing comes of, if it was made for that alone.
async fn forget_key(engine: &Inner, held: &Held, placement: &Placement, child: &Id<Job>) -> Result<()> {
    let Some(job) = engine.store.find::<Job>(child).await? else { return Ok(()) };
    let step: Step = step_of(&job)?;
    let attempts: Vec<Stored<Attempt>> = engine.store.list_by("placement", (&placement.id).into()).await?;
    if step.unheard || attempts.iter().any(|attempt| attempt.key.as_ref() == Some(&step.work.key)) {
        return Ok(());
    }
    let Some(job) = holders::forget_job(engine, placement, Forget::nobodys(step.work.key)).await? else {
        return Ok(());
    };
    let event = held.event(engine, "key.given_up").with("key", &*job.subject);
    match engine.commit(Change::new(event).insert(&job)?).await {
        Err(e) if e.kind() != ErrorKind::Conflict => Err(e),
        _ => Ok(()),
    }
}

/// What came of such a job.
#[derive(Debug)]
enum Made {
    /// A request, by this work.
    Csr(Csr, MakeCsr),
    /// It was stopped, or has gone: another one is needed.
    Nothing,
}

/// What came of the job `id`.
///
/// # Errors
/// Why the agent could not make it.
async fn made(engine: &Inner, id: &Id<Job>) -> Result<Made> {
    let Some(job) = engine.store.find::<Job>(id).await? else { return Ok(Made::Nothing) };
    match (job.state, &job.last_error) {
        (JobState::Done, _) => {
            let Step { work, csr, .. } = step_of(&job)?;
            Ok(csr.map_or(Made::Nothing, |csr| Made::Csr(csr, work)))
        }
        // It was tried often enough: a person has to look.
        (JobState::Failed, Some(error)) => Err(Error::from(error.clone()).with_retry(Retry::Never)),
        _ => Ok(Made::Nothing),
    }
}

/// Whether this is what the certificate wants now.
fn asks_for(work: &MakeCsr, certificate: &Certificate) -> bool {
    work.names == certificate.names
        && work.common_name == certificate.common_name
        && matches!(&certificate.key, crate::records::KeyPolicy::Made { algorithm, .. } if *algorithm == work.algorithm)
}

/// Refuses an answer that is not what was asked for. That its signature is right was checked when it was read.
pub(super) async fn check(engine: &Inner, job: &Job, work: &MakeCsr, csr: &Csr) -> Result<()> {
    let wrong = |what: String| {
        Error::new(
            ErrorKind::BadResponse,
            format!("the agent {} answered with {what}", job.place.as_column()),
        )
        .with("key", &work.key)
    };
    let sorted = |names: &[SubjectAltName]| {
        let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    if sorted(csr.names()) != sorted(&work.names) {
        return Err(wrong(format!("a request for the names {}", sorted(csr.names()).join(", "))));
    }
    if csr.common_name() != work.common_name.as_deref() {
        return Err(wrong(format!(
            "a request for the common name {:?}",
            csr.common_name().unwrap_or_default()
        )));
    }
    if csr.public_key().kind() != work.algorithm.kind() {
        return Err(wrong(format!("a request for another key than {}", work.algorithm)));
    }
    // Each placement has keys of its own, and each version too, unless its key is used again.
    let placements: Vec<Stored<Placement>> =
        engine.store.list_by("certificate", job.certificate()?.into()).await?;
    for placement in placements {
        let attempts: Vec<Stored<Attempt>> =
            engine.store.list_by("placement", (&placement.id).into()).await?;
        let taken = |attempt: &&Stored<Attempt>| {
            attempt.csr.public_key() == csr.public_key()
                && (placement.id.as_str() != &*job.subject || attempt.key.as_ref() != Some(&work.key))
        };
        if let Some(attempt) = attempts.iter().find(taken) {
            let holder = match &placement.holder {
                Holder::Agent(agent) => agent.to_string(),
                Holder::Process | Holder::External => "another holder".to_owned(),
            };
            return Err(wrong(format!("a key that {holder} has used in the attempt {}", attempt.id)));
        }
    }
    Ok(())
}
