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
        Inner, challenge, csr, deploy,
        dispatch::Dispatch,
        failure::Failure,
        finish,
        held::{self, Held, is_conflict, is_stale},
        holders::Departure,
        plan,
    },
    random,
    records::{
        Attempt, AttemptState, Certificate, Holder, IssuerRecord, Job, JobState, KeyPolicy, Placement,
        Version,
    },
    store::{Change, LeaseUse, StoreExt, Stored},
    worker::{MakeCsr, MemoryJournal, Work, WorkReport},
};

pub(super) const KIND: &str = "issue";

/// How long a CA is left alone that asks for challenges which are shown already.
const CHALLENGED_AGAIN: Duration = Duration::from_secs(10);

/// How often an order's challenges are shown once more without that pause: a process that was started anew shows what went
/// with the one before it, and the CA may be looking.
const SHOWN_AGAIN_AT_ONCE: u32 = 3;

/// How many challenges an order may want for each name, over time: no CA has us present for ever.
const CHALLENGES_PER_NAME: usize = 20;

/// Where an issue job is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(super) enum Step {
    /// Make key and request. `generation` counts the attempts, so that each has a key of its own.
    Request {
        /// From 0.
        generation: u32,
    },
    /// An agent makes key and request, by the job `child`.
    Csr { generation: u32, child: Id<Job> },
    /// Ask the CA. `asked`: it may have been asked already.
    Submit { attempt: Id<Attempt>, generation: u32, asked: bool },
    /// Ask the CA how it is going, once `missing` are shown as well.
    Poll {
        attempt: Id<Attempt>,
        generation: u32,
        /// To be taken away when the order has ended, however it ends.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shown: Vec<Challenge>,
        /// Could not be shown so far.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<Challenge>,
        /// How often those that were shown already had to be shown once more.
        #[serde(default)]
        repeats: u32,
    },
    /// The version is recorded; its deployments are under way.
    Deploy { version: Id<Version> },
}

pub(super) enum Next {
    Again,
    /// The order has gone on and does so at once.
    AtOnce,
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
    held::set_step_of(&mut job, &Step::Request { generation: 0 })?;
    Ok(job)
}

/// Whether the job has not asked its CA for anything yet, so that starting it over can't order twice.
pub(super) fn never_asked(job: &Job) -> bool {
    let step: Result<Step, _> = serde_json::from_value(job.step.clone());
    matches!(step, Ok(Step::Request { generation: 0 } | Step::Csr { generation: 0, .. }))
}

/// Steps the job until it ends or has to wait.
pub(super) async fn run(engine: &Inner, mut held: Held, cx: &Context) -> Result<(), Failure> {
    // Whether this very process committed the step that the job is at.
    let mut own = false;
    // How often the order has gone on at once: no CA keeps this job busy for ever.
    let mut at_once = 0;
    loop {
        let step: Step = held.step()?;
        let next = match step {
            Step::Request { generation } => request(engine, &mut held, cx, generation).await?,
            Step::Csr { generation, child } => csr::run(engine, &mut held, generation, &child).await?,
            Step::Submit { attempt, generation, asked } => {
                submit(engine, &mut held, cx, &attempt, generation, asked && !own, at_once).await?
            }
            Step::Poll { attempt, generation, shown, missing, repeats } if !missing.is_empty() => {
                let at = Step::Poll { attempt, generation, shown, missing: Vec::new(), repeats };
                show(engine, &mut held, &at, missing).await?
            }
            Step::Poll { attempt, generation, shown, .. } => {
                poll(engine, &mut held, cx, &attempt, generation, &shown, at_once).await?
            }
            Step::Deploy { version } => finish::run(engine, &mut held, cx, &version).await?,
        };
        match next {
            Next::Again => own = true,
            Next::AtOnce => {
                own = true;
                at_once += 1;
            }
            Next::Released => return Ok(()),
        }
    }
}

/// What the steps need of the store.
pub(super) struct Subject {
    pub(super) placement: Stored<Placement>,
    pub(super) certificate: Stored<Certificate>,
}

pub(super) async fn subject(engine: &Inner, job: &Job) -> Result<Subject> {
    let placement: Stored<Placement> = engine.store.read(&Id::parse(&job.subject)?).await?;
    let certificate = engine.store.read(&placement.certificate).await?;
    Ok(Subject { placement, certificate })
}

async fn request(engine: &Inner, held: &mut Held, cx: &Context, generation: u32) -> Result<Next, Failure> {
    if held.job.cancel {
        return Ok(cancel(engine, held, None, &[]).await?);
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
    let (csr, key) = match csr_work(engine, held, &certificate, &placement, generation).await? {
        Wanted::Given(csr) => (csr, None),
        Wanted::Made(work) if matches!(placement.holder, Holder::Agent(_)) => {
            return Ok(csr::ask(engine, held, &placement, generation, work).await?);
        }
        Wanted::Made(work) => {
            let key = work.key.clone();
            match engine.worker.execute(cx, Work::MakeCsr(work), &MemoryJournal::default()).await? {
                WorkReport::Csr(csr) => (csr, Some(key)),
                other => return Err(wrong_report(&other).into()),
            }
        }
    };
    begin(engine, held, &certificate, &placement, generation, (csr, key)).await?;
    Ok(Next::Again)
}

/// Commits an attempt, before the CA is asked.
pub(super) async fn begin(
    engine: &Inner,
    held: &mut Held,
    certificate: &Certificate,
    placement: &Placement,
    generation: u32,
    (csr, key): (Csr, Option<Id<Key>>),
) -> Result<()> {
    let now = engine.clock.now();
    let attempt = Attempt {
        id: Id::mint_at(now),
        placement: placement.id.clone(),
        issuer: certificate.issuer.clone(),
        names: certificate.names.clone(),
        common_name: certificate.common_name.clone(),
        profile: certificate.profile.clone(),
        csr,
        key,
        seed: random::bytes(),
        created: now,
        handle: None,
        state: AttemptState::Open,
        rejected: None,
    };
    held.set_step(&Step::Submit { attempt: attempt.id.clone(), generation, asked: true })?;
    let event = held.event(engine, "attempt.created").with("attempt", attempt.id.as_str());
    held.save(engine, event, LeaseUse::Keep, |change| change.insert(&attempt)).await
}

/// Where the request for an attempt comes from.
enum Wanted {
    /// Somebody gave it.
    Given(Csr),
    /// It is made, by whoever holds the key.
    Made(MakeCsr),
}

async fn csr_work(
    engine: &Inner,
    held: &Held,
    certificate: &Certificate,
    placement: &Placement,
    generation: u32,
) -> Result<Wanted> {
    let (algorithm, reuse_key) = match &certificate.key {
        KeyPolicy::External { csr } => return Ok(Wanted::Given(csr.clone())),
        KeyPolicy::Made { algorithm, reuse_key } => (*algorithm, *reuse_key),
    };
    let old = match &placement.version {
        Some(version) if reuse_key => {
            let version: Option<Stored<Version>> = engine.store.find(version).await?;
            let kind = |version: &Version| version.chain.leaf().public_key().map(|key| key.kind());
            version
                .filter(|version| plan::may_reuse_key(version))
                .filter(|version| kind(version).is_ok_and(|kind| kind == algorithm.kind()))
                .and_then(|version| version.key.clone())
        }
        _ => None,
    };
    // The algorithm belongs to it: somebody may ask for another one between two tries.
    let suffix = held.job.id.suffix();
    let key = old.unwrap_or_else(|| Id::with_suffix(&format!("{suffix}-{generation}-{algorithm}")));
    Ok(Wanted::Made(MakeCsr {
        key,
        algorithm,
        common_name: certificate.common_name.clone(),
        names: certificate.names.clone(),
    }))
}

async fn submit(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    attempt: &Id<Attempt>,
    generation: u32,
    recover: bool,
    at_once: u32,
) -> Result<Next, Failure> {
    let Step::Submit { asked, .. } = held.step()? else {
        return Err(Error::internal("the job is not at its submit step").into());
    };
    let Subject { placement, certificate } = subject(engine, &held.job).await?;
    let mut attempt: Stored<Attempt> = engine.store.read(attempt).await?;
    if !asked {
        if held.job.cancel {
            return Ok(cancel(engine, held, Some(&attempt.id), &[]).await?);
        }
        if !attempt.asks_for(&certificate) {
            // The CA has nothing of this one for certain, and something else is wanted by now.
            attempt.state = AttemptState::Failed;
            held.set_step(&Step::Request { generation: generation + 1 })?;
            let event = held.event(engine, "attempt.replaced").with("attempt", attempt.id.as_str());
            held.save(engine, event, LeaseUse::Keep, |change| change.update(&attempt)).await?;
            return Ok(Next::Again);
        }
        held.set_step(&Step::Submit { attempt: attempt.id.clone(), generation, asked: true })?;
        let event = held.event(engine, "attempt.repeated").with("attempt", attempt.id.as_str());
        held.save(engine, event, LeaseUse::Keep, Ok).await?;
    }
    let (_, issuer) = issuer_of_record(engine, &attempt.issuer).await?;
    let order = order(engine, &placement, &attempt).await?;
    if recover {
        match recovered(&*issuer, cx, &order).await {
            Ok(Some(progress)) => {
                let at = At { attempt, certificate, placement, generation, issuer, at_once };
                return went_on(engine, held, cx, at, Vec::new(), progress).await;
            }
            Ok(None) => {}
            // Who wants it to stop has heard that the CA may have issued it.
            Err(_) if held.job.cancel => return Ok(cancel(engine, held, Some(&attempt.id), &[]).await?),
            Err(error) if issuer.capabilities().recovery == Recovery::None => {
                let step = Some(Step::Request { generation: generation + 1 });
                return Err(Failure { error, step, dead: None, ended: false });
            }
            // Whatever went wrong, it says nothing about the order: the step stays.
            Err(error) => return Err(error.into()),
        }
        if held.job.cancel {
            return Ok(cancel(engine, held, Some(&attempt.id), &[]).await?);
        }
    }
    match issuer.submit(cx, &order).await {
        Ok(progress) => {
            let at = At { attempt, certificate, placement, generation, issuer, at_once };
            went_on(engine, held, cx, at, Vec::new(), progress).await
        }
        Err(error) => Err(refused(error, &attempt.id, generation, &*issuer)),
    }
}

/// What became of an order whose answer was lost; none if the CA has nothing of it.
async fn recovered(issuer: &dyn Issuer, cx: &Context, order: &Order) -> Result<Option<Progress>> {
    if issuer.capabilities().recovery != Recovery::None {
        return issuer.recover(cx, order).await;
    }
    let message = format!(
        "the answer of the CA to attempt {} was lost, and it can't be asked what became of it: look there, then retry to \
         order again",
        order.attempt
    );
    Err(Error::new(ErrorKind::Precondition, message)
        .with_effect(Effect::Unknown)
        .with_retry(Retry::Never)
        .with("attempt", &order.attempt))
}

async fn poll(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    attempt: &Id<Attempt>,
    generation: u32,
    shown: &[Challenge],
    at_once: u32,
) -> Result<Next, Failure> {
    if held.job.cancel {
        return Ok(cancel(engine, held, Some(attempt), shown).await?);
    }
    let Subject { placement, certificate } = subject(engine, &held.job).await?;
    let attempt: Stored<Attempt> = engine.store.read(attempt).await?;
    let (_, issuer) = issuer_of_record(engine, &attempt.issuer).await?;
    let order = order(engine, &placement, &attempt).await?;
    let handle = attempt.handle.clone().ok_or_else(|| {
        Error::internal(format!("attempt {} is to be polled and has no handle", attempt.id))
    })?;
    match issuer.poll(cx, &order, handle).await {
        Ok(progress) => {
            let at = At { attempt, certificate, placement, generation, issuer, at_once };
            went_on(engine, held, cx, at, shown.to_vec(), progress).await
        }
        Err(error) if error.retry() == Retry::Never && error.effect() == Effect::None => Err(Failure {
            error,
            step: Some(Step::Request { generation: generation + 1 }),
            dead: Some(attempt.id.clone()),
            ended: false,
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
    /// How often it has gone on at once.
    at_once: u32,
}

async fn went_on(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    mut at: At,
    shown: Vec<Challenge>,
    progress: Progress,
) -> Result<Next, Failure> {
    held.job.failures = 0;
    // Why the last order ended stays to be seen until one ends well.
    held.job.last_error = held.job.setback.as_ref().map(|setback| setback.error.clone());
    match progress {
        Progress::Waiting { handle, at: due } => {
            let now = engine.clock.now();
            let goes_on = due <= now && at.attempt.handle.as_ref() != Some(&handle);
            save_handle(held, &mut at, shown, handle)?;
            if goes_on && at.at_once < plan::POLLS_AT_ONCE {
                held.wait_until(now);
                let event = held.event(engine, "order.went_on");
                held.save(engine, event, LeaseUse::Keep, |change| change.update(&at.attempt)).await?;
                return Ok(Next::AtOnce);
            }
            let due = plan::poll_at(due, now);
            held.wait_until(due);
            let event = held.event(engine, "order.waiting").with("until", due.to_string());
            held.save(engine, event, LeaseUse::Release, |change| change.update(&at.attempt)).await?;
            Ok(Next::Released)
        }
        Progress::Failed { error } => {
            // Nothing was issued, whatever the report says: another order is no second certificate.
            let error = Error::from(error).with_effect(Effect::None).with("attempt", &at.attempt.id);
            let step = Some(Step::Request { generation: at.generation + 1 });
            Err(Failure { error, step, dead: Some(at.attempt.id.clone()), ended: true })
        }
        Progress::Challenges { handle, present } => {
            at.attempt.handle = Some(handle);
            let fresh = present.iter().filter(|challenge| !shown.contains(challenge)).count();
            let names = at.attempt.names.len();
            if shown.len() + fresh > CHALLENGES_PER_NAME * names {
                let message = format!(
                    "the issuer kind {} wants ever new challenges presented: {} so far, for {names} names",
                    at.issuer.kind(),
                    shown.len() + fresh
                );
                let error = Error::new(ErrorKind::BadResponse, message).with("attempt", &at.attempt.id);
                let step = Some(Step::Request { generation: at.generation + 1 });
                return Err(Failure { error, step, dead: Some(at.attempt.id.clone()), ended: true });
            }
            // A CA that wants to see once more what is shown already is given time, not asked in a circle.
            let again = !present.is_empty() && fresh == 0;
            let repeats = repeats(held)? + u32::from(again);
            let step = Step::Poll {
                attempt: at.attempt.id.clone(),
                generation: at.generation,
                shown,
                missing: present.clone(),
                repeats,
            };
            held.set_step(&step)?;
            let event = held.event(engine, "order.challenged").with("challenges", present.len());
            if (again && repeats > SHOWN_AGAIN_AT_ONCE) || present.is_empty() {
                held.wait_until(engine.clock.now() + CHALLENGED_AGAIN);
                held.save(engine, event, LeaseUse::Release, |change| change.update(&at.attempt)).await?;
                return Ok(Next::Released);
            }
            // What the CA gave us to hold comes first; the jobs come with the next step.
            held.save(engine, event, LeaseUse::Keep, |change| change.update(&at.attempt)).await?;
            Ok(Next::Again)
        }
        Progress::Issued { chain } => record(engine, held, cx, at, &shown, chain).await,
    }
}

fn save_handle(held: &mut Held, at: &mut At, shown: Vec<Challenge>, handle: Handle) -> Result<()> {
    at.attempt.handle = Some(handle);
    let (attempt, generation) = (at.attempt.id.clone(), at.generation);
    let repeats = repeats(held)?;
    held.set_step(&Step::Poll { attempt, generation, shown, missing: Vec::new(), repeats })
}

fn repeats(held: &Held) -> Result<u32> {
    Ok(match held.step()? {
        Step::Poll { repeats, .. } => repeats,
        _ => 0,
    })
}

/// Has challenges shown, by jobs of their own, and waits for them.
async fn show(engine: &Inner, held: &mut Held, at: &Step, missing: Vec<Challenge>) -> Result<Next, Failure> {
    let Step::Poll { attempt, generation, shown, repeats, .. } = at else {
        return Err(Error::internal("the job is not at its poll step").into());
    };
    if held.job.cancel {
        return Ok(cancel(engine, held, Some(attempt), shown).await?);
    }
    let mut jobs = Vec::new();
    for challenge in &missing {
        jobs.push(challenge::present_job(engine, &held.job, challenge)?);
    }
    let mut shown = shown.clone();
    shown.extend(missing.into_iter().filter(|challenge| !at.shows(challenge)));
    let (attempt, generation) = (attempt.clone(), *generation);
    let repeats = *repeats;
    held.set_step(&Step::Poll { attempt, generation, shown, missing: Vec::new(), repeats })?;
    held.job.state = JobState::Waiting;
    held.job.open_children = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let event = held.event(engine, "challenges.presenting").with("challenges", jobs.len());
    held.save(engine, event, LeaseUse::Release, |change| jobs.iter().try_fold(change, Change::insert))
        .await?;
    Ok(Next::Released)
}

impl Step {
    fn shows(&self, challenge: &Challenge) -> bool {
        matches!(self, Self::Poll { shown, .. } if shown.contains(challenge))
    }

    /// What has to be taken away if the order ends here.
    pub(super) fn shown(&self) -> &[Challenge] {
        match self {
            Self::Poll { shown, .. } => shown,
            _ => &[],
        }
    }
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
    let At { mut attempt, mut certificate, mut placement, generation, issuer, .. } = at;
    let now = engine.clock.now();
    if let Err(e) = chain.check_issued(attempt.csr.public_key(), &attempt.names, now) {
        // The same CA would probably do it again: a person has to look.
        let error = Error::new(
            ErrorKind::BadResponse,
            format!(
                "the issuer kind {} answered with a certificate that was not asked for: {e}",
                issuer.kind()
            ),
        )
        .with("attempt", &attempt.id)
        .with("serial", chain.leaf().serial());
        let event = held
            .event(engine, "certificate.rejected")
            .with("attempt", attempt.id.as_str())
            .with("serial", chain.leaf().serial().to_string())
            .with("fingerprint", chain.leaf().fingerprint().to_string());
        attempt.rejected = Some(chain);
        // Without it, the certificate is refused all the same.
        if let Err(e) = held.save(engine, event, LeaseUse::Keep, |change| change.update(&attempt)).await {
            tracing::warn!(attempt = %attempt.id, error = %e, "the certificate that was refused could not be kept");
        }
        return Err(Failure {
            error,
            step: Some(Step::Request { generation: generation + 1 }),
            dead: Some(attempt.id.clone()),
            ended: false,
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
        revocation: None,
        chain,
    };
    attempt.state = AttemptState::Issued;
    held.job.setback = None;
    held.job.last_error = None;
    let retractions = challenge::retract_jobs(engine, &held.job, shown)?;
    held.set_step(&Step::Deploy { version: version.id.clone() })?;
    let event = held
        .event(engine, "version.issued")
        .with("version", version.id.as_str())
        .with("serial", version.serial.to_string())
        .with("fingerprint", version.fingerprint.to_string())
        .with("not_after", version.not_after.to_string());
    // What the CA gave is in nobody's hands but these: a store that is busy or away is no reason to drop it.
    let mut pause = Duration::from_millis(50);
    for tries in 0.. {
        let saved = async {
            if tries > 0 {
                certificate = engine.store.read(&certificate.id).await?;
                placement = engine.store.read(&placement.id).await?;
            }
            certificate.not_after = Some(version.not_after);
            certificate.serial = Some(version.serial.clone());
            certificate.updated = now;
            placement.version = Some(version.id.clone());
            // It was about the one before.
            placement.window = None;
            placement.revoked = false;
            let sent = Dispatch::prepare(engine, &placement.id, &version.id, &held.job.id, false).await?;
            held.wait_for_children(engine, sent.children());
            let then = if sent.children() == 0 { LeaseUse::Keep } else { LeaseUse::Release };
            held.save(engine, event.clone(), then, |change| {
                let change =
                    change.insert(&version)?.update(&attempt)?.update(&placement)?.update(&certificate)?;
                retractions.iter().try_fold(sent.add_to(change)?, Change::insert)
            })
            .await
        };
        match saved.await {
            Ok(()) => break,
            Err(e) if is_conflict(&e, "lease") || tries >= 20 => return Err(e.into()),
            Err(e) if e.kind() == ErrorKind::Conflict => {}
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

/// Ends the job as somebody asked. What the CA may still make of the attempt is nobody's any more.
pub(super) async fn cancel(
    engine: &Inner,
    held: &mut Held,
    attempt: Option<&Id<Attempt>>,
    shown: &[Challenge],
) -> Result<Next> {
    let mut dead = match attempt {
        Some(attempt) => Some(engine.store.read(attempt).await?),
        None => None,
    };
    if let Some(attempt) = &mut dead {
        attempt.state = AttemptState::Failed;
    }
    let retractions = challenge::retract_jobs(engine, &held.job, shown)?;
    held.finish(engine, JobState::Cancelled);
    let event = held.event(engine, "job.cancelled");
    loop {
        let Subject { mut placement, certificate } = subject(engine, &held.job).await?;
        placement.job = None;
        // Who stops a renewal wants it later, not never.
        let tomorrow = engine.clock.now() + Duration::from_secs(86_400);
        placement.renew_at = placement.version.as_ref().filter(|_| !placement.revoked).map(|_| tomorrow);
        placement.ask_at = placement.renew_at;
        let departure = Departure::of_leaving(engine, &mut placement).await?;
        let rolled_up = deploy::roll_up(engine, &certificate.id, Some(&placement)).await?;
        let saved = held
            .save(engine, event.clone(), LeaseUse::Release, |change| {
                let mut change = match &departure {
                    Some(departure) => departure.add_to(change)?,
                    None => change.update(&placement)?,
                };
                if let Some(attempt) = &dead {
                    change = change.update(attempt)?;
                }
                if let Some(certificate) = &rolled_up {
                    change = change.update(certificate)?;
                }
                retractions.iter().try_fold(change, Change::insert)
            })
            .await;
        match saved {
            Ok(()) => return Ok(Next::Released),
            Err(e) if is_stale(&e, placement.id.as_str()) || is_stale(&e, certificate.id.as_str()) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Where the job stands after the CA did not take an order.
fn refused(error: Error, attempt: &Id<Attempt>, generation: u32, issuer: &dyn Issuer) -> Failure {
    let unknown = error.effect() == Effect::Unknown;
    if unknown && issuer.capabilities().recovery != Recovery::None {
        // The step stays: whoever comes next recovers. That the caller saw the error is no reason to give up.
        let error = if error.retry() == Retry::Never { error.with_retry(Retry::Backoff) } else { error };
        return Failure { error, step: None, dead: None, ended: false };
    }
    if unknown {
        let error = error
            .during("the answer of the CA was lost, and it can't be asked what became of the order; look there, then retry")
            .with_retry(Retry::Never)
            .with("attempt", attempt);
        return Failure {
            error,
            step: Some(Step::Request { generation: generation + 1 }),
            dead: None,
            ended: false,
        };
    }
    if error.retry() == Retry::Never {
        let step = Some(Step::Request { generation: generation + 1 });
        return Failure { error, step, dead: Some(attempt.clone()), ended: false };
    }
    let step = Some(Step::Submit { attempt: attempt.clone(), generation, asked: false });
    Failure { error, step, dead: None, ended: false }
}

async fn order(engine: &Inner, placement: &Placement, attempt: &Attempt) -> Result<Order> {
    let replaces = match &placement.version {
        // Another CA knows nothing of it (RFC 9773 section 5).
        Some(version) => {
            let version: Option<Stored<Version>> = engine.store.find(version).await?;
            version.filter(|version| version.issuer == attempt.issuer).map(|version| version.chain.clone())
        }
        None => None,
    };
    Ok(Order {
        attempt: attempt.id.clone(),
        seed: attempt.seed,
        created: attempt.created,
        csr: attempt.csr.clone(),
        common_name: attempt.common_name.clone(),
        names: attempt.names.clone(),
        profile: attempt.profile.clone(),
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
