use std::{sync::Arc, time::Duration};

use crate::{
    Id, Result,
    engine::Inner,
    records::{Certificate, Job, JobState},
    store::{StoreExt, Stored},
};

/// Jobs that somebody asked for. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use]
pub struct JobWatch {
    pub(super) engine: Arc<Inner>,
    pub(super) certificate: Id<Certificate>,
    pub(super) jobs: Vec<Id<Job>>,
}

impl JobWatch {
    /// The jobs.
    pub fn jobs(&self) -> &[Id<Job>] {
        &self.jobs
    }

    /// Waits until the jobs are finished, or wait for somebody else: a CA, a person, a later try. Somebody has to step them
    /// meanwhile: [`crate::Engine::run`], here or in another process.
    ///
    /// Gives the certificate as it stands then.
    pub async fn wait(&self) -> Result<Stored<Certificate>> {
        let mut changes = self.engine.changes();
        loop {
            changes.mark_unchanged();
            let jobs = self.engine.store.read_all(&self.jobs).await?;
            let now = self.engine.clock.now();
            let resting = |job: &Stored<Job>| match job.state {
                JobState::Ready => job.due.is_none_or(|due| due > now),
                JobState::Waiting => false,
                JobState::Attention | JobState::Done | JobState::Failed | JobState::Cancelled => true,
            };
            if jobs.iter().all(resting) {
                return self.engine.store.read(&self.certificate).await;
            }
            tokio::select! {
                _ = changes.changed() => {}
                // Another process may be stepping it.
                () = self.engine.clock.pause(Duration::from_millis(200)) => {}
            }
        }
    }

    /// Steps the jobs here and now, without [`crate::Engine::run`], until they are finished or wait for somebody else. What
    /// has begun goes on if the caller goes away.
    ///
    /// Gives the certificate as it stands then.
    pub async fn step(&self) -> Result<Stored<Certificate>> {
        let driving = tokio::spawn(drive(self.engine.clone(), self.certificate.clone()));
        match driving.await {
            Ok(result) => result?,
            Err(e) => return Err(crate::Error::internal(format!("stepping the jobs panicked: {e}"))),
        }
        self.engine.store.read(&self.certificate).await
    }
}

/// Steps the jobs of one certificate until none can be stepped now.
async fn drive(engine: Arc<Inner>, certificate: Id<Certificate>) -> Result<()> {
    let mut changes = engine.changes();
    loop {
        changes.mark_unchanged();
        if let (now, Some(before)) = engine.time() {
            super::schedule::clock_was_set_back(&engine, now, before).await?;
        }
        let batches = engine.claim(Some(&certificate), engine.at_once).await?;
        if !batches.is_empty() {
            let mut tasks = tokio::task::JoinSet::new();
            for batch in batches {
                tasks.spawn(engine.clone().work_on(batch));
            }
            while tasks.join_next().await.is_some() {}
            continue;
        }
        let now = engine.clock.now();
        let jobs: Vec<Stored<Job>> = engine.store.list_by("certificate", (&certificate).into()).await?;
        // Due, and could not be leased: somebody else is at it.
        let elsewhere = jobs.iter().any(|job| {
            job.state == JobState::Ready && job.place.agent.is_none() && job.due.is_some_and(|due| due <= now)
        });
        if !elsewhere {
            return Ok(());
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = engine.clock.pause(Duration::from_millis(100)) => {}
        }
    }
}
