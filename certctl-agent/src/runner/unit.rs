//! One assignment on its way.

use std::collections::BTreeSet;

use certctl_core::{
    ErrorKind, Id,
    records::TargetRecord,
    worker::{AssignedJob, Assignment, JobToken, Outcome, Work, WorkReport, WorkResult},
};
use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) assignment: Assignment,
    pub(super) state: State,
    /// A predecessor has begun to write.
    pub(super) resumed: bool,
    /// It was told to stop by this agent, and not by the server.
    pub(super) gave_up: bool,
    pub(super) cancelled: watch::Sender<bool>,
    targets: BTreeSet<Id<TargetRecord>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running,
}

impl Unit {
    pub(super) fn new(assignment: Assignment, resumed: bool) -> Self {
        let targets = match &assignment.work {
            Work::Deploy(work) => work.items.iter().map(|item| item.target.id.clone()).collect(),
            Work::Plan(item) => [item.target.id.clone()].into(),
            _ => BTreeSet::new(),
        };
        let unit = Self {
            assignment,
            state: State::Waiting,
            resumed,
            gave_up: false,
            cancelled: watch::Sender::new(false),
            targets,
        };
        unit.obey();
        unit
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Whether the other is about one of the same targets.
    pub(super) fn touches_what(&self, other: &Self) -> bool {
        !self.targets.is_disjoint(&other.targets)
    }

    pub(super) fn tokens(&self) -> Vec<JobToken> {
        self.assignment.jobs.iter().map(AssignedJob::token).collect()
    }

    /// The same jobs, leased anew.
    pub(super) fn renew(&mut self, newest: &Assignment) {
        self.assignment.jobs.clone_from(&newest.jobs);
        self.assignment.until = newest.until;
        self.obey();
    }

    /// What the server says of its jobs. If none is this agent's any more, it stops as long as nothing was written.
    pub(super) fn extended(&mut self, held: &[AssignedJob]) {
        let mut lost = true;
        for job in &mut self.assignment.jobs {
            if let Some(now) = held.iter().find(|now| now.id == job.id && now.token == job.token) {
                job.cancel = now.cancel;
                lost = false;
            }
        }
        if lost {
            self.give_up();
        }
        self.obey();
    }

    /// Stops before the first write; after that, it goes on to its end.
    pub(super) fn give_up(&mut self) {
        self.gave_up = true;
        self.cancelled.send_replace(true);
    }

    /// One that is wanted still is reason enough to go on.
    fn obey(&self) {
        if self.assignment.jobs.iter().all(|job| job.cancel) {
            self.cancelled.send_replace(true);
        }
    }
}

pub(super) fn same_jobs(one: &[AssignedJob], other: &[AssignedJob]) -> bool {
    one.iter().map(|job| &job.id).eq(other.iter().map(|job| &job.id))
}

pub(super) fn result(assignment: &Assignment, outcome: Outcome) -> WorkResult {
    WorkResult { jobs: assignment.jobs.iter().map(AssignedJob::token).collect(), outcome }
}

/// Whether it stopped before it wrote anything, because it was told to.
pub(super) fn is_stopped(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(error) => error.kind == ErrorKind::Cancelled,
        Outcome::Report(WorkReport::Deployed(reports)) => {
            let stopped = |error: &certctl_core::ErrorReport| error.kind == ErrorKind::Cancelled;
            reports.iter().any(|report| report.error.as_ref().is_some_and(stopped))
        }
        Outcome::Report(_) => false,
    }
}

/// In a word.
pub(super) fn kind(work: &Work) -> &'static str {
    match work {
        Work::MakeCsr(_) => "csr",
        Work::Deploy(_) => "deploy",
        Work::Plan(_) => "plan",
        Work::Check(_) => "check",
        Work::Present(_) => "present",
        Work::Retract(_) => "retract",
        Work::ForgetKey(_) => "forget_key",
    }
}

/// For the machine's own log: what was done to it.
pub(super) fn log(assignment: &Assignment, outcome: &Outcome) {
    let (work, kind) = (&assignment.id, kind(&assignment.work));
    match outcome {
        Outcome::Failed(error) => tracing::warn!(%work, kind, "{}", error.message),
        Outcome::Report(WorkReport::Deployed(reports)) => {
            for report in reports {
                let (outcome, address) = (report.outcome.as_str(), &report.address);
                match &report.error {
                    Some(error) => tracing::warn!(%work, outcome, address, "{}", error.message),
                    None => tracing::info!(%work, outcome, address, "deployed"),
                }
            }
        }
        Outcome::Report(_) => tracing::info!(%work, kind, "done"),
    }
}
