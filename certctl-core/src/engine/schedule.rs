//! What comes by itself: renewals that are due, and the end of old jobs.

use std::time::Duration;

use crate::{
    Actor, ErrorKind, Result, Retry, Timestamp,
    engine::{Inner, http01, issue, plan, renewal},
    records::{AuditEvent, Job, Place, Placement},
    store::{Change, Direction, Query, StoreExt, Stored, Test},
};

/// How many renewals are scheduled in one transaction.
const PAGE: usize = 1_000;
/// How long finished jobs are kept.
const KEEP: Duration = Duration::from_secs(7 * 86_400);

/// Makes a job for each placement whose renewal is due; gives how many.
pub(crate) async fn due(engine: &Inner) -> Result<usize> {
    let now = engine.clock.now();
    let query = Query::of::<Placement>()
        .filter("renew_at", Test::AtMost, now)
        .order("renew_at", Direction::Ascending)
        .limit(PAGE);
    let (mut placements, _) = engine.store.list::<Placement>(query).await?;
    let mut jobs: Vec<Job> = Vec::with_capacity(placements.len());
    for placement in &mut placements {
        let job = issue::job(engine, placement)?;
        placement.job = Some(job.id.clone());
        placement.renew_at = None;
        placement.ask_at = None;
        jobs.push(job);
    }
    while !placements.is_empty() {
        let event = AuditEvent::new(now, &Actor::engine(), "renewals.scheduled", jobs[0].about())
            .with("count", jobs.len());
        let mut change = Change::new(event);
        for (placement, job) in placements.iter().zip(&jobs) {
            change = change.update(placement)?.insert(job)?;
        }
        match engine.commit(change).await {
            Ok(_) => return Ok(jobs.len()),
            Err(e) if e.kind() == ErrorKind::Conflict => {
                // Somebody was faster with this one: go on without it.
                let id = e.context_value("id").unwrap_or_default().to_owned();
                let before = placements.len();
                let taken = placements
                    .iter()
                    .zip(&jobs)
                    .position(|(p, j)| p.id.as_str() == id || j.id.as_str() == id);
                if let Some(taken) = taken {
                    placements.remove(taken);
                    jobs.remove(taken);
                }
                if placements.len() == before {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(0)
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Next {
    /// A job.
    pub(crate) job: Option<Timestamp>,
    /// A renewal.
    pub(crate) renewal: Option<Timestamp>,
    /// A CA is to be asked when it wants a renewal.
    pub(crate) ask: Option<Timestamp>,
}

/// When the next job, the next renewal and the next question are due that are not due now.
pub(crate) async fn next_due(engine: &Inner) -> Result<Next> {
    let now = engine.clock.now();
    let jobs = Query::of::<Job>()
        .filter("place", Test::Equal, Place::HERE)
        .filter("due", Test::Greater, now)
        .order("due", Direction::Ascending)
        .limit(1);
    let (jobs, _) = engine.store.list::<Job>(jobs).await?;
    let first = async |column: &'static str| {
        let query = Query::of::<Placement>()
            .filter(column, Test::Greater, now)
            .order(column, Direction::Ascending)
            .limit(1);
        Ok::<_, crate::Error>(engine.store.list::<Placement>(query).await?.0.pop())
    };
    Ok(Next {
        job: jobs.first().and_then(|job| job.due),
        renewal: first("renew_at").await?.and_then(|placement| placement.renew_at),
        ask: first("ask_at").await?.and_then(|placement| placement.ask_at),
    })
}

/// What was due by the clock as it was, `before`, is due by the clock as it is, and what waits for a later try does so from now
/// on: nothing waits until a clock that was wrong would be right. Where two processes do this at the same time, some tries
/// come a little early.
pub(crate) async fn clock_was_set_back(engine: &Inner, now: Timestamp, before: Timestamp) -> Result<()> {
    // Also those of agents: the time when they are due is this store's.
    let query = Query::of::<Job>()
        .filter("due", Test::Greater, now)
        .filter("due", Test::AtMost, before + plan::LONGEST_BACKOFF.mul_f64(1.5))
        .order("due", Direction::Ascending)
        .limit(PAGE);
    renewal::clock_was_set_back(engine, now).await?;
    let mut after = None;
    loop {
        let (jobs, next): (Vec<Stored<Job>>, _) = engine.store.list(query.clone().after(after)).await?;
        for mut job in jobs {
            let Some(due) = job.due else { continue };
            let told = job.last_error.as_ref().is_some_and(|error| matches!(error.retry, Retry::After(_)));
            if due > before && (told || job.failures == 0) {
                // Somebody outside has said when.
                continue;
            }
            job.due = Some(now + due.since(before));
            let event = AuditEvent::new(now, &Actor::engine(), "job.clock_set_back", job.about())
                .with("job", job.id.as_str());
            match engine.commit(Change::new(event).update(&job)?).await {
                Err(e) if e.kind() != ErrorKind::Conflict => return Err(e),
                _ => {}
            }
        }
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Deletes finished jobs that are old, and answers to challenges that were left behind.
pub(crate) async fn prune(engine: &Inner) -> Result<()> {
    http01::prune(engine).await?;
    let now = engine.clock.now();
    loop {
        let query = Query::of::<Job>()
            .filter("finished", Test::Less, now - KEEP)
            .order("finished", Direction::Ascending)
            .limit(PAGE);
        let (old, _): (Vec<Stored<Job>>, _) = engine.store.list(query).await?;
        let Some(first) = old.first() else { return Ok(()) };
        let event =
            AuditEvent::new(now, &Actor::engine(), "jobs.pruned", first.id.as_str()).with("count", old.len());
        engine.commit(old.iter().fold(Change::new(event), Change::delete)).await?;
    }
}
