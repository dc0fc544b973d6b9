//! What a step that failed means for its job, and for what the job is about.

use std::time::Duration;

use crate::{
    Actor, Error, ErrorKind, ErrorReport, Id, Result,
    engine::{
        Inner, challenge, csr, deploy, errands,
        held::{Held, is_conflict, set_step_of, step_of},
        holders, issue,
        plan::{self, AfterFailure, FAILURES_BEFORE_ATTENTION},
        revoke,
    },
    random,
    records::{
        Attempt, AttemptState, AuditEvent, Certificate, CertificateStatus, Deployment, Job, JobState, Setback,
    },
    store::{Change, LeaseUse, StoreExt, Stored},
};

/// A failure, and where an issue job stands after it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// None: where it stood.
    pub(super) step: Option<issue::Step>,
    /// The CA has refused this attempt for certain.
    pub(super) dead: Option<Id<Attempt>>,
    /// It was not the step that failed: the order has ended. Such ends count in a row, whatever goes well between them.
    pub(super) ended: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, step: None, dead: None, ended: false }
    }
}

/// How long a loop that shall end waits for a store that is away: the next one finds the steps where they stood.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Records a failure with every job of the batch that is still held here. Waits for a store that is away, unless the job loop
/// shall end.
pub(super) async fn record(engine: &Inner, batch: &[Held], failure: &Failure) {
    if is_conflict(&failure.error, "lease") {
        // Somebody else has taken over.
        return;
    }
    let mut waited = Duration::ZERO;
    for held in batch {
        let mut pause = Duration::from_millis(100);
        loop {
            match record_one(engine, held, failure).await {
                Ok(()) => break,
                // Lost, or deleted.
                Err(e) if is_conflict(&e, "lease") || e.kind() == ErrorKind::NotFound => break,
                Err(e) if engine.is_ending() && waited >= LAST_WORDS => {
                    tracing::error!(job = %held.job.id, error = %e, "a job's failure could not be recorded");
                    break;
                }
                Err(e) => {
                    tracing::error!(job = %held.job.id, error = %e, "a job's failure could not be recorded yet");
                    if engine.is_ending() {
                        waited += pause;
                    }
                    engine.clock.pause(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }
}

/// One transaction on top of whatever was committed last: the job, and everything that follows.
async fn record_one(engine: &Inner, held: &Held, failure: &Failure) -> Result<()> {
    let spread = f64::from(random::bytes::<1>()[0]) / 255.0;
    loop {
        let mut held = Held { job: engine.store.read(&held.job.id).await?, lease: held.lease.clone() };
        if held.job.state.is_finished() {
            return Ok(());
        }
        let report = failure.error.report();
        decide(engine, &mut held.job, &report, failure.ended, spread);
        let attention = held.job.state == JobState::Attention;
        tracing::warn!(
            job = %held.job.id, kind = %held.job.kind, error = %failure.error, state = held.job.state.as_str(),
            "a step failed"
        );
        let action = if attention { "job.attention" } else { "job.failed_step" };
        let mut more = Change::new(held.event(engine, action).with("error", failure.error.to_string()));
        match &*held.job.kind {
            issue::KIND => more = issue_failed(engine, &mut held, failure, more).await?,
            deploy::KIND => more = deploy_failed(engine, &mut held, &report, more).await?,
            revoke::KIND if attention => {
                more = self::attention(engine, held.job.certificate()?, &report, more).await?;
            }
            challenge::PRESENT if attention => {
                more = present_failed(engine, &mut held, &report, more).await?;
            }
            _ => {}
        }
        match engine.commit(more.update(&held.job)?.lease(&held.lease, LeaseUse::Release)).await {
            // All of it is read again.
            Err(e) if is_conflict(&e, "version") || is_conflict(&e, "missing") => {}
            done => return done.map(drop),
        }
    }
}

fn decide(engine: &Inner, job: &mut Job, report: &ErrorReport, ended: bool, spread: f64) {
    let now = engine.clock.now();
    if job.cancel && obeys(job) {
        return due(job, now);
    }
    job.failures += 1;
    job.last_error = Some(report.clone());
    if ended {
        let times = 1 + job.setback.as_ref().map_or(0, |setback| setback.times);
        job.failures = times;
        job.setback = Some(Setback { times, error: report.clone() });
    }
    // Another job of the batch was asked to stop, not this one.
    if report.kind == ErrorKind::Cancelled && job.failures < FAILURES_BEFORE_ATTENTION {
        return due(job, now);
    }
    match plan::after_failure(report, job.failures, now, spread) {
        AfterFailure::Again(at) => due(job, at),
        AfterFailure::Attention => {
            job.state = JobState::Attention;
            job.due = None;
        }
    }
}

fn due(job: &mut Job, at: crate::Timestamp) {
    job.state = JobState::Ready;
    job.due = Some(at);
}

/// Whether the next step of this job ends it if it was asked to stop.
fn obeys(job: &Job) -> bool {
    match &*job.kind {
        issue::KIND => serde_json::from_value::<issue::Step>(job.step.clone())
            .is_ok_and(|step| !matches!(step, issue::Step::Deploy { .. })),
        deploy::KIND => job.step.is_null(),
        challenge::PRESENT | revoke::KIND | csr::KIND | holders::FORGET | errands::PLAN | errands::CHECK => {
            true
        }
        _ => false,
    }
}

async fn issue_failed(
    engine: &Inner,
    held: &mut Held,
    failure: &Failure,
    mut change: Change,
) -> Result<Change> {
    if let Some(step) = &failure.step {
        if matches!(step, issue::Step::Request { .. }) {
            // The order is over: nobody looks at its challenges any more.
            let shown = held.step::<issue::Step>()?;
            for job in challenge::retract_jobs(engine, &held.job, shown.shown())? {
                change = change.insert(&job)?;
            }
        }
        held.set_step(step)?;
    }
    if let Some(dead) = &failure.dead
        && let Some(mut attempt) = engine.store.find::<Attempt>(dead).await?
    {
        attempt.state = AttemptState::Failed;
        change = change.update(&attempt)?;
    }
    if held.job.state == JobState::Attention {
        change = attention(engine, held.job.certificate()?, &failure.error.report(), change).await?;
    }
    Ok(change)
}

/// A deployment that could not even be tried, or broke down in the middle. Its journal stays, and nobody waits for it.
async fn deploy_failed(
    engine: &Inner,
    held: &mut Held,
    report: &ErrorReport,
    mut change: Change,
) -> Result<Change> {
    if held.job.last_error.as_ref() != Some(report) || report.kind == ErrorKind::Cancelled {
        // It goes on at once.
        return Ok(change);
    }
    let mut failed = None;
    if let Some(mut deployment) = engine.store.find::<Deployment>(&Id::parse(&held.job.subject)?).await? {
        let unfinished = !held.job.step.is_null();
        deployment.state = plan::state_after_failure(deployment.state, false, unfinished);
        deployment.error = Some(report.clone());
        deployment.at = Some(engine.clock.now());
        change = change.update(&deployment)?;
        failed = Some(deployment);
    }
    match held.job.parent.take() {
        Some(parent) => {
            if let Some(parent) = deploy::wake(engine, &parent, 1).await? {
                change = change.update(&parent)?;
            }
        }
        None => {
            let overlay: Vec<&Deployment> = failed.as_deref().into_iter().collect();
            if let Some(certificate) =
                deploy::roll_up_with(engine, held.job.certificate()?, None, &overlay).await?
            {
                change = change.update(&certificate)?;
            }
        }
    }
    Ok(change)
}

/// What can't be shown takes the order along: it asks for attention, and shows it again when somebody takes it up.
async fn present_failed(
    engine: &Inner,
    held: &mut Held,
    report: &ErrorReport,
    mut change: Change,
) -> Result<Change> {
    held.finish(engine, JobState::Failed);
    let Some(parent) = held.job.parent.take() else { return Ok(change) };
    let challenge::Step { challenge } = held.step()?;
    // What may be there: all of those that were shown, and what could not be shown to the end.
    let begun = |error: Option<&ErrorReport>| error.is_some_and(|e| e.kind != ErrorKind::Unsupported);
    let mut left = Vec::new();
    if begun(Some(report)) {
        left.push(challenge.clone());
    }
    let mut unshown = vec![challenge];
    // The others end, and nobody waits for them: they are shown together with this one.
    let siblings: Vec<Stored<Job>> = engine.store.list_by("parent", (&parent).into()).await?;
    for mut sibling in siblings.into_iter().filter(|job| job.id != held.job.id) {
        let challenge::Step { challenge } = step_of(&sibling)?;
        if sibling.state == JobState::Done || begun(sibling.last_error.as_ref()) {
            left.push(challenge.clone());
        }
        if sibling.state.is_finished() {
            continue;
        }
        unshown.push(challenge);
        sibling.parent = None;
        sibling.cancel = true;
        due(&mut sibling, engine.clock.now());
        change = change.update(&sibling)?;
    }
    let Some(mut parent) = engine.store.find::<Job>(&parent).await? else { return Ok(change) };
    if parent.state.is_finished() {
        return Ok(change);
    }
    let mut step: issue::Step = step_of(&parent)?;
    if let issue::Step::Poll { shown, missing, .. } = &mut step {
        if !parent.cancel {
            // Until somebody has looked, nobody needs them: they are taken away, and all shown again then.
            // One that was shown before, and had to be shown again, has two jobs.
            let left: Vec<_> = shown.iter().filter(|shown| left.contains(shown)).cloned().collect();
            for job in challenge::retract_jobs(engine, &parent, &left)? {
                change = change.insert(&job)?;
            }
            missing.append(shown);
        }
        unshown.retain(|challenge| !missing.contains(challenge));
        missing.append(&mut unshown);
    }
    set_step_of(&mut parent, &step)?;
    parent.open_children = 0;
    parent.due = None;
    parent.last_error = Some(report.clone());
    if parent.cancel {
        due(&mut parent, engine.clock.now());
        return change.update(&parent);
    }
    parent.state = JobState::Attention;
    let event = AuditEvent::new(engine.clock.now(), &Actor::engine(), "job.attention", parent.about())
        .with("job", parent.id.as_str())
        .with("error", report.message.as_str());
    change = change.event(event).update(&parent)?;
    attention(engine, held.job.certificate()?, report, change).await
}

async fn attention(
    engine: &Inner,
    certificate: &Id<Certificate>,
    report: &ErrorReport,
    change: Change,
) -> Result<Change> {
    let Some(mut certificate) = engine.store.find(certificate).await? else { return Ok(change) };
    certificate.status = CertificateStatus::Attention;
    certificate.reason = Some(report.clone());
    certificate.updated = engine.clock.now();
    change.update(&certificate)
}
