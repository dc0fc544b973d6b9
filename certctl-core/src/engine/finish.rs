//! The end of an issue job: its deployments have ended, one way or the other.

use std::time::Duration;

use crate::{
    Context, Id, Key, Result,
    engine::{
        Inner, deploy,
        dispatch::Dispatch,
        failure::Failure,
        held::{Held, is_stale},
        holders::{self, Departure},
        issue::{self, Next, Subject},
        plan, renewal,
    },
    records::{
        Asking, Attempt, AttemptState, Certificate, Deployment, Holder, Job, JobState, KeyPolicy, Placement,
        RenewalPolicy, Version,
    },
    store::{Change, ColumnValue, LeaseUse, Query, StoreExt, Stored, Test},
    worker::{MemoryJournal, Work},
};

pub(super) async fn run(
    engine: &Inner,
    held: &mut Held,
    cx: &Context,
    version: &Id<Version>,
) -> Result<Next, Failure> {
    let Subject { mut placement, certificate } = issue::subject(engine, &held.job).await?;
    if send_late_ones(engine, held, &placement, version).await? {
        return Ok(Next::Released);
    }
    let newest: Stored<Version> = engine.store.read(version).await?;
    let attempt: Stored<Attempt> = engine.store.read(&newest.attempt).await?;
    // A key that can't be destroyed now is no reason to stop renewing: the next renewal tries again.
    let forgotten = match placement.leaving {
        // All of them go.
        true => Forgotten::default(),
        false => forget_keys(engine, cx, &placement).await.unwrap_or_else(|e| {
            tracing::warn!(certificate = %certificate.id, error = %e, "keys that nothing needs any more are still there");
            Forgotten::default()
        }),
    };

    placement.job = None;
    placement.renew_at = renew_at(engine, &certificate, &attempt, &newest);
    placement.ask_at = renewal::asks(engine, &certificate).await.then(|| renewal::first_ask(engine));
    let hurried = if placement.asking.early { placement.asking.hurried.saturating_add(1) } else { 0 };
    if placement.revoked {
        // While it was on its way to its targets.
        placement.renew_at = None;
        placement.ask_at = None;
    }
    placement.asking = Asking { failures: 0, early: false, hurried };
    held.finish(engine, JobState::Done);
    let event = held
        .event(engine, "certificate.renewed")
        .with("version", version.as_str())
        .with("keys_forgotten", forgotten.versions.len() + forgotten.attempts.len());
    let departure = Departure::of_leaving(engine, &mut placement).await?;
    loop {
        let rolled_up = deploy::roll_up(engine, &placement.certificate, Some(&placement)).await?;
        let saved = held
            .save(engine, event.clone(), LeaseUse::Release, |change| {
                let change = match &departure {
                    Some(departure) => departure.add_to(change)?,
                    None => change.update(&placement)?,
                };
                let change = forgotten.versions.iter().try_fold(change, Change::update)?;
                let change = forgotten.attempts.iter().try_fold(change, Change::update)?;
                let change = forgotten.jobs.iter().try_fold(change, Change::insert)?;
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
                // Somebody has added a target: begin again.
                held.reopen(engine);
                return Ok(Next::Again);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends the version to targets that were added while the job was at it.
async fn send_late_ones(
    engine: &Inner,
    held: &mut Held,
    placement: &Stored<Placement>,
    version: &Id<Version>,
) -> Result<bool> {
    loop {
        let late = Dispatch::prepare(engine, &placement.id, version, &held.job.id, true).await?;
        if late.is_empty() {
            return Ok(false);
        }
        held.wait_for_children(engine, late.children());
        let then = if late.children() == 0 { LeaseUse::Keep } else { LeaseUse::Release };
        let event = held.event(engine, "version.sent").with("targets", late.children());
        match held.save(engine, event, then, |change| late.add_to(change)).await {
            Ok(()) => return Ok(then == LeaseUse::Release),
            Err(e) if late.is_stale(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

fn renew_at(
    engine: &Inner,
    certificate: &Certificate,
    attempt: &Attempt,
    newest: &Version,
) -> Option<crate::Timestamp> {
    let now = engine.clock.now();
    // Somebody may have changed what is wanted while the CA was at it.
    if !attempt.asks_for(certificate) {
        return Some(now);
    }
    if let KeyPolicy::External { .. } = certificate.key {
        // The same request would give the same certificate: whoever holds the key renews.
        return None;
    }
    let RenewalPolicy { at_share } = certificate.renewal;
    let at = plan::renew_at(certificate.renewal, newest.not_before, newest.not_after);
    // A CA that dates its certificates far back must not be asked again and again: at the same share of what is left then,
    // and not within the hour that a clock may be wrong, unless it lives no longer than that.
    let left = newest.not_after.since(now);
    let earliest = now + left.mul_f64(1.0 - at_share.clamp(0.1, 0.95)).min(Duration::from_secs(3_600));
    Some(at.max(earliest))
}

/// Whose keys are gone, as it is to be recorded.
#[derive(Default)]
struct Forgotten {
    versions: Vec<Stored<Version>>,
    attempts: Vec<Stored<Attempt>>,
    /// Those that have their holder destroy the others.
    jobs: Vec<Job>,
}

/// Destroys the keys that nothing needs any more: those of replaced versions, and of attempts that came to nothing.
async fn forget_keys(engine: &Inner, cx: &Context, placement: &Placement) -> Result<Forgotten> {
    // Those whose keys are still there: the newest, and seldom more than one before it.
    let live = Query::of::<Version>()
        .filter("placement", Test::Equal, &placement.id)
        .filter("live_key", Test::NotEqual, ColumnValue::Null)
        .limit(1_000);
    let (mut versions, _) = engine.store.list::<Version>(live).await?;
    let failed = Query::of::<Attempt>()
        .filter("placement", Test::Equal, &placement.id)
        .filter("state", Test::Equal, AttemptState::Failed.as_str())
        .limit(1_000);
    let (mut attempts, _) = engine.store.list::<Attempt>(failed).await?;
    if versions.len() < 2 && attempts.is_empty() {
        return Ok(Forgotten::default());
    }
    // A key that is used again and again belongs to a version as well.
    let of_a_version = |key: &Id<Key>| versions.iter().any(|version| version.key.as_ref() == Some(key));
    attempts.retain(|attempt| attempt.key.as_ref().is_some_and(|key| !of_a_version(key)));
    let deployments: Vec<Stored<Deployment>> =
        engine.store.list_by("placement", (&placement.id).into()).await?;
    let forgettable = plan::forgettable(&versions, placement.version.as_ref(), &deployments);
    versions.retain(|version| forgettable.contains(&version.id));
    if let Holder::Agent(_) = placement.holder {
        let jobs = holders::forget_jobs(engine, placement, &versions, &attempts).await?;
        return Ok(Forgotten { jobs, ..Forgotten::default() });
    }
    let of_versions = versions.iter().filter_map(|version| version.key.clone());
    for key in of_versions.chain(attempts.iter().filter_map(|attempt| attempt.key.clone())) {
        engine.worker.execute(cx, Work::ForgetKey(key), &MemoryJournal::default()).await?;
    }
    for version in &mut versions {
        version.key_forgotten = true;
    }
    for attempt in &mut attempts {
        attempt.key = None;
    }
    Ok(Forgotten { versions, attempts, jobs: Vec::new() })
}
