//! The loop: leases work, does it, and says what became of it, until it is told to stop.

mod unit;

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use certctl_core::{
    Clock, Context, Error, ErrorKind, Id, Result, Retry, Worker,
    records::Job,
    worker::{AssignedJob, Assignment, Outcome, Reported, WorkReport, WorkResult},
};
use futures_util::future::BoxFuture;
use tokio::{select, task::JoinSet};

use self::unit::{State, Unit, is_stopped, same_jobs};
use crate::{
    journal::{Journal, UnitJournal},
    link::Link,
};

/// How long a question for work may wait at the server: well under what a proxy between may cut off.
const WAIT: Duration = Duration::from_secs(25);
/// How often more time is asked for: leases are a minute.
const EXTEND: Duration = Duration::from_secs(15);
/// For how many seconds work that has begun to write may go on after it was told to stop. A service manager usually waits
/// for 90.
const GRACE: u32 = 80;
/// The largest assignment that is taken, in bytes of JSON.
pub(crate) const LARGEST: usize = 4 << 20;

/// What an agent is doing.
pub(crate) struct Runner {
    pub(crate) link: Arc<Link>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) parallel: usize,
    work: Work,
}

/// Everything that is on its way.
#[derive(Default)]
struct Work {
    /// Taken, and not ended.
    units: BTreeMap<Id<Job>, Unit>,
    running: JoinSet<Result<WorkReport>>,
    tasks: HashMap<tokio::task::Id, Id<Job>>,
    /// Ended, and not acknowledged.
    results: BTreeMap<Id<Job>, WorkResult>,
    /// Handed out again with other jobs, while the first is not acknowledged.
    later: BTreeMap<Id<Job>, Assignment>,
    stopping: bool,
}

/// What is being asked, and what is being waited for. Each is a future of its own that nobody cuts off in the middle.
struct Calls {
    lease: Option<BoxFuture<'static, Result<Vec<Assignment>>>>,
    extend: Option<BoxFuture<'static, Result<Vec<AssignedJob>>>>,
    report: Option<BoxFuture<'static, (Id<Job>, WorkResult, Result<Reported>)>>,
    /// Nobody is asked before this is over.
    pause: Option<BoxFuture<'static, ()>>,
    tick: BoxFuture<'static, ()>,
    extend_is_due: bool,
}

impl Runner {
    pub(crate) fn new(
        link: Arc<Link>,
        journal: Arc<Journal>,
        worker: Arc<dyn Worker>,
        clock: Arc<dyn Clock>,
        parallel: usize,
    ) -> Self {
        Self { link, journal, worker, clock, parallel: parallel.max(1), work: Work::default() }
    }

    /// Works until `until` is over and what has begun to write has ended.
    ///
    /// # Errors
    /// If the journal can't be read.
    pub(crate) async fn run(mut self, until: impl Future<Output = ()>) -> Result<()> {
        self.take_up().await?;
        let mut calls = Calls {
            lease: None,
            extend: None,
            report: None,
            pause: None,
            tick: self.wait(EXTEND),
            extend_is_due: false,
        };
        let mut until = pin!(until);
        let mut grace: Option<BoxFuture<'static, ()>> = None;
        loop {
            self.start_units();
            self.ask(&mut calls);
            if self.work.stopping && self.work.running.is_empty() {
                // What could not be reported is in the journal, and reported at the next start.
                let said = self.work.results.is_empty() || calls.pause.is_some();
                if said && calls.report.is_none() {
                    break;
                }
            }
            select! {
                biased;
                () = &mut until, if !self.work.stopping => {
                    self.stop().await;
                    calls.lease = None;
                    grace = Some(self.grace());
                }
                () = due(&mut grace) => {
                    tracing::warn!("what has begun to write takes too long to end; the next start goes on with it");
                    break;
                }
                Some(ended) = self.work.running.join_next_with_id() => {
                    let (task, outcome) = match ended {
                        Ok((task, outcome)) => (task, outcome),
                        Err(error) => (error.id(), Err(Error::internal("the worker panicked").with_source(error))),
                    };
                    self.ended(task, outcome).await;
                }
                (id, result, answer) = due(&mut calls.report) => {
                    calls.report = None;
                    calls.pause = self.reported(id, &result, answer).await;
                }
                answer = due(&mut calls.extend) => {
                    calls.extend = None;
                    calls.pause = self.judge(&answer).or(calls.pause.take());
                    if let Ok(held) = answer {
                        self.extended(&held);
                    }
                }
                answer = due(&mut calls.lease) => {
                    calls.lease = None;
                    calls.pause = self.judge(&answer).or(calls.pause.take());
                    for assignment in answer.unwrap_or_default().into_iter().take(self.parallel) {
                        self.accept(assignment).await;
                    }
                }
                () = due(&mut calls.pause) => calls.pause = None,
                () = &mut calls.tick => {
                    calls.tick = self.wait(EXTEND);
                    calls.extend_is_due = true;
                }
            }
        }
        Ok(())
    }

    /// Goes on where a predecessor was when it ended.
    async fn take_up(&mut self) -> Result<()> {
        self.journal.drop_untouched().await?;
        self.work.results.extend(self.journal.results().await);
        for assignment in self.journal.unfinished().await {
            tracing::info!(work = %assignment.id, "finishing what was begun before");
            self.work.units.insert(assignment.id.clone(), Unit::new(assignment, true));
        }
        Ok(())
    }

    /// Starts what may start: not too many at a time, and nothing beside what is being done to the same target.
    fn start_units(&mut self) {
        let mut busy: Vec<_> = self.work.units.values().filter(|unit| unit.is_running()).collect();
        let mut ready = Vec::new();
        for unit in self.work.units.values().filter(|unit| !unit.is_running()) {
            if busy.len() < self.parallel && !busy.iter().any(|other| other.touches_what(unit)) {
                ready.push(unit.assignment.id.clone());
                busy.push(unit);
            }
        }
        for id in ready {
            let Some(unit) = self.work.units.get_mut(&id) else { continue };
            unit.state = State::Running;
            let cx = Context::cancelled_by(self.clock.clone(), unit.cancelled.subscribe());
            let journal = UnitJournal::new(self.journal.clone(), &unit.assignment);
            let (worker, work) = (self.worker.clone(), unit.assignment.work.clone());
            let task = self.work.running.spawn(async move { worker.execute(&cx, work, &journal).await });
            self.work.tasks.insert(task.id(), id);
        }
    }

    /// Asks what there is to ask: reports first, then more time, then more work.
    fn ask(&mut self, calls: &mut Calls) {
        if calls.pause.is_some() {
            return;
        }
        if calls.report.is_none()
            && let Some((id, result)) = self.work.results.first_key_value()
        {
            let (link, id, result) = (self.link.clone(), id.clone(), result.clone());
            calls.report = Some(Box::pin(async move {
                let answer = link.report(&result).await;
                (id, result, answer)
            }));
        }
        if calls.extend_is_due && calls.extend.is_none() {
            calls.extend_is_due = false;
            let jobs: Vec<_> = self.work.units.values().flat_map(Unit::tokens).collect();
            if !jobs.is_empty() {
                let (link, polls) = (self.link.clone(), calls.lease.is_some());
                calls.extend = Some(Box::pin(async move {
                    let held = link.extend(&jobs).await?;
                    if !polls {
                        link.heartbeat().await?;
                    }
                    Ok(held)
                }));
            }
        }
        let free = self.parallel.saturating_sub(self.work.units.len());
        let begun_before = self.work.units.values().any(|unit| unit.resumed);
        if calls.lease.is_none() && calls.report.is_none() && free > 0 && !begun_before && !self.work.stopping
        {
            let link = self.link.clone();
            calls.lease = Some(Box::pin(async move { link.lease(free, WAIT).await }));
        }
    }

    /// Takes an assignment that was handed out: it may be one that is known already.
    async fn accept(&mut self, assignment: Assignment) {
        let id = assignment.id.clone();
        if let Err(error) = check(&assignment) {
            tracing::error!(work = %id, "refused: {error}");
            return;
        }
        let newest = match (self.work.units.get_mut(&id), self.work.results.get_mut(&id)) {
            (Some(unit), _) if same_jobs(&unit.assignment.jobs, &assignment.jobs) => {
                unit.renew(&assignment);
                true
            }
            (None, Some(result))
                if result.jobs.iter().map(|job| &job.id).eq(assignment.jobs.iter().map(|job| &job.id)) =>
            {
                // What was done is not done again.
                result.jobs = assignment.jobs.iter().map(AssignedJob::token).collect();
                true
            }
            (None, None) => false,
            _ => {
                self.work.later.insert(id, assignment);
                return;
            }
        };
        if newest {
            if let Err(error) = self.journal.renew(&assignment).await {
                tracing::warn!(work = %id, "{error}");
            }
            return;
        }
        tracing::info!(work = %id, kind = unit::kind(&assignment.work), "taken");
        if let Err(error) = self.journal.begin(&assignment).await {
            // Without a journal nothing may be begun that can't be taken up again.
            tracing::error!(work = %id, "{error}");
            let outcome = Outcome::Failed(error.during("before anything was done").report());
            self.work.results.insert(id, unit::result(&assignment, outcome));
            return;
        }
        self.work.units.insert(id, Unit::new(assignment, false));
    }

    async fn ended(&mut self, task: tokio::task::Id, outcome: Result<WorkReport>) {
        let Some(id) = self.work.tasks.remove(&task) else { return };
        let Some(unit) = self.work.units.remove(&id) else { return };
        let outcome = match outcome {
            Ok(report) => Outcome::Report(report),
            Err(error) => Outcome::Failed(error.report()),
        };
        unit::log(&unit.assignment, &outcome);
        if unit.gave_up && is_stopped(&outcome) {
            // Nothing was written, and nobody at the server asked for that: it will be handed out again.
            if let Err(error) = self.journal.give_back(&id).await {
                tracing::warn!(work = %id, "{error}");
            }
            if let Some(assignment) = self.work.later.remove(&id).filter(|_| !self.work.stopping) {
                self.accept(assignment).await;
            }
            return;
        }
        if let Err(error) = self.journal.finish(&id, outcome.clone()).await {
            tracing::error!(work = %id, "if the report of this is lost, it will be done again: {error}");
        }
        self.work.results.insert(id, unit::result(&unit.assignment, outcome));
    }

    async fn reported(
        &mut self,
        id: Id<Job>,
        told: &WorkResult,
        answer: Result<Reported>,
    ) -> Option<BoxFuture<'static, ()>> {
        let superseded = matches!(answer, Ok(Reported::Superseded));
        let renewed = self.work.results.get(&id).is_some_and(|result| result.jobs != told.jobs);
        let kept = match answer {
            Ok(reported) => {
                tracing::debug!(work = %id, ?reported, "reported");
                self.link.works();
                if superseded && renewed {
                    // New tokens came while it was under way: told again, it counts.
                    return None;
                }
                self.journal.acknowledged(&id).await
            }
            Err(error) if is_final(&error) => {
                let kept = self.journal.set_aside(&id).await;
                tracing::error!(work = %id, kept_in = ?kept.ok(), "the server refuses this report: {error}");
                Ok(())
            }
            Err(error) => return Some(self.wait(self.link.fails(&error))),
        };
        if let Err(error) = kept {
            tracing::warn!(work = %id, "{error}");
        }
        self.work.results.remove(&id);
        if let Some(assignment) = self.work.later.remove(&id) {
            self.accept(assignment).await;
        }
        None
    }

    /// What the server still counts as this agent's.
    fn extended(&mut self, held: &[AssignedJob]) {
        for unit in self.work.units.values_mut() {
            unit.extended(held);
        }
    }

    /// Nothing new is begun, and what has not written yet stops.
    async fn stop(&mut self) {
        self.work.stopping = true;
        let waiting: Vec<Id<Job>> =
            self.work.units.iter().filter(|(_, unit)| !unit.is_running()).map(|(id, _)| id.clone()).collect();
        for id in waiting {
            self.work.units.remove(&id);
            if let Err(error) = self.journal.give_back(&id).await {
                tracing::warn!(work = %id, "{error}");
            }
        }
        for unit in self.work.units.values_mut() {
            unit.give_up();
        }
        if !self.work.units.is_empty() {
            tracing::info!(units = self.work.units.len(), "stopping; what has begun to write ends first");
        }
    }

    /// Whether the server answered, and else how long to leave it alone.
    fn judge<T>(&self, answer: &Result<T>) -> Option<BoxFuture<'static, ()>> {
        match answer {
            Ok(_) => {
                self.link.works();
                None
            }
            Err(error) => Some(self.wait(self.link.fails(error))),
        }
    }

    fn grace(&self) -> BoxFuture<'static, ()> {
        let clock = self.clock.clone();
        Box::pin(async move {
            for _ in 0..GRACE {
                clock.pause(Duration::from_secs(1)).await;
            }
        })
    }

    fn wait(&self, span: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clock.clone();
        Box::pin(async move { clock.pause(span).await })
    }
}

/// Waits for it, or for ever if there is none.
async fn due<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// Whether a report is refused for what it says, and not because of who says it, or when.
fn is_final(error: &Error) -> bool {
    let about_the_agent = matches!(error.context_value("reason"), Some("turned_away" | "clash"))
        || error.kind() == ErrorKind::Unauthenticated;
    let passing = matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::RateLimited | ErrorKind::Internal | ErrorKind::BadResponse
    );
    !about_the_agent && !passing && error.retry() == Retry::Never
}

/// What no server sends that means it well.
fn check(assignment: &Assignment) -> Result<()> {
    let refused = |message: String| Err(Error::new(ErrorKind::BadResponse, message));
    if !assignment.jobs.iter().any(|job| job.id == assignment.id) {
        return refused("the work is for none of its jobs".to_owned());
    }
    let size = serde_json::to_vec(assignment).map_or(usize::MAX, |text| text.len());
    if size > LARGEST {
        return refused(format!("the work has {size} bytes, and {LARGEST} are the most"));
    }
    Ok(())
}
