use std::{sync::Arc, time::Duration};

use crate::{
    Actor, Error, Id, Permission, Result, Timestamp,
    engine::{Engine, Inner},
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

/// A job with those that it waits for.
#[derive(Clone, Debug)]
pub struct JobProgress {
    /// The job.
    pub job: Stored<Job>,
    /// Those that it waits for, in the order of their making. One that deploys leaves after its first try, and goes on by
    /// itself where that failed.
    pub children: Vec<Stored<Job>>,
}

impl JobProgress {
    /// Another number after each change of the job, or of what it waits for; never zero, and below 2^53.
    pub fn mark(&self) -> u64 {
        let jobs = [&self.job].into_iter().chain(&self.children);
        // FNV-1a over ids and versions: only whether it is the same counts.
        let mut mark: u64 = 0xcbf2_9ce4_8422_2325;
        for job in jobs {
            for byte in job.id.as_str().bytes().chain(job.version().to_be_bytes()) {
                mark = (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        (mark >> 11).max(1)
    }
}

impl Engine {
    /// A job with those that it waits for.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn job_progress(&self, actor: &Actor, job: &str) -> Result<JobProgress> {
        actor.require(Permission::Read)?;
        let not_found = || Error::not_found("job", job);
        let id = Id::<Job>::parse(job).map_err(|_| not_found())?;
        let store = &self.inner.store;
        let job = store.find(&id).await?.ok_or_else(not_found)?;
        let mut children: Vec<Stored<Job>> = store.list_by("parent", (&id).into()).await?;
        children.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(JobProgress { job, children })
    }

    /// The same as soon as [`JobProgress::mark`] is another one than `known`, or when `until` is done.
    ///
    /// # Errors
    /// As for [`Engine::job_progress`].
    pub async fn progress_after(
        &self,
        actor: &Actor,
        job: &str,
        known: u64,
        until: impl Future<Output = ()> + Send,
    ) -> Result<JobProgress> {
        let mut changes = self.inner.changes();
        tokio::pin!(until);
        loop {
            changes.mark_unchanged();
            let progress = self.job_progress(actor, job).await?;
            if progress.mark() != known {
                return Ok(progress);
            }
            tokio::select! {
                biased;
                () = &mut until => return Ok(progress),
                _ = changes.changed() => {}
                // Another process may be stepping it.
                () = self.inner.clock.pause(Duration::from_millis(500)) => {}
            }
        }
    }
}

impl JobWatch {
    /// The jobs.
    pub fn jobs(&self) -> &[Id<Job>] {
        &self.jobs
    }

    /// Waits until the jobs are finished, or wait for somebody else: a person, a later try, a CA that needs more than some
    /// seconds. Somebody has to step them meanwhile: [`crate::Engine::run`], here or in another process.
    ///
    /// Gives the certificate as it stands then.
    pub async fn wait(&self) -> Result<Stored<Certificate>> {
        let mut changes = self.engine.changes();
        loop {
            changes.mark_unchanged();
            let jobs = self.engine.store.read_all(&self.jobs).await?;
            let now = self.engine.clock.now();
            let resting = |job: &Stored<Job>| match job.state {
                JobState::Ready => !is_soon(job, now),
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

    /// Steps the jobs here and now, without [`crate::Engine::run`], until they are finished or wait for somebody else: a
    /// person, a later try, a CA that needs more than some seconds at a time. What has begun goes on if the caller goes away.
    ///
    /// Gives the certificate as it stands then.
    pub async fn step(&self) -> Result<Stored<Certificate>> {
        let driving = tokio::spawn(drive(self.engine.clone(), self.certificate.clone()));
        match driving.await {
            Ok(result) => result?,
            Err(e) => return Err(Error::internal(format!("stepping the jobs panicked: {e}"))),
        }
        self.engine.store.read(&self.certificate).await
    }
}

/// A CA that says to come back so soon is waited for.
const SOON: Duration = Duration::from_secs(20);
/// And that for so long, all in all.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether it is due, or will be in some seconds because a CA said so. What failed comes back later.
fn is_soon(job: &Job, now: Timestamp) -> bool {
    let by = if job.failures == 0 { now + SOON } else { now };
    job.state == JobState::Ready && job.due.is_some_and(|due| due <= by)
}

/// Steps the jobs of one certificate until none can be stepped now, or soon.
async fn drive(engine: Arc<Inner>, certificate: Id<Certificate>) -> Result<()> {
    let mut changes = engine.changes();
    let begin = engine.clock.now();
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
        let soon = jobs.iter().filter(|job| job.place.agent.is_none() && is_soon(job, now));
        let Some(due) = soon.filter_map(|job| job.due).min() else { return Ok(()) };
        if due > now && now.since(begin) > PATIENCE {
            return Ok(());
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = engine.clock.sleep_until(due), if due > now => {}
            // Due, and could not be leased: somebody else is at it.
            () = engine.clock.pause(Duration::from_millis(100)), if due <= now => {}
        }
    }
}
