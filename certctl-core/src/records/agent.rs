use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Fingerprint, Id, Identified, PublicKey, Recipient, Result, Timestamp,
    records::TokenHash,
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// An agent: a process elsewhere that holds keys and deploys. What changes with each sign of life is its [`AgentPresence`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: Id<Agent>,
    /// Its name, unique.
    pub name: Box<str>,
    /// The public key that its signatures are checked with, ECDSA on P-256, once it has enrolled.
    #[serde(default)]
    pub signing_key: Option<PublicKey>,
    /// The public key that its secrets are sealed to, once it has enrolled.
    #[serde(default)]
    pub sealing_key: Option<Recipient>,
    /// When it was made.
    pub created: Timestamp,
    /// When it enrolled last.
    #[serde(default)]
    pub enrolled: Option<Timestamp>,
    /// When it was revoked: it is refused until it enrols anew.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
    /// That its identity was used by two processes at once. Neither is served until an operator has decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clash: Option<Clash>,
    /// Processes that an operator has decided against; the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shunned: Vec<Box<str>>,
}

impl Agent {
    /// How it stands, without regard to whether it is there: `awaited`, `enrolled`, `clash` or `revoked`.
    pub fn state(&self) -> &'static str {
        match (&self.revoked, &self.clash, &self.enrolled) {
            (Some(_), ..) => "revoked",
            (_, Some(_), _) => "clash",
            (.., Some(_)) => "enrolled",
            _ => "awaited",
        }
    }
}

/// That one identity is used by two processes at once: somebody has copied a state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Clash {
    /// When it was noticed.
    pub at: Timestamp,
    /// The processes.
    pub instances: Vec<Instance>,
}

/// One process of an agent: each start is a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// What it calls itself: random, made when it starts.
    pub instance: Box<str>,
    /// Where it asked from.
    pub address: Option<Box<str>>,
    /// When it asked last, to the minute.
    pub last_seen: Timestamp,
}

impl Identified for Agent {
    const PREFIX: &'static str = "ag";
    const NOUN: &'static str = "agent";
}

impl Record for Agent {
    const KIND: &'static Kind = &Kind {
        table: "agents",
        version: 2,
        columns: &[Column::text("name")],
        unique: &[&["name"]],
        indexes: &[],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&*self.name).into()]
    }

    fn upgrade(from: u16, mut body: Value) -> Result<Value> {
        match (from, body.as_object_mut()) {
            // The key of version 1 signed nothing and received nothing: the agent enrols.
            (1, Some(fields)) => {
                fields.remove("public_key");
                for key in ["signing_key", "sealing_key", "enrolled", "revoked"] {
                    fields.insert(key.to_owned(), json!(null));
                }
                Ok(body)
            }
            _ => Err(crate::Error::internal(format!("agents has no version {from}"))),
        }
    }
}

/// That an agent is there. Written at most once a minute, and without an audit event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPresence {
    /// Whose.
    pub agent: Id<Agent>,
    /// Its newest process.
    #[serde(flatten)]
    pub now: Instance,
    /// The version of its program.
    pub version: Box<str>,
    /// When its newest process opened its first session.
    pub started: Timestamp,
    /// When the challenge was made that its newest session was opened with: none is used twice.
    pub challenged: Timestamp,
    /// SHA-256 of the certificates that it takes its server's from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusts: Vec<Fingerprint>,
    /// Processes before the newest one, the last of them last. Should one of them come back, two are alive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Instance>,
}

impl Record for AgentPresence {
    const KIND: &'static Kind = &Kind {
        table: "agent_presences",
        version: 1,
        columns: &[Column::integer("last_seen")],
        unique: &[],
        indexes: &[&["last_seen"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.agent.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![self.now.last_seen.into()]
    }
}

/// What an agent can do, as it said when it opened a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConnectors {
    /// Which agent.
    pub agent: Id<Agent>,
    /// The kinds that it has.
    pub connectors: Vec<ConnectorInfo>,
}

/// A kind of connector that a program has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectorInfo {
    /// `target`, `issuer`, `notifier` or `solver`.
    pub family: Box<str>,
    /// Its name.
    pub kind: Box<str>,
    /// Other names that configurations may use for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Box<str>>,
    /// The JSON Schema of its configuration.
    pub schema: Value,
}

impl Record for AgentConnectors {
    const KIND: &'static Kind = &Kind {
        table: "agent_connectors",
        version: 1,
        columns: &[],
        unique: &[],
        indexes: &[],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.agent.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        Vec::new()
    }
}

/// What an agent enrols with, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollToken {
    /// Its id, which is part of the token.
    pub id: Id<EnrollToken>,
    /// Whose agent's.
    pub agent: Id<Agent>,
    pub(crate) hash: TokenHash,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// When it was used.
    pub used: Option<Timestamp>,
    /// The name of the actor who made it.
    pub created_by: Box<str>,
}

impl Identified for EnrollToken {
    const PREFIX: &'static str = "et";
    const NOUN: &'static str = "enrolment token";
}

impl Record for EnrollToken {
    const KIND: &'static Kind = &Kind {
        table: "enroll_tokens",
        version: 1,
        columns: &[Column::text("agent"), Column::integer("expires")],
        unique: &[],
        indexes: &[&["agent"], &["expires"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&self.agent).into(), self.expires.into()]
    }
}
