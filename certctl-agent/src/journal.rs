//! What this agent has begun, and what the server has not acknowledged: one durable file for each assignment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use certctl_core::{
    Error, ErrorKind, Id, Result,
    records::{Deployment, Job},
    worker::{self, Assignment, Outcome, Work, WorkReport, WorkResult},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::files::{blocking, fault, private_dir, read_private, remove, write_private};

/// The largest file that is read: several times what an assignment may have.
const MAX: u64 = 64 << 20;
const EXTENSION: &str = "json";
/// What was set aside: the server refused it for good, and a person may want to look.
const REFUSED: &str = "refused";

/// The files of `journal/`, and the same in memory.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    records: Mutex<BTreeMap<Id<Job>, Entry>>,
}

/// What is known of one assignment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    /// None once the server has acknowledged its result, and only what was left half done is still needed.
    assignment: Option<Assignment>,
    /// What the worker saved, by deployment.
    #[serde(default)]
    begun: Map<String, Value>,
    /// How it ended.
    #[serde(default)]
    outcome: Option<Outcome>,
}

impl Journal {
    /// Reads the directory, and makes it if it is not there. Blocks for a moment.
    ///
    /// # Errors
    /// `Precondition` if a file in it can't be read: what was begun may not be forgotten.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        private_dir(&dir)?;
        let mut records = BTreeMap::new();
        let failed = |error| fault("read", &dir, error);
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(id) = stem.and_then(|stem| Id::parse(stem).ok()) else { continue };
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let Some(text) = read_private(&path, MAX)? else { continue };
            let entry = serde_json::from_slice(text.expose()).map_err(|error| {
                let message = format!(
                    "the journal {} does not read; put it back from a backup, or remove it, and look at the targets by hand",
                    path.display()
                );
                Error::new(ErrorKind::Precondition, message).with("file", path.display()).with_source(error)
            })?;
            records.insert(id, entry);
        }
        Ok(Self { dir, records: Mutex::new(records) })
    }

    /// What a predecessor began to write and has not finished.
    pub(crate) async fn unfinished(&self) -> Vec<Assignment> {
        let records = self.records.lock().await;
        let begun = records.values().filter(|entry| entry.outcome.is_none() && !entry.begun.is_empty());
        begun.filter_map(|entry| entry.assignment.clone()).collect()
    }

    /// What has to be reported.
    pub(crate) async fn results(&self) -> Vec<(Id<Job>, WorkResult)> {
        let records = self.records.lock().await;
        let done = records.iter().filter_map(|(id, entry)| {
            let (assignment, outcome) = (entry.assignment.as_ref()?, entry.outcome.clone()?);
            Some((id.clone(), result(assignment, outcome)))
        });
        done.collect()
    }

    /// Forgets what was handed out and not begun: the server hands it out again.
    pub(crate) async fn drop_untouched(&self) -> Result<()> {
        let mut records = self.records.lock().await;
        let untouched =
            |entry: &Entry| entry.assignment.is_some() && entry.outcome.is_none() && entry.begun.is_empty();
        let ids: Vec<Id<Job>> =
            records.iter().filter(|(_, entry)| untouched(entry)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            records.remove(&id);
            self.erase(&id).await?;
        }
        Ok(())
    }

    /// Writes down what is about to be done, or the newest tokens of what is being done.
    pub(crate) async fn begin(&self, assignment: &Assignment) -> Result<()> {
        let mut records = self.records.lock().await;
        let entry = records.entry(assignment.id.clone()).or_default();
        entry.assignment = Some(assignment.clone());
        entry.outcome = None;
        let entry = entry.clone();
        self.write(&assignment.id, entry).await
    }

    /// Takes new tokens for what is being done, or has been.
    pub(crate) async fn renew(&self, assignment: &Assignment) -> Result<()> {
        let mut records = self.records.lock().await;
        let Some(entry) = records.get_mut(&assignment.id) else { return Ok(()) };
        if let Some(known) = &mut entry.assignment {
            known.jobs.clone_from(&assignment.jobs);
            known.until = assignment.until;
        }
        let entry = entry.clone();
        self.write(&assignment.id, entry).await
    }

    /// Writes down how it ended.
    pub(crate) async fn finish(&self, id: &Id<Job>, outcome: Outcome) -> Result<()> {
        let mut records = self.records.lock().await;
        let Some(entry) = records.get_mut(id) else { return Ok(()) };
        entry.outcome = Some(outcome);
        let entry = entry.clone();
        self.write(id, entry).await
    }

    /// Forgets what the server has acknowledged, but for what is half done and will be mended with the next try.
    pub(crate) async fn acknowledged(&self, id: &Id<Job>) -> Result<()> {
        let mut records = self.records.lock().await;
        let Some(entry) = records.get_mut(id) else { return Ok(()) };
        let over: Vec<String> = match entry.outcome.take() {
            Some(Outcome::Report(WorkReport::Deployed(reports))) => {
                let over = reports.iter().filter(|report| !report.unfinished);
                over.map(|report| report.deployment.to_string()).collect()
            }
            // Of one that failed, whatever was begun still is.
            _ => Vec::new(),
        };
        entry.assignment = None;
        // What is over is so whoever began it.
        let changed: Vec<(Id<Job>, Entry)> = records
            .iter_mut()
            .filter_map(|(other, entry)| {
                let before = entry.begun.len();
                entry.begun.retain(|deployment, _| !over.contains(deployment));
                (other == id || entry.begun.len() != before).then(|| (other.clone(), entry.clone()))
            })
            .collect();
        for (id, entry) in changed {
            self.keep(&mut records, &id, entry).await?;
        }
        Ok(())
    }

    /// Forgets what was not begun; what was, stays for the next start.
    pub(crate) async fn give_back(&self, id: &Id<Job>) -> Result<()> {
        let mut records = self.records.lock().await;
        if records.get(id).is_some_and(|entry| entry.begun.is_empty()) {
            records.remove(id);
            self.erase(id).await?;
        }
        Ok(())
    }

    /// Sets a result aside that the server refuses for good.
    pub(crate) async fn set_aside(&self, id: &Id<Job>) -> Result<PathBuf> {
        let (from, to) = (self.path(id), self.dir.join(format!("{id}.{REFUSED}")));
        let aside = to.clone();
        blocking(move || {
            std::fs::copy(&from, &aside).map(drop).map_err(|error| fault("set aside", &from, error))
        })
        .await?;
        // What is half done stays so, whatever the server thinks of the report.
        self.acknowledged(id).await?;
        Ok(to)
    }

    async fn load(&self, deployments: &[Id<Deployment>]) -> Option<Value> {
        let records = self.records.lock().await;
        let mut whole = Map::new();
        for deployment in deployments {
            let entry = records.values().find_map(|entry| entry.begun.get(deployment.as_str()));
            whole.extend(entry.map(|entry| (deployment.to_string(), entry.clone())));
        }
        (!whole.is_empty()).then_some(Value::Object(whole))
    }

    async fn save(&self, id: &Id<Job>, saved: &Value) -> Result<()> {
        let Value::Object(saved) = saved else {
            return Err(Error::internal("the deployment's journal is not by deployment"));
        };
        let mut records = self.records.lock().await;
        let entry = records.entry(id.clone()).or_default();
        entry.begun.extend(saved.iter().map(|(deployment, value)| (deployment.clone(), value.clone())));
        let entry = entry.clone();
        self.write(id, entry).await?;
        // Whoever wrote of these deployments before has nothing more to say about them.
        let mut others = Vec::new();
        for (other, entry) in records.iter_mut().filter(|(other, _)| *other != id) {
            let before = entry.begun.len();
            entry.begun.retain(|deployment, _| !saved.contains_key(deployment));
            if entry.begun.len() != before {
                others.push((other.clone(), entry.clone()));
            }
        }
        for (other, entry) in others {
            self.keep(&mut records, &other, entry).await?;
        }
        Ok(())
    }

    /// Writes it, or removes it if there is nothing left to know.
    async fn keep(&self, records: &mut BTreeMap<Id<Job>, Entry>, id: &Id<Job>, entry: Entry) -> Result<()> {
        if entry.assignment.is_none() && entry.begun.is_empty() {
            records.remove(id);
            return self.erase(id).await;
        }
        self.write(id, entry).await
    }

    async fn write(&self, id: &Id<Job>, entry: Entry) -> Result<()> {
        let path = self.path(id);
        blocking(move || {
            let text = serde_json::to_vec(&entry)
                .map_err(|error| Error::internal("the journal has no JSON form").with_source(error))?;
            write_private(&path, &text)
        })
        .await
    }

    async fn erase(&self, id: &Id<Job>) -> Result<()> {
        let path = self.path(id);
        blocking(move || remove(&path)).await
    }

    fn path(&self, id: &Id<Job>) -> PathBuf {
        // An id has neither slashes nor blanks.
        Path::new(&self.dir).join(format!("{id}.{EXTENSION}"))
    }
}

fn result(assignment: &Assignment, outcome: Outcome) -> WorkResult {
    WorkResult { jobs: assignment.jobs.iter().map(|job| job.token()).collect(), outcome }
}

/// The journal as a worker sees it while it is at one assignment.
#[derive(Debug)]
pub(crate) struct UnitJournal {
    journal: Arc<Journal>,
    assignment: Id<Job>,
    deployments: Vec<Id<Deployment>>,
}

impl UnitJournal {
    pub(crate) fn new(journal: Arc<Journal>, assignment: &Assignment) -> Self {
        let deployments = match &assignment.work {
            Work::Deploy(work) => work.items.iter().map(|item| item.deployment.clone()).collect(),
            _ => Vec::new(),
        };
        Self { journal, assignment: assignment.id.clone(), deployments }
    }
}

#[async_trait]
impl worker::Journal for UnitJournal {
    async fn load(&self) -> Result<Option<Value>> {
        Ok(self.journal.load(&self.deployments).await)
    }

    async fn save(&self, entry: &Value) -> Result<()> {
        self.journal.save(&self.assignment, entry).await
    }
}
