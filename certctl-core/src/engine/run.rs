//! The one job loop.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    Context, Error, ErrorKind, Id, Result, Timestamp,
    engine::{
        Engine, Inner, challenge, deploy,
        held::{Held, is_conflict, reload},
        issue::{self, Failure},
        plan::{self, AfterFailure},
        schedule,
    },
    random,
    records::{Certificate, Job, JobState, Place},
    store::{Filter, Lease, LeaseRequest, LeaseUse, LeaseWhat, Record, Stored, Test},
};

/// How long a lease holds without a sign of life.
const LEASE: Duration = Duration::from_secs(60);
/// How often a sign of life is given.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long at most the loop sleeps: what another process on the same store wrote does not wake it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Engine {
    /// The one job loop: schedules renewals that are due, and steps jobs until `until` is done. Then it takes nothing new,
    /// and returns once what it was stepping is at rest: a deployment that has begun ends or is rolled back.
    ///
    /// # Errors
    /// `Internal` only: a store that is away is waited for.
    pub async fn run(&self, until: impl Future<Output = ()> + Send) -> Result<()> {
        let inner = &self.inner;
        let mut tasks = JoinSet::new();
        let mut changes = inner.changes();
        let mut turn = Turn::default();
        tokio::pin!(until);
        loop {
            changes.mark_unchanged();
            let free = inner.at_once.saturating_sub(tasks.len());
            if free > 0 {
                if let Err(e) = turn.fill(inner).await {
                    tracing::error!(error = %e, "the store does not answer; trying again");
                    inner.clock.pause(Duration::from_millis(500)).await;
                }
                for batch in turn.take(free) {
                    tasks.spawn(inner.clone().work_on(batch));
                }
            }
            let full = tasks.len() >= inner.at_once;
            let more = !full && turn.has_more();
            let next = if full || more { inner.clock.now() } else { turn.next(inner).await };
            tokio::select! {
                biased;
                () = &mut until => break,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => report(done),
                _ = changes.changed(), if !full => {}
                () = inner.clock.sleep_until(next), if !full && !more => {}
                () = std::future::ready(()), if more => {}
            }
            // Whatever else has ended meanwhile.
            while let Some(done) = tasks.try_join_next() {
                report(done);
            }
        }
        while let Some(done) = tasks.join_next().await {
            report(done);
        }
        inner.give_back(turn.waiting).await;
        Ok(())
    }
}

/// What the loop knows between two looks at the store.
#[derive(Debug, Default)]
struct Turn {
    /// Leased, and not begun yet: one claim feeds many tasks.
    waiting: VecDeque<Vec<Held>>,
    /// Whether the last look found as much as it asked for, so that there is probably more.
    plenty: bool,
    /// When renewals were looked for last, and when old jobs were deleted.
    looked: Option<Timestamp>,
    pruned: Option<Timestamp>,
}

impl Turn {
    /// Looks at the store, if there is nothing left to begin.
    async fn fill(&mut self, engine: &Inner) -> Result<()> {
        let now = engine.clock.now();
        // Both clocks that stand still and clocks that jump back count as time to look.
        let old =
            |last: Option<Timestamp>, span| last.is_none_or(|last| now < last || now.since(last) >= span);
        if old(self.looked, Duration::from_secs(1)) {
            let scheduled = schedule::due(engine).await?;
            self.looked = (scheduled == 0).then_some(now);
        }
        if old(self.pruned, Duration::from_secs(3600)) {
            schedule::prune(engine).await?;
            self.pruned = Some(now);
        }
        if self.waiting.is_empty() {
            self.waiting.extend(engine.claim(None, engine.at_once).await?);
            self.plenty = self.waiting.len() >= engine.at_once;
        }
        Ok(())
    }

    fn take(&mut self, free: usize) -> impl Iterator<Item = Vec<Held>> + '_ {
        self.waiting.drain(..free.min(self.waiting.len()))
    }

    fn has_more(&self) -> bool {
        !self.waiting.is_empty() || self.plenty || self.looked.is_none()
    }

    /// When to look again without being woken.
    async fn next(&self, engine: &Inner) -> Timestamp {
        let latest = engine.clock.now() + LOOK_AGAIN;
        schedule::next_due(engine).await.map_or(latest, |due| due.min(latest))
    }
}

fn report(done: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(e) = done {
        tracing::error!(error = %e, "a job's task ended badly");
    }
}

impl Inner {
    /// Leases jobs that are due here, as batches: those of one group are one batch.
    pub(super) async fn claim(
        &self,
        certificate: Option<&Id<Certificate>>,
        limit: usize,
    ) -> Result<Vec<Vec<Held>>> {
        let equal = |column, value| Filter { column, test: Test::Equal, value };
        let mut filter = vec![equal("place", Place::HERE.into())];
        if let Some(certificate) = certificate {
            filter.push(equal("certificate", certificate.into()));
        }
        let now = self.clock.now();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: self.seat.name().to_owned(),
            now,
            until: now + LEASE,
            what: LeaseWhat::Claim { filter, limit },
        };
        let mut batches: Vec<Vec<Held>> = Vec::new();
        let mut groups: HashMap<Box<str>, usize> = HashMap::new();
        for leased in self.store.lease(&request).await? {
            let held = Held { job: Stored::<Job>::read(&leased.row)?, lease: leased.lease };
            match held.job.group.clone() {
                None => batches.push(vec![held]),
                Some(group) => {
                    let index = *groups.entry(group).or_insert(batches.len());
                    if index == batches.len() {
                        batches.push(Vec::new());
                    }
                    batches[index].push(held);
                }
            }
        }
        Ok(batches)
    }

    /// Gives leases back that were taken and not used, so that another process needs not wait for their end.
    async fn give_back(&self, batches: impl IntoIterator<Item = Vec<Held>>) {
        let leases: Vec<Lease> = batches.into_iter().flatten().map(|held| held.lease).collect();
        if leases.is_empty() {
            return;
        }
        let now = self.clock.now();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: self.seat.name().to_owned(),
            now,
            until: now,
            what: LeaseWhat::Release(leases),
        };
        if let Err(e) = self.store.lease(&request).await {
            tracing::warn!(error = %e, "leases could not be given back");
        }
    }

    /// Steps a batch to where it rests. Never fails: what goes wrong is recorded with the jobs.
    pub(super) async fn work_on(self: Arc<Self>, batch: Vec<Held>) {
        let ids: Vec<Id<Job>> = batch.iter().map(|held| held.job.id.clone()).collect();
        let cx = self.begin(ids.iter().cloned());
        let beating = self.clone().heartbeat(batch.clone());
        // In a task of its own, so that a panic in a connector is this job's failure and nobody else's.
        let stepping = tokio::spawn(step(self.clone(), batch.clone(), cx));
        let failure = tokio::select! {
            done = stepping => match done {
                Ok(result) => result.err(),
                Err(e) => Some(Failure::from(Error::internal(format!("a connector or the engine panicked: {e}")))),
            },
            () = beating => None,
        };
        if let Some(failure) = failure {
            self.record_failure(&batch, failure).await;
        }
        self.end(&ids);
    }

    /// Extends the leases until they are lost; never returns before.
    async fn heartbeat(self: Arc<Self>, batch: Vec<Held>) {
        let leases: Vec<_> = batch.iter().map(|held| held.lease.clone()).collect();
        loop {
            self.clock.pause(HEARTBEAT).await;
            let now = self.clock.now();
            let request = LeaseRequest {
                kind: Job::KIND,
                seat: self.seat.name().to_owned(),
                now,
                until: now + LEASE,
                what: LeaseWhat::Extend(leases.clone()),
            };
            match self.store.lease(&request).await {
                Ok(kept) if kept.len() < leases.len() => {
                    // Lost, or given back by the job's own last commit. Whoever holds it goes on; here the fence stops it
                    // at the next commit, and a step that has not written anything stops at once.
                    for held in &batch {
                        self.ask_to_stop(&held.job.id);
                    }
                    std::future::pending::<()>().await;
                }
                Ok(_) => {}
                Err(e) => tracing::warn!(error = %e, "a job's lease could not be extended"),
            }
        }
    }

    /// Records a failure with every job of the batch that is still held here. Waits for a store that is away.
    async fn record_failure(&self, batch: &[Held], failure: Failure) {
        if is_conflict(&failure.error, "lease") {
            // Somebody else has taken over.
            return;
        }
        for held in batch {
            let mut failure = Some(Failure {
                error: failure.error.clone(),
                step: failure.step.clone(),
                dead: failure.dead.clone(),
            });
            let mut pause = Duration::from_millis(100);
            while let Some(this) = failure.take() {
                match self.try_record_failure(held, this).await {
                    Ok(()) => {}
                    Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                    Err(e) => {
                        tracing::error!(job = %held.job.id, error = %e, "a job's failure could not be recorded yet");
                        self.clock.pause(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(10));
                        failure = Some(Failure { error: e, step: None, dead: None });
                    }
                }
            }
        }
    }

    async fn try_record_failure(&self, held: &Held, failure: Failure) -> Result<()> {
        // On top of whatever the job committed last.
        let mut held = Held { job: reload(self, &held.job.id).await?, lease: held.lease.clone() };
        if held.job.state.is_finished() {
            return Ok(());
        }
        let report = failure.error.report();
        held.job.failures += 1;
        held.job.last_error = Some(report.clone());
        let cancelled = failure.error.kind() == ErrorKind::Cancelled;
        let spread = f64::from(random::bytes::<1>()[0]) / 255.0;
        let now = self.clock.now();
        match plan::after_failure(&report, held.job.failures, now, spread) {
            // Its next step obeys, and says so.
            _ if cancelled => held.wait_until(now),
            AfterFailure::Again(at) => held.wait_until(at),
            AfterFailure::Attention => {
                held.job.state = JobState::Attention;
                held.job.due = None;
            }
        }
        let mut parent = None;
        if held.job.state == JobState::Attention && &*held.job.kind != issue::KIND {
            parent = held.job.parent.take();
        }
        tracing::warn!(job = %held.job.id, kind = %held.job.kind, error = %failure.error, state = held.job.state.as_str(), "a step failed");
        let action = if held.job.state == JobState::Attention { "job.attention" } else { "job.failed_step" };
        issue::failed(self, &mut held, failure, action, LeaseUse::Release).await?;
        if let Some(parent) = parent {
            self.fail_parent(&parent, &report).await?;
        }
        Ok(())
    }

    /// A child that can't go on takes its parent along.
    async fn fail_parent(&self, parent: &Id<Job>, report: &crate::ErrorReport) -> Result<()> {
        loop {
            let mut parent = reload(self, parent).await?;
            parent.state = JobState::Attention;
            parent.last_error = Some(report.clone());
            let event = crate::records::AuditEvent::new(
                self.clock.now(),
                &crate::Actor::engine(),
                "job.attention",
                parent.certificate.as_str(),
            )
            .with("job", parent.id.as_str())
            .with("error", report.message.as_str());
            match self.commit(crate::store::Change::new(event).update(&parent)?).await {
                Err(e) if is_conflict(&e, "version") => {}
                done => return done.map(drop),
            }
        }
    }
}

async fn step(engine: Arc<Inner>, batch: Vec<Held>, cx: Context) -> Result<(), Failure> {
    let kind = batch.first().map(|held| held.job.kind.clone()).unwrap_or_default();
    match &*kind {
        deploy::KIND => Ok(deploy::run(&engine, batch, &cx).await?),
        issue::KIND => {
            for held in batch {
                Box::pin(issue::run(&engine, held, &cx)).await?;
            }
            Ok(())
        }
        challenge::PRESENT | challenge::RETRACT => {
            for held in batch {
                challenge::run(&engine, held, &cx).await?;
            }
            Ok(())
        }
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("this program does not know jobs of the kind {other:?}: a newer one made it"),
        )
        .into()),
    }
}
