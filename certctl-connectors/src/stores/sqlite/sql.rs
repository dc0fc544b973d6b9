//! The text of the statements. Names come from kinds, which were checked; values are always parameters.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use certctl_core::{
    Error, Result,
    store::{ColumnKind, ColumnValue, Direction, Filter, Kind, Leasing, Query, Select, Test},
};

/// What a result row of a whole row begins with.
pub(super) const ROW: &str = "id, row_version, body_version, body";

/// A kind with the statements that never vary.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) kind: &'static Kind,
    /// The positions of the counted columns.
    pub(super) counted: Vec<usize>,
    pub(super) get: String,
    pub(super) insert: String,
    /// `row_number, row_version`, then every column.
    pub(super) before: String,
    pub(super) delete: String,
    pub(super) held: String,
    pub(super) release: String,
}

impl Table {
    pub(super) fn new(kind: &'static Kind) -> Self {
        let name = kind.table;
        let columns: String = kind.columns.iter().fold(String::new(), |mut list, column| {
            let _ = write!(list, "\"{}\", ", column.name);
            list
        });
        let marks = "?, ".repeat(kind.columns.len());
        let counted = kind.columns.iter().enumerate().filter(|(_, column)| column.counted);
        Self {
            kind,
            counted: counted.map(|(at, _)| at).collect(),
            get: format!("SELECT {ROW} FROM \"{name}\" WHERE id = ?"),
            insert: format!(
                "INSERT INTO \"{name}\" (id, row_version, body_version, {columns}body) VALUES (?, 1, ?, {marks}?)"
            ),
            before: format!("SELECT row_number, row_version, {columns}0 FROM \"{name}\" WHERE id = ?"),
            delete: format!("DELETE FROM \"{name}\" WHERE row_number = ?"),
            held: format!(
                "SELECT 1 FROM \"{name}\" WHERE id = ? AND lease_token = ? AND lease_seat IS NOT NULL"
            ),
            release: format!("UPDATE \"{name}\" SET lease_seat = NULL, lease_until = NULL WHERE id = ?"),
        }
    }

    /// Writes the body, the version and the columns that differ. Others are left out because SQLite would write every
    /// index entry of a column that is set, the same value or not.
    pub(super) fn update(&self, changed: &[usize]) -> String {
        let mut sql =
            format!("UPDATE \"{}\" SET row_version = ?, body_version = ?, body = ?", self.kind.table);
        for at in changed {
            let _ = write!(sql, ", \"{}\" = ?", self.kind.columns[*at].name);
        }
        sql.push_str(" WHERE row_number = ?");
        sql
    }

    /// Everything that makes up the table: itself, and its indexes.
    pub(super) fn create(kind: &Kind) -> Vec<String> {
        let name = kind.table;
        let columns = kind.columns.iter().fold(String::new(), |mut list, column| {
            let _ = write!(list, "{}, ", declaration(column.name, column.kind));
            list
        });
        // The body comes last, so that nothing has to read through it.
        let mut all = vec![format!(
            "CREATE TABLE IF NOT EXISTS \"{name}\" (row_number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, \
             row_version INTEGER NOT NULL, body_version INTEGER NOT NULL, lease_seat TEXT, \
             lease_token INTEGER NOT NULL DEFAULT 0, lease_until INTEGER, {columns}body TEXT NOT NULL)"
        )];
        for set in kind.unique {
            let known: Vec<String> = set.iter().map(|column| format!("\"{column}\" IS NOT NULL")).collect();
            all.push(format!(
                "CREATE UNIQUE INDEX IF NOT EXISTS \"{name}__unique_{}\" ON \"{name}\" ({}) WHERE {}",
                set.join("_"),
                quoted(set),
                known.join(" AND ")
            ));
        }
        for index in kind.indexes {
            all.push(format!(
                "CREATE INDEX IF NOT EXISTS \"{name}__by_{}\" ON \"{name}\" ({}, id)",
                index.join("_"),
                quoted(index)
            ));
        }
        if let Some(Leasing { due, group }) = kind.leasing {
            all.push(format!(
                "CREATE INDEX IF NOT EXISTS \"{name}__free\" ON \"{name}\" (\"{due}\", id, \"{group}\") \
                 WHERE lease_seat IS NULL AND \"{due}\" IS NOT NULL"
            ));
            all.push(format!(
                "CREATE INDEX IF NOT EXISTS \"{name}__leased\" ON \"{name}\" (\"{group}\", lease_until, lease_seat) \
                 WHERE lease_seat IS NOT NULL"
            ));
            all.push(format!(
                "CREATE INDEX IF NOT EXISTS \"{name}__group\" ON \"{name}\" (\"{group}\", \"{due}\", id) \
                 WHERE \"{group}\" IS NOT NULL AND \"{due}\" IS NOT NULL"
            ));
        }
        all
    }
}

/// A column's declaration.
pub(super) fn declaration(name: &str, kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Text => format!("\"{name}\" TEXT"),
        ColumnKind::Integer => format!("\"{name}\" INTEGER"),
    }
}

/// The table of a kind that was opened in this form.
pub(super) fn opened<'a>(
    tables: &'a HashMap<&'static str, Arc<Table>>,
    kind: &Kind,
) -> Result<&'a Arc<Table>> {
    let table = opened_as(tables, kind.table)?;
    if table.kind.version == kind.version {
        return Ok(table);
    }
    Err(Error::internal(format!(
        "the table {} was opened with version {}, and is used with {}",
        kind.table, table.kind.version, kind.version
    )))
}

/// The table of this name.
pub(super) fn opened_as<'a>(
    tables: &'a HashMap<&'static str, Arc<Table>>,
    name: &str,
) -> Result<&'a Arc<Table>> {
    tables.get(name).ok_or_else(|| Error::internal(format!("the table {name} was not opened")))
}

/// A statement and its parameters.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) params: Vec<ColumnValue>,
}

impl Statement {
    pub(super) fn new(sql: String) -> Self {
        Self { sql, params: Vec::new() }
    }

    pub(super) fn push(&mut self, sql: &str, params: impl IntoIterator<Item = ColumnValue>) {
        self.sql.push_str(sql);
        self.params.extend(params);
    }

    /// Adds the conditions of a filter, each with ` AND ` before it.
    pub(super) fn filter(&mut self, filters: &[Filter]) {
        for Filter { column, test, value } in filters {
            let operator = match (test, value) {
                (Test::Equal, ColumnValue::Null) => "IS",
                (Test::Equal, _) => "=",
                // Also holds for null, unless null is the value.
                (Test::NotEqual, _) => "IS NOT",
                (Test::Less, _) => "<",
                (Test::AtMost, _) => "<=",
                (Test::Greater, _) => ">",
                (Test::AtLeast, _) => ">=",
            };
            if *value == ColumnValue::Null {
                // A literal, so that an index of rows without nulls can be used.
                self.push(&format!(" AND \"{column}\" {operator} NULL"), []);
            } else {
                self.push(&format!(" AND \"{column}\" {operator} ?"), [value.clone()]);
            }
        }
    }
}

/// The statements that give a page of at most `limit` rows, to be read one after the other until there are enough. The
/// result rows are those of [`ROW`], or the id alone, and then the order's value.
pub(super) fn page(query: &Query) -> Vec<Statement> {
    let (column, direction) = match query.order {
        Some((column, direction)) if column != "id" => (Some(column), direction),
        Some((_, direction)) => (None, direction),
        None => (None, Direction::Ascending),
    };
    let down = direction == Direction::Descending;
    let (way, beyond) = if down { (" DESC", "<") } else { ("", ">") };
    let what = if query.select == Select::Ids { "id" } else { ROW };
    let begin = || {
        let value = match query.order {
            Some((column, _)) => format!("\"{column}\""),
            None => "NULL".to_owned(),
        };
        let mut statement =
            Statement::new(format!("SELECT {what}, {value} FROM \"{}\" WHERE 1", query.kind.table));
        statement.filter(&query.filter);
        statement
    };
    let after_id = |statement: &mut Statement, id: &str| {
        statement.push(&format!(" AND id {beyond} ?"), [id.into()]);
    };

    let mut statements = Vec::new();
    let Some(column) = column else {
        let mut statement = begin();
        if let Some(cursor) = &query.after {
            after_id(&mut statement, &cursor.id);
        }
        statement.push(&format!(" ORDER BY id{way}"), []);
        return vec![statement];
    };
    let order = format!(" ORDER BY \"{column}\"{way}, id{way}");
    match query.after.as_ref().map(|cursor| (&cursor.value, &cursor.id)) {
        None => {
            let mut statement = begin();
            statement.push(&order, []);
            statements.push(statement);
        }
        Some((ColumnValue::Null, id)) => {
            let mut nulls = begin();
            nulls.push(&format!(" AND \"{column}\" IS NULL"), []);
            after_id(&mut nulls, id);
            nulls.push(&format!(" ORDER BY id{way}"), []);
            statements.push(nulls);
            if !down {
                let mut known = begin();
                known.push(&format!(" AND \"{column}\" IS NOT NULL{order}"), []);
                statements.push(known);
            }
        }
        Some((value, id)) => {
            let mut known = begin();
            known.push(&format!(" AND (\"{column}\", id) {beyond} (?, ?)"), [value.clone(), (&**id).into()]);
            known.push(&order, []);
            statements.push(known);
            if down {
                let mut nulls = begin();
                nulls.push(&format!(" AND \"{column}\" IS NULL ORDER BY id{way}"), []);
                statements.push(nulls);
            }
        }
    }
    statements
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
