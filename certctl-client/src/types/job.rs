use certctl_core::{
    ErrorReport, Id, Timestamp,
    records::{self, JobState, Place},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Reference;

/// Something that takes long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub id: Id<records::Job>,
    /// What it does: `issue`, `deploy`, `revoke` and so on.
    pub kind: String,
    /// The id of the record that it is about.
    pub subject: String,
    /// The certificate that all this is for; none for the check of a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Reference>,
    /// The target that it is about, for a job that deploys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Reference>,
    /// Who does it, and where.
    pub place: Place,
    /// How it stands.
    pub state: JobState,
    /// Where it is in its kind's sequence, such as `submit`; none if it has not begun.
    pub step: Option<String>,
    /// How often the present step has failed in a row.
    pub failures: u32,
    /// When it is stepped next.
    pub due: Option<Timestamp>,
    /// Whether somebody asked it to stop.
    pub cancel: bool,
    /// Why the last step failed.
    pub last_error: Option<ErrorReport>,
    /// The job that waits for this one.
    pub parent: Option<Id<records::Job>>,
    /// How many jobs this one waits for.
    pub open_children: u32,
    /// Who asked for it.
    pub actor: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Counts its changes.
    pub revision: u64,
}

/// A job with those that it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// Those that it waits for. One that deploys leaves after its first try, and goes on by itself where that failed.
    pub children: Vec<Job>,
    /// Another number after each change of the job, or of what it waits for: what `watch` takes as `after`.
    pub progress: u64,
}

impl std::ops::Deref for JobDetail {
    type Target = Job;
    fn deref(&self) -> &Job {
        &self.job
    }
}

/// Which jobs are listed, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobFilter {
    /// How they stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Whether they are open: not finished in any way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
    /// For which certificate, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Who does them: `here`, or an agent by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// How many a page; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// How long to wait for a change of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobWatchRequest {
    /// What is known: [`JobDetail::progress`]. Zero is answered at once.
    pub after: u64,
    /// For how many seconds at most; 25 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60))]
    pub wait: Option<u32>,
}
