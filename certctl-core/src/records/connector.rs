use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ErrorReport, Id, Identified, Lifetime, Timestamp, Violation, WriteMode,
    host::Endpoint,
    records::Agent,
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// Who does something: an agent, or none for this process; on which host, or none for the machine that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Place {
    /// The agent.
    pub agent: Option<Id<Agent>>,
    /// The host.
    pub host: Option<Id<HostRecord>>,
}

impl Place {
    /// The column's value for what this process, or another on the same store, does itself.
    pub const HERE: &'static str = "here";

    /// As a column: who does it.
    pub fn as_column(&self) -> &str {
        self.agent.as_ref().map_or(Self::HERE, Id::as_str)
    }
}

/// What an issuer is asked for besides the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// How long the certificate should be valid; none leaves it to the issuer.
    pub lifetime: Option<Lifetime>,
    /// Extended key usages; empty means server authentication.
    pub extended_key_usages: Vec<crate::ExtendedKeyUsage>,
    /// The algorithm of keys, where a certificate says nothing itself; not asked of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_algorithm: Option<crate::KeyAlgorithm>,
}

/// A named [`Profile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Its id.
    pub id: Id<ProfileRecord>,
    /// Its name, unique.
    pub name: Box<str>,
    /// What it says.
    pub profile: Profile,
}

/// An issuer: one that an operator stored, or the trace of one that a program declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRecord {
    /// Its id.
    pub id: Id<IssuerRecord>,
    /// Its name, unique.
    pub name: Box<str>,
    /// The connector's kind.
    pub kind: Box<str>,
    /// Its configuration; none if a program declares it.
    pub config: Option<Value>,
}

/// A target: one that an operator stored, or the trace of one that a program declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRecord {
    /// Its id.
    pub id: Id<TargetRecord>,
    /// Its name, unique.
    pub name: Box<str>,
    /// The connector's kind.
    pub kind: Box<str>,
    /// Its configuration; none if a program declares it.
    pub config: Option<Value>,
    /// Who deploys to it, and on which host it is.
    #[serde(default)]
    pub place: Place,
    /// How it is proved what it serves.
    #[serde(default)]
    pub probe: Probe,
    /// How its files are written.
    #[serde(default)]
    pub write: WriteMode,
    /// How the agent that deploys to it found its configuration; none if it was not asked yet, or none deploys to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
}

/// What an agent says of a target's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// When.
    pub at: Timestamp,
    /// What is wrong with it; none if it will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// How it is proved what a target serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Probe {
    /// Where it serves, seen from its own host. None asks the connector's default.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Endpoints elsewhere, such as a load balancer or a CDN. What they serve never leads to a rollback.
    pub elsewhere: Vec<Endpoint>,
    /// How long the new certificate may take to show after a reload.
    pub deadline: Lifetime,
    /// How many fresh connections in a row must show it.
    pub connections: u8,
}

impl Default for Probe {
    /// The connector's endpoints, ten seconds, three connections.
    fn default() -> Self {
        Self { endpoints: None, elsewhere: Vec::new(), deadline: Lifetime::secs(10), connections: 3 }
    }
}

impl Probe {
    /// What is wrong with it, for the field at `pointer`.
    pub fn check(&self, pointer: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        if !(1..=20).contains(&self.connections) {
            violations.push(Violation::new(
                format!("{pointer}/connections"),
                format!("{} fresh connections prove nothing, or take too long", self.connections),
                "give 1 to 20; 3 is usual",
            ));
        }
        let shortest = Lifetime::from(std::time::Duration::from_millis(100));
        if !(shortest..=Lifetime::secs(600)).contains(&self.deadline) {
            violations.push(Violation::new(
                format!("{pointer}/deadline"),
                "the deadline is under 100 milliseconds or over ten minutes",
                "write it like 10s",
            ));
        }
        violations
    }
}

/// A host that is not the machine of whoever does the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its id.
    pub id: Id<HostRecord>,
    /// Its name, unique.
    pub name: Box<str>,
    /// The connector's kind.
    pub kind: Box<str>,
    /// Its configuration.
    pub config: Value,
}

macro_rules! named_record {
    ($type:ident, $prefix:literal, $noun:literal, $table:literal) => {
        impl Identified for $type {
            const PREFIX: &'static str = $prefix;
            const NOUN: &'static str = $noun;
        }

        impl Record for $type {
            const KIND: &'static Kind = &Kind {
                table: $table,
                version: 1,
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
        }
    };
}

named_record!(ProfileRecord, "prof", "profile", "profiles");
named_record!(IssuerRecord, "iss", "issuer", "issuers");
named_record!(TargetRecord, "tgt", "target", "targets");
named_record!(HostRecord, "host", "host", "hosts");

/// A connector's own state: an account, a counter, a CA's keys. Sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The owner's id and the entry's name.
    pub id: Box<str>,
    /// The value.
    pub sealed: crate::Sealed,
}

impl Record for StateRecord {
    const KIND: &'static Kind = &Kind {
        table: "connector_state",
        version: 1,
        columns: &[],
        unique: &[],
        indexes: &[],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        Vec::new()
    }
}
