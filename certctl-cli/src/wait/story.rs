//! Jobs in words, and what to make of how they stand.

use std::{collections::HashMap, time::Duration};

use certctl_client::types::{Job, JobDetail};
use certctl_core::{Error, ErrorKind, ErrorReport, Timestamp, records::JobState};

use crate::{Exit, Failure};

/// A try that is so far away is not waited for: the engine's first one comes after a minute or more, some of which has gone by
/// when it is heard of.
const FAR: Duration = Duration::from_secs(50);

/// What was told of the jobs of one certificate, so that nothing is told twice.
#[derive(Debug)]
pub struct Story {
    certificate: String,
    issuer: String,
    told: HashMap<String, String>,
    lost: bool,
}

/// What to make of a job.
#[derive(Debug)]
pub enum Verdict {
    /// It may end well.
    GoesOn,
    /// It has ended well.
    Done,
    /// There is nothing to wait for.
    Stop(Box<Failure>),
}

impl Story {
    /// Of this certificate, which that issuer issues.
    pub fn new(certificate: &str, issuer: &str) -> Self {
        let (certificate, issuer) = (certificate.to_owned(), issuer.to_owned());
        Self { certificate, issuer, told: HashMap::new(), lost: false }
    }

    /// Whether the time matters for what there is to say.
    pub fn depends_on_time(detail: &JobDetail) -> bool {
        all(detail).any(|job| job.state == JobState::Ready && job.last_error.is_some())
    }

    /// What is new, a line for each step. `now` is the server's time.
    pub fn lines(&mut self, detail: &JobDetail, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        if std::mem::take(&mut self.lost) {
            lines.push("The server is there again.".to_owned());
        }
        // The steps of a parent that have led to its children come first; that it is done comes last.
        let done = detail.job.state.is_finished();
        let parent = [&detail.job].into_iter();
        let jobs: Vec<&Job> = match done {
            false => parent.chain(&detail.children).collect(),
            true => detail.children.iter().chain(parent).collect(),
        };
        for job in jobs {
            let Some(phrase) = self.phrase(job, now) else { continue };
            let id = job.id.to_string();
            if self.told.get(&id) != Some(&phrase) {
                lines.push(format!("{}: {phrase}", self.subject(job)));
                self.told.insert(id, phrase);
            }
        }
        lines
    }

    /// What to say of a server that can't be reached, once.
    pub fn lost(&mut self, error: &Error) -> Option<String> {
        let first = !std::mem::replace(&mut self.lost, true);
        first.then(|| format!("{}; trying again", error.message()))
    }

    /// Whether to wait on. `now` is the server's time.
    pub fn verdict(&self, detail: &JobDetail, now: Timestamp) -> Verdict {
        // A child's failure says more than that its parent waits.
        let worst = detail.children.iter().chain([&detail.job]).find_map(|job| self.stop(job, detail, now));
        match worst {
            Some(failure) => Verdict::Stop(Box::new(failure)),
            None if detail.job.state == JobState::Done => Verdict::Done,
            None => Verdict::GoesOn,
        }
    }

    fn stop(&self, job: &Job, detail: &JobDetail, now: Timestamp) -> Option<Failure> {
        let subject = self.subject(job);
        let id = &job.id;
        // What else a parent does when a child of it has ended, it knows better.
        let counts = job.id == detail.job.id || job.kind == "deploy";
        let why = job
            .last_error
            .as_ref()
            .map_or_else(|| "nobody said why".to_owned(), |error| error.message.clone());
        match job.state {
            JobState::Attention => Some(
                failed(format!("{subject}: {} needs a person: {why}", noun(job)), job.last_error.as_ref()).hint(format!(
                    "Nothing more happens until the cause is gone; then `certctl jobs retry {id}` takes it up again."
                )),
            ),
            JobState::Failed if counts => {
                Some(failed(format!("{subject}: {} failed: {why}", noun(job)), job.last_error.as_ref()))
            }
            JobState::Cancelled if counts => {
                let error = Error::new(ErrorKind::Cancelled, format!("{subject}: {} was cancelled", noun(job)));
                Some(error.into())
            }
            JobState::Ready if failing(job) => {
                let due = job.due?;
                (due.since(now) >= FAR).then(|| {
                    failed(format!("{subject}: {} failed: {why}", noun(job)), job.last_error.as_ref()).hint(format!(
                        "The next try is in {}, at {due}; `certctl jobs retry {id}` tries at once.",
                        span(due.since(now))
                    ))
                })
            }
            _ => None,
        }
    }

    fn subject(&self, job: &Job) -> String {
        job.target.as_ref().map_or_else(|| self.certificate.clone(), |target| target.name.clone())
    }

    /// How a job stands, in words; none if that is not worth a line.
    fn phrase(&self, job: &Job, now: Timestamp) -> Option<String> {
        let why = |error: &Option<ErrorReport>| error.as_ref().map(|error| format!(": {}", error.message));
        let because = why(&job.last_error).unwrap_or_default();
        let helps = matches!(&*job.kind, "present" | "retract" | "forget");
        Some(match job.state {
            JobState::Attention => format!("{} needs a person{because}", noun(job)),
            JobState::Failed => format!("{} failed{because}", noun(job)),
            JobState::Cancelled => format!("{} was cancelled", noun(job)),
            JobState::Ready if failing(job) => {
                let again = job.due.map(|due| format!("; next try in {}", span(due.since(now))));
                // How long it still is changes all the time: the line does not.
                let known = self.told.get(job.id.as_str());
                let phrase = format!("{} failed{because}", noun(job));
                match known {
                    Some(known) if known.starts_with(&phrase) => return None,
                    _ => phrase + &again.unwrap_or_default(),
                }
            }
            JobState::Done => match &*job.kind {
                "issue" => "issued".to_owned(),
                "deploy" => "deployed".to_owned(),
                "revoke" => "revoked".to_owned(),
                "csr" => "key and request are made".to_owned(),
                "present" => "a challenge's answer is shown".to_owned(),
                _ => return None,
            },
            JobState::Ready | JobState::Waiting if job.cancel => format!("{} is to stop", noun(job)),
            JobState::Ready | JobState::Waiting => match (&*job.kind, job.step.as_deref()) {
                ("issue", None | Some("request")) => "key and request are to be made".to_owned(),
                ("issue", Some("csr")) => "its agent is to make key and request".to_owned(),
                ("issue", Some("submit")) => format!("asking {}", self.issuer),
                ("issue", Some("poll")) => format!("{} is at it", self.issuer),
                ("issue", Some("deploy")) => "issued".to_owned(),
                ("deploy", _) => "to be deployed".to_owned(),
                ("revoke", _) => format!("asking {} to revoke it", self.issuer),
                _ if helps || job.kind == "csr" => return None,
                (kind, _) => format!("{kind} is under way"),
            },
        })
    }
}

fn all(detail: &JobDetail) -> impl Iterator<Item = &Job> {
    [&detail.job].into_iter().chain(&detail.children)
}

fn failing(job: &Job) -> bool {
    job.failures > 0 && job.last_error.is_some()
}

fn noun(job: &Job) -> &str {
    match &*job.kind {
        "issue" => "the issuance",
        "deploy" => "the deployment",
        "revoke" => "the revocation",
        "csr" => "making key and request",
        "present" => "showing a challenge's answer",
        "retract" => "taking a challenge's answer away",
        other => other,
    }
}

fn failed(message: String, error: Option<&ErrorReport>) -> Failure {
    let kind = error.map_or(ErrorKind::Internal, |error| error.kind);
    Failure::new(Exit::Failed, Error::new(kind, message).with_retry(certctl_core::Retry::Never))
}

/// About how long, in the unit that a person would use.
fn span(span: Duration) -> String {
    match span.as_secs() {
        0..=90 => format!("{} s", span.as_secs()),
        91..=5_400 => format!("{} min", span.as_secs().div_ceil(60)),
        5_401..=172_800 => format!("{} h", span.as_secs().div_ceil(3_600)),
        more => format!("{} days", more.div_ceil(86_400)),
    }
}
