//! The lifecycle engine: it decides, and a [`Worker`] does.
//!
//! Everything that takes long is a job, and a job is a row: [`Engine::ensure`], [`Engine::renew`] and a renewal that is due
//! only write rows; one loop leases them and steps them, in this process or in another one on the same store.

mod builder;
mod challenge;
mod commands;
mod connectors;
mod deploy;
mod events;
mod held;
mod issue;
pub mod plan;
mod run;
mod schedule;
mod spec;
mod watch;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{broadcast, watch as channel};

use crate::{
    Clock, Context, Id, Result,
    catalog::Catalog,
    records::Job,
    store::{Change, Seat, Store},
    worker::Worker,
};

pub use builder::EngineBuilder;
pub use commands::DeploymentPlan;
pub use connectors::{IssuerSpec, TargetSpec};
pub use events::{Event, EventStream};
pub use spec::{CertificateSpec, WantedName};
pub use watch::JobWatch;

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
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) seat: Seat,
    /// How many jobs, or groups of jobs, are stepped at the same time.
    pub(crate) at_once: usize,
    wake: channel::Sender<u64>,
    events: broadcast::Sender<crate::records::AuditEvent>,
    /// Jobs that this process is stepping, and how to ask them to stop.
    running: Mutex<HashMap<Id<Job>, channel::Sender<bool>>>,
}

impl Inner {
    /// Commits, tells those who listen, and wakes those who wait.
    pub(crate) async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        let events = if self.events.receiver_count() > 0 { change.events().to_vec() } else { Vec::new() };
        let versions = self.store.commit(change).await?;
        for event in events {
            // Nobody listening is fine.
            let _ = self.events.send(event);
        }
        self.wake();
        Ok(versions)
    }

    pub(crate) fn wake(&self) {
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever something was committed here.
    pub(crate) fn changes(&self) -> channel::Receiver<u64> {
        self.wake.subscribe()
    }

    /// A context that [`Inner::ask_to_stop`] reaches, for as long as the jobs run here.
    pub(crate) fn begin(&self, jobs: impl IntoIterator<Item = Id<Job>>) -> Context {
        let (sender, receiver) = channel::channel(false);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            running.insert(job, sender.clone());
        }
        Context::cancelled_by(self.clock.clone(), receiver)
    }

    pub(crate) fn end<'a>(&self, jobs: impl IntoIterator<Item = &'a Id<Job>>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            running.remove(job);
        }
    }

    pub(crate) fn ask_to_stop(&self, job: &Id<Job>) {
        if let Some(sender) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(job) {
            sender.send_replace(true);
        }
    }
}
