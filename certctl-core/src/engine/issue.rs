//! The job that obtains one version for one placement, and sends it to its targets.
//!
//! Request, submit, poll (with challenges presented by jobs of their own), record, deploy (jobs of their own again), finish.
//! The attempt is committed before the CA is asked; whoever finds a job at `Submit` can't know whether it was, and recovers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Challenge, Context, Csr, Effect, Error, ErrorKind, Handle, Id, Issuer, Key, Order, Progress, Recovery,
    Result, Retry,
    engine::{
        Inner, challenge, deploy,
        held::{Held, is_conflict, is_stale},
        plan,
    },
    random,
    records::{
        Attempt, AttemptState, Certificate, CertificateStatus, Deployment, IssuerRecord, Job, JobState,
        KeyPolicy, Placement, Version,
    },
    store::{Change, LeaseUse, StoreExt, Stored},
    worker::{MakeCsr, MemoryJournal, Work, WorkReport},
};

pub(super) const KIND: &str = "issue";

/// Where an issue job is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(super) enum Step {
    /// Make key and request. `generation` counts the attempts, so that each has a key of its own.
    Request {
        /// From 0.
        generation: u32,
    },
    /// Ask the CA. `asked`: it may have been asked already.
    Submit { attempt: Id<Attempt>, generation: u32, asked: bool },
    /// Ask the CA how it is going.
    Poll {
        attempt: Id<Attempt>,
        generation: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shown: Vec<Challenge>,
    },
    /// The version is recorded; its deployments are under way.
    Deploy { version: Id<Version> },
}

/// A failure, and where the job stands after it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) step: Option<Step>,
    /// The CA has refused this attempt for certain.
    pub(super) dead: Option<Id<Attempt>>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, step: None, dead: None }
    }
}

enum Next {
    Again,
    Released,
}

/// A job for this placement, due now.
pub(super) fn job(engine: &Inner, placement: &Placement) -> Result<Job> {
    let mut job = deploy::blank_job(
        engine,
        KIND,
        placement.id.as_str(),
        &placement.certificate,
        crate::records::Place::default(),
    );
    job.unique = Some(format!("issue:{}", placement.id).into());
    job.step = serde_json::to_value(Step::Request { generation: 0 })
        .map_err(|e| Error::internal("a job's step has no JSON form").with_source(e))?;
    Ok(job)
}

/// Whether the job has not asked its CA for anything yet, so that starting it over can't order twice.
pub(super) fn never_asked(job: &Job) -> bool {
    let step: Result<Step, _> = serde_json::from_value(job.step.clone());
    matches!(step, Ok(Step::Request { generation: 0 }))
}

/// Steps the job until it ends or has to wait.
pub(super) async fn run(engine: &Inner, mut held: Held, cx: &Context) -> Result<(), Failure> {
    // Whether this very process committed the step that the job is at.
    let mut own = false;
    loop {
        let step: Step = held.step()?;
        let next = match step {
            Step::Request { generation } => request(engine, &mut held, cx, generation).await?,
            Step::Submit { attempt, generation, asked } => {
                submit(engine, &mut held, cx, &attempt, generation, asked && !own).await?
            }
            Step::Poll { attempt, generation, shown } => {
                poll(engine, &mut held, cx, &attempt, generation, &shown).await?
            }
            Step::Deploy { version } => finish(engine, &mut held, cx, &version).await?,
        };
        match next {
            Next::Again => own = true,
            Next::Released => return Ok(()),
        }
    }
}

/// What the steps need of the store.
struct Subject {
    placement: Stored<Placement>,
    certificate: Stored<Certificate>,
}

async fn subject(engine: &Inner, job: &Job) -> Result<Subject> {
    let placement: Stored<Placement> = engine.store.read(&Id::parse(&job.subject)?).await?;
    let certificate = engine.store.read(&placement.certificate).await?;
    Ok(Subject { placement, certificate })
}

async fn request(engine: &Inner, held: &mut Held, cx: &Context, generation: u32) -> Result<Next, Failure> {
    if held.job.cancel {
        return Ok(cancel(engine, held, None).await?);
    }
    let Subject { placement, certificate } = subject(engine, &held.job).await?;
    let (_, issuer) = issuer_of(engine, &certificate).await?;
    let algorithm = match &certificate.key {
        KeyPolicy::Made { algorithm, .. } => Some(*algorithm),
        KeyPolicy::External { .. } => None,
    };
    issuer.capabilities().check(
        issuer.kind(),
        &certificate.names,
        algorithm,
        certificate.profile.lifetime,
    )?;
    let (csr, key) = make_csr(engine, held, cx, &certificate, &placement, generation).await?;
    let now = engine.clock.now();
    let attempt = Attempt {
        id: Id::mint_at(now),
        placement: placement.id.clone(),
        issuer: certificate.issuer.clone(),
        names: certificate.names.clone(),
        csr,
        key,
        seed: random::bytes(),
        created: now,
        handle: None,
        state: AttemptState::Open,
    };
    held.set_step(&Step::Submit { attempt: attempt.id.clone(), generation, asked: true })?;
    let event = held.event(engine, "attempt.created").with("attempt", attempt.id.as_str());
    held.save(engine, event, LeaseUse::Keep, |change| change.insert(&attempt)).await?;
    Ok(Next::Again)
}

async fn make_csr(
    engine: &Inner,
    held: &Held,
    cx: &Context,
    certificate: &Certificate,
    placement: &Placement,
    generation: u32,
) -> Result<(Csr, Option<Id<Key>>)> {
    let (algorithm, reuse_key) = match &certificate.key {
        KeyPolicy::External { csr } => return Ok((csr.clone(), None)),
        KeyPolicy::Made { algorithm, reuse_key } => (*algorithm, *reuse_key),
    };
    let old = match &placement.version {
        Some(version) if reuse_key => {
            engine.store.find(version).await?.and_then(|version| version.key.clone())
        }
        _ => None,
    };
    let key = old.unwrap_or_else(|| Id::with_suffix(&format!("{}-{generation}", held.job.id.suffix())));
    let work = Work::MakeCsr(MakeCsr {
        key: key.clone(),
        algorithm,
        common_name: certificate.common_name.clone(),
        names: certificate.names.clone(),
    });
    match engine.worker.execute(cx, work, &MemoryJournal::default()).await? {
        WorkReport::Csr(csr) => Ok((csr, Some(key))),
        other => Err(wrong_report(&other)),
    }
}

async fn submit(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    attempt: &Id<Attempt>,
    generation: u32,
    recover: bool,
) -> Result<Next, Failure> {
    let Step::Submit { asked, .. } = held.step()? else {
        return Err(Error::internal("the job is not at its submit step").into());
    };
    if !asked {
        if held.job.cancel {
            return Ok(cancel(engine, held, Some(attempt)).await?);
        }
        held.set_step(&Step::Submit { attempt: attempt.clone(), generation, asked: true })?;
        let event = held.event(engine, "attempt.repeated").with("attempt", attempt.as_str());
        held.save(engine, event, LeaseUse::Keep, Ok).await?;
    }
    let Subject { placement, certificate } = subject(engine, &held.job).await?;
    let attempt: Stored<Attempt> = engine.store.read(attempt).await?;
    let (_, issuer) = issuer_of_record(engine, &attempt.issuer).await?;
    let order = order(engine, &certificate, &placement, &attempt).await?;
    let result = if !recover {
        issuer.submit(cx, &order).await
    } else if issuer.capabilities().recovery == Recovery::None {
        let error = Error::new(
            ErrorKind::Precondition,
            format!(
                "the answer of the CA to attempt {} was lost, and it can't be asked what became of it: look there, then retry \
                 to order again",
                attempt.id
            ),
        );
        return Err(Failure { error, step: Some(Step::Request { generation: generation + 1 }), dead: None });
    } else {
        match issuer.recover(cx, &order).await {
            Ok(Some(progress)) => Ok(progress),
            Ok(None) => issuer.submit(cx, &order).await,
            Err(e) => Err(e),
        }
    };
    match result {
        Ok(progress) => {
            let at = At { attempt, certificate, placement, generation, issuer };
            went_on(engine, held, cx, at, Vec::new(), progress).await
        }
        Err(error) => Err(refused(error, &attempt.id, generation, &*issuer)),
    }
}

async fn poll(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    attempt: &Id<Attempt>,
    generation: u32,
    shown: &[Challenge],
) -> Result<Next, Failure> {
    if held.job.cancel {
        return Ok(cancel(engine, held, Some(attempt)).await?);
    }
    let Subject { placement, certificate } = subject(engine, &held.job).await?;
    let attempt: Stored<Attempt> = engine.store.read(attempt).await?;
    let (_, issuer) = issuer_of_record(engine, &attempt.issuer).await?;
    let order = order(engine, &certificate, &placement, &attempt).await?;
    let handle = attempt.handle.clone().ok_or_else(|| {
        Error::internal(format!("attempt {} is to be polled and has no handle", attempt.id))
    })?;
    match issuer.poll(cx, &order, handle).await {
        Ok(progress) => {
            let at = At { attempt, certificate, placement, generation, issuer };
            went_on(engine, held, cx, at, shown.to_vec(), progress).await
        }
        Err(error) if error.retry() == Retry::Never && error.effect() == Effect::None => Err(Failure {
            error,
            step: Some(Step::Request { generation: generation + 1 }),
            dead: Some(attempt.id.clone()),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Where an order stands.
struct At {
    attempt: Stored<Attempt>,
    certificate: Stored<Certificate>,
    placement: Stored<Placement>,
    generation: u32,
    issuer: std::sync::Arc<dyn Issuer>,
}

async fn went_on(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    mut at: At,
    mut shown: Vec<Challenge>,
    progress: Progress,
) -> Result<Next, Failure> {
    held.job.failures = 0;
    held.job.last_error = None;
    match progress {
        Progress::Waiting { handle, at: due } => {
            save_handle(held, &mut at, shown, handle)?;
            held.wait_until(due);
            let event = held.event(engine, "order.waiting").with("until", due.to_string());
            held.save(engine, event, LeaseUse::Release, |change| change.update(&at.attempt)).await?;
            Ok(Next::Released)
        }
        Progress::Challenges { handle, present } => {
            let mut jobs = Vec::new();
            for challenge in &present {
                jobs.push(challenge::present_job(engine, &held.job, challenge)?);
            }
            shown.extend(present);
            save_handle(held, &mut at, shown, handle)?;
            held.job.state = JobState::Waiting;
            held.job.open_children = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
            let event = held.event(engine, "order.challenged").with("challenges", jobs.len());
            held.save(engine, event, LeaseUse::Release, |change| {
                jobs.iter().try_fold(change.update(&at.attempt)?, Change::insert)
            })
            .await?;
            Ok(Next::Released)
        }
        Progress::Issued { chain } => record(engine, held, cx, at, &shown, chain).await,
    }
}

fn save_handle(held: &mut Held, at: &mut At, shown: Vec<Challenge>, handle: Handle) -> Result<()> {
    at.attempt.handle = Some(handle);
    held.set_step(&Step::Poll { attempt: at.attempt.id.clone(), generation: at.generation, shown })
}

/// The CA has answered with a certificate: check it, record it, send it on its way, all in one transaction.
async fn record(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    at: At,
    shown: &[Challenge],
    chain: crate::Chain,
) -> Result<Next, Failure> {
    let At { mut attempt, mut certificate, mut placement, generation, issuer } = at;
    let now = engine.clock.now();
    if let Err(e) = chain.check(attempt.csr.public_key(), &attempt.names, now) {
        let error = Error::new(
            ErrorKind::BadResponse,
            format!(
                "the issuer kind {} answered with a certificate that was not asked for: {e}",
                issuer.kind()
            ),
        )
        .with("attempt", &attempt.id)
        .with("serial", chain.leaf().serial());
        return Err(Failure {
            error,
            step: Some(Step::Request { generation: generation + 1 }),
            dead: Some(attempt.id.clone()),
        });
    }
    let leaf = chain.leaf();
    let version = Version {
        id: Id::mint_at(now),
        certificate: certificate.id.clone(),
        placement: placement.id.clone(),
        attempt: attempt.id.clone(),
        issuer: attempt.issuer.clone(),
        key: attempt.key.clone(),
        serial: leaf.serial().clone(),
        fingerprint: leaf.fingerprint(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        created: now,
        key_forgotten: false,
        chain,
    };
    let mut retractions = Vec::new();
    for challenge in shown {
        retractions.push(challenge::retract_job(engine, &held.job.id, &certificate.id, challenge)?);
    }
    let event = held
        .event(engine, "version.issued")
        .with("version", version.id.as_str())
        .with("serial", version.serial.to_string())
        .with("fingerprint", version.fingerprint.to_string())
        .with("not_after", version.not_after.to_string());
    attempt.state = AttemptState::Issued;
    // What the CA gave is in nobody's hands but these: a store that is busy or away is no reason to drop it.
    let mut pause = Duration::from_millis(50);
    for tries in 0.. {
        let sent = send(engine, held, &placement, &version).await?;
        placement.version = Some(version.id.clone());
        certificate.not_after = Some(version.not_after);
        certificate.serial = Some(version.serial.clone());
        certificate.updated = now;
        let then = if sent.jobs.is_empty() { LeaseUse::Keep } else { LeaseUse::Release };
        let saved = held
            .save(engine, event.clone(), then, |change| {
                let change =
                    change.insert(&version)?.update(&attempt)?.update(&placement)?.update(&certificate)?;
                let change = sent.deployments.iter().try_fold(change, Change::update)?;
                let change = sent.joined.iter().try_fold(change, Change::update)?;
                sent.jobs.iter().chain(&retractions).try_fold(change, Change::insert)
            })
            .await;
        match saved {
            Ok(()) => break,
            Err(e) if is_conflict(&e, "lease") || tries >= 20 => return Err(e.into()),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                certificate = engine.store.read(&certificate.id).await?;
                placement = engine.store.read(&placement.id).await?;
            }
            Err(e) => {
                tracing::warn!(error = %e, attempt = %attempt.id, "an issued certificate could not be recorded yet");
                cx.clock.pause(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
    metrics::counter!("certctl_certificates_issued_total", "issuer_type" => issuer.kind().to_owned())
        .increment(1);
    Ok(if held.job.state == JobState::Waiting { Next::Released } else { Next::Again })
}

/// Where a new version goes.
struct Sent {
    deployments: Vec<Stored<Deployment>>,
    jobs: Vec<Job>,
    joined: Vec<Stored<Job>>,
}

/// Wants the version on every target, and makes the job wait for those deployments that it starts.
async fn send(engine: &Inner, held: &mut Held, placement: &Placement, version: &Version) -> Result<Sent> {
    let deployments = engine.store.list_by("placement", (&placement.id).into()).await?;
    let mut sent = Sent { deployments, jobs: Vec::new(), joined: Vec::new() };
    for deployment in &mut sent.deployments {
        deployment.wanted = Some(version.id.clone());
        match deploy::open_job(engine, &deployment.id).await? {
            // One of an earlier version is still open: it takes what is wanted now, and nobody waits for it.
            Some(job) => sent.joined.extend(deploy::take_up(engine, job, deployment.state)),
            None => sent.jobs.push(deploy::job(engine, deployment, Some(&held.job.id)).await?),
        }
    }
    held.set_step(&Step::Deploy { version: version.id.clone() })?;
    held.job.open_children = u32::try_from(sent.jobs.len()).unwrap_or(u32::MAX);
    if sent.jobs.is_empty() {
        held.wait_until(engine.clock.now());
    } else {
        held.job.state = JobState::Waiting;
    }
    Ok(sent)
}

/// Every deployment has ended, one way or the other.
async fn finish(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    version: &Id<Version>,
) -> Result<Next, Failure> {
    let Subject { mut placement, certificate } = subject(engine, &held.job).await?;
    let newest: Stored<Version> = engine.store.read(version).await?;
    let forgotten = forget_keys(engine, cx, &placement).await?;

    // Somebody may have changed what is wanted while the CA was at it.
    let has = |name: &crate::SubjectAltName| newest.chain.leaf().names().contains(name);
    placement.job = None;
    placement.renew_at = match certificate.key {
        // The same request would give the same certificate: whoever holds the key renews.
        KeyPolicy::External { .. } => None,
        _ if !certificate.names.iter().all(has) => Some(engine.clock.now()),
        KeyPolicy::Made { .. } => {
            Some(plan::renew_at(certificate.renewal, newest.not_before, newest.not_after))
        }
    };
    held.finish(engine, JobState::Done);
    let event = held
        .event(engine, "certificate.renewed")
        .with("version", version.as_str())
        .with("keys_forgotten", forgotten.len());
    let renew_at = placement.renew_at;
    loop {
        let rolled_up = deploy::roll_up(engine, &placement.certificate, Some(&placement)).await?;
        let saved = held
            .save(engine, event.clone(), LeaseUse::Release, |change| {
                let change = forgotten.iter().try_fold(change.update(&placement)?, Change::update)?;
                match &rolled_up {
                    Some(certificate) => change.update(certificate),
                    None => Ok(change),
                }
            })
            .await;
        match saved {
            Ok(()) => return Ok(Next::Released),
            Err(e) if is_stale(&e, placement.certificate.as_str()) => {}
            Err(e) if is_stale(&e, placement.id.as_str()) => {
                placement = engine.store.read(&placement.id).await?;
                placement.job = None;
                placement.renew_at = renew_at;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Destroys the keys that nothing needs any more; gives their versions as they are to be recorded.
async fn forget_keys(engine: &Inner, cx: &Context, placement: &Placement) -> Result<Vec<Stored<Version>>> {
    let mut versions: Vec<Stored<Version>> =
        engine.store.list_by("placement", (&placement.id).into()).await?;
    if versions.len() < 2 {
        return Ok(Vec::new());
    }
    let deployments: Vec<Stored<Deployment>> =
        engine.store.list_by("placement", (&placement.id).into()).await?;
    let forgettable = plan::forgettable(&versions, placement.version.as_ref(), &deployments);
    versions.retain(|version| forgettable.contains(&version.id));
    for version in &mut versions {
        if let Some(key) = &version.key {
            let work = Work::ForgetKey(key.clone());
            engine.worker.execute(cx, work, &MemoryJournal::default()).await?;
        }
        version.key_forgotten = true;
    }
    Ok(versions)
}

async fn cancel(engine: &Inner, held: &mut Held, attempt: Option<&Id<Attempt>>) -> Result<Next> {
    let Subject { mut placement, .. } = subject(engine, &held.job).await?;
    placement.job = None;
    // Who stops a renewal wants it later, not never.
    let tomorrow = engine.clock.now() + Duration::from_secs(86_400);
    placement.renew_at = placement.version.as_ref().map(|_| tomorrow);
    let mut dead = match attempt {
        Some(attempt) => Some(engine.store.read(attempt).await?),
        None => None,
    };
    if let Some(attempt) = &mut dead {
        attempt.state = AttemptState::Failed;
    }
    held.finish(engine, JobState::Cancelled);
    let event = held.event(engine, "job.cancelled");
    held.save(engine, event, LeaseUse::Release, |change| {
        let change = change.update(&placement)?;
        match &dead {
            Some(attempt) => change.update(attempt),
            None => Ok(change),
        }
    })
    .await?;
    Ok(Next::Released)
}

/// Where the job stands after the CA did not take an order.
fn refused(error: Error, attempt: &Id<Attempt>, generation: u32, issuer: &dyn Issuer) -> Failure {
    let unknown = error.effect() == Effect::Unknown;
    if unknown && issuer.capabilities().recovery != Recovery::None {
        // The step stays: whoever comes next recovers. That the caller saw the error is no reason to give up.
        let error = if error.retry() == Retry::Never { error.with_retry(Retry::Backoff) } else { error };
        return Failure { error, step: None, dead: None };
    }
    if unknown {
        let error = error
            .during("the answer of the CA was lost, and it can't be asked what became of the order; look there, then retry")
            .with_retry(Retry::Never)
            .with("attempt", attempt);
        return Failure { error, step: Some(Step::Request { generation: generation + 1 }), dead: None };
    }
    if error.retry() == Retry::Never {
        let step = Some(Step::Request { generation: generation + 1 });
        return Failure { error, step, dead: Some(attempt.clone()) };
    }
    let step = Some(Step::Submit { attempt: attempt.clone(), generation, asked: false });
    Failure { error, step, dead: None }
}

/// Records what a failure means for the placement's certificate. Called with the job already changed, before it is saved.
pub(super) async fn failed(
    engine: &Inner,
    held: &mut Held,
    failure: Failure,
    action: &str,
    release: LeaseUse,
) -> Result<()> {
    if let Some(step) = &failure.step {
        held.set_step(step)?;
    }
    let dead = match &failure.dead {
        Some(id) => engine.store.find::<Attempt>(id).await?.map(|mut attempt| {
            attempt.state = AttemptState::Failed;
            attempt
        }),
        None => None,
    };
    let event = held.event(engine, action).with("error", failure.error.to_string());
    loop {
        let certificate = match held.job.state {
            JobState::Attention => {
                engine.store.find::<Certificate>(&held.job.certificate).await?.map(|mut c| {
                    c.status = CertificateStatus::Attention;
                    c.reason = Some(failure.error.report());
                    c.updated = engine.clock.now();
                    c
                })
            }
            _ => None,
        };
        let saved = held
            .save(engine, event.clone(), release, |mut change| {
                if let Some(attempt) = &dead {
                    change = change.update(attempt)?;
                }
                match &certificate {
                    Some(certificate) => change.update(certificate),
                    None => Ok(change),
                }
            })
            .await;
        match saved {
            Err(e) if is_stale(&e, held.job.certificate.as_str()) => {}
            done => return done,
        }
    }
}

async fn order(
    engine: &Inner,
    certificate: &Certificate,
    placement: &Placement,
    attempt: &Attempt,
) -> Result<Order> {
    let replaces = match &placement.version {
        Some(version) => engine.store.find(version).await?.map(|version| version.chain.clone()),
        None => None,
    };
    Ok(Order {
        attempt: attempt.id.clone(),
        seed: attempt.seed,
        created: attempt.created,
        csr: attempt.csr.clone(),
        common_name: certificate.common_name.clone(),
        names: attempt.names.clone(),
        profile: certificate.profile.clone(),
        replaces,
    })
}

async fn issuer_of(
    engine: &Inner,
    certificate: &Certificate,
) -> Result<(IssuerRecord, std::sync::Arc<dyn Issuer>)> {
    issuer_of_record(engine, &certificate.issuer).await
}

async fn issuer_of_record(
    engine: &Inner,
    id: &Id<IssuerRecord>,
) -> Result<(IssuerRecord, std::sync::Arc<dyn Issuer>)> {
    let record = engine.store.read(id).await?.into_inner();
    let issuer = engine.catalog.issuer(&record).await?;
    Ok((record, issuer))
}

fn wrong_report(report: &WorkReport) -> Error {
    let what = match report {
        WorkReport::Csr(_) => "a request",
        WorkReport::Deployed(_) => "deployments",
        WorkReport::Plan(_) => "a plan",
        WorkReport::Done => "nothing",
    };
    Error::internal(format!("the worker answered with {what}, which was not asked for"))
}
