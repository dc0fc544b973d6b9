//! What an agent is given to do, and what it answers: the values that go between an engine and a worker elsewhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ErrorReport, Id, Timestamp,
    records::Job,
    worker::{Work, WorkReport},
};

/// Work that an agent has leased.
///
/// It may come again, with other tokens: after a restart of the agent, after a lost answer, or when the leases ran out. Whoever
/// has begun it then goes on, and answers with the newest tokens.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Assignment {
    /// The first of its jobs: what a journal calls it by.
    pub id: Id<Job>,
    /// The jobs that it does, leased together.
    pub jobs: Vec<AssignedJob>,
    /// Until when the leases hold, if nobody asks for more time.
    pub until: Timestamp,
    /// What is to be done.
    #[schemars(with = "serde_json::Value")]
    pub work: Work,
}

/// A job of an [`Assignment`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AssignedJob {
    /// The job.
    pub id: Id<Job>,
    /// The token of its lease.
    pub token: u64,
    /// Somebody asked to stop; obeyed before the first write.
    #[serde(default)]
    pub cancel: bool,
}

impl AssignedJob {
    /// The job and the token alone.
    pub fn token(&self) -> JobToken {
        JobToken { id: self.id.clone(), token: self.token }
    }
}

/// A job, and the token of the lease on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobToken {
    /// The job.
    pub id: Id<Job>,
    /// The token of its lease.
    pub token: u64,
}

/// What became of an [`Assignment`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkResult {
    /// Its jobs.
    pub jobs: Vec<JobToken>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an [`Assignment`] ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done. A deployment that failed is done as well: its report says so.
    Report(#[schemars(with = "serde_json::Value")] WorkReport),
    /// It could not be done; nothing was written, unless a journal says otherwise.
    Failed(#[schemars(with = "serde_json::Value")] ErrorReport),
}

/// What became of a [`WorkResult`]. In each case there is nothing more to say: the agent forgets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// It is on record.
    Recorded,
    /// It was on record: the answer to the first telling was lost.
    Already,
    /// The job was ended, or taken by somebody else, meanwhile. What the result says about deployments is on record, where it is
    /// newer than what was known.
    Superseded,
}
