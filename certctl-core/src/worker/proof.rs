//! Proof: what a target serves, asked from its own host, before and after.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    Context, Error, ErrorKind, Fingerprint, SerialNumber, SubjectAltName,
    host::{Endpoint, Host},
    records::Probe,
    tls::{self, KeyType},
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
    /// The type of key that was asked for; none for whatever the server prefers.
    #[serde(default)]
    pub key_type: Option<KeyType>,
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

    fn is_certificate(&self) -> bool {
        matches!(self, Self::Certificate { .. })
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

#[derive(Clone, Debug, PartialEq)]
struct Question {
    endpoint: Endpoint,
    server_name: Option<String>,
    key_type: Option<KeyType>,
    elsewhere: bool,
}

/// What has to be served.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The new leaf (SHA-256).
    pub leaf: Fingerprint,
    /// Leaves that this certificate had there before.
    pub known: &'a [Fingerprint],
    /// Whether it may be served from elsewhere on the same server as well, where it has not been replaced yet: then it is
    /// enough that a name shows the new one that did not show it before.
    pub shared: bool,
}

impl Wanted<'_> {
    /// Whether the endpoints on the target's own host show the leaf: what showed an earlier one of the certificate has to,
    /// and at least one does. What served another certificate still serves one.
    fn is_settled(&self, seen: &[EndpointProof]) -> bool {
        let fine = |proof: &EndpointProof| match &proof.before {
            before if before.shows(self.leaf) => proof.after.shows(self.leaf),
            Served::Certificate { fingerprint, .. } if self.known.contains(fingerprint) && !self.shared => {
                proof.after.shows(self.leaf)
            }
            Served::Certificate { .. } => proof.after.is_certificate(),
            Served::NoHandshake(_) | Served::Refused(_) => true,
        };
        let mut asked = here(seen).peekable();
        if asked.peek().is_none() {
            return true;
        }
        // Where all of them have shown it before, none can be new.
        let shown_before = here(seen).filter(|proof| proof.before.shows(self.leaf)).count();
        let shown = here(seen).filter(|proof| proof.after.shows(self.leaf)).count();
        let more = !self.shared || shown > shown_before || !asked.any(|proof| self.is_old(&proof.before));
        here(seen).all(fine) && shown > 0 && more
    }

    fn is_old(&self, served: &Served) -> bool {
        self.known.iter().any(|known| *known != self.leaf && served.shows(*known))
    }
}

/// What the answers mean.
#[derive(Debug)]
pub enum Verdict {
    /// The new certificate is in service.
    Proved(Proof, Vec<String>),
    /// Nobody could be asked, or nobody answered before and after, or an endpoint elsewhere shows something else; the
    /// warnings say which.
    Unproved(Proof, Vec<String>),
    /// Something else is in service.
    Failed(Proof, Error),
}

/// Between two connections that show the right thing: for a moment after a reload, old and new workers accept side by side,
/// and connections made at once might all have met the same one.
const BETWEEN: Duration = Duration::from_millis(50);

/// One try of one question, so that a server that accepts and says nothing does not use up the deadline.
const HANDSHAKE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

impl Prober {
    /// For these endpoints (`default` where the probe names none), asked from `host` for each of the names, and for a
    /// certificate with this type of key: a server may have one of each.
    pub fn new(
        host: Option<Arc<dyn Host>>,
        probe: &Probe,
        default: &[Endpoint],
        names: &[SubjectAltName],
        key_type: Option<KeyType>,
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
                    key_type,
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

    /// Whether there is something to ask, and nobody answered before.
    pub fn was_down(&self, seen: &[EndpointProof]) -> bool {
        !self.is_blind() && here(seen).all(|proof| proof.before.is_refused())
    }

    /// Whether there is something to ask, and nobody answers now.
    pub async fn is_down(&self, before: &[EndpointProof]) -> bool {
        !self.is_blind() && here(&self.ask_again(before).await).all(|proof| proof.after.is_refused())
    }

    /// What is served now; what somebody saw earlier, in `known`, counts in its place.
    pub async fn look(&self, known: &[EndpointProof]) -> Vec<EndpointProof> {
        let mut seen = Vec::new();
        let mut open = Vec::new();
        for question in &self.questions {
            let same = |proof: &&EndpointProof| {
                (&proof.endpoint, &proof.server_name, proof.elsewhere)
                    == (&question.endpoint, &question.server_name, question.elsewhere)
            };
            let recorded: Vec<_> = known.iter().filter(same).cloned().collect();
            if recorded.is_empty() {
                open.push(question.clone());
            }
            seen.extend(recorded);
        }
        let answers = self.ask_all(open.clone()).await;
        // A server without a certificate of the new type of key may serve an old one of another.
        let others: Vec<Question> = open
            .iter()
            .zip(&answers)
            .filter(|(question, served)| {
                question.key_type.is_some() && matches!(served, Served::NoHandshake(_))
            })
            .map(|(question, _)| Question { key_type: None, ..question.clone() })
            .collect();
        let other_answers = self.ask_all(others.clone()).await;
        let others = others.into_iter().zip(other_answers).filter(|(_, served)| served.is_certificate());
        for (question, served) in open.into_iter().zip(answers).chain(others) {
            let Question { endpoint, server_name, key_type, elsewhere } = question;
            let before = served.clone();
            seen.push(EndpointProof { endpoint, server_name, key_type, elsewhere, before, after: served });
        }
        seen
    }

    /// Whether what was seen before leaves nothing to do: the certificate is served, or nobody is there to serve it.
    pub fn serves(&self, before: &[EndpointProof], wanted: &Wanted<'_>) -> bool {
        self.was_down(before) || wanted.is_settled(before)
    }

    /// Waits until the endpoints show the certificate, on several fresh connections in a row, or the deadline has passed.
    /// Where nobody answered before, nobody is waited for long, unless somebody has just `started` the server.
    pub async fn prove(
        &self,
        cx: &Context,
        before: &[EndpointProof],
        wanted: &Wanted<'_>,
        started: bool,
    ) -> Verdict {
        let leaf = wanted.leaf;
        let hopeless = self.was_down(before) && !started;
        let mut seen = before.to_vec();
        let mut streak = 0_u8;
        let waiting = async {
            let mut pause = FIRST_PAUSE;
            while !seen.is_empty() {
                seen = self.ask_again(&seen).await;
                let settled = wanted.is_settled(&seen);
                streak = if settled { streak.saturating_add(1) } else { 0 };
                let enough = streak >= self.connections;
                if enough && elsewhere(&seen).all(|proof| proof.after.shows(leaf)) {
                    return;
                }
                if hopeless && pause == LAST_PAUSE && here(&seen).all(|proof| proof.after.is_refused()) {
                    return;
                }
                if enough || streak == 0 {
                    cx.clock.pause(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                } else {
                    cx.clock.pause(BETWEEN).await;
                }
            }
        };
        let timely = tokio::time::timeout(self.deadline, waiting).await.is_ok();
        if !timely && (1..self.connections).contains(&streak) {
            // It shows the new one now and then: old workers are still there.
            let e = failure("the endpoints do not show the new certificate on every connection", &seen, leaf);
            return Verdict::Failed(Proof { endpoints: seen, proved: false }, e);
        }
        self.judge(seen, wanted)
    }

    /// Waits until the endpoints show what they showed before, on several fresh connections in a row, or the deadline has
    /// passed.
    ///
    /// # Errors
    /// `Unavailable`, saying what is served instead.
    pub async fn prove_again(&self, cx: &Context, before: &[EndpointProof]) -> Result<(), Error> {
        // Where no certificate was served before, nothing else can be asked for now.
        let as_before = |proof: &EndpointProof| match &proof.before {
            Served::Certificate { fingerprint, .. } => proof.after.shows(*fingerprint),
            Served::Refused(_) | Served::NoHandshake(_) => true,
        };
        let mut seen: Vec<EndpointProof> = here(before).cloned().collect();
        if here(before).all(|proof| !proof.before.is_certificate()) {
            return Ok(());
        }
        let mut streak = 0;
        let waiting = async {
            let mut pause = FIRST_PAUSE;
            while streak < self.connections {
                seen = self.ask_again(&seen).await;
                if seen.iter().all(as_before) {
                    streak += 1;
                    if streak < self.connections {
                        cx.clock.pause(BETWEEN).await;
                    }
                } else {
                    streak = 0;
                    cx.clock.pause(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        };
        if tokio::time::timeout(self.deadline, waiting).await.is_ok() {
            return Ok(());
        }
        let others: Vec<String> = seen
            .iter()
            .filter(|proof| !as_before(proof))
            .map(|proof| format!("{}, and served {} before", now(proof), proof.before))
            .collect();
        let why = if others.is_empty() {
            "the old certificate is not served on every connection".to_owned()
        } else {
            others.join("; ")
        };
        Err(Error::unavailable(why).with("step", "prove the old certificate"))
    }

    /// What these answers mean.
    pub fn judge(&self, seen: Vec<EndpointProof>, wanted: &Wanted<'_>) -> Verdict {
        let leaf = wanted.leaf;
        let mut warnings: Vec<String> = elsewhere(&seen)
            .filter(|proof| !proof.after.shows(leaf))
            .map(|proof| format!("{}; it is elsewhere, so that nothing was rolled back", now(proof)))
            .collect();
        let silent: BTreeSet<&Endpoint> = here(&seen)
            .map(|proof| &proof.endpoint)
            .filter(|endpoint| {
                here(&seen)
                    .filter(|proof| proof.endpoint == **endpoint)
                    .all(|proof| proof.before.is_refused() && proof.after.is_refused())
            })
            .collect();
        warnings.extend(
            silent.iter().map(|endpoint| format!("nobody answered at {endpoint}, neither before nor after")),
        );
        let all_silent = here(&seen).all(|proof| silent.contains(&proof.endpoint));
        if self.questions.is_empty() {
            warnings.push("no endpoint is probed, so that nothing proves what is served".into());
        }
        if !all_silent && !wanted.is_settled(&seen) {
            let e = failure("the server does not serve the new certificate", &seen, leaf);
            return Verdict::Failed(Proof { endpoints: seen, proved: false }, e);
        }
        let proved = warnings.is_empty();
        let proof = Proof { endpoints: seen, proved };
        if proved { Verdict::Proved(proof, warnings) } else { Verdict::Unproved(proof, warnings) }
    }

    async fn ask_again(&self, seen: &[EndpointProof]) -> Vec<EndpointProof> {
        let questions = seen.iter().map(|proof| Question {
            endpoint: proof.endpoint.clone(),
            server_name: proof.server_name.clone(),
            key_type: proof.key_type,
            elsewhere: proof.elsewhere,
        });
        let answers = self.ask_all(questions.collect()).await;
        seen.iter().zip(answers).map(|(proof, after)| EndpointProof { after, ..proof.clone() }).collect()
    }

    async fn ask_all(&self, questions: Vec<Question>) -> Vec<Served> {
        let Some(host) = &self.host else { return Vec::new() };
        futures_util::stream::iter(questions)
            .map(|question| ask(host.clone(), question))
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

async fn ask(host: Arc<dyn Host>, question: Question) -> Served {
    let io = match host.connect(&question.endpoint, HANDSHAKE).await {
        Ok(io) => io,
        Err(e) => return Served::Refused(e.to_string()),
    };
    match tls::handshake(io, question.server_name.as_deref(), question.key_type, HANDSHAKE).await {
        Ok(served) => Served::Certificate {
            fingerprint: served.leaf.fingerprint(),
            serial: served.leaf.serial().clone(),
        },
        Err(e) => Served::NoHandshake(e.to_string()),
    }
}

fn here(seen: &[EndpointProof]) -> impl Iterator<Item = &EndpointProof> {
    seen.iter().filter(|proof| !proof.elsewhere)
}

fn elsewhere(seen: &[EndpointProof]) -> impl Iterator<Item = &EndpointProof> {
    seen.iter().filter(|proof| proof.elsewhere)
}

/// In words, what an endpoint shows now.
fn now(proof: &EndpointProof) -> String {
    match (&proof.after, &proof.server_name) {
        (Served::Certificate { .. }, Some(name)) => {
            format!("{} serves {} for {name}", proof.endpoint, proof.after)
        }
        (Served::Certificate { .. }, None) => format!("{} serves {}", proof.endpoint, proof.after),
        (Served::NoHandshake(why) | Served::Refused(why), _) => {
            format!("{} serves nothing: {why}", proof.endpoint)
        }
    }
}

fn failure(what: &str, seen: &[EndpointProof], leaf: Fingerprint) -> Error {
    let others: Vec<&EndpointProof> = here(seen).filter(|proof| !proof.after.shows(leaf)).collect();
    let shown: Vec<String> = others.iter().map(|proof| now(proof)).collect();
    let e = Error::new(ErrorKind::Precondition, format!("{what}: {}", shown.join("; ")));
    match others.first() {
        Some(first) => e.with("step", "prove").with("endpoint", &first.endpoint),
        None => e.with("step", "prove"),
    }
}
