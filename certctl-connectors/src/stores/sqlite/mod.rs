//! A store in one SQLite file: one writer with group commit, and readers beside it.
//!
//! Several processes may have the file open. Each kind has a table of real columns, with the body as JSON in the last
//! one; leases are columns of their own. How many rows have which value of a counted column is kept in a table.

mod checkpoint;
mod error;
mod lease;
mod reader;
mod schema;
mod seat;
mod sql;
mod values;
mod writer;

use std::{
    collections::HashMap,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use certctl_core::{
    Error, ErrorKind, Result,
    records::AuditEvent,
    store::{Change, Kind, LeaseRequest, Leased, Page, Query, Record, Row, Seat, Store, Write},
};
use rusqlite::{Connection, OpenFlags};

use self::{
    reader::Readers,
    sql::Table,
    writer::{Done, Op, Writer},
};

/// How long a call waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(30);
/// The layout of the tables that are not a kind's, and of the columns that every kind's table has.
const LAYOUT: i64 = 1;

/// A store in one SQLite file. Clones are handles of the same store; the file is closed with the last one.
///
/// ```no_run
/// # async fn example() -> certctl_core::Result<()> {
/// let store = certctl_connectors::stores::SqliteStore::open("state/certs.db").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    tables: Tables,
    // Dropped first: the last connection to close then is the writer's, which folds the log into the file.
    readers: Readers,
    writer: Writer,
}

/// The kinds that were opened, by the name of their table.
type Tables = Arc<RwLock<HashMap<&'static str, Arc<Table>>>>;

/// How much memory a store may use for what it has read. Public fields and `Default` are the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteMemory {
    /// Of each of its six connections, in KiB.
    pub cache_kib: u32,
    /// How much of the file is read without copying it, in octets: shared with the operating system's cache.
    pub mapped: u64,
}

impl Default for SqliteMemory {
    /// 64 MiB, and a gibibyte: for a program that works through a million records.
    fn default() -> Self {
        Self { cache_kib: 65_536, mapped: 1 << 30 }
    }
}

impl SqliteStore {
    /// Opens or creates the file, for its owner alone (0600), and the directories above it (0700). What is there
    /// already keeps its mode.
    ///
    /// # Errors
    /// `Precondition` if the file can't be opened or created, is not a SQLite database, is damaged, or was made by a
    /// newer program; `Unavailable` if another process keeps it locked, or the disk is full or broken.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteMemory::default()).await
    }

    /// The same with other limits of memory.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`].
    pub async fn open_with(path: impl AsRef<Path>, memory: SqliteMemory) -> Result<Self> {
        let path = path.as_ref();
        let path = std::path::absolute(path).map_err(|e| unusable(path, "can't be opened", e))?;
        let tables = Tables::default();
        let writer = Writer::start(path.clone(), Arc::clone(&tables), memory).await?;
        let readers = Readers::start(&path, memory)?;
        Ok(Self { inner: Arc::new(Inner { path, tables, readers, writer }) })
    }

    fn table(&self, kind: &Kind) -> Result<Arc<Table>> {
        let tables = self.inner.tables.read().unwrap_or_else(PoisonError::into_inner);
        sql::opened(&tables, kind).map(Arc::clone)
    }

    async fn write(&self, op: Op) -> Result<Done> {
        self.inner.writer.execute(op).await.map_err(|e| e.with("file", self.inner.path.display()))
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.readers.run(job).await.map_err(|e| e.with("file", self.inner.path.display()))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn open(&self, kinds: &[&'static Kind]) -> Result<()> {
        let mut kinds = kinds.to_vec();
        kinds.push(AuditEvent::KIND);
        kinds.iter().try_for_each(|kind| kind.check())?;
        self.write(Op::Open(kinds)).await.map(drop)
    }

    async fn get(&self, kind: &'static Kind, ids: &[&str]) -> Result<Vec<Row>> {
        let table = self.table(kind)?;
        let ids: Vec<Box<str>> = ids.iter().map(|id| (*id).into()).collect();
        self.read(move |connection| reader::get(connection, &table, &ids)).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        query.check()?;
        let table = self.table(query.kind)?;
        let query = query.clone();
        self.read(move |connection| reader::query(connection, &table, &query)).await
    }

    async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        let parts = change.into_parts()?;
        parts.writes.iter().try_for_each(Write::check)?;
        match self.write(Op::Commit(parts)).await? {
            Done::Versions(versions) => Ok(versions),
            _ => Err(Error::internal("the writer answered something else")),
        }
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>> {
        request.check()?;
        match self.write(Op::Lease(request.clone())).await? {
            Done::Leased(leased) => Ok(leased),
            _ => Err(Error::internal("the writer answered something else")),
        }
    }

    async fn seat(&self) -> Result<Seat> {
        let path = self.inner.path.clone();
        self.read(move |_| seat::take(&path)).await
    }

    fn directory(&self) -> Option<&Path> {
        self.inner.path.parent()
    }
}

/// Creates the file and what is above it, for the owner alone: SQLite gives its log the mode of the file.
fn create(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|e| unusable(path, "has no directory, which can't be made", e))?;
    }
    let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|e| unusable(path, "can't be created", e))
}

fn connect(path: &Path, memory: SqliteMemory) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -i64::from(memory.cache_kib))?;
    Ok(connection)
}

fn unusable(path: &Path, what: &str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Precondition, format!("the database {} {what}", path.display()))
        .with("file", path.display())
        .with_source(e)
}
