//! Proof: what a target serves, asked from its own host, before and after.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    Bundle, Context, Error, ErrorKind, Fingerprint, SerialNumber, SubjectAltName,
    host::{Endpoint, Host},
    records::Probe,
    tls,
};

/// What was seen at the endpoints of a target, before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// By endpoint and name.
    pub endpoints: Vec<EndpointProof>,
    /// Whether the endpoints show that the new certificate is in service.
    pub proved: bool,
}

/// What one endpoint showed for one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointProof {
    /// Where.
    pub endpoint: Endpoint,
    /// The server name that was asked for; none for an IP address.
    pub server_name: Option<String>,
    /// Whether this endpoint is elsewhere, so that it never leads to a rollback.
    #[serde(default)]
    pub elsewhere: bool,
    /// What was served before anything was written.
    pub before: Served,
    /// What was served in the end.
    pub after: Served,
}

/// What an endpoint serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// A leaf. The handshake's signature was checked with its key.
    Certificate {
        /// SHA-256 of the leaf.
        fingerprint: Fingerprint,
        /// Its serial number.
        serial: SerialNumber,
    },
    /// Somebody listens, and the handshake failed: why.
    NoHandshake(String),
    /// Nobody answers: why.
    Refused(String),
}

impl Served {
    fn shows(&self, leaf: Fingerprint) -> bool {
        matches!(self, Self::Certificate { fingerprint, .. } if *fingerprint == leaf)
    }

    fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { serial, .. } => write!(f, "the certificate with serial {serial}"),
            Self::NoHandshake(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

/// Asks a target's endpoints.
#[derive(Debug)]
pub struct Prober {
    host: Option<Arc<dyn Host>>,
    questions: Vec<Question>,
    deadline: Duration,
    connections: u8,
}

#[derive(Clone, Debug)]
struct Question {
    endpoint: Endpoint,
    server_name: Option<String>,
    elsewhere: bool,
}

/// What the answers mean.
#[derive(Debug)]
pub enum Verdict {
    /// The new certificate is in service.
    Proved(Proof, Vec<String>),
    /// Nobody could be asked, or nobody answered before and after; the warnings say which.
    Unproved(Proof, Vec<String>),
    /// Something else is in service.
    Failed(Proof, Error),
}

/// One try of one question, so that a server that accepts and says nothing does not use up the deadline.
const HANDSHAKE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

impl Prober {
    /// For these endpoints (`default` where the probe names none), asked from `host`.
    pub fn new(
        host: Option<Arc<dyn Host>>,
        probe: &Probe,
        default: &[Endpoint],
        names: &[SubjectAltName],
    ) -> Self {
        let here = probe.endpoints.as_deref().unwrap_or(default).iter().map(|endpoint| (endpoint, false));
        let elsewhere = probe.elsewhere.iter().map(|endpoint| (endpoint, true));
        let server_names = tls::server_names(names);
        let mut questions = Vec::new();
        for (endpoint, elsewhere) in here.chain(elsewhere) {
            for server_name in &server_names {
                questions.push(Question {
                    endpoint: endpoint.clone(),
                    server_name: server_name.clone(),
                    elsewhere,
                });
            }
        }
        if host.is_none() {
            questions.clear();
        }
        Self {
            host,
            questions,
            deadline: probe.deadline.as_duration(),
            connections: probe.connections.max(1),
        }
    }

    /// Whether there is nothing to ask on the target's own host.
    pub fn is_blind(&self) -> bool {
        self.questions.iter().all(|question| question.elsewhere)
    }

    /// Whether there is something to ask, and nobody answered.
    pub fn is_down(&self, seen: &[EndpointProof]) -> bool {
        !self.is_blind()
            && seen.iter().filter(|proof| !proof.elsewhere).all(|proof| proof.before.is_refused())
    }

    /// What is served now.
    pub async fn look(&self, cx: &Context) -> Vec<EndpointProof> {
        let _ = cx;
        let answers = self.ask_all(None).await;
        self.questions
            .iter()
            .zip(answers)
            .map(|(question, served)| EndpointProof {
                endpoint: question.endpoint.clone(),
                server_name: question.server_name.clone(),
                elsewhere: question.elsewhere,
                before: served.clone(),
                after: served,
            })
            .collect()
    }

    /// Whether what was seen before leaves nothing to do: the certificate is served, or nobody is there to serve it.
    pub fn serves(&self, before: &[EndpointProof], bundle: &Bundle) -> bool {
        let leaf = bundle.chain.leaf().fingerprint();
        let mut here = before.iter().filter(|proof| !proof.elsewhere).peekable();
        if here.peek().is_none() || self.is_down(before) {
            return true;
        }
        here.any(|proof| proof.before.shows(leaf))
    }

    /// Waits until the endpoints show the certificate, on several fresh connections in a row, or the deadline has passed.
    pub async fn prove(
        &self,
        cx: &Context,
        before: &[EndpointProof],
        known: &[Fingerprint],
        bundle: &Bundle,
    ) -> Verdict {
        if self.questions.is_empty() {
            return self.judge(before, Vec::new(), known, bundle);
        }
        let leaf = bundle.chain.leaf().fingerprint();
        let key_type = bundle.chain.leaf().public_key().ok().map(|key| tls::KeyType::of(key.kind()));
        let mut seen = before.to_vec();
        let mut streak = 0;
        let waiting = async {
            let mut pause = Duration::from_millis(20);
            loop {
                for (proof, served) in seen.iter_mut().zip(self.ask_all(key_type).await) {
                    proof.after = served;
                }
                match self.judge(before, seen.clone(), known, bundle) {
                    Verdict::Proved(..) => streak += 1,
                    // Down before and after: nobody will answer, so that there is no point in waiting long.
                    Verdict::Unproved(..) if pause > Duration::from_millis(400) => return,
                    _ => streak = 0,
                }
                if streak >= self.connections {
                    return;
                }
                if streak == 0 {
                    cx.clock.pause(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        };
        let timely = tokio::time::timeout(self.deadline, waiting).await.is_ok();
        if !timely && streak > 0 {
            // It shows the new one now and then: old workers are still there.
            let e = failure("the endpoints do not show the new certificate on every connection", &seen, leaf);
            return Verdict::Failed(Proof { endpoints: seen, proved: false }, e);
        }
        self.judge(before, seen, known, bundle)
    }

    /// Waits until the endpoints show what they showed before, or the deadline has passed.
    ///
    /// # Errors
    /// `Unavailable`, saying what is served instead.
    pub async fn prove_again(&self, cx: &Context, before: &[EndpointProof]) -> Result<(), Error> {
        let mut now = Vec::new();
        let waiting = async {
            let mut pause = Duration::from_millis(20);
            loop {
                now = self.ask_all(None).await;
                let same = |(proof, served): (&EndpointProof, &Served)| {
                    proof.elsewhere
                        || match (&proof.before, served) {
                            (Served::Certificate { fingerprint, .. }, served) => served.shows(*fingerprint),
                            (Served::Refused(_) | Served::NoHandshake(_), _) => true,
                        }
                };
                if before.iter().zip(&now).all(same) {
                    return;
                }
                cx.clock.pause(pause).await;
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        };
        if tokio::time::timeout(self.deadline, waiting).await.is_ok() {
            return Ok(());
        }
        let seen: Vec<String> = before
            .iter()
            .zip(&now)
            .filter(|(proof, _)| !proof.elsewhere)
            .map(|(proof, served)| {
                format!("{} serves {} now, and {} before", proof.endpoint, served, proof.before)
            })
            .collect();
        Err(Error::unavailable(seen.join("; ")).with("step", "prove the old certificate"))
    }

    /// What these answers mean.
    pub fn judge(
        &self,
        before: &[EndpointProof],
        seen: Vec<EndpointProof>,
        known: &[Fingerprint],
        bundle: &Bundle,
    ) -> Verdict {
        let leaf = bundle.chain.leaf().fingerprint();
        let mut warnings = Vec::new();
        for proof in seen.iter().filter(|proof| proof.elsewhere && !proof.after.shows(leaf)) {
            warnings.push(format!(
                "{} shows {}; it is elsewhere, so that nothing was rolled back",
                proof.endpoint, proof.after
            ));
        }
        if self.is_blind() {
            warnings.push(
                "no endpoint on the target's host is probed, so that nothing proves what it serves".into(),
            );
            return Verdict::Unproved(Proof { endpoints: seen, proved: false }, warnings);
        }
        let here = || seen.iter().filter(|proof| !proof.elsewhere);
        if self.is_down(before) && here().all(|proof| proof.after.is_refused()) {
            let where_ = here().map(|proof| proof.endpoint.to_string()).next().unwrap_or_default();
            warnings.push(format!("nobody answered at {where_}, neither before nor after"));
            return Verdict::Unproved(Proof { endpoints: seen, proved: false }, warnings);
        }
        // What showed an earlier version of this certificate must show the new one.
        let must = |proof: &&EndpointProof| match &proof.before {
            Served::Certificate { fingerprint, .. } => known.contains(fingerprint) || *fingerprint == leaf,
            _ => false,
        };
        let fine = here().filter(must).all(|proof| proof.after.shows(leaf))
            && here().any(|proof| proof.after.shows(leaf));
        if fine {
            return Verdict::Proved(Proof { endpoints: seen, proved: true }, warnings);
        }
        let e = failure("the server does not serve the new certificate", &seen, leaf);
        Verdict::Failed(Proof { endpoints: seen, proved: false }, e)
    }

    async fn ask_all(&self, key_type: Option<tls::KeyType>) -> Vec<Served> {
        let Some(host) = &self.host else { return Vec::new() };
        futures_util::stream::iter(self.questions.clone())
            .map(|question| ask(host.clone(), question, key_type))
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

async fn ask(host: Arc<dyn Host>, question: Question, key_type: Option<tls::KeyType>) -> Served {
    let io = match host.connect(&question.endpoint, HANDSHAKE).await {
        Ok(io) => io,
        Err(e) => return Served::Refused(e.to_string()),
    };
    match tls::handshake(io, question.server_name.as_deref(), key_type, HANDSHAKE).await {
        Ok(served) => Served::Certificate {
            fingerprint: served.leaf.fingerprint(),
            serial: served.leaf.serial().clone(),
        },
        Err(e) => Served::NoHandshake(e.to_string()),
    }
}

fn failure(what: &str, seen: &[EndpointProof], leaf: Fingerprint) -> Error {
    let others: Vec<String> = seen
        .iter()
        .filter(|proof| !proof.elsewhere && !proof.after.shows(leaf))
        .map(|proof| match &proof.server_name {
            Some(name) => format!("{} serves {} for {name}", proof.endpoint, proof.after),
            None => format!("{} serves {}", proof.endpoint, proof.after),
        })
        .collect();
    Error::new(ErrorKind::Precondition, format!("{what}: {}", others.join("; "))).with("step", "prove")
}
