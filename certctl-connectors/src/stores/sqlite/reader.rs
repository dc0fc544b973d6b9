//! Threads that read, each with a connection of its own.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use certctl_core::{
    Error, Result,
    store::{ColumnValue, Cursor, Page, Query, Row, Select},
};
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use tokio::sync::oneshot;

use super::{
    SqliteMemory,
    error::error,
    sql::{self, Statement, Table},
    values::{self, Param},
};

const THREADS: usize = 4;
/// How many jobs share one look at the database.
const TOGETHER: usize = 8;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The threads.
pub(super) struct Readers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(path: &Path, memory: SqliteMemory) -> Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..THREADS).map(|n| {
            let (path, queue) = (path.to_owned(), Arc::clone(&queue));
            std::thread::Builder::new()
                .name(format!("sqlite-reader-{n}"))
                .spawn(move || work(&path, memory, &queue))
        });
        let threads = threads.collect::<std::io::Result<_>>();
        let threads = threads.map_err(|e| Error::unavailable("no thread can be started").with_source(e))?;
        Ok(Self { jobs: Some(jobs), threads })
    }

    /// Runs a job with a connection.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody may be waiting any more.
            let _ = answer.send(job(connection));
        });
        let ended = || Error::internal("a reader of the database has ended");
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or_else(ended)?;
        answered.await.map_err(|_| Error::unavailable("the database can't be opened for reading"))?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Readers({})", self.threads.len())
    }
}

fn work(path: &Path, memory: SqliteMemory, queue: &Mutex<Receiver<Job>>) {
    let mut connection = None;
    let mut jobs = Vec::new();
    loop {
        {
            // Whoever has the lock waits for the next job, the others for the lock.
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(job) = queue.recv() else { return };
            jobs.push(job);
            // What waits already is read as of one moment: each new look at the log costs what was cached before.
            jobs.extend(queue.try_iter().take(TOGETHER - 1));
        }
        if connection.is_none() {
            connection =
                connect(path, memory).inspect_err(|e| tracing::warn!("opening {}: {e}", path.display())).ok();
        }
        let Some(connection) = &mut connection else {
            // Without a connection the jobs are dropped, and so their callers get to know.
            jobs.clear();
            continue;
        };
        // If this fails, each job finds out by itself.
        let begun = connection.execute_batch("BEGIN").is_ok();
        for job in jobs.drain(..) {
            job(connection);
        }
        if begun && connection.execute_batch("COMMIT").is_err() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
}

fn connect(path: &Path, memory: SqliteMemory) -> rusqlite::Result<Connection> {
    let connection = super::connect(path, memory)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.query_row(&format!("PRAGMA mmap_size = {}", memory.mapped), [], |_| Ok(())).optional()?;
    Ok(connection)
}

/// See [`Store::get`](certctl_core::store::Store::get).
pub(super) fn get(connection: &mut Connection, table: &Table, ids: &[Box<str>]) -> Result<Vec<Row>> {
    let run = || -> rusqlite::Result<Vec<Row>> {
        let mut statement = connection.prepare_cached(&table.get)?;
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let mut found = statement.query([&**id])?;
            if let Some(row) = found.next()? {
                rows.push(values::row(row, 0)?);
            }
        }
        Ok(rows)
    };
    run().map_err(|e| error(e, "reading rows"))
}

/// See [`Store::query`](certctl_core::store::Store::query).
pub(super) fn query(connection: &mut Connection, table: &Table, query: &Query) -> Result<Page> {
    let page = match query.select {
        Select::CountBy(column) => count(connection, table, query, column),
        Select::Rows | Select::Ids => page(connection, query),
    };
    page.map_err(|e| error(e, "querying"))
}

fn page(connection: &mut Connection, query: &Query) -> rusqlite::Result<Page> {
    let mut page = Page::default();
    let mut last = None;
    let mut found = 0;
    for Statement { sql, params } in sql::page(query) {
        // One more, to see whether there is more.
        let limit = query.limit.saturating_add(1) - found;
        let mut statement = connection.prepare_cached(&format!("{sql} LIMIT ?"))?;
        let limit = ColumnValue::Integer(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut rows = statement.query(params_from_iter(params.iter().chain([&limit]).map(Param)))?;
        while let Some(row) = rows.next()? {
            if found == query.limit {
                page.next = last.take();
                return Ok(page);
            }
            found += 1;
            let ids = query.select == Select::Ids;
            if found == query.limit {
                let value = values::column(row, if ids { 1 } else { 4 })?;
                last = Some(Cursor { value, id: values::text(row, 0)? });
            }
            if ids {
                page.ids.push(values::text(row, 0)?);
            } else {
                page.rows.push(values::row(row, 0)?);
            }
        }
    }
    Ok(page)
}

fn count(connection: &mut Connection, table: &Table, query: &Query, column: &str) -> rusqlite::Result<Page> {
    let kept =
        query.filter.is_empty() && table.counted.iter().any(|at| table.kind.columns[*at].name == column);
    let mut counts: BTreeMap<ColumnValue, u64> = BTreeMap::new();
    let statement = if kept {
        let sql =
            "SELECT iif(is_null, NULL, value), n FROM kept_counts WHERE kind = ? AND counted = ? AND n > 0";
        let mut statement = Statement::new(sql.to_owned());
        statement.params = vec![table.kind.table.into(), column.into()];
        statement
    } else {
        let mut statement =
            Statement::new(format!("SELECT \"{column}\", count(*) FROM \"{}\" WHERE 1", table.kind.table));
        statement.filter(&query.filter);
        statement.push(&format!(" GROUP BY \"{column}\""), []);
        statement
    };
    let mut prepared = connection.prepare_cached(&statement.sql)?;
    let mut rows = prepared.query(params_from_iter(statement.params.iter().map(Param)))?;
    while let Some(row) = rows.next()? {
        counts.insert(values::column(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs());
    }
    Ok(Page { counts: counts.into_iter().collect(), ..Page::default() })
}
