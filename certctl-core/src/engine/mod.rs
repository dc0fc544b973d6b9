//! The lifecycle engine: it decides, and a [`Worker`] does.
//!
//! Everything that takes long is a job, and a job is a row: [`Engine::ensure`], [`Engine::renew`] and a renewal that is due
//! only write rows; one loop leases them and steps them, in this process or in another one on the same store.

mod access;
mod accounts;
mod agents;
mod builder;
mod bundle;
mod challenge;
mod commands;
mod connectors;
mod csr;
mod deploy;
mod dispatch;
mod dry_run;
mod errands;
mod events;
mod failure;
mod finish;
mod held;
mod holders;
mod http01;
mod inventory;
mod issue;
mod on_demand;
mod place;
pub mod plan;
mod profiles;
mod recertify;
mod remote;
mod remove;
mod renewal;
mod revoke;
mod run;
mod schedule;
mod sessions;
mod spec;
mod token;
mod watch;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio::sync::{broadcast, watch as channel};

use crate::{
    Clock, Context, Id, Keys, Result, Timestamp,
    catalog::Catalog,
    records::Job,
    store::{Change, Seat, Store},
    worker::Worker,
};

pub use access::ApiKeySpec;
pub use agents::AgentKeys;
pub use builder::EngineBuilder;
pub use connectors::{IssuerSpec, PlaceSpec, TargetSpec};
pub use dry_run::DeploymentPlan;
pub use events::{Event, EventStream};
pub use inventory::Readable;
pub use on_demand::{OnDemand, OnDemandLimits};
pub use profiles::{HostSpec, ProfileSpec};
pub use revoke::RevokeOptions;
pub use sessions::{AgentSession, Session, SessionChallenge, SessionRequest};
pub use spec::{CertificateSpec, WantedName};
pub use watch::{JobProgress, JobWatch};

/// The lifecycle of certificates, in this process. Cheap to clone; all clones are the same engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What every part of the engine shares.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) seat: Seat,
    /// Who issues where a spec names nobody.
    pub(crate) default_issuer: Option<String>,
    /// Whether a certificate needs a target, or a request from elsewhere: this process keeps no keys of its own.
    pub(crate) keys_need_a_place: bool,
    /// How many jobs, or groups of jobs, are stepped at the same time.
    pub(crate) at_once: usize,
    /// The latest time that a commit or a look at the store was made at, in Unix milliseconds: a clock that shows less was
    /// set back.
    latest: AtomicI64,
    wake: channel::Sender<u64>,
    /// As `wake`, for those that wait for agents' work: there may be many of them.
    wake_agents: channel::Sender<u64>,
    /// Whether the job loop of this process shall end.
    ending: AtomicBool,
    events: broadcast::Sender<crate::records::AuditEvent>,
    /// Jobs that this process is stepping, and how to ask them to stop.
    running: Mutex<HashMap<Id<Job>, Running>>,
}

/// What is being stepped here, and how to ask them to stop.
#[derive(Clone, Debug)]
struct Running {
    jobs: Arc<[Id<Job>]>,
    stop: channel::Sender<bool>,
    clock: Arc<dyn Clock>,
}

impl Running {
    fn context(&self) -> Context {
        Context::cancelled_by(self.clock.clone(), self.stop.subscribe())
    }

    fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Inner {
    /// Commits, tells those who listen, and wakes those who wait.
    pub(crate) async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        let events = if self.events.receiver_count() > 0 { change.events().to_vec() } else { Vec::new() };
        self.latest.fetch_max(self.clock.now().as_millis(), Ordering::Relaxed);
        let for_agents = remote::is_for_agents(&change);
        let versions = self.store.commit(change).await?;
        for event in events {
            // Nobody listening is fine.
            let _ = self.events.send(event);
        }
        self.wake();
        if for_agents {
            self.wake_agents.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(versions)
    }

    /// The time; and what it was before, if it has gone back since somebody asked last.
    pub(crate) fn time(&self) -> (Timestamp, Option<Timestamp>) {
        let now = self.clock.now();
        let latest = Timestamp::from_millis(self.latest.swap(now.as_millis(), Ordering::Relaxed));
        (now, (now < latest).then_some(latest))
    }

    /// Whether the job loop shall end, so that nothing waits for long any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ending(&self, ending: bool) {
        self.ending.store(ending, Ordering::Relaxed);
    }

    pub(crate) fn wake(&self) {
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever something was committed here.
    pub(crate) fn changes(&self) -> channel::Receiver<u64> {
        self.wake.subscribe()
    }

    /// Changes whenever a job of an agent was committed here.
    pub(crate) fn changes_for_agents(&self) -> channel::Receiver<u64> {
        self.wake_agents.subscribe()
    }

    /// What [`Inner::ask_to_stop`] reaches until [`Inner::end`].
    fn begin(&self, batch: &[held::Held]) -> Running {
        let jobs = batch.iter().map(|held| held.job.id.clone()).collect();
        let begun = Running { jobs, stop: channel::channel(false).0, clock: self.clock.clone() };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.extend(begun.jobs.iter().map(|job| (job.clone(), begun.clone())));
        begun
    }

    fn end(&self, ended: &Running) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for job in ended.jobs.iter() {
            // A job that gave its lease back may have been taken up again already.
            if running.get(job).is_some_and(|now| Arc::ptr_eq(&now.jobs, &ended.jobs)) {
                running.remove(job);
            }
        }
    }

    pub(crate) fn ask_to_stop(&self, job: &Id<Job>) {
        if let Some(running) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(job) {
            running.ask_to_stop();
        }
    }
}
