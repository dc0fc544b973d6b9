//! Who holds a certificate's keys: a placement for each holder, with keys, versions and renewals of its own. And how one that
//! is wanted no more goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind, Id, Key, Result,
    engine::{Inner, deploy, held, spec::Wanted},
    records::{
        Asking, Attempt, AttemptState, Certificate, Deployment, Holder, Job, JobState, KeyPolicy, Placement,
        TargetRecord, Version,
    },
    store::{Change, ColumnValue, Query, StoreExt, Stored, Test},
};

/// The kind of the jobs that destroy keys.
pub(super) const FORGET: &str = "forget";

/// The step of a job that destroys a key: whose it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Forget {
    pub(super) key: Id<Key>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) versions: Vec<Id<Version>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attempts: Vec<Id<Attempt>>,
}

impl Forget {
    /// Of a key that no record names.
    pub(super) fn nobodys(key: Id<Key>) -> Self {
        Self { key, versions: Vec::new(), attempts: Vec::new() }
    }
}

/// The holders that are wanted, each with its targets. Without targets, this process holds the key.
pub(super) fn holders(wanted: &Wanted) -> Vec<(Holder, Vec<&TargetRecord>)> {
    let mut holders: Vec<(Holder, Vec<&TargetRecord>)> = Vec::new();
    for target in &wanted.targets {
        let holder = holder(&wanted.key, Some(target));
        match holders.iter_mut().find(|(known, _)| *known == holder) {
            Some((_, targets)) => targets.push(target),
            None => holders.push((holder, vec![target])),
        }
    }
    if holders.is_empty() {
        holders.push((holder(&wanted.key, None), Vec::new()));
    }
    holders
}

fn holder(key: &KeyPolicy, target: Option<&TargetRecord>) -> Holder {
    match (key, target.and_then(|target| target.place.agent.clone())) {
        (KeyPolicy::External { .. }, _) => Holder::External,
        (KeyPolicy::Made { .. }, None) => Holder::Process,
        (KeyPolicy::Made { .. }, Some(agent)) => Holder::Agent(agent),
    }
}

/// A placement of this holder, with nothing in it.
pub(super) fn new_placement(engine: &Inner, certificate: &Id<Certificate>, holder: Holder) -> Placement {
    Placement {
        id: Id::mint_at(engine.clock.now()),
        certificate: certificate.clone(),
        holder,
        version: None,
        job: None,
        renew_at: None,
        ask_at: None,
        window: None,
        asking: Asking::default(),
        revoked: false,
        leaving: false,
    }
}

/// Lets a placement go that is wanted no more. What is half written on a target comes to its end first; so does the job that
/// issues, which is asked to stop. The last of them takes the placement along.
pub(super) async fn leave(
    engine: &Inner,
    mut change: Change,
    mut placement: Stored<Placement>,
    jobs: &mut Vec<Id<Job>>,
) -> Result<Change> {
    let deployments: Vec<Stored<Deployment>> =
        engine.store.list_by("placement", (&placement.id).into()).await?;
    let mut rest = false;
    for deployment in deployments {
        match deploy::open_job(engine, &deployment.id).await? {
            Some(job) if !job.step.is_null() => {
                rest = true;
                jobs.push(job.id.clone());
                if let Some(job) = deploy::take_up(engine, job, deployment.state) {
                    change = change.update(&job)?;
                }
            }
            Some(job) => change = change.update(&stopping(engine, job))?.delete(&deployment),
            None => change = change.delete(&deployment),
        }
    }
    if let Some(job) = &placement.job
        && let Some(job) = engine.store.find::<Job>(job).await?
        && !job.state.is_finished()
    {
        rest = true;
        jobs.push(job.id.clone());
        let children: Vec<Stored<Job>> = engine.store.list_by("parent", (&job.id).into()).await?;
        for child in children.into_iter().filter(|child| !child.state.is_finished()) {
            // Those that deploy were asked above.
            if &*child.kind != deploy::KIND {
                change = change.update(&stopping(engine, child))?;
            }
        }
        change = change.update(&stopping(engine, job))?;
    }
    if !rest {
        return Departure::prepare(engine, &placement).await?.add_to(change);
    }
    placement.leaving = true;
    placement.renew_at = None;
    placement.ask_at = None;
    change.update(&placement)
}

fn stopping(engine: &Inner, mut job: Stored<Job>) -> Stored<Job> {
    job.cancel = true;
    if job.state != JobState::Waiting {
        // It has to be stepped to obey.
        job.state = JobState::Ready;
        job.due = Some(engine.clock.now());
    }
    job
}

/// What has to be written so that a placement goes, and its keys with it.
#[derive(Debug)]
pub(super) struct Departure {
    placement: Stored<Placement>,
    jobs: Vec<Job>,
}

impl Departure {
    /// At the end of the job that issued: none if the placement stays, or something is still half written on a target.
    pub(super) async fn of_leaving(
        engine: &Inner,
        placement: &mut Stored<Placement>,
    ) -> Result<Option<Self>> {
        if !placement.leaving {
            return Ok(None);
        }
        placement.renew_at = None;
        placement.ask_at = None;
        let deployments: Vec<Stored<Deployment>> =
            engine.store.list_by("placement", (&placement.id).into()).await?;
        if deployments.is_empty() { Self::prepare(engine, placement).await.map(Some) } else { Ok(None) }
    }

    pub(super) async fn prepare(engine: &Inner, placement: &Stored<Placement>) -> Result<Self> {
        let live = Query::of::<Version>()
            .filter("placement", Test::Equal, &placement.id)
            .filter("live_key", Test::NotEqual, ColumnValue::Null)
            .limit(1_000);
        let (versions, _) = engine.store.list::<Version>(live).await?;
        let nothing = Query::of::<Attempt>()
            .filter("placement", Test::Equal, &placement.id)
            .filter("state", Test::NotEqual, AttemptState::Issued.as_str())
            .limit(1_000);
        let (attempts, _) = engine.store.list::<Attempt>(nothing).await?;
        let jobs = forget_jobs(engine, placement, &versions, &attempts).await?;
        Ok(Self { placement: placement.clone(), jobs })
    }

    pub(super) fn add_to(&self, change: Change) -> Result<Change> {
        self.jobs.iter().try_fold(change.delete(&self.placement), Change::insert)
    }
}

/// Jobs that destroy the keys of these at their holder: one for each key that none destroys already.
pub(super) async fn forget_jobs(
    engine: &Inner,
    placement: &Placement,
    versions: &[Stored<Version>],
    attempts: &[Stored<Attempt>],
) -> Result<Vec<Job>> {
    let mut keys: BTreeMap<Id<Key>, Forget> = BTreeMap::new();
    for version in versions {
        let Some(key) = &version.key else { continue };
        keys.entry(key.clone())
            .or_insert_with(|| Forget::nobodys(key.clone()))
            .versions
            .push(version.id.clone());
    }
    for attempt in attempts {
        let Some(key) = &attempt.key else { continue };
        keys.entry(key.clone())
            .or_insert_with(|| Forget::nobodys(key.clone()))
            .attempts
            .push(attempt.id.clone());
    }
    let mut jobs = Vec::new();
    for step in keys.into_values() {
        jobs.extend(forget_job(engine, placement, step).await?);
    }
    Ok(jobs)
}

/// A job that destroys a key at its holder; none if there is one already.
pub(super) async fn forget_job(engine: &Inner, placement: &Placement, step: Forget) -> Result<Option<Job>> {
    let unique = format!("forget:{}", step.key);
    if engine.store.find_by::<Job>("unique_key", unique.as_str().into()).await?.is_some() {
        return Ok(None);
    }
    let place = placement.holder.place();
    let mut job = deploy::blank_job(engine, FORGET, step.key.as_str(), &placement.certificate, place);
    job.unique = Some(unique.into());
    held::set_step_of(&mut job, &step)?;
    Ok(Some(job))
}

/// What has to be written once a key is gone.
#[derive(Debug)]
pub(super) struct Forgotten {
    versions: Vec<Stored<Version>>,
    attempts: Vec<Stored<Attempt>>,
}

impl Forgotten {
    pub(super) async fn read(engine: &Inner, step: &Forget) -> Result<Self> {
        let mut versions = engine.store.read_all(&step.versions).await?;
        for version in &mut versions {
            version.key_forgotten = true;
        }
        let mut attempts = engine.store.read_all(&step.attempts).await?;
        for attempt in &mut attempts {
            attempt.key = None;
        }
        Ok(Self { versions, attempts })
    }

    pub(super) fn add_to(&self, change: Change) -> Result<Change> {
        let change = self.versions.iter().try_fold(change, Change::update)?;
        self.attempts.iter().try_fold(change, Change::update)
    }

    /// Whether a commit failed because something in here has changed meanwhile.
    pub(super) fn is_stale(&self, error: &Error) -> bool {
        let id = error.context_value("id").unwrap_or_default();
        error.kind() == ErrorKind::Conflict
            && (self.versions.iter().any(|version| version.id.as_str() == id)
                || self.attempts.iter().any(|attempt| attempt.id.as_str() == id))
    }
}
