//! The one thread that writes. Whatever waits for it is committed together: one sync of the disk for the group.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use certctl_core::{
    Effect, Error, Result,
    store::{ColumnValue, Expect, Kind, LeaseRequest, LeaseUse, Leased, Parts, Refusal, Write},
};
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::oneshot;

use super::{
    SqliteMemory, Tables,
    checkpoint::Checkpoints,
    error::{commit_error, error, is_unique},
    lease, schema,
    sql::{self, Table},
    values::{self, Param},
};

/// A group is not made longer than this many writes: the first in it waits for the last.
const GROUP: usize = 10_000;
/// When the log has become this long, in pages of 4 KiB, the writer sees to it that it begins anew. What is in it is
/// mostly in the file by then.
const LONG_LOG: u32 = 32_000;

/// What the writer does.
#[derive(Debug)]
pub(super) enum Op {
    Open(Vec<&'static Kind>),
    Commit(Parts),
    Lease(LeaseRequest),
}

/// What comes of it.
#[derive(Debug)]
pub(super) enum Done {
    Opened,
    Versions(Vec<u64>),
    Leased(Vec<Leased>),
}

struct Job {
    op: Op,
    answer: oneshot::Sender<Result<Done>>,
}

/// The thread.
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) async fn start(path: PathBuf, tables: Tables, memory: SqliteMemory) -> Result<Self> {
        let (jobs, queue) = channel();
        let (ready, started) = oneshot::channel();
        let thread = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || {
            let begun = connect(&path, memory).and_then(|connection| {
                let checkpoints = Checkpoints::start(&path)?;
                Ok(Thread { checkpoints, connection, tables })
            });
            match begun.map_err(|e| e.with("file", path.display())) {
                Ok(thread) => {
                    let _ = ready.send(Ok(()));
                    thread.work(&queue);
                }
                Err(e) => drop(ready.send(Err(e))),
            }
        });
        let thread = thread.map_err(|e| Error::unavailable("no thread can be started").with_source(e))?;
        started.await.map_err(|_| ended())??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    pub(super) async fn execute(&self, op: Op) -> Result<Done> {
        let (answer, answered) = oneshot::channel();
        let job = Job { op, answer };
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(ended)?;
        answered.await.map_err(|_| ended().with_effect(Effect::Unknown))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

fn ended() -> Error {
    Error::internal("the writer of the database has ended")
}

fn connect(path: &Path, memory: SqliteMemory) -> Result<Connection> {
    let failed = |e| error(e, &format!("opening {}", path.display()));
    super::create(path)?;
    let connection = super::connect(path, memory).map_err(failed)?;
    write_ahead(&connection).map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "wal_autocheckpoint", LONG_LOG).map_err(failed)?;
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let founded = schema::found(&connection);
    connection.execute_batch(if founded.is_ok() { "COMMIT" } else { "ROLLBACK" }).map_err(failed)?;
    founded.map(|()| connection)
}

/// Switches to the log. SQLite does not wait here while another process is doing the same.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
    let mut tries = super::BUSY.as_millis() / PAUSE.as_millis();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries > 0 => {
                tries -= 1;
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

struct Thread {
    // Dropped first, so that the last connection to close is the writer's.
    checkpoints: Checkpoints,
    connection: Connection,
    tables: Tables,
}

/// The whole group came to nothing.
struct Aborted {
    error: Error,
    /// Perhaps because of one of them alone.
    each_alone: bool,
}

/// How many more rows have a value, by table and column.
type Counts = HashMap<(&'static str, usize, ColumnValue), i64>;

impl Thread {
    fn work(mut self, queue: &Receiver<Job>) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| queue.recv().ok()) {
            if let Op::Open(kinds) = &first.op {
                let opened = self.open(kinds);
                let _ = first.answer.send(opened);
                continue;
            }
            let mut size = first.op.size();
            let mut group = vec![first];
            while size < GROUP {
                match queue.try_recv() {
                    Ok(job) if matches!(job.op, Op::Open(_)) => {
                        next = Some(job);
                        break;
                    }
                    Ok(job) => {
                        size += job.op.size();
                        group.push(job);
                    }
                    Err(_) => break,
                }
            }
            self.execute(group);
            self.checkpoints.committed(size);
        }
    }

    fn open(&self, kinds: &[&'static Kind]) -> Result<Done> {
        let failed = |e| error(e, "opening tables");
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let opened = schema::open(&self.connection, kinds)
            .and_then(|()| self.connection.execute_batch("COMMIT").map_err(commit_error));
        if let Err(e) = opened {
            self.roll_back();
            return Err(e);
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for kind in kinds {
            tables.insert(kind.table, Arc::new(Table::new(kind)));
        }
        Ok(Done::Opened)
    }

    fn execute(&self, group: Vec<Job>) {
        match self.attempt(&group) {
            Ok(outcomes) => {
                for (job, outcome) in group.into_iter().zip(outcomes) {
                    // Nobody may be waiting any more.
                    let _ = job.answer.send(outcome);
                }
            }
            Err(Aborted { each_alone: true, .. }) if group.len() > 1 => {
                group.into_iter().for_each(|job| self.execute(vec![job]));
            }
            Err(Aborted { error, .. }) => {
                for job in group {
                    let _ = job.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Commits those of the group that hold, and says what became of each.
    fn attempt(&self, group: &[Job]) -> Result<Vec<Result<Done>>, Aborted> {
        let run =
            |sql| -> rusqlite::Result<()> { self.connection.prepare_cached(sql)?.execute([]).map(drop) };
        let begun = run("BEGIN IMMEDIATE");
        begun.map_err(|e| Aborted { error: error(e, "beginning to write"), each_alone: false })?;
        let mut outcomes = Vec::with_capacity(group.len());
        let mut counts = Counts::new();
        // A change that is alone needs no way back to before it, for which SQLite would copy each page.
        let alone = group.len() == 1;
        for job in group {
            if !alone {
                run("SAVEPOINT one").map_err(|e| self.abort(writing(e)))?;
            }
            let mut its_counts = Counts::new();
            let outcome = self.apply(&job.op, &mut its_counts);
            match &outcome {
                Ok(_) => its_counts.into_iter().for_each(|(of, n)| *counts.entry(of).or_default() += n),
                // Or SQLite has rolled back everything, as it may when the disk is full.
                Err(e) if alone || self.connection.is_autocommit() => return Err(self.abort(e.clone())),
                Err(_) => run("ROLLBACK TO one").map_err(|e| self.abort(writing(e)))?,
            }
            if !alone {
                run("RELEASE one").map_err(|e| self.abort(writing(e)))?;
            }
            outcomes.push(outcome);
        }
        self.keep(&counts).map_err(|e| self.abort(writing(e)))?;
        run("COMMIT").map_err(|e| self.abort(commit_error(e)))?;
        Ok(outcomes)
    }

    fn abort(&self, error: Error) -> Aborted {
        self.roll_back();
        Aborted { each_alone: error.effect() == Effect::None, error }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(e) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!("rolling back: {e}");
        }
    }

    fn apply(&self, op: &Op, counts: &mut Counts) -> Result<Done> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        match op {
            Op::Open(_) => Err(Error::internal("opening is not part of a group")),
            Op::Lease(request) => {
                lease::lease(&self.connection, sql::opened(&tables, request.kind)?, request).map(Done::Leased)
            }
            Op::Commit(Parts { writes, leases }) => {
                for (lease, _) in leases {
                    let table = sql::opened_as(&tables, lease.table)?;
                    let token = i64::try_from(lease.token).unwrap_or(i64::MAX);
                    let held = self.statement(&table.held)?.exists(params![&*lease.id, token]);
                    if !held.map_err(writing)? {
                        return Err(Refusal::Lease.error(lease.table, &lease.id));
                    }
                }
                let mut versions = Vec::with_capacity(writes.len());
                for write in writes {
                    versions.push(self.write(sql::opened(&tables, write.kind)?, write, counts)?);
                }
                for (lease, _) in leases.iter().filter(|(_, then)| *then == LeaseUse::Release) {
                    let table = sql::opened_as(&tables, lease.table)?;
                    self.statement(&table.release)?.execute([&*lease.id]).map_err(writing)?;
                }
                Ok(Done::Versions(versions))
            }
        }
    }

    /// Gives the new version.
    fn write(&self, table: &Table, write: &Write, counts: &mut Counts) -> Result<u64> {
        match (&write.expect, &write.row) {
            (Expect::Absent, Some((columns, body))) => self.insert(table, &write.id, columns, body, counts),
            (Expect::Absent, None) => match self.before(table, &write.id)? {
                None => Ok(0),
                Some(_) => Err(Refusal::Exists.error(table.kind.table, &write.id)),
            },
            (Expect::Version(version), row) => {
                let before = self.before(table, &write.id)?;
                let refusal = |refusal: Refusal| refusal.error(table.kind.table, &write.id);
                let before = before.ok_or_else(|| refusal(Refusal::Missing))?;
                if before.version != *version {
                    return Err(refusal(Refusal::Version));
                }
                for at in &table.counted {
                    if row.as_ref().is_none_or(|(columns, _)| columns[*at] != before.columns[*at]) {
                        count(counts, table, *at, &before.columns[*at], -1);
                    }
                }
                match row {
                    Some((columns, body)) => self.update(table, &write.id, &before, columns, body, counts),
                    None => {
                        self.statement(&table.delete)?.execute([before.number]).map_err(writing)?;
                        Ok(0)
                    }
                }
            }
        }
    }

    fn insert(
        &self,
        table: &Table,
        id: &str,
        columns: &[ColumnValue],
        body: &str,
        counts: &mut Counts,
    ) -> Result<u64> {
        let mut statement = self.statement(&table.insert)?;
        let mut run = || -> rusqlite::Result<usize> {
            statement.raw_bind_parameter(1, id)?;
            statement.raw_bind_parameter(2, table.kind.version)?;
            for (n, value) in columns.iter().enumerate() {
                statement.raw_bind_parameter(n + 3, Param(value))?;
            }
            statement.raw_bind_parameter(columns.len() + 3, body)?;
            statement.raw_execute()
        };
        run().map_err(|e| match is_unique(&e).then(|| self.before(table, id)) {
            None => writing(e),
            // Which of the two it names depends on the order of its indexes.
            Some(Ok(None)) => Refusal::Unique.error(table.kind.table, id),
            Some(Ok(Some(_))) => Refusal::Exists.error(table.kind.table, id),
            Some(Err(e)) => e,
        })?;
        for at in &table.counted {
            count(counts, table, *at, &columns[*at], 1);
        }
        Ok(1)
    }

    fn update(
        &self,
        table: &Table,
        id: &str,
        before: &Before,
        columns: &[ColumnValue],
        body: &str,
        counts: &mut Counts,
    ) -> Result<u64> {
        let changed: Vec<usize> =
            (0..columns.len()).filter(|at| columns[*at] != before.columns[*at]).collect();
        let version = before.version + 1;
        let mut statement = self.statement(&table.update(&changed))?;
        let mut run = || -> rusqlite::Result<usize> {
            statement.raw_bind_parameter(1, i64::try_from(version).unwrap_or(i64::MAX))?;
            statement.raw_bind_parameter(2, table.kind.version)?;
            statement.raw_bind_parameter(3, body)?;
            for (n, at) in changed.iter().enumerate() {
                statement.raw_bind_parameter(n + 4, Param(&columns[*at]))?;
            }
            statement.raw_bind_parameter(changed.len() + 4, before.number)?;
            statement.raw_execute()
        };
        run().map_err(|e| {
            if is_unique(&e) { Refusal::Unique.error(table.kind.table, id) } else { writing(e) }
        })?;
        for at in table.counted.iter().filter(|at| changed.contains(at)) {
            count(counts, table, *at, &columns[*at], 1);
        }
        Ok(version)
    }

    fn before(&self, table: &Table, id: &str) -> Result<Option<Before>> {
        let mut statement = self.statement(&table.before)?;
        let read = |row: &rusqlite::Row<'_>| {
            let columns = (0..table.kind.columns.len()).map(|at| values::column(row, at + 2));
            Ok(Before {
                number: row.get(0)?,
                version: row.get::<_, i64>(1)?.unsigned_abs(),
                columns: columns.collect::<rusqlite::Result<_>>()?,
            })
        };
        statement.query_row([id], read).optional().map_err(writing)
    }

    /// Adds up what the whole group changed: a few rows, however many were written.
    fn keep(&self, counts: &Counts) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO kept_counts (kind, counted, is_null, value, n) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET n = n + excluded.n",
        )?;
        for ((table, at, value), n) in counts.iter().filter(|(_, n)| **n != 0) {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            let Some(column) = tables.get(table).map(|table| table.kind.columns[*at].name) else { continue };
            let null = *value == ColumnValue::Null;
            let zero = ColumnValue::Integer(0);
            statement.execute(params![table, column, null, Param(if null { &zero } else { value }), n])?;
        }
        Ok(())
    }

    fn statement(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql).map_err(writing)
    }
}

/// A row before it is written.
struct Before {
    number: i64,
    version: u64,
    columns: Vec<ColumnValue>,
}

impl Op {
    fn size(&self) -> usize {
        match self {
            Self::Open(_) => 0,
            Self::Commit(parts) => parts.writes.len(),
            Self::Lease(_) => 100,
        }
    }
}

fn count(counts: &mut Counts, table: &Table, at: usize, value: &ColumnValue, n: i64) {
    *counts.entry((table.kind.table, at, value.clone())).or_default() += n;
}

fn writing(e: rusqlite::Error) -> Error {
    error(e, "writing")
}
