use certctl_core::{
    ErrorReport, Id, IssuerSpec, TargetSpec, Timestamp, WriteMode,
    engine::{HostSpec, ProfileSpec},
    records::{self, Place, Probe},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A stored issuer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Issuer {
    /// Its id.
    pub id: Id<records::IssuerRecord>,
    /// Its name, unique.
    pub name: String,
    /// The connector's kind.
    pub kind: String,
    /// Its configuration, with secrets sealed; none if the server's program declares it in its code.
    pub config: Option<Value>,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

impl Issuer {
    /// What would make it so: to be changed, and put back.
    pub fn spec(&self) -> IssuerSpec {
        IssuerSpec {
            id: Some(self.id.to_string()),
            expected_version: Some(self.revision),
            ..IssuerSpec::new(self.name.clone(), self.kind.clone(), self.config.clone().unwrap_or_default())
        }
    }
}

/// A stored target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Its id.
    pub id: Id<records::TargetRecord>,
    /// Its name, unique.
    pub name: String,
    /// The connector's kind.
    pub kind: String,
    /// Its configuration, with secrets sealed; none if the server's program declares it in its code.
    pub config: Option<Value>,
    /// Who deploys to it, and on which host it is.
    pub place: Place,
    /// How it is proved what it serves.
    pub probe: Probe,
    /// How its files are written.
    pub write: WriteMode,
    /// How the agent that deploys to it found its configuration; none if it was not asked yet, or none deploys to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

impl Target {
    /// What would make it so: to be changed, and put back.
    pub fn spec(&self) -> TargetSpec {
        TargetSpec {
            id: Some(self.id.to_string()),
            place: self.place.clone().into(),
            probe: Some(self.probe.clone()),
            write: self.write,
            expected_version: Some(self.revision),
            ..TargetSpec::new(self.name.clone(), self.kind.clone(), self.config.clone().unwrap_or_default())
        }
    }
}

/// What an agent said of a target's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// When.
    pub at: Timestamp,
    /// What is wrong with it; none if it will do.
    pub error: Option<ErrorReport>,
}

/// A stored host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Its id.
    pub id: Id<records::HostRecord>,
    /// Its name, unique.
    pub name: String,
    /// The connector's kind.
    pub kind: String,
    /// Its configuration, with secrets sealed.
    pub config: Value,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

impl Host {
    /// What would make it so: to be changed, and put back.
    pub fn spec(&self) -> HostSpec {
        HostSpec {
            id: Some(self.id.to_string()),
            expected_version: Some(self.revision),
            ..HostSpec::new(self.name.clone(), self.kind.clone(), self.config.clone())
        }
    }
}

/// A stored profile: what issuers are asked for besides the names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// Its id.
    pub id: Id<records::ProfileRecord>,
    /// Its name, unique.
    pub name: String,
    /// What it says.
    pub profile: records::Profile,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

impl Profile {
    /// What would make it so: to be changed, and put back.
    pub fn spec(&self) -> ProfileSpec {
        let records::Profile { lifetime, extended_key_usages, key_algorithm } = self.profile.clone();
        ProfileSpec {
            id: Some(self.id.to_string()),
            name: self.name.clone(),
            lifetime,
            extended_key_usages,
            key_algorithm,
            expected_version: Some(self.revision),
        }
    }
}

/// A page of what has a name: issuers, targets, hosts, profiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NamedFilter {
    /// The name, as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many a page; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What connectors are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectorFamily {
    /// They issue certificates.
    Issuer,
    /// They are given certificates.
    Target,
    /// They tell people.
    Notifier,
    /// They show answers to challenges.
    Solver,
}

impl ConnectorFamily {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Issuer, Self::Target, Self::Notifier, Self::Solver];

    /// As in JSON and in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Target => "target",
            Self::Notifier => "notifier",
            Self::Solver => "solver",
        }
    }
}

/// A kind of connector that the server knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectorKind {
    /// What it is for.
    pub family: ConnectorFamily,
    /// The kind's name.
    pub kind: String,
    /// Other names that are understood.
    pub aliases: Vec<String>,
    /// What it is, in a sentence or two.
    pub description: Option<String>,
    /// The JSON schema of its configuration; in lists it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}
