use certctl_core::{
    Fingerprint, Id, Lifetime, Timestamp,
    engine::AgentKeys,
    records::{self, Clash, ConnectorInfo},
    worker::{AssignedJob, Assignment, JobToken, Reported},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Token;

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its id.
    pub id: Id<records::Agent>,
    /// Its name, unique.
    pub name: String,
    /// How it stands: `awaited`, `enrolled`, `clash` or `revoked`.
    pub state: String,
    /// When its record was made.
    pub created: Timestamp,
    /// When it enrolled; none if it has not yet.
    pub enrolled: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// When it was heard of last; a minute may be missing.
    pub last_seen: Option<Timestamp>,
    /// From where it was heard of last.
    pub address: Option<String>,
    /// The version of its program.
    pub version: Option<String>,
    /// The process that has its identity.
    pub instance: Option<String>,
    /// The connectors that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connectors: Vec<ConnectorInfo>,
    /// The roots that it trusts, by SHA-256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusts: Vec<Fingerprint>,
    /// Its identity is used by two processes at once; an operator decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clash: Option<Clash>,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

/// Which agents are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgentFilter {
    /// How many a page; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// An enrolment token to make, and the agent's record if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollTokenRequest {
    /// The agent's name.
    pub name: String,
    /// How long the token is valid; an hour at most, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Lifetime>,
}

/// A token with which one agent enrols, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnrollToken {
    /// The agent that it is for.
    pub agent: super::Reference,
    /// The token; the server does not know it any more once it has said it.
    pub token: Token,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// An agent's public keys, signed for the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The token.
    pub token: Token,
    /// The keys; [`AgentKeys::sign`] makes them.
    pub keys: AgentKeys,
}

/// An agent that has enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrolled {
    /// Its id.
    pub id: Id<records::Agent>,
    /// Its name.
    pub name: String,
}

/// A session of some minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// What goes behind `Authorization: Bearer`.
    pub token: Token,
    /// The agent.
    pub agent: Id<records::Agent>,
    /// Its name.
    pub name: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Which of two processes keeps an agent's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The process that keeps it.
    pub keep: String,
}

/// How much work an agent takes, and how long it waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkRequest {
    /// How many assignments at most.
    #[schemars(range(min = 1, max = 100))]
    pub limit: u32,
    /// For how many seconds at most, if there is nothing to do.
    #[schemars(range(min = 0, max = 60))]
    pub wait_seconds: u32,
}

impl Default for WorkRequest {
    /// Ten assignments, and 25 seconds.
    fn default() -> Self {
        Self { limit: 10, wait_seconds: 25 }
    }
}

/// Work for an agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkList {
    /// What it shall do; empty if there is nothing.
    pub data: Vec<Assignment>,
}

/// Leases that an agent wants more time for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    /// The jobs that it is at.
    pub jobs: Vec<JobToken>,
}

/// Leases that an agent still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extended {
    /// The jobs, and whether they shall stop.
    pub jobs: Vec<AssignedJob>,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReportAnswer {
    /// What.
    pub outcome: Reported,
}
