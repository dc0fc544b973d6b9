//! Waiting for jobs: their steps as they happen, and whether they ended well.

mod story;

use std::{collections::BTreeSet, time::Duration};

use certctl_client::{
    Client,
    types::{CertificateDetail, JobDetail, JobWatchRequest, Started},
};
use certctl_core::{
    Error, ErrorKind, Lifetime, Result, Timestamp,
    records::{CertificateStatus, DeploymentState},
};
use futures_util::{StreamExt, stream::FuturesUnordered};

pub use story::{Story, Verdict};

use crate::{Exit, Failure, Fields, Session};

/// How long a server that can't be reached is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// What the certificate shall be in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Active.
    Active,
    /// Revoked, or active because another version is the newest.
    Revoked,
}

/// Waits for what a command has begun, with its steps on standard error, and gives the certificate as it is then.
///
/// # Errors
/// [`Exit::Failed`] at the first deployment that failed, the first job that needs a person, or fails and is not tried again
/// soon, and if the certificate is not what it shall be in the end; [`Exit::TimedOut`] if the time is over.
pub async fn wait(
    session: &mut Session<'_>,
    client: &Client,
    started: Started,
    goal: Goal,
    timeout: Lifetime,
) -> Result<CertificateDetail, Failure> {
    let (id, name) = (started.certificate.id.to_string(), started.certificate.name.clone());
    let issuer = started.certificate.issuer.name.clone();
    let mut follow = Follow::new(client, Story::new(&name, &issuer));
    let mut jobs: Vec<String> = started.jobs.iter().map(ToString::to_string).collect();
    let clock = session.clock.clone();
    let over = clock.sleep_until(clock.now() + timeout.as_duration());
    tokio::pin!(over);
    loop {
        for job in &jobs {
            follow.begin(job);
        }
        tokio::select! {
            ended = follow.run(session) => drop(ended?),
            () = &mut over => return Err(timed_out(timeout, &follow.unfinished(), &name)),
        }
        let certificate = follow.ask(session, || client.certificate(&id)).await?;
        let reached = match goal {
            Goal::Active => certificate.status == CertificateStatus::Active,
            Goal::Revoked => {
                matches!(certificate.status, CertificateStatus::Revoked | CertificateStatus::Active)
            }
        };
        // What others have begun meanwhile, or what was left over, is the certificate's as well.
        let open = certificate.jobs.iter().filter(|job| matches!(&*job.kind, "issue" | "deploy" | "revoke"));
        jobs = open.map(|job| job.id.to_string()).filter(|job| !follow.knows(job)).collect();
        if reached || jobs.is_empty() {
            told(session, &certificate)?;
            return if reached { Ok(certificate) } else { Err(not_reached(&certificate)) };
        }
    }
}

/// Waits for one job, with its steps on standard error, and gives it as it is then.
///
/// # Errors
/// As for [`wait`].
pub async fn watch(
    session: &mut Session<'_>,
    client: &Client,
    job: &str,
    timeout: Lifetime,
) -> Result<JobDetail, Failure> {
    let first = client.job(job).await?;
    // The check of a target is about no certificate.
    let about = first.certificate.as_ref().map_or_else(|| first.subject.clone(), |one| one.name.clone());
    let mut follow = Follow::new(client, Story::new(&about, "its issuer"));
    follow.begin(job);
    let clock = session.clock.clone();
    let ended = tokio::select! {
        ended = follow.run(session) => ended?,
        () = clock.sleep_until(clock.now() + timeout.as_duration()) => {
            return Err(timed_out(timeout, &follow.unfinished(), &about));
        }
    };
    Ok(ended.unwrap_or(first))
}

/// A certificate's fields.
pub fn fields(certificate: &CertificateDetail) -> Fields {
    let names: Vec<_> = certificate.names.iter().map(ToString::to_string).collect();
    let targets = certificate.targets.iter().map(|target| {
        let mut line = target.name.clone();
        if let Some(state) = target.state {
            line = format!("{line}: {}", in_words(state));
        }
        if let Some(error) = &target.error {
            line = format!("{line}: {}", error.message);
        }
        target.warnings.iter().fold(line, |line, warning| format!("{line}\n  warning: {warning}"))
    });
    let targets: Vec<_> = targets.collect();
    let mut fields = Fields::default()
        .with("name", &certificate.name)
        .with("id", &certificate.id)
        .with("status", certificate.status.as_str())
        .maybe("reason", certificate.reason.as_ref().map(|reason| &reason.message))
        .with("names", names.join(", "))
        .maybe("common name", certificate.common_name.as_ref())
        .with("issuer", &certificate.issuer.name)
        .maybe("targets", (!targets.is_empty()).then(|| targets.join("\n")))
        .maybe("lifetime", certificate.requested.lifetime)
        .with(
            "key",
            match certificate.key_algorithm {
                Some(algorithm) if certificate.reuse_key => format!("{algorithm}, kept at renewals"),
                Some(algorithm) => algorithm.to_string(),
                None => "elsewhere: the request came from there".to_owned(),
            },
        );
    // The newest version of each holder: they are sorted by time.
    let mut holders = BTreeSet::new();
    for version in &certificate.versions {
        if holders.insert(&version.holder) {
            let revoked = version.revoked.map(|at| format!("\nrevoked {at}")).unwrap_or_default();
            fields = fields.with(
                if holders.len() == 1 { "version" } else { "" },
                format!(
                    "serial {}\nSHA-256 {}\nfrom {} until {}{revoked}",
                    version.serial_number, version.fingerprint_sha256, version.not_before, version.not_after
                ),
            );
        }
    }
    let renewal: Option<Timestamp> = certificate.placements.iter().filter_map(|one| one.renew_at).min();
    let jobs: Vec<_> = certificate
        .jobs
        .iter()
        .map(|job| format!("{} ({}, {})", job.id, job.kind, job.state.as_str()))
        .collect();
    fields
        .maybe("renewal", renewal)
        .maybe("open jobs", (!jobs.is_empty()).then(|| jobs.join("\n")))
        .with("revision", certificate.revision)
}

/// Jobs that are looked at until they end.
struct Follow<'c> {
    client: &'c Client,
    story: Story,
    /// What is known of each job; none if nothing yet.
    jobs: Vec<(String, Option<JobDetail>)>,
}

impl<'c> Follow<'c> {
    fn new(client: &'c Client, story: Story) -> Self {
        Self { client, story, jobs: Vec::new() }
    }

    fn begin(&mut self, job: &str) {
        if !self.knows(job) {
            self.jobs.push((job.to_owned(), None));
        }
    }

    fn knows(&self, job: &str) -> bool {
        let covered = |detail: &JobDetail| detail.children.iter().any(|child| child.id.as_str() == job);
        self.jobs.iter().any(|(id, known)| id == job || known.as_ref().is_some_and(covered))
    }

    fn unfinished(&self) -> Vec<String> {
        let open =
            self.jobs.iter().filter(|(_, known)| !known.as_ref().is_some_and(|job| job.state.is_finished()));
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Until all jobs have ended well; gives the last one that did.
    async fn run(&mut self, session: &mut Session<'_>) -> Result<Option<JobDetail>, Failure> {
        let mut last = None;
        let client = self.client;
        let look = |id: String, after: u64| async move {
            let request = JobWatchRequest { after, wait: Some(25) };
            let answer = client.watch_job(&id, request).await;
            (id, after, answer)
        };
        let mut looking: FuturesUnordered<_> = self.unfinished().into_iter().map(|id| look(id, 0)).collect();
        // How far the server's clock is ahead; asked for when it matters.
        let mut skew = None;
        while let Some((id, after, answer)) = looking.next().await {
            let detail = match answer {
                Ok(detail) => detail,
                Err(e) if passes(&e) => {
                    self.lost(session, &e).await?;
                    looking.push(look(id, after));
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            let now = session.clock.now();
            let server_now = match skew {
                _ if !Story::depends_on_time(&detail) => now,
                Some(ahead) => plus(now, ahead),
                None => {
                    let ahead = client.version().await.map_or(0, |server| millis_between(now, server.time));
                    skew = Some(ahead);
                    plus(now, ahead)
                }
            };
            for line in self.story.lines(&detail, server_now) {
                session.terminal.note(&line)?;
            }
            let verdict = self.story.verdict(&detail, server_now);
            let (progress, known) = (detail.progress, detail.clone());
            if let Some((_, known_before)) = self.jobs.iter_mut().find(|(job, _)| *job == id) {
                *known_before = Some(known);
            }
            match verdict {
                Verdict::GoesOn => looking.push(look(id, progress)),
                Verdict::Done => last = Some(detail),
                Verdict::Stop(failure) => return Err(*failure),
            }
        }
        Ok(last)
    }

    /// Asks again as long as the server can't be reached.
    async fn ask<T, F: Future<Output = Result<T>>>(
        &mut self,
        session: &mut Session<'_>,
        ask: impl Fn() -> F,
    ) -> Result<T, Failure> {
        loop {
            match ask().await {
                Err(e) if passes(&e) => self.lost(session, &e).await?,
                other => return Ok(other?),
            }
        }
    }

    async fn lost(&mut self, session: &mut Session<'_>, error: &Error) -> Result<()> {
        if let Some(line) = self.story.lost(error) {
            session.terminal.note(&line)?;
        }
        session.clock.pause(LEFT_ALONE).await;
        Ok(())
    }
}

/// A server that is away for a moment, for an update perhaps, takes its jobs up again.
fn passes(error: &Error) -> bool {
    let reachable_later = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::RateLimited);
    reachable_later && error.context_value("reason") != Some("trust")
}

/// What a person should know of a certificate that was waited for.
fn told(session: &mut Session<'_>, certificate: &CertificateDetail) -> Result<()> {
    for target in &certificate.targets {
        if let Some(state) = target.state {
            let at = target.address.as_ref().map(|address| format!(" ({address})")).unwrap_or_default();
            session.terminal.note(&format!("{}: {}{at}", target.name, in_words(state)))?;
        }
        for warning in &target.warnings {
            session.terminal.note(&format!("{}: warning: {warning}", target.name))?;
        }
    }
    let newest = certificate
        .versions
        .first()
        .map(|version| format!(", serial {}, until {}", version.serial_number, version.not_after));
    let (name, status) = (&certificate.name, certificate.status.as_str());
    session.terminal.note(&format!("{name}: {status}{}", newest.unwrap_or_default()))
}

fn in_words(state: DeploymentState) -> &'static str {
    match state {
        DeploymentState::Pending => "not deployed yet",
        DeploymentState::Proved => "deployed, and proved: it serves the new certificate",
        DeploymentState::Unproved => "deployed, unproved",
        DeploymentState::Failed => "failed; what was there before is in service",
        DeploymentState::RollbackFailed => "failed, and so did the way back: look there now",
    }
}

fn not_reached(certificate: &CertificateDetail) -> Failure {
    let why = certificate.reason.as_ref().map(|reason| reason.message.clone()).or_else(|| {
        let failed = certificate.targets.iter().find_map(|target| Some((target, target.error.as_ref()?)));
        failed.map(|(target, error)| format!("{}: {}", target.name, error.message))
    });
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let message = format!("the certificate {} is {}{why}", certificate.name, certificate.status.as_str());
    Failure::new(Exit::Failed, Error::new(ErrorKind::Precondition, message))
        .hint(format!("`certctl certs get {}` shows how it stands.", certificate.name))
}

fn timed_out(timeout: Lifetime, jobs: &[String], certificate: &str) -> Failure {
    let message = format!("{certificate} is not done after {timeout}; its jobs go on");
    let error = Error::new(ErrorKind::Unavailable, message);
    let failure = Failure::new(Exit::TimedOut, error);
    match jobs.first() {
        Some(job) => failure
            .hint(format!("`certctl jobs watch {job}` waits on, `certctl jobs cancel {job}` stops it.")),
        None => failure,
    }
}

fn millis_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_millis() - from.as_millis()
}

fn plus(time: Timestamp, millis: i64) -> Timestamp {
    let span = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 { time - span } else { time + span }
}
