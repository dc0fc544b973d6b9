//! Creating tables, and bringing older ones up to date.

use std::collections::HashSet;

use certctl_core::{
    Error, ErrorKind, Result,
    store::{Kind, Row},
};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::{
    LAYOUT,
    error::{error, is_unique},
    sql::{self, Table},
    values::{self, Param},
};

/// Creates what every store has.
pub(super) fn found(connection: &Connection) -> Result<()> {
    let failed = |e| error(e, "opening the database");
    let layout: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if layout > LAYOUT {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("the database has layout {layout}, and this program knows {LAYOUT}: use a newer program"),
        ));
    }
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS kinds (
             name TEXT PRIMARY KEY, version INTEGER NOT NULL, counted TEXT NOT NULL
         ) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS kept_counts (
             kind TEXT NOT NULL, counted TEXT NOT NULL, is_null INTEGER NOT NULL, value NOT NULL, n INTEGER NOT NULL,
             PRIMARY KEY (kind, counted, is_null, value)
         ) WITHOUT ROWID;
         PRAGMA user_version = {LAYOUT};"
    );
    connection.execute_batch(&sql).map_err(failed)
}

/// Opens kinds, within a transaction of the caller.
pub(super) fn open(connection: &Connection, kinds: &[&'static Kind]) -> Result<()> {
    for kind in kinds {
        open_kind(connection, kind).map_err(|e| e.with("table", kind.table))?;
    }
    Ok(())
}

fn open_kind(connection: &Connection, kind: &'static Kind) -> Result<()> {
    let failed = |e| error(e, &format!("opening the table {}", kind.table));
    let known = connection
        .query_row("SELECT version, counted FROM kinds WHERE name = ?", [kind.table], |row| {
            Ok((row.get::<_, u16>(0)?, row.get::<_, String>(1)?))
        })
        .optional()
        .map_err(failed)?;
    let counted: Vec<&str> =
        kind.columns.iter().filter(|column| column.counted).map(|column| column.name).collect();
    let counted = counted.join(" ");
    let create = Table::create(kind);
    if let Some((version, was_counted)) = known {
        if version > kind.version {
            return Err(kind.newer(version));
        }
        let missing = missing_columns(connection, kind).map_err(failed)?;
        if version < kind.version || !missing.is_empty() {
            upgrade(connection, kind, &missing, &create)?;
        }
        create_all(connection, kind, &create)?;
        if version == kind.version && missing.is_empty() && was_counted == counted {
            return Ok(());
        }
        recount(connection, kind).map_err(failed)?;
    } else {
        create_all(connection, kind, &create)?;
    }
    connection
        .execute(
            "INSERT INTO kinds (name, version, counted) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET version = ?2, counted = ?3",
            params![kind.table, kind.version, counted],
        )
        .map(drop)
        .map_err(failed)
}

fn create_all(connection: &Connection, kind: &Kind, create: &[String]) -> Result<()> {
    for sql in create {
        connection.execute_batch(sql).map_err(|e| {
            if is_unique(&e) {
                let message =
                    format!("rows of {} have in common what must be unique from now on", kind.table);
                return Error::new(ErrorKind::Precondition, message).with_source(e);
            }
            error(e, &format!("opening the table {}", kind.table))
        })?;
    }
    Ok(())
}

/// Adds columns and rewrites every older row. The version of a row stays: this is no edit.
fn upgrade(connection: &Connection, kind: &'static Kind, missing: &[usize], create: &[String]) -> Result<()> {
    const BATCH: i64 = 1000;
    let failed = |e| error(e, &format!("upgrading the table {}", kind.table));
    tracing::info!(table = kind.table, version = kind.version, "upgrading a table");
    // Without the indexes, which are made again at the end: faster, and what is unique may clash in between.
    for index in indexes(connection, kind).map_err(failed)? {
        connection.execute_batch(&format!("DROP INDEX \"{index}\"")).map_err(failed)?;
    }
    for at in missing {
        let column = sql::declaration(kind.columns[*at].name, kind.columns[*at].kind);
        let sql = format!("ALTER TABLE \"{}\" ADD COLUMN {column}", kind.table);
        connection.execute_batch(&sql).map_err(failed)?;
    }
    let columns: String = kind.columns.iter().map(|column| format!(", \"{}\" = ?", column.name)).collect();
    let update =
        format!("UPDATE \"{}\" SET body_version = ?, body = ?{columns} WHERE row_number = ?", kind.table);
    let mut last = i64::MIN;
    loop {
        let rows = batch(connection, kind, last, BATCH).map_err(failed)?;
        let Some((number, _)) = rows.last() else { break };
        last = *number;
        for (number, row) in rows {
            let (columns, body) = kind.upgrade_row(&row)?;
            let write = || -> rusqlite::Result<usize> {
                let mut statement = connection.prepare_cached(&update)?;
                statement.raw_bind_parameter(1, kind.version)?;
                statement.raw_bind_parameter(2, &body)?;
                for (n, value) in columns.iter().enumerate() {
                    statement.raw_bind_parameter(n + 3, Param(value))?;
                }
                statement.raw_bind_parameter(columns.len() + 3, number)?;
                statement.raw_execute()
            };
            write().map_err(failed)?;
        }
    }
    create_all(connection, kind, create)
}

fn batch(connection: &Connection, kind: &Kind, after: i64, limit: i64) -> rusqlite::Result<Vec<(i64, Row)>> {
    let sql = format!(
        "SELECT row_number, {} FROM \"{}\" WHERE row_number > ? ORDER BY row_number LIMIT ?",
        sql::ROW,
        kind.table
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([after, limit], |row| Ok((row.get(0)?, values::row(row, 1)?)))?;
    rows.collect()
}

fn missing_columns(connection: &Connection, kind: &Kind) -> rusqlite::Result<Vec<usize>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?)")?;
    let there: HashSet<String> =
        statement.query_map([kind.table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok((0..kind.columns.len()).filter(|at| !there.contains(kind.columns[*at].name)).collect())
}

fn indexes(connection: &Connection, kind: &Kind) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([kind.table], |row| row.get(0))?.collect()
}

fn recount(connection: &Connection, kind: &Kind) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM kept_counts WHERE kind = ?", [kind.table])?;
    for column in kind.columns.iter().filter(|column| column.counted) {
        let sql = format!(
            "INSERT INTO kept_counts (kind, counted, is_null, value, n)
             SELECT ?, ?, \"{0}\" IS NULL, ifnull(\"{0}\", 0), count(*) FROM \"{1}\" GROUP BY \"{0}\"",
            column.name, kind.table
        );
        let names = [kind.table, column.name];
        connection.execute(&sql, params_from_iter(names))?;
    }
    Ok(())
}
