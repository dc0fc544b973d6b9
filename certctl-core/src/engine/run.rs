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
        Engine, Inner, Running, challenge, deploy, errands,
        failure::{self, Failure},
        held::Held,
        holders, issue, remote, renewal, revoke, schedule,
    },
    records::{Certificate, Job, Place},
    store::{Filter, Lease, LeaseRequest, LeaseWhat, Record, Stored, Test},
};

/// How long a lease holds without a sign of life.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// How often a sign of life is given.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long changes are gathered while jobs are being stepped.
const BREATH: Duration = Duration::from_millis(3);
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
        // At most one, and nobody waits for it: what it is asking when this loop ends is asked again.
        let mut sweeps = JoinSet::new();
        let mut changes = inner.changes();
        let mut turn = Turn::new(inner.clone());
        inner.set_ending(false);
        tokio::pin!(until);
        loop {
            changes.mark_unchanged();
            let free = inner.at_once.saturating_sub(tasks.len());
            if free > 0 {
                if let Err(e) = turn.fill(inner).await {
                    tracing::error!(error = %e, "the store does not answer; trying again");
                    inner.clock.pause(Duration::from_millis(500)).await;
                }
                if sweeps.is_empty() && turn.sweep_is_due(inner).await {
                    sweeps.spawn(renewal::sweep(inner.clone()));
                }
                for batch in turn.take(free) {
                    // A task of its own: who drops this loop cancels nothing that has begun.
                    tasks.spawn(detached(tokio::spawn(inner.clone().work_on(batch))));
                }
            }
            let full = tasks.len() >= inner.at_once;
            let more = !full && turn.has_more();
            let next = match tasks.is_empty() && !more {
                true => turn.next(inner).await,
                // Whatever ends wakes this loop.
                false => inner.clock.now() + LOOK_AGAIN,
            };
            tokio::select! {
                biased;
                () = &mut until => break,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => report(done),
                Some(done) = sweeps.join_next(), if !sweeps.is_empty() => {
                    report(done);
                    turn.swept();
                }
                _ = changes.changed(), if !full => {
                    // Where one thing happens, more does: one look for all of it.
                    tokio::select! {
                        () = &mut until => break,
                        Some(done) = tasks.join_next(), if !tasks.is_empty() => report(done),
                        () = inner.clock.pause(BREATH), if !tasks.is_empty() => {}
                        () = std::future::ready(()), if tasks.is_empty() => {}
                    }
                }
                () = inner.clock.sleep_until(next), if !full && !more => {}
                // Should the wall clock be set back meanwhile, that would be a long sleep.
                () = inner.clock.pause(LOOK_AGAIN), if !full && !more => {}
                () = std::future::ready(()), if more => {}
            }
            // Whatever else has ended meanwhile.
            while let Some(done) = tasks.try_join_next() {
                report(done);
            }
        }
        inner.set_ending(true);
        while let Some(done) = tasks.join_next().await {
            report(done);
        }
        inner.give_back(std::mem::take(&mut turn.waiting)).await;
        Ok(())
    }
}

/// What the loop knows between two looks at the store.
#[derive(Debug)]
struct Turn {
    engine: Arc<Inner>,
    /// Leased, and not begun yet: one claim feeds many tasks.
    waiting: VecDeque<Vec<Held>>,
    /// Whether the last look found as much as it asked for, so that there is probably more.
    plenty: bool,
    /// When renewals were looked for last, and when old jobs were deleted.
    looked: Option<Timestamp>,
    /// When the first renewal is due that was not due at the last look.
    renewal: Option<Timestamp>,
    /// When something to ask the CAs was looked for last.
    asked: Option<Timestamp>,
    /// When the first question is due that was not due at the last look.
    ask: Option<Timestamp>,
    pruned: Option<Timestamp>,
    /// When it was looked for agents that do not take their work.
    swept_agents: Option<Timestamp>,
}

/// Whoever drops the loop drops what was leased for it as well: nobody else would step that while this process lives.
impl Drop for Turn {
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let engine = self.engine.clone();
            runtime.spawn(async move { engine.give_back(waiting).await });
        }
    }
}

impl Turn {
    fn new(engine: Arc<Inner>) -> Self {
        let waiting = VecDeque::new();
        Self {
            engine,
            waiting,
            plenty: false,
            looked: None,
            renewal: None,
            asked: None,
            ask: None,
            pruned: None,
            swept_agents: None,
        }
    }

    /// Looks at the store, if there is nothing left to begin.
    async fn fill(&mut self, engine: &Inner) -> Result<()> {
        let (now, before) = engine.time();
        let old = |last, span| is_old(last, span, now);
        if let Some(before) = before {
            schedule::clock_was_set_back(engine, now, before).await?;
        }
        // What goes wrong here must not keep the jobs that there are from being stepped.
        if old(self.looked, Duration::from_secs(1)) || self.renewal.is_some_and(|due| due <= now) {
            let scheduled = schedule::due(engine).await.unwrap_or_else(|e| {
                tracing::error!(error = %e, "due renewals could not be scheduled");
                0
            });
            self.looked = (scheduled == 0).then_some(now);
        }
        if old(self.pruned, Duration::from_secs(3600)) {
            if let Err(e) = schedule::prune(engine).await {
                tracing::warn!(error = %e, "finished jobs were not pruned");
            }
            self.pruned = Some(now);
        }
        if old(self.swept_agents, Duration::from_secs(60)) {
            if let Err(e) = remote::sweep(engine).await {
                tracing::warn!(error = %e, "agents that do not take their work could not be looked for");
            }
            self.swept_agents = Some(now);
        }
        if self.waiting.is_empty() {
            self.waiting.extend(engine.claim(None, engine.at_once).await?);
            self.plenty = self.waiting.len() >= engine.at_once;
        }
        Ok(())
    }

    /// Whether it is time to ask the CAs when they want renewals.
    async fn sweep_is_due(&mut self, engine: &Inner) -> bool {
        let now = engine.clock.now();
        if !is_old(self.asked, Duration::from_secs(1), now) && self.ask.is_none_or(|due| due > now) {
            return false;
        }
        self.asked = Some(now);
        self.ask = None;
        renewal::is_due(engine).await.unwrap_or_else(|e| {
            tracing::warn!(error = %e, "what there is to ask the CAs could not be looked up");
            false
        })
    }

    /// The CAs were asked: renewals may be due that were not.
    fn swept(&mut self) {
        self.looked = None;
    }

    fn take(&mut self, free: usize) -> impl Iterator<Item = Vec<Held>> + '_ {
        self.waiting.drain(..free.min(self.waiting.len()))
    }

    fn has_more(&self) -> bool {
        !self.waiting.is_empty() || self.plenty || self.looked.is_none()
    }

    /// When to look again without being woken.
    async fn next(&mut self, engine: &Inner) -> Timestamp {
        let latest = engine.clock.now() + LOOK_AGAIN;
        let schedule::Next { job, renewal, ask } = schedule::next_due(engine).await.unwrap_or_default();
        self.renewal = renewal;
        self.ask = ask;
        [job, renewal, ask].into_iter().flatten().fold(latest, Timestamp::min)
    }
}

/// Both clocks that stand still and clocks that jump back count as time to look.
fn is_old(last: Option<Timestamp>, span: Duration, now: Timestamp) -> bool {
    last.is_none_or(|last| now < last || now.since(last) >= span)
}

async fn detached(task: tokio::task::JoinHandle<()>) {
    if let Err(e) = task.await {
        tracing::error!(error = %e, "a job's task ended badly");
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
        self.claim_at(self.seat.name(), filter, limit).await
    }

    /// Leases jobs that are due, for a seat, as batches: those of one group are one batch.
    pub(super) async fn claim_at(
        &self,
        seat: &str,
        filter: Vec<Filter>,
        limit: usize,
    ) -> Result<Vec<Vec<Held>>> {
        let now = self.clock.now();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: seat.to_owned(),
            now,
            until: now + LEASE,
            what: LeaseWhat::Claim { filter, limit },
        };
        let mut batches: Vec<Vec<Held>> = Vec::new();
        let mut groups: HashMap<Box<str>, usize> = HashMap::new();
        for leased in self.store.lease(&request).await? {
            let job = match Stored::<Job>::read(&leased.row) {
                Ok(job) => job,
                // Probably of a newer program. Nobody here can step it, and the others must not wait for it.
                Err(e) => {
                    tracing::error!(job = %leased.row.id, error = %e, "a job does not read; it is left alone");
                    continue;
                }
            };
            let held = Held { job, lease: leased.lease };
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
    pub(super) async fn give_back(&self, batches: impl IntoIterator<Item = Vec<Held>>) {
        self.give_back_to(self.seat.name(), batches).await;
    }

    /// As [`Inner::give_back`], for what this seat has leased.
    pub(super) async fn give_back_to(&self, seat: &str, batches: impl IntoIterator<Item = Vec<Held>>) {
        let leases: Vec<Lease> = batches.into_iter().flatten().map(|held| held.lease).collect();
        if leases.is_empty() {
            return;
        }
        let now = self.clock.now();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: seat.to_owned(),
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
        let Some(batch) = self.still_held(batch).await else { return };
        let running = self.begin(&batch);
        let beating = self.clone().heartbeat(batch.clone(), &running);
        // In a task of its own, so that a panic in a connector is this job's failure and nobody else's.
        let stepping = tokio::spawn(step(self.clone(), batch.clone(), running.context()));
        let failure = tokio::select! {
            done = stepping => match done {
                Ok(result) => result.err(),
                Err(e) => Some(Failure::from(Error::internal(format!("a connector or the engine panicked: {e}")))),
            },
            () = beating => None,
        };
        if let Some(failure) = failure {
            failure::record(&self, &batch, &failure).await;
        }
        self.end(&running);
    }

    /// The batch, if its leases hold for a good while yet: it may have waited for its turn. The rows may have changed then.
    async fn still_held(&self, mut batch: Vec<Held>) -> Option<Vec<Held>> {
        let now = self.clock.now();
        let fresh =
            |held: &Held| now + (LEASE - HEARTBEAT) <= held.lease.until && held.lease.until <= now + LEASE;
        if batch.iter().all(fresh) {
            return Some(batch);
        }
        let leases = batch.iter().map(|held| held.lease.clone()).collect();
        match self.extend(leases).await {
            Ok(kept) => batch.retain(|held| kept.contains(&held.lease.id)),
            Err(e) => {
                tracing::warn!(error = %e, "leases could not be extended; giving them back");
                self.give_back([batch]).await;
                return None;
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Extends leases; gives the rows that are still held.
    async fn extend(&self, leases: Vec<Lease>) -> Result<Vec<Box<str>>> {
        let now = self.clock.now();
        let request = LeaseRequest {
            kind: Job::KIND,
            seat: self.seat.name().to_owned(),
            now,
            until: now + LEASE,
            what: LeaseWhat::Extend(leases),
        };
        Ok(self.store.lease(&request).await?.into_iter().map(|leased| leased.row.id).collect())
    }

    /// Extends the leases until they are lost; never returns before.
    fn heartbeat(self: Arc<Self>, batch: Vec<Held>, running: &Running) -> impl Future<Output = ()> + use<> {
        let leases: Vec<Lease> = batch.into_iter().map(|held| held.lease).collect();
        let running = running.clone();
        async move {
            loop {
                self.clock.pause(HEARTBEAT).await;
                match self.extend(leases.clone()).await {
                    Ok(kept) if kept.len() < leases.len() => {
                        // Lost, or given back by the job's own last commit. Whoever holds it goes on; here the fence stops
                        // it at the next commit, and a step that has not written anything stops at once.
                        running.ask_to_stop();
                        std::future::pending::<()>().await;
                    }
                    Ok(_) => {}
                    Err(e) => tracing::warn!(error = %e, "a job's lease could not be extended"),
                }
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
        revoke::KIND => {
            for held in batch {
                revoke::run(&engine, held, &cx).await?;
            }
            Ok(())
        }
        holders::FORGET => {
            for held in batch {
                errands::forget_here(&engine, held, &cx).await?;
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
