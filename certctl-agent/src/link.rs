//! The session with the server, and how to go on when it can't be had.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use certctl_core::{
    Clock, Error, ErrorKind, Fingerprint, PrivateKey, Result, Retry, Timestamp,
    engine::{Session, SessionRequest},
    random_bytes,
    records::ConnectorInfo,
    worker::{AssignedJob, Assignment, JobToken, Reported, WorkResult},
};

use crate::{state::Identity, uplink::Uplink};

/// Sessions are ten minutes; one is renewed before that.
const RENEW: Duration = Duration::from_secs(9 * 60);
/// The shortest and the longest pause while the server can't be reached.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The pause where only a person can help: often enough to notice that somebody has.
const QUIET: Duration = Duration::from_secs(5 * 60);
/// Nobody is asked to wait longer than this by a server.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// This process's way to the server: opens sessions as needed.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) uplink: Arc<dyn Uplink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) identity: Identity,
    pub(crate) key: PrivateKey,
    /// What this process calls itself: an identity that was copied is noticed by it.
    pub(crate) instance: String,
    pub(crate) connectors: Vec<ConnectorInfo>,
    pub(crate) trusts: Vec<Fingerprint>,
    pub(crate) session: tokio::sync::Mutex<Option<(Session, Timestamp)>>,
    pub(crate) trouble: Mutex<Trouble>,
}

/// What is wrong with the way to the server.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    failures: u32,
    /// What was said of it last: the same is not said again.
    said: Option<String>,
}

/// Makes a name for a process.
pub(crate) fn instance() -> String {
    random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asks with the session, and once more with a new one if it is over.
macro_rules! with_session {
    ($link:expr, $session:ident => $call:expr) => {{
        let mut $session = $link.session().await?;
        match $call.await {
            Err(error) if error.kind() == ErrorKind::Unauthenticated => {
                $session = $link.renew(&$session).await?;
                $call.await
            }
            answer => answer,
        }
    }};
}

impl Link {
    pub(crate) async fn lease(&self, limit: usize, wait: Duration) -> Result<Vec<Assignment>> {
        with_session!(self, session => self.uplink.lease(&session, limit, wait))
    }

    pub(crate) async fn extend(&self, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        with_session!(self, session => self.uplink.extend(&session, jobs))
    }

    pub(crate) async fn report(&self, result: &WorkResult) -> Result<Reported> {
        with_session!(self, session => self.uplink.report(&session, result))
    }

    pub(crate) async fn heartbeat(&self) -> Result<()> {
        with_session!(self, session => self.uplink.heartbeat(&session))
    }

    /// Notes that the server has answered as it should.
    pub(crate) fn works(&self) {
        let mut trouble = self.trouble();
        trouble.failures = 0;
        if trouble.said.take().is_some() {
            tracing::info!(agent = %self.identity.name, "the server answers again");
        }
    }

    /// Says what is wrong, once, and how long to wait before the next try.
    pub(crate) fn fails(&self, error: &Error) -> Duration {
        let mut trouble = self.trouble();
        trouble.failures = trouble.failures.saturating_add(1);
        let pause = pause(error, trouble.failures, self.clock.now());
        let needs_a_person = is_for_a_person(error);
        // Not the causes: they change with every port and address.
        let said = error.message().to_owned();
        if trouble.said.as_ref() != Some(&said) {
            if needs_a_person {
                tracing::error!(agent = %self.identity.name, instance = self.instance, "{error}; asking again every few minutes");
            } else {
                tracing::warn!(agent = %self.identity.name, "{error}; trying again");
            }
            trouble.said = Some(said);
        }
        pause
    }

    async fn session(&self) -> Result<Session> {
        let mut current = self.session.lock().await;
        if let Some((session, opened)) = &*current {
            let now = self.clock.now();
            // By this machine's clock alone; if that was set meanwhile, the server says when it is over.
            if now >= *opened && now < *opened + RENEW {
                return Ok(session.clone());
            }
        }
        *current = None;
        self.open(&mut current).await
    }

    /// Another one in the place of `over`, unless somebody was faster.
    async fn renew(&self, over: &Session) -> Result<Session> {
        let mut current = self.session.lock().await;
        match &*current {
            Some((session, _)) if session.token != over.token => Ok(session.clone()),
            _ => {
                *current = None;
                self.open(&mut current).await
            }
        }
    }

    async fn open(&self, current: &mut Option<(Session, Timestamp)>) -> Result<Session> {
        let opened = self.clock.now();
        let challenge = self.uplink.session_challenge().await?;
        let mut request = SessionRequest::new(self.identity.agent.as_str(), &*self.instance);
        request.version = env!("CARGO_PKG_VERSION").to_owned();
        request.connectors.clone_from(&self.connectors);
        request.trusts.clone_from(&self.trusts);
        let request = request.sign(&challenge, &self.key).await?;
        let session = self.uplink.open_session(&request).await?;
        tracing::debug!(agent = %session.name, expires = %session.expires, "opened a session");
        *current = Some((session.clone(), opened));
        Ok(session)
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether trying again helps only after somebody has decided something: an identity that is revoked, unknown, or used twice.
pub(crate) fn is_for_a_person(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Denied | ErrorKind::Unauthenticated | ErrorKind::NotFound => true,
        ErrorKind::Conflict => error.context_value("reason") == Some("clash"),
        _ => false,
    }
}

/// Growing and spread, so that a server that comes back is not overrun by its agents.
pub(crate) fn pause(error: &Error, failures: u32, now: Timestamp) -> Duration {
    let longest = match error.retry() {
        _ if is_for_a_person(error) => QUIET,
        Retry::After(time) => return spread(time.since(now).clamp(SHORTEST, PATIENCE), 1.0),
        _ => SHORTEST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST),
    };
    spread(longest, 0.5)
}

/// `span` times something between `least` and `least + 0.5`, at random; never under the shortest pause.
fn spread(span: Duration, least: f64) -> Duration {
    let random = f64::from(u16::from_le_bytes(random_bytes::<2>())) / f64::from(u16::MAX);
    span.mul_f64(least + random / 2.0).max(SHORTEST)
}
