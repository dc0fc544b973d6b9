use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Actor, Error, ErrorKind, ErrorReport, Id, Identified, Result, Timestamp,
    records::{Certificate, Place},
    store::{Column, ColumnValue, Kind, Leasing, Record, columns_of},
};

/// Something that takes long: a row, stepped by whoever leases it, until it is finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: Id<Job>,
    /// What it does: `issue`, `csr`, `deploy`, `present`, `retract`, `revoke`, `forget`, `plan`, `check`.
    pub kind: Box<str>,
    /// The id of the record that it is about.
    pub subject: Box<str>,
    /// The certificate that all this is for; none for the check of a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Id<Certificate>>,
    /// Who does it, and where.
    pub place: Place,
    /// Jobs of one group are leased together and by one worker at a time: what reloads together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<str>>,
    /// The job that waits for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id<Job>>,
    /// How many jobs this one waits for.
    #[serde(default)]
    pub open_children: u32,
    /// Unique while the job is active: a second one joins the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Box<str>>,
    /// How it stands. Running means leased; it is no state.
    pub state: JobState,
    /// Where it is in its kind's sequence; the kind's own.
    pub step: Value,
    /// How often the present step has failed in a row.
    #[serde(default)]
    pub failures: u32,
    /// What has made it begin anew, and how often in a row: no step that goes well makes up for that, only the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setback: Option<Setback>,
    /// When it is stepped next.
    pub due: Option<Timestamp>,
    /// Somebody asked to stop; obeyed before the first write.
    #[serde(default)]
    pub cancel: bool,
    /// Why the last step failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorReport>,
    /// The token of the lease under which an agent's last report was recorded: the same report may come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<u64>,
    /// Who asked for it.
    pub actor: Actor,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

/// What makes a job begin anew, such as an order that ended without a certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setback {
    /// How often in a row.
    pub times: u32,
    /// Why the last time.
    pub error: ErrorReport,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// To be stepped when it is due.
    Ready,
    /// Waits for its children.
    Waiting,
    /// Waits for a person; `last_error` says why.
    Attention,
    /// It ended well.
    Done,
    /// It failed for good, and the job that waited for it has taken over; `last_error` says why.
    Failed,
    /// It was stopped before it wrote anything.
    Cancelled,
}

impl JobState {
    /// As stored and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Attention => "attention",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen to it.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl Job {
    /// The id of what its events are about: the certificate, or else its subject.
    pub fn about(&self) -> &str {
        self.certificate.as_ref().map_or(&*self.subject, Id::as_str)
    }

    /// The certificate that all this is for.
    ///
    /// # Errors
    /// `Precondition` if it is about none.
    pub fn certificate(&self) -> Result<&Id<Certificate>> {
        self.certificate.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Precondition,
                format!(
                    "job {} of the kind {} is about {}, and no certificate",
                    self.id, self.kind, self.subject
                ),
            )
        })
    }
}

impl Identified for Job {
    const PREFIX: &'static str = "job";
    const NOUN: &'static str = "job";
}

impl Record for Job {
    const KIND: &'static Kind = &Kind {
        table: "jobs",
        version: 1,
        columns: &[
            Column::text("kind"),
            Column::text("subject"),
            Column::text("certificate"),
            Column::text("place"),
            Column::text("unit"),
            Column::text("parent"),
            Column::text("unique_key"),
            Column::counted("state"),
            Column::integer("due"),
            Column::integer("finished"),
        ],
        unique: &[&["unique_key"]],
        indexes: &[&["certificate"], &["parent"], &["subject"], &["place", "due"], &["finished"]],
        leasing: Some(Leasing { due: "due", group: "unit" }),
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        let due = self.due.filter(|_| self.state == JobState::Ready);
        let unique = self.unique.as_deref().filter(|_| !self.state.is_finished());
        vec![
            (&*self.kind).into(),
            (&*self.subject).into(),
            self.certificate.as_ref().into(),
            self.place.as_column().into(),
            self.group.as_deref().into(),
            self.parent.as_ref().into(),
            unique.into(),
            self.state.as_str().into(),
            due.into(),
            self.finished.into(),
        ]
    }
}
