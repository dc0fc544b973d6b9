//! Who carries work out. The engine decides, a [`Worker`] does: [`LocalWorker`] inside an embedding program, inside an
//! agent, and inside a server for what it does itself.

mod assignment;
pub mod deploy;
mod local;
mod proof;

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Challenge, Context, Csr, ErrorReport, Fingerprint, Id, Key, KeyAlgorithm, Result, SubjectAltName,
    records::{Deployment, TargetRecord, Version},
    target::Plan,
};

pub use assignment::{AssignedJob, Assignment, JobToken, Outcome, Reported, WorkResult};
pub use local::LocalWorker;
pub use proof::{EndpointProof, Prober, Proof, Served, Verdict, Wanted};

/// A piece of work: a value, repeatable by the ids in it. No private key is ever part of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Make a key, or use the one that has this id, and sign a request with it.
    MakeCsr(MakeCsr),
    /// Bring certificates to the targets of one unit.
    Deploy(DeployWork),
    /// Say what a deployment would change; touch nothing.
    Plan(Box<DeployItem>),
    /// Build a target from its configuration, and say what is wrong with it; touch nothing.
    Check(Box<TargetRecord>),
    /// Show a challenge's answer where the CA will look.
    Present(Challenge),
    /// Take it away again.
    Retract(Challenge),
    /// Destroy a key that nothing needs any more.
    ForgetKey(Id<Key>),
}

/// See [`Work::MakeCsr`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MakeCsr {
    /// The key.
    pub key: Id<Key>,
    /// Its algorithm, if it has to be made.
    pub algorithm: KeyAlgorithm,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// The names.
    pub names: Vec<SubjectAltName>,
}

/// See [`Work::Deploy`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployWork {
    /// What goes where; all of one unit.
    pub items: Vec<DeployItem>,
}

/// A version and the target that it goes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeployItem {
    /// The deployment; its id names the snapshot.
    pub deployment: Id<Deployment>,
    /// The target, as it is stored.
    pub target: TargetRecord,
    /// The version.
    pub version: Id<Version>,
    /// Its chain, leaf first.
    pub chain: crate::Chain,
    /// Its key, which the worker holds.
    pub key: Id<Key>,
    /// The names that it is for.
    pub names: Vec<SubjectAltName>,
    /// The leaf that was brought there last: what must have gone afterwards.
    pub previous: Option<Fingerprint>,
    /// Other deployments of this certificate at the same place that have not got this version yet: until they have, some
    /// names may go on showing an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Id<Deployment>>,
}

/// What became of a [`Work`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkReport {
    /// Of [`Work::MakeCsr`].
    Csr(Csr),
    /// Of [`Work::Deploy`], one for each item.
    Deployed(Vec<DeployReport>),
    /// Of [`Work::Plan`].
    Plan(Plan),
    /// Of the others.
    Done,
}

/// What became of one [`DeployItem`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployReport {
    /// The deployment.
    pub deployment: Id<Deployment>,
    /// The version that was to be brought.
    pub version: Id<Version>,
    /// How it ended.
    pub outcome: DeployOutcome,
    /// What was changed, or would have been.
    pub changed: Plan,
    /// What was seen afterwards.
    pub proof: Proof,
    /// What a person should know although it did not fail.
    pub warnings: Vec<String>,
    /// Where, for people.
    pub address: String,
    /// How long it took, in milliseconds of the wall clock.
    pub duration_ms: u64,
    /// Whether what the journal holds is still needed: the way back failed, or nobody could even look.
    #[serde(default)]
    pub unfinished: bool,
    /// Why it failed, for the outcomes that are failures. Names the step, and the file or command.
    pub error: Option<ErrorReport>,
}

/// How a deployment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployOutcome {
    /// Everything was in place and served; nothing was touched.
    Unchanged,
    /// The files were in place, the server had not read them: it was reloaded.
    Reloaded,
    /// Written and in service.
    Deployed,
    /// Refused before the first write.
    Refused,
    /// It failed, and what was there before is in service again.
    RolledBack,
    /// It failed, and the way back failed as well: the error names the snapshot's place.
    RollbackFailed,
}

impl DeployOutcome {
    /// Whether the version is in place.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Unchanged | Self::Reloaded | Self::Deployed)
    }

    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Reloaded => "reloaded",
            Self::Deployed => "deployed",
            Self::Refused => "refused",
            Self::RolledBack => "rolled_back",
            Self::RollbackFailed => "rollback_failed",
        }
    }
}

/// Carries work out. The same work may come twice, after a crash or a lost report, and then ends the same way.
#[async_trait]
pub trait Worker: Send + Sync + Debug {
    /// Does it. `journal` keeps what a successor has to know if this process dies in the middle.
    ///
    /// # Errors
    /// Of the kind that fits. A deployment that failed is no error: its [`DeployReport`] says so.
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport>;
}

/// What a worker has begun: one value that survives the process.
#[async_trait]
pub trait Journal: Send + Sync + Debug {
    /// What was saved last, by this process or a predecessor.
    async fn load(&self) -> Result<Option<Value>>;

    /// Saves durably, in the place of what was there.
    ///
    /// # Errors
    /// `Conflict` if somebody else has taken the work over: stop then, before the next write.
    async fn save(&self, entry: &Value) -> Result<()>;
}

/// A journal that forgets with the process: for work that nobody resumes.
#[derive(Debug, Default)]
pub struct MemoryJournal(tokio::sync::Mutex<Option<Value>>);

#[async_trait]
impl Journal for MemoryJournal {
    async fn load(&self) -> Result<Option<Value>> {
        Ok(self.0.lock().await.clone())
    }

    async fn save(&self, entry: &Value) -> Result<()> {
        *self.0.lock().await = Some(entry.clone());
        Ok(())
    }
}
