use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Actor, Id, Identified, Timestamp,
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// Who did what to which record, when. Committed with the change that it explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditEvent {
    /// Its id; ids sort by time.
    pub id: Id<AuditEvent>,
    /// When.
    pub at: Timestamp,
    /// Who: the actor's name.
    pub actor: Box<str>,
    /// What, as `noun.verb`: `certificate.created`, `deployment.failed`.
    pub action: Box<str>,
    /// The id of the record that it is about.
    pub resource: Box<str>,
    /// Facts: ids, fingerprints, serials. Never a secret.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl AuditEvent {
    /// An event at this time.
    pub fn new(at: Timestamp, actor: &Actor, action: &str, resource: &str) -> Self {
        Self {
            id: Id::mint_at(at),
            at,
            actor: actor.name().into(),
            action: action.into(),
            resource: resource.into(),
            details: Map::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}

impl Identified for AuditEvent {
    const PREFIX: &'static str = "ev";
    const NOUN: &'static str = "audit event";
}

impl Record for AuditEvent {
    const KIND: &'static Kind = &Kind {
        table: "audit_events",
        version: 1,
        columns: &[
            Column::integer("at"),
            Column::text("actor"),
            Column::text("action"),
            Column::text("resource"),
        ],
        unique: &[],
        indexes: &[&["resource"], &["action"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![self.at.into(), (&*self.actor).into(), (&*self.action).into(), (&*self.resource).into()]
    }
}
