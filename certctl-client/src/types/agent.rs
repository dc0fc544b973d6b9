use certctl_core::{Fingerprint, Id, Lifetime, Timestamp, records};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Token;

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its id.
    pub id: Id<records::Agent>,
    /// Its name, unique.
    pub name: String,
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
    pub clash: Option<AgentClash>,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

/// One identity seen from two processes at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentClash {
    /// The processes; `resolve` keeps one of them.
    pub instances: Vec<String>,
    /// Where they are, in the same order.
    pub addresses: Vec<String>,
    /// When it was seen.
    pub at: Timestamp,
}

/// A connector that an agent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectorInfo {
    /// What it is for, such as `target`.
    pub family: String,
    /// Its kind.
    pub kind: String,
    /// The JSON schema of its configuration.
    pub schema: Value,
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

/// An agent's keys, and what shows that it has the token and the signing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The token.
    pub token: Token,
    /// The public key that it signs challenges with: base64 of the SPKI, P-256.
    pub signing_key: String,
    /// The public key that secrets are sealed to: base64 of the 32 octets, X25519.
    pub sealing_key: String,
    /// Over a label, the token's hash and both keys: base64 of the signature in DER.
    pub signature: String,
}

/// An agent that has enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Enrolled {
    /// Its id.
    pub id: Id<records::Agent>,
    /// Its name.
    pub name: String,
}

/// What an agent signs to open a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Challenge {
    /// The challenge.
    pub challenge: String,
    /// Until when it can be answered.
    pub expires: Timestamp,
}

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The agent, by id or name.
    pub agent: String,
    /// The process: random from its start on.
    pub instance: String,
    /// The challenge.
    pub challenge: String,
    /// Over a label, the challenge and the rest: base64 of the signature in DER.
    pub signature: String,
    /// The version of the agent's program.
    pub version: String,
    /// The connectors that it has.
    #[serde(default)]
    pub connectors: Vec<ConnectorInfo>,
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
