//! Agents: what an operator does with them, and what they ask themselves.

use std::time::Duration;

use certctl_core::{
    Result,
    engine::{SessionChallenge, SessionRequest},
    worker::{AssignedJob, Assignment, JobToken, Reported, WorkResult},
};

use crate::{
    Client, Pages,
    transport::Call,
    types::{
        Agent, AgentFilter, EnrollRequest, EnrollToken, EnrollTokenRequest, Enrolled, ExtendRequest,
        Extended, ReportAnswer, ResolveRequest, Session, WorkList, WorkRequest,
    },
};

/// Agents, as an operator sees them.
///
/// # Errors
/// Each method gives what the server answers.
impl Client {
    /// Agents, page by page.
    pub fn agents(&self, filter: &AgentFilter) -> Pages<Agent> {
        Pages::new(self, &["agents"], filter)
    }

    /// An agent.
    pub async fn agent(&self, id_or_name: &str) -> Result<Agent> {
        self.ask(Call::get(["agents", id_or_name])).await
    }

    /// A token with which an agent of this name enrols, once, within the hour. Makes the agent's record if there is none.
    pub async fn create_enroll_token(&self, request: &EnrollTokenRequest) -> Result<EnrollToken> {
        self.ask(Call::post(["agents", "enroll-tokens"]).body(request)?).await
    }

    /// Ends an agent's identity at once; a new token lets an agent of this name enrol anew.
    pub async fn revoke_agent(&self, id_or_name: &str) -> Result<Agent> {
        self.ask(Call::post(["agents", id_or_name, "revoke"]).repeatable()).await
    }

    /// Decides which of two processes keeps an agent's identity.
    pub async fn resolve_agent(&self, id_or_name: &str, request: &ResolveRequest) -> Result<Agent> {
        self.ask(Call::post(["agents", id_or_name, "resolve"]).body(request)?.repeatable()).await
    }

    /// Forgets an agent that no target names.
    pub async fn delete_agent(&self, id_or_name: &str, revision: Option<u64>) -> Result<()> {
        self.tell(Call::delete(["agents", id_or_name]).if_match(revision)).await
    }
}

/// What an agent asks. The first three need no credential; the others need a session, as
/// [`Client::with_token`]`(session.token)`.
///
/// # Errors
/// Each method gives what the server answers: `Unauthenticated` if the session is over, `Denied` if the agent was revoked,
/// `Conflict` with the reason `clash` if another process has the same identity.
impl Client {
    /// Enrols, once; if the answer is lost, the same request gives it again.
    pub async fn enroll(&self, request: &EnrollRequest) -> Result<Enrolled> {
        self.ask(Call::post(["agents", "enroll"]).body(request)?.repeatable()).await
    }

    /// What has to be signed to open a session.
    pub async fn session_challenge(&self) -> Result<SessionChallenge> {
        self.ask(Call::post(["agents", "session-challenge"]).repeatable()).await
    }

    /// Opens a session of ten minutes. A challenge is used once: after an answer that was lost, ask for another one.
    pub async fn open_session(&self, request: &SessionRequest) -> Result<Session> {
        self.ask(Call::post(["agents", "sessions"]).body(request)?).await
    }

    /// A sign of life.
    pub async fn heartbeat(&self, agent: &str) -> Result<()> {
        self.tell(Call::post(["agents", agent, "heartbeat"]).repeatable()).await
    }

    /// Leases work for this agent; waits for it as long as the request says, if there is none.
    pub async fn lease_work(&self, agent: &str, request: WorkRequest) -> Result<Vec<Assignment>> {
        let wait = Duration::from_secs(request.wait_seconds.into());
        // What was leased by an answer that was lost comes again.
        let call = Call::post(["agents", agent, "work"]).body(&request)?.patience(wait).repeatable();
        Ok(self.ask::<WorkList>(call).await?.data)
    }

    /// Asks for more time; gives the jobs that the agent still has, and whether they shall stop.
    pub async fn extend_work(&self, agent: &str, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        let request = ExtendRequest { jobs: jobs.to_vec() };
        let call = Call::post(["agents", agent, "work", "extend"]).body(&request)?.repeatable();
        Ok(self.ask::<Extended>(call).await?.jobs)
    }

    /// Says what became of work. Saying it twice is as good as once.
    pub async fn report_work(&self, agent: &str, result: &WorkResult) -> Result<Reported> {
        let call = Call::post(["agents", agent, "reports"]).body(result)?.repeatable();
        Ok(self.ask::<ReportAnswer>(call).await?.outcome)
    }
}
