//! The jobs that bring versions to targets: those of one unit are leased, written and reloaded together.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    Actor, Context, Effect, Error, ErrorKind, ErrorReport, Id, Result, Retry,
    catalog::UNDECLARED,
    engine::{
        Inner,
        held::{Held, is_conflict, is_stale, reload},
        plan::{self, AfterFailure},
        revoke,
    },
    random,
    records::{
        AuditEvent, Certificate, CertificateStatus, Deployment, DeploymentState, Job, JobState, Place,
        Placement, TargetRecord, Version,
    },
    store::{Change, LeaseUse, StoreExt, Stored},
    worker::{DeployItem, DeployOutcome, DeployReport, DeployWork, Journal, Work, WorkReport},
};

pub(super) const KIND: &str = "deploy";

/// How long a job rests that an agent gave back without having been asked to.
pub(super) const GIVEN_BACK: Duration = Duration::from_secs(5);

/// A job with nothing in it yet, due now.
pub(super) fn blank_job(
    engine: &Inner,
    kind: &str,
    subject: &str,
    certificate: &Id<Certificate>,
    place: Place,
) -> Job {
    Job { certificate: Some(certificate.clone()), ..job_about(engine, kind, subject, place) }
}

/// A job that is about no certificate, with nothing in it yet, due now.
pub(super) fn job_about(engine: &Inner, kind: &str, subject: &str, place: Place) -> Job {
    let now = engine.clock.now();
    Job {
        id: Id::mint_at(now),
        kind: kind.into(),
        subject: subject.into(),
        certificate: None,
        place,
        group: None,
        parent: None,
        open_children: 0,
        unique: None,
        state: JobState::Ready,
        step: Value::Null,
        failures: 0,
        setback: None,
        due: Some(now),
        cancel: false,
        last_error: None,
        reported: None,
        actor: Actor::engine(),
        created: now,
        finished: None,
    }
}

/// A job for this deployment, due now.
pub(super) async fn job(engine: &Inner, deployment: &Deployment, parent: Option<&Id<Job>>) -> Result<Job> {
    let target = engine.store.find::<TargetRecord>(&deployment.target).await?;
    let place = target.as_ref().map(|target| target.place.clone()).unwrap_or_default();
    let mut job = blank_job(engine, KIND, deployment.id.as_str(), &deployment.certificate, place);
    job.parent = parent.cloned();
    job.unique = Some(unique_key(&deployment.id).into());
    if let Some(target) = &target
        // A target that can't be built is reported by the job itself.
        && let Ok((built, _)) = engine.catalog.target(target).await
        && let Some(unit) = built.unit()
    {
        let host = target.place.host.as_ref().map_or("", Id::as_str);
        job.group = Some(format!("{}|{host}|{unit}", job.place.as_column()).into());
    }
    Ok(job)
}

/// What makes the deploy job of a deployment unique.
pub(super) fn unique_key(deployment: &Id<Deployment>) -> String {
    format!("deploy:{deployment}")
}

/// The deploy job of a deployment that is not finished, if there is one.
pub(super) async fn open_job(engine: &Inner, deployment: &Id<Deployment>) -> Result<Option<Stored<Job>>> {
    engine.store.find_by("unique_key", unique_key(deployment).into()).await
}

/// Makes a job that waits for a later try, or for a person, due now; none if it needs nothing of the sort. One whose rollback
/// failed stays: its snapshot may be the last copy of what was there.
pub(super) fn take_up(engine: &Inner, mut job: Stored<Job>, state: DeploymentState) -> Option<Stored<Job>> {
    let waits = job.state == JobState::Attention || job.due.is_some_and(|due| due > engine.clock.now());
    if !waits || state == DeploymentState::RollbackFailed {
        return None;
    }
    kick(engine, &mut job);
    Some(job)
}

/// Makes a job due now, as if it had never failed.
pub(super) fn kick(engine: &Inner, job: &mut Job) {
    job.state = JobState::Ready;
    job.due = Some(engine.clock.now());
    job.failures = 0;
    job.setback = None;
    job.cancel = false;
}

/// One job of a batch, with its deployment.
#[derive(Debug)]
pub(super) struct One {
    pub(super) held: Held,
    deployment: Option<Stored<Deployment>>,
    report: Option<DeployReport>,
    stopped: bool,
    /// Why it could not even be tried: that is nobody else's failure.
    untried: Option<Error>,
    /// The job that waited for it and waits no longer.
    parent: Option<Id<Job>>,
    /// An agent does it, and keeps the journal.
    remote: bool,
}

impl One {
    /// It can't even be tried.
    pub(super) fn refuse(&mut self, error: Error) {
        self.untried = Some(error);
    }

    /// What the worker says.
    fn take(&mut self, report: DeployReport) {
        self.stopped |= report.error.as_ref().is_some_and(|e| e.kind == ErrorKind::Cancelled);
        self.report = Some(report);
    }

    fn new(held: Held, deployment: Option<Stored<Deployment>>) -> Self {
        let remote = held.job.place.agent.is_some();
        Self { held, deployment, report: None, stopped: false, untried: None, parent: None, remote }
    }
}

/// Deploys a batch of one unit, and commits what became of it.
pub(super) async fn run(engine: &Inner, batch: Vec<Held>, cx: &Context) -> Result<()> {
    let (mut all, items) = prepare(engine, batch).await?;
    let journal = JobJournal { engine, held: Mutex::new(all.iter().map(|one| one.held.clone()).collect()) };
    if !items.is_empty() {
        let work = Work::Deploy(DeployWork { items });
        let WorkReport::Deployed(reports) = engine.worker.execute(cx, work, &journal).await? else {
            return Err(Error::internal("the worker did not answer with deployments"));
        };
        for report in reports {
            let one = all.iter_mut().find(|one| one.held.job.subject.as_ref() == report.deployment.as_str());
            if let Some(one) = one {
                one.take(report);
            }
        }
    }
    for (one, held) in all.iter_mut().zip(journal.held.into_inner()) {
        one.held = held;
    }
    commit(engine, all).await
}

/// What is to be done for a batch. A job without an item is to be committed as it is.
///
/// # Errors
/// `Unavailable` if the store is away: that concerns all of them.
pub(super) async fn prepare(engine: &Inner, batch: Vec<Held>) -> Result<(Vec<One>, Vec<DeployItem>)> {
    let mut all = Vec::with_capacity(batch.len());
    let mut items = Vec::new();
    for held in batch {
        let mut untried = None;
        let deployment: Option<Stored<Deployment>> = match read(engine, &held.job).await {
            Ok(deployment) => deployment,
            Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
            Err(e) => {
                untried = Some(e);
                None
            }
        };
        let resumed = !held.job.step.is_null();
        let stopped = held.job.cancel && !resumed;
        if let Some(deployment) = &deployment
            && !stopped
        {
            match item(engine, deployment).await {
                Ok(item) => items.extend(item),
                Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
                Err(e) => untried = Some(e),
            }
        }
        all.push(One { stopped, untried, ..One::new(held, deployment) });
    }
    Ok((all, items))
}

/// Commits what an agent says became of a batch: of each deployment, or why it could not do it.
///
/// # Errors
/// `Conflict` with the reason `lease` and the job's id if one of the jobs is somebody else's by now; nothing is committed then.
pub(super) async fn commit_reports(
    engine: &Inner,
    batch: Vec<Held>,
    said: &Result<Vec<DeployReport>>,
) -> Result<()> {
    let mut all = Vec::with_capacity(batch.len());
    for held in batch {
        let deployment = read(engine, &held.job).await?;
        let mut one = One::new(held, deployment);
        let about = |report: &&DeployReport| *report.deployment.as_str() == *one.held.job.subject;
        match said {
            Ok(reports) => match reports.iter().find(about) {
                Some(report) => match check_report(engine, one.deployment.as_deref(), report).await? {
                    None => one.take(report.clone()),
                    Some(wrong) => one.untried = Some(wrong),
                },
                None => one.untried = Some(bad_report("says nothing about this deployment")),
            },
            Err(e) if e.kind() == ErrorKind::Cancelled || one.held.job.cancel => one.stopped = true,
            Err(e) => one.untried = Some(e.clone()),
        }
        all.push(one);
    }
    commit(engine, all).await
}

/// What is wrong with an agent's report: it may bring what it was given, and nothing else.
async fn check_report(
    engine: &Inner,
    deployment: Option<&Deployment>,
    report: &DeployReport,
) -> Result<Option<Error>> {
    let Some(deployment) = deployment else { return Ok(None) };
    let version: Option<Stored<Version>> = engine.store.find(&report.version).await?;
    let fits = version.is_some_and(|version| version.placement == deployment.placement);
    Ok((!fits).then(|| bad_report("names a version that does not belong to this deployment")))
}

/// An event about a job's certificate.
pub(super) fn event_about(engine: &Inner, job: &Job, action: &str) -> AuditEvent {
    AuditEvent::new(engine.clock.now(), &Actor::engine(), action, job.about()).with("job", job.id.as_str())
}

fn bad_report(what: &str) -> Error {
    Error::new(ErrorKind::BadResponse, format!("the agent's report {what}"))
}

/// Records what an agent says about deployments whose jobs have been ended, or taken by somebody else, meanwhile: what it did
/// is so all the same. What is older than what is known by now is passed over.
pub(super) async fn commit_late(
    engine: &Inner,
    jobs: &[(Stored<Job>, u64)],
    reports: &[DeployReport],
) -> Result<()> {
    for (job, token) in jobs {
        if job.reported.is_some_and(|reported| reported >= *token) {
            continue;
        }
        let Some(report) = reports.iter().find(|report| *report.deployment.as_str() == *job.subject) else {
            continue;
        };
        loop {
            let Some(mut deployment) = read(engine, job).await? else { break };
            let known = deployment.current.as_ref();
            let older = known.is_some_and(|current| {
                *current > report.version || (*current == report.version && !report.outcome.is_success())
            });
            if older || check_report(engine, Some(&deployment), report).await?.is_some() {
                break;
            }
            record(engine, &mut deployment, report).await?;
            let mut event = event_about(engine, job, "deployment.reported_late")
                .with("deployment", deployment.id.as_str())
                .with("outcome", report.outcome.as_str());
            if let Some(error) = &report.error {
                event = event.with("error", error.message.as_str());
            }
            let mut change = Change::new(event).update(&deployment)?;
            if let Some(certificate) = roll_up_with(engine, job.certificate()?, None, &[&*deployment]).await?
            {
                change = change.update(&certificate)?;
            }
            match engine.commit(change).await {
                Err(e) if is_conflict(&e, "version") || is_conflict(&e, "missing") => {}
                done => {
                    done?;
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn read(engine: &Inner, job: &Job) -> Result<Option<Stored<Deployment>>> {
    engine.store.find(&Id::parse(&job.subject)?).await
}

/// What is to be done for a deployment; none if nothing is wanted there.
async fn item(engine: &Inner, deployment: &Deployment) -> Result<Option<DeployItem>> {
    let Some(wanted) = &deployment.wanted else { return Ok(None) };
    let version: Stored<Version> = engine.store.read(wanted).await?;
    let Some(key) = version.key.clone() else { return Ok(None) };
    let certificate: Stored<Certificate> = engine.store.read(&deployment.certificate).await?;
    let target: Stored<TargetRecord> = engine.store.read(&deployment.target).await?;
    let behind =
        if certificate.targets.len() > 1 { behind(engine, deployment, &target).await? } else { Vec::new() };
    Ok(Some(DeployItem {
        deployment: deployment.id.clone(),
        behind,
        target: target.into_inner(),
        version: version.id.clone(),
        chain: version.chain.clone(),
        key,
        names: certificate.names.clone(),
        previous: deployment.current_fingerprint,
    }))
}

/// The other deployments of the certificate at the same place that have not got what is wanted here.
async fn behind(
    engine: &Inner,
    deployment: &Deployment,
    target: &TargetRecord,
) -> Result<Vec<Id<Deployment>>> {
    let all: Vec<Stored<Deployment>> =
        engine.store.list_by("certificate", (&deployment.certificate).into()).await?;
    let mut behind = Vec::new();
    for other in all.iter().filter(|other| other.id != deployment.id && other.current != deployment.wanted) {
        let place =
            engine.store.find::<TargetRecord>(&other.target).await?.map(|other| other.into_inner().place);
        if place.as_ref() == Some(&target.place) {
            behind.push(other.id.clone());
        }
    }
    Ok(behind)
}

/// The work item of a deployment, for a dry run.
pub(super) async fn item_for_plan(engine: &Inner, deployment: &Deployment) -> Result<Option<DeployItem>> {
    item(engine, deployment).await
}

/// Commits the results of a batch: deployments, jobs, and the parents that wait for them.
pub(super) async fn commit(engine: &Inner, mut all: Vec<One>) -> Result<()> {
    let spread = f64::from(random::bytes::<1>()[0]) / 255.0;
    let mut detached: BTreeMap<Id<Job>, u32> = BTreeMap::new();
    for one in &mut all {
        // Once tried is enough for the parent: what failed goes on by itself, and mends the certificate when it succeeds.
        if conclude(engine, one, spread).await? {
            one.parent = one.held.job.parent.take();
        }
        if let Some(parent) = &one.parent {
            *detached.entry(parent.clone()).or_default() += 1;
        }
    }
    loop {
        let mut change: Option<Change> = None;
        for one in &all {
            let event = event(engine, one);
            let so_far = match change {
                Some(change) => change.event(event),
                None => Change::new(event),
            };
            let so_far = so_far.update(&one.held.job)?.lease(&one.held.lease, LeaseUse::Release);
            change = Some(match &one.deployment {
                Some(deployment) => so_far.update(deployment)?,
                None => so_far,
            });
        }
        let Some(mut change) = change else { return Ok(()) };
        for (parent, ended) in &detached {
            if let Some(parent) = wake(engine, parent, *ended).await? {
                change = change.update(&parent)?;
            }
        }
        // A retry that went well mends its certificate's status; with a parent, that is the parent's business.
        let mut rolled_up = HashMap::new();
        let tried = |one: &&One| one.report.is_some() || one.untried.is_some();
        for one in all.iter().filter(tried).filter(|one| one.parent.is_none()) {
            let overlay: Vec<&Deployment> = all.iter().filter_map(|one| one.deployment.as_deref()).collect();
            let id = one.held.job.certificate()?;
            if !rolled_up.contains_key(id)
                && let Some(certificate) = roll_up_with(engine, id, None, &overlay).await?
            {
                rolled_up.insert(id.clone(), certificate);
            }
        }
        for certificate in rolled_up.values() {
            change = change.update(certificate)?;
        }
        match engine.commit(change).await {
            Ok(_) => return Ok(()),
            Err(e) if is_conflict(&e, "version") || is_conflict(&e, "missing") => {
                for one in &mut all {
                    refresh(engine, one, &e).await?;
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// Reads again what others may have written: the cancel flag of the job, what is wanted of the deployment.
async fn refresh(engine: &Inner, one: &mut One, conflict: &Error) -> Result<()> {
    if is_stale(conflict, one.held.job.id.as_str()) {
        let fresh = reload(engine, &one.held.job.id).await?;
        one.held.job.cancel = fresh.cancel;
        one.held.job = one.held.job.clone().at_version(fresh.version());
        if fresh.cancel && !one.held.job.state.is_finished() && one.held.job.step.is_null() {
            // Whoever asked it to stop must not wait for the next try, or for a person.
            one.held.wait_until(engine.clock.now());
        }
    }
    // Changed, or deleted: its target is not wanted any more.
    if let Some(deployment) = &one.deployment
        && conflict.context_value("id") == Some(deployment.id.as_str())
    {
        let fresh: Option<Stored<Deployment>> = engine.store.find(&deployment.id).await?;
        one.deployment = fresh.map(|fresh| {
            // What happened stays; what is wanted is the other's.
            let mut merged = deployment.clone().at_version(fresh.version());
            merged.wanted.clone_from(&fresh.wanted);
            merged
        });
        let behind =
            one.deployment.as_ref().is_some_and(|deployment| deployment.wanted != deployment.current);
        if one.deployment.is_none() && !one.held.job.state.is_finished() {
            // The next turn ends it, or brings back what a failed rollback left.
            one.held.wait_until(engine.clock.now());
        }
        if behind && one.held.job.state.is_finished() {
            one.held.job.finished = None;
            one.held.wait_until(engine.clock.now());
        }
    }
    Ok(())
}

/// What a report means for the deployment and the job; says whether it was tried, or ended untried.
async fn conclude(engine: &Inner, one: &mut One, spread: f64) -> Result<bool> {
    let now = engine.clock.now();
    let job = &mut one.held.job;
    if let Some(error) = one.untried.as_ref().filter(|_| !job.cancel || !job.step.is_null()) {
        // Whatever its journal holds stays there.
        let error = error.report();
        if let Some(deployment) = &mut one.deployment {
            deployment.at = Some(now);
            deployment.error = Some(error.clone());
            deployment.state = plan::state_after_failure(deployment.state, false, !job.step.is_null());
        }
        job.failures += 1;
        job.last_error = Some(error.clone());
        match plan::after_failure(&error, job.failures, now, spread) {
            AfterFailure::Again(at) => one.held.wait_until(at),
            AfterFailure::Attention => {
                job.state = JobState::Attention;
                job.due = None;
            }
        }
        return Ok(true);
    }
    let unfinished = one.report.as_ref().is_some_and(|report| report.unfinished);
    if one.remote {
        // Its journal is the agent's; here it is enough to know that there is something in it.
        if one.report.is_some() {
            job.step = if unfinished { json!({ "unfinished": true }) } else { Value::Null };
        }
    } else if !unfinished {
        job.step = Value::Null;
    }
    if one.stopped && job.cancel {
        one.held.finish(engine, JobState::Cancelled);
        return Ok(true);
    }
    if one.stopped {
        // Another job of the unit was asked to stop, or this one was and has not heard of it: the next turn obeys.
        one.report = None;
        one.held.wait_until(if one.remote { now + GIVEN_BACK } else { now });
        return Ok(false);
    }
    let (Some(report), Some(deployment)) = (&one.report, &mut one.deployment) else {
        // Nothing is wanted any more.
        one.held.finish(engine, JobState::Done);
        return Ok(true);
    };
    record(engine, deployment, report).await?;
    if report.outcome.is_success() {
        job.failures = 0;
        job.last_error = None;
        if deployment.wanted == deployment.current {
            one.held.finish(engine, JobState::Done);
        } else {
            one.held.wait_until(now);
        }
        return Ok(true);
    }
    let lost = report.outcome == DeployOutcome::RollbackFailed;
    job.failures += 1;
    job.last_error.clone_from(&report.error);
    let again = match &report.error {
        Some(error) if !lost => plan::after_failure(&retryable(error), job.failures, now, spread),
        _ => AfterFailure::Attention,
    };
    match again {
        AfterFailure::Again(at) => one.held.wait_until(at),
        AfterFailure::Attention => {
            job.state = JobState::Attention;
            job.due = None;
        }
    }
    Ok(true)
}

/// Writes down what happened.
async fn record(engine: &Inner, deployment: &mut Deployment, report: &DeployReport) -> Result<()> {
    deployment.at = Some(engine.clock.now());
    deployment.duration_ms = Some(report.duration_ms);
    deployment.address = Some(report.address.clone());
    deployment.warnings.clone_from(&report.warnings);
    deployment.error.clone_from(&report.error);
    deployment.proof = Some(report.proof.clone());
    deployment.changed = Some(report.changed.clone());
    if report.outcome.is_success() {
        deployment.state =
            if report.proof.proved { DeploymentState::Proved } else { DeploymentState::Unproved };
        let version: Stored<Version> = engine.store.read(&report.version).await?;
        deployment.current_fingerprint = Some(version.fingerprint);
        deployment.current = Some(report.version.clone());
    } else {
        let lost = report.outcome == DeployOutcome::RollbackFailed;
        deployment.state = plan::state_after_failure(deployment.state, lost, report.unfinished);
    }
    Ok(())
}

/// What stands in the way of a deployment is on a machine where somebody may mend it: it is worth another try, unless the
/// input itself is wrong.
fn retryable(error: &ErrorReport) -> ErrorReport {
    let undeclared = error.context.iter().any(|(key, value)| key == "reason" && value == UNDECLARED);
    let retry = match (error.kind, error.retry) {
        (_, retry) if undeclared => retry,
        (ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Denied, retry) => retry,
        (_, Retry::Never) => Retry::Backoff,
        (_, retry) => retry,
    };
    ErrorReport { retry, effect: Effect::None, ..error.clone() }
}

fn event(engine: &Inner, one: &One) -> AuditEvent {
    let action = match (&one.report, one.held.job.state) {
        (_, JobState::Cancelled) => "deployment.cancelled".to_owned(),
        (None, _) if one.stopped => "deployment.interrupted".to_owned(),
        (Some(report), _) => format!("deployment.{}", report.outcome.as_str()),
        (None, _) if one.untried.is_some() => "deployment.failed".to_owned(),
        (None, _) => "deployment.skipped".to_owned(),
    };
    let mut event = one.held.event(engine, &action).with("deployment", &*one.held.job.subject);
    if let Some(deployment) = &one.deployment {
        event = event.with("target", deployment.target.as_str());
    }
    if let Some(error) = &one.untried {
        event = event.with("error", error.to_string());
    }
    if let Some(report) = &one.report {
        event = event.with("version", report.version.as_str()).with("proved", report.proof.proved);
        if let Some(error) = &report.error {
            event = event.with("error", error.message.as_str());
        }
        if let Some(Value::String(warnings)) =
            (!report.warnings.is_empty()).then(|| Value::from(report.warnings.join("; ")))
        {
            event = event.with("warnings", warnings);
        }
    }
    event
}

/// Saves a job that has ended, and wakes its parent if this was its last child.
pub(super) async fn save_and_wake(engine: &Inner, held: &mut Held, event: AuditEvent) -> Result<()> {
    loop {
        let parent = held.job.parent.clone();
        let mut change = Change::new(event.clone()).update(&held.job)?.lease(&held.lease, LeaseUse::Release);
        if let Some(parent) = &parent
            && let Some(woken) = wake(engine, parent, 1).await?
        {
            change = change.update(&woken)?;
        }
        match engine.commit(change).await {
            Err(e) if is_stale(&e, held.job.id.as_str()) => {
                let fresh = reload(engine, &held.job.id).await?;
                held.job.cancel = fresh.cancel;
                held.job.parent.clone_from(&fresh.parent);
                held.job = held.job.clone().at_version(fresh.version());
            }
            Err(e) if parent.is_some_and(|parent| is_stale(&e, parent.as_str())) => {}
            done => return done.map(drop),
        }
    }
}

/// The parent with so many children less; ready if none is left.
pub(super) async fn wake(engine: &Inner, parent: &Id<Job>, ended: u32) -> Result<Option<Stored<Job>>> {
    let Some(mut parent) = engine.store.find::<Job>(parent).await? else { return Ok(None) };
    parent.open_children = parent.open_children.saturating_sub(ended);
    if parent.open_children == 0 && parent.state == JobState::Waiting {
        parent.state = JobState::Ready;
        parent.due = Some(engine.clock.now());
    }
    Ok(Some(parent))
}

/// The certificate as its deployments make it; none if it stands as it did. `placement` is about to be written and counts
/// as it is here.
pub(super) async fn roll_up(
    engine: &Inner,
    id: &Id<Certificate>,
    placement: Option<&Placement>,
) -> Result<Option<Stored<Certificate>>> {
    roll_up_with(engine, id, placement, &[]).await
}

pub(super) async fn roll_up_with(
    engine: &Inner,
    id: &Id<Certificate>,
    placement: Option<&Placement>,
    overlay: &[&Deployment],
) -> Result<Option<Stored<Certificate>>> {
    let Some(mut certificate) = engine.store.find::<Certificate>(id).await? else { return Ok(None) };
    let placements: Vec<Stored<Placement>> = engine.store.list_by("certificate", id.into()).await?;
    let placements: Vec<&Placement> = placements
        .iter()
        .map(|stored| placement.filter(|placement| placement.id == stored.id).unwrap_or(stored))
        .filter(|placement| !placement.leaving)
        .collect();
    for job in placements.iter().filter_map(|placement| placement.job.as_ref()) {
        if engine.store.find::<Job>(job).await?.is_some_and(|job| job.state == JobState::Attention) {
            // A person still has to look at that one.
            return Ok(None);
        }
    }
    if revoke::asks_for_attention(engine, id).await? {
        return Ok(None);
    }
    let deployments: Vec<Stored<Deployment>> = engine.store.list_by("certificate", id.into()).await?;
    let as_written = deployments
        .iter()
        // What is on its way out says nothing about what is wanted.
        .filter(|stored| placements.iter().any(|placement| placement.id == stored.placement))
        .map(|stored| overlay.iter().copied().find(|d| d.id == stored.id).unwrap_or(stored));
    let status = plan::status(&placements, as_written.clone());
    let reason = match status {
        CertificateStatus::Partial => as_written.into_iter().find_map(|deployment| deployment.error.clone()),
        _ => None,
    };
    if certificate.status == status && certificate.reason == reason {
        return Ok(None);
    }
    certificate.status = status;
    certificate.reason = reason;
    certificate.updated = engine.clock.now();
    Ok(Some(certificate))
}

/// The worker's journal, kept in the steps of the jobs it works for and fenced by their leases.
#[derive(Debug)]
struct JobJournal<'a> {
    engine: &'a Inner,
    held: Mutex<Vec<Held>>,
}

#[async_trait]
impl Journal for JobJournal<'_> {
    async fn load(&self) -> Result<Option<Value>> {
        let held = self.held.lock().await;
        let entries: serde_json::Map<String, Value> = held
            .iter()
            .filter(|held| !held.job.step.is_null())
            .map(|held| (held.job.subject.to_string(), held.job.step.clone()))
            .collect();
        Ok((!entries.is_empty()).then_some(Value::Object(entries)))
    }

    async fn save(&self, entry: &Value) -> Result<()> {
        let mut held = self.held.lock().await;
        let empty = serde_json::Map::new();
        let entries = entry.as_object().unwrap_or(&empty);
        loop {
            let mut change: Option<Change> = None;
            let mut written = Vec::new();
            for (index, held) in held.iter_mut().enumerate() {
                let Some(entry) = entries.get(&*held.job.subject) else { continue };
                held.job.step = entry.clone();
                let event =
                    held.event(self.engine, "deployment.begun").with("deployment", &*held.job.subject);
                let so_far = match change {
                    Some(change) => change.event(event),
                    None => Change::new(event),
                };
                change = Some(so_far.update(&held.job)?.lease(&held.lease, LeaseUse::Keep));
                written.push(index);
            }
            let Some(change) = change else { return Ok(()) };
            match self.engine.commit(change).await {
                Ok(versions) => {
                    for (index, version) in written.into_iter().zip(versions) {
                        held[index].job = held[index].job.clone().at_version(version);
                    }
                    return Ok(());
                }
                Err(e) => {
                    let stale = held.iter_mut().find(|held| is_stale(&e, held.job.id.as_str()));
                    let Some(stale) = stale else { return Err(e) };
                    let fresh = reload(self.engine, &stale.job.id).await?;
                    if fresh.cancel {
                        // Nothing is written before the journal is: this is the last moment to stop.
                        return Err(Error::new(
                            ErrorKind::Cancelled,
                            "stopped as asked, before anything was written",
                        ));
                    }
                    stale.job = stale.job.clone().at_version(fresh.version());
                }
            }
        }
    }
}
