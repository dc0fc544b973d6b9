//! The way to the server.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use certctl_client::{Client, types};
use certctl_core::{
    Id, Result, Secret,
    engine::{AgentKeys, Session, SessionChallenge, SessionRequest},
    records::Agent,
    worker::{AssignedJob, Assignment, JobToken, Reported, WorkResult},
};

/// What an agent asks its server: each call is one request. Over HTTPS in an agent; in process in tests.
///
/// Errors are the server's own, or `Unavailable` if it can't be reached. `Unauthenticated` for a session means that it is
/// over; `Denied`, that the agent was turned away; `Conflict` with `reason` = `clash`, that its identity is used twice.
#[async_trait]
pub trait Uplink: Send + Sync + Debug {
    /// Enrols with a token; the same request again gives the same answer.
    async fn enroll(&self, token: &Secret, keys: &AgentKeys) -> Result<Enrolled>;

    /// Something to sign.
    async fn session_challenge(&self) -> Result<SessionChallenge>;

    /// Opens a session with a signed challenge.
    async fn open_session(&self, request: &SessionRequest) -> Result<Session>;

    /// Says that the agent is there.
    async fn heartbeat(&self, session: &Session) -> Result<()>;

    /// Asks for work, at most `limit` pieces, and waits up to `wait` if there is none.
    async fn lease(&self, session: &Session, limit: usize, wait: Duration) -> Result<Vec<Assignment>>;

    /// Asks for more time; gives those jobs that are still the agent's.
    async fn extend(&self, session: &Session, jobs: &[JobToken]) -> Result<Vec<AssignedJob>>;

    /// Says what became of a piece of work; may be repeated.
    async fn report(&self, session: &Session, result: &WorkResult) -> Result<Reported>;
}

/// Who an agent is from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Its id.
    pub agent: Id<Agent>,
    /// Its name.
    pub name: Box<str>,
}

/// Over HTTPS, as the server's REST interface has it.
#[async_trait]
impl Uplink for Client {
    async fn enroll(&self, token: &Secret, keys: &AgentKeys) -> Result<Enrolled> {
        let request = types::EnrollRequest { token: token.clone().into(), keys: keys.clone() };
        let enrolled = Self::enroll(self, &request).await?;
        Ok(Enrolled { agent: enrolled.id, name: enrolled.name.into() })
    }

    async fn session_challenge(&self) -> Result<SessionChallenge> {
        Self::session_challenge(self).await
    }

    async fn open_session(&self, request: &SessionRequest) -> Result<Session> {
        let types::Session { token, agent, name, expires } = Self::open_session(self, request).await?;
        Ok(Session { token: token.into_secret(), agent, name: name.into(), expires })
    }

    async fn heartbeat(&self, session: &Session) -> Result<()> {
        Self::heartbeat(&self.with_token(session.token.clone()), session.agent.as_str()).await
    }

    async fn lease(&self, session: &Session, limit: usize, wait: Duration) -> Result<Vec<Assignment>> {
        let request = types::WorkRequest {
            limit: u32::try_from(limit).unwrap_or(100).clamp(1, 100),
            wait_seconds: u32::try_from(wait.as_secs()).unwrap_or(60),
        };
        self.with_token(session.token.clone()).lease_work(session.agent.as_str(), request).await
    }

    async fn extend(&self, session: &Session, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        self.with_token(session.token.clone()).extend_work(session.agent.as_str(), jobs).await
    }

    async fn report(&self, session: &Session, result: &WorkResult) -> Result<Reported> {
        self.with_token(session.token.clone()).report_work(session.agent.as_str(), result).await
    }
}
