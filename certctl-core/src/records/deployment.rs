use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ErrorReport, Fingerprint, Id, Identified, Timestamp,
    records::{Certificate, Placement, TargetRecord, Version},
    store::{Column, ColumnValue, Kind, Record, columns_of},
    target::Plan,
    worker::Proof,
};

/// A certificate on a target: which version is in place, and what proves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: Id<Deployment>,
    /// Which certificate.
    pub certificate: Id<Certificate>,
    /// Whose key.
    pub placement: Id<Placement>,
    /// On which target.
    pub target: Id<TargetRecord>,
    /// The version that is in place there.
    pub current: Option<Id<Version>>,
    /// SHA-256 of that version's leaf: what a probe must have seen before.
    pub current_fingerprint: Option<Fingerprint>,
    /// The version that should be.
    pub wanted: Option<Id<Version>>,
    /// How it stands.
    pub state: DeploymentState,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// What a person should know although it did not fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the last deployment proved.
    pub proof: Option<Proof>,
    /// What the last deployment changed.
    pub changed: Option<Plan>,
    /// Where it is, for people.
    pub address: Option<String>,
    /// How long the last deployment took, in milliseconds.
    pub duration_ms: Option<u64>,
    /// When the last try ended.
    pub at: Option<Timestamp>,
    /// The target's own facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How a deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// Not tried yet.
    Pending,
    /// What is served is what was issued.
    Proved,
    /// In place; there was nothing to ask, or nobody answered. A warning says which.
    Unproved,
    /// The last try failed; what was there before is in service.
    Failed,
    /// The last try failed, and so did the way back: a person has to look.
    RollbackFailed,
}

impl DeploymentState {
    /// As stored and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Proved => "proved",
            Self::Unproved => "unproved",
            Self::Failed => "failed",
            Self::RollbackFailed => "rollback_failed",
        }
    }
}

impl Identified for Deployment {
    const PREFIX: &'static str = "dep";
    const NOUN: &'static str = "deployment";
}

impl Record for Deployment {
    const KIND: &'static Kind = &Kind {
        table: "deployments",
        version: 1,
        columns: &[
            Column::text("certificate"),
            Column::text("placement"),
            Column::text("target"),
            Column::text("current"),
            Column::text("state"),
        ],
        unique: &[&["certificate", "target"]],
        indexes: &[&["placement"], &["target"], &["current"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![
            (&self.certificate).into(),
            (&self.placement).into(),
            (&self.target).into(),
            self.current.as_ref().into(),
            self.state.as_str().into(),
        ]
    }
}
