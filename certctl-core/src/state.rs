use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::{
    Actor, Clock, Error, ErrorKind, Result, SealedAt, Sealer, Secret,
    env::State,
    records::{AuditEvent, StateRecord},
    store::{Change, Record, Store, Stored},
};

/// A connector's state in the store, sealed with the program's sealer.
#[derive(Debug)]
pub(crate) struct StoreState {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
    owner: String,
}

impl StoreState {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        sealer: Arc<Sealer>,
        clock: Arc<dyn Clock>,
        owner: String,
    ) -> Self {
        Self { store, sealer, clock, owner }
    }

    fn row_id(&self, name: &str) -> String {
        format!("{}/{name}", self.owner)
    }
}

#[async_trait]
impl State for StoreState {
    async fn load(&self, name: &str) -> Result<Option<(Secret, u64)>> {
        let id = self.row_id(name);
        let rows = self.store.get(StateRecord::KIND, &[&id]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let record: Stored<StateRecord> = Stored::read(row)?;
        let value = self.sealer.open(&sealed_at(&id), &record.sealed)?;
        Ok(Some((value, record.version())))
    }

    async fn save(&self, name: &str, value: &Secret, expected: Option<u64>) -> Result<u64> {
        let id = self.row_id(name);
        let record = StateRecord { sealed: self.sealer.seal(&sealed_at(&id), value)?, id: id.clone().into() };
        let event = AuditEvent::new(self.clock.now(), &Actor::engine(), "connector_state.saved", &id);
        let change = Change::new(event);
        let change = match expected {
            None => change.insert(&record)?,
            Some(version) => change.update(&Stored::new(record, version))?,
        };
        Ok(self.store.commit(change).await?.first().copied().unwrap_or_default())
    }
}

/// A connector's state in memory, for a connector without an engine.
#[derive(Debug, Default)]
pub(crate) struct MemoryState(Mutex<BTreeMap<String, (Secret, u64)>>);

#[async_trait]
impl State for MemoryState {
    async fn load(&self, name: &str) -> Result<Option<(Secret, u64)>> {
        Ok(self.0.lock().await.get(name).cloned())
    }

    async fn save(&self, name: &str, value: &Secret, expected: Option<u64>) -> Result<u64> {
        let mut entries = self.0.lock().await;
        let version = entries.get(name).map(|(_, version)| *version);
        if version != expected {
            return Err(Error::new(ErrorKind::Conflict, format!("somebody else has saved {name}")));
        }
        let next = version.unwrap_or_default() + 1;
        entries.insert(name.to_owned(), (value.clone(), next));
        Ok(next)
    }
}

fn sealed_at(id: &str) -> SealedAt<'_> {
    SealedAt { table: StateRecord::KIND.table, id, field: "sealed" }
}
