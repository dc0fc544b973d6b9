//! What every store checks in the same way, and says in the same words.

use std::fmt;

use crate::{
    Error, ErrorKind, Result, Violation,
    store::{
        ColumnKind, ColumnValue, Kind, LeaseRequest, LeaseWhat, Leasing, Query, Row, Select, Test, Write,
    },
};

/// Names that a store's own columns have.
const RESERVED: [&str; 8] =
    ["row_number", "id", "row_version", "body_version", "body", "lease_seat", "lease_token", "lease_until"];

/// Why a change was refused: the `reason` in the context of a `Conflict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The row was to be absent, and is there.
    Exists,
    /// The row has another version.
    Version,
    /// The row is gone.
    Missing,
    /// Another row has the same values in a unique set.
    Unique,
    /// A lease that the change names is not held any more.
    Lease,
}

impl Refusal {
    /// The word in the error's context.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Version => "version",
            Self::Missing => "missing",
            Self::Unique => "unique",
            Self::Lease => "lease",
        }
    }

    /// The error about this row.
    pub fn error(self, table: &str, id: &str) -> Error {
        let message = match self {
            Self::Exists => format!("{table} {id} exists already"),
            Self::Version => format!("{table} {id} was changed by somebody else meanwhile: read it again"),
            Self::Missing => format!("{table} {id} does not exist any more"),
            Self::Unique => format!("another row of {table} has what must be unique in {id}"),
            Self::Lease => format!("the lease on {table} {id} was lost to somebody else"),
        };
        Error::new(ErrorKind::Conflict, message)
            .with("table", table)
            .with("id", id)
            .with("reason", self.as_str())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    /// For stores: checks the description itself.
    ///
    /// # Errors
    /// `Internal` if it names a column that does not exist, or one that every table has anyway.
    pub fn check(&self) -> Result<()> {
        let lists = self.unique.iter().chain(self.indexes);
        let leasing = self.leasing.iter().flat_map(|leasing| [leasing.due, leasing.group]);
        let unknown = lists.flat_map(|list| list.iter().copied()).chain(leasing);
        for name in unknown {
            if self.column(name).is_none() {
                return Err(Error::internal(format!("{} has no column {name}", self.table)));
            }
        }
        let plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        for column in self.columns {
            if RESERVED.contains(&column.name) || !plain(column.name) {
                return Err(Error::internal(format!(
                    "a column of {} may not be called {}",
                    self.table, column.name
                )));
            }
        }
        if !plain(self.table) {
            return Err(Error::internal(format!("a table may not be called {}", self.table)));
        }
        Ok(())
    }

    /// For stores: the columns that decide about leases.
    ///
    /// # Errors
    /// `Invalid` if rows of this kind are not leased.
    pub fn leasing(&self) -> Result<Leasing> {
        self.leasing.ok_or_else(|| {
            Error::invalid_field(
                "/kind",
                format!("{} is not leased", self.table),
                "lease rows of another kind",
            )
        })
    }

    /// For stores: the refusal of a table that was written by a newer program.
    pub fn newer(&self, found: u16) -> Error {
        let message = format!(
            "the table {} has version {found}, and this program knows {}: use a newer program",
            self.table, self.version
        );
        Error::new(ErrorKind::Precondition, message)
            .with("table", self.table)
            .with("found", found)
            .with("known", self.version)
    }

    /// For stores: brings a row's body to this kind's version, and gives the columns that go with it.
    ///
    /// # Errors
    /// `Internal` if the body does not read, `Precondition` if it is newer than this program.
    pub fn upgrade_row(&self, row: &Row) -> Result<(Vec<ColumnValue>, String)> {
        let unreadable =
            |e| Error::internal(format!("{} {} does not read", self.table, row.id)).with_source(e);
        let body = serde_json::from_str(&row.body).map_err(unreadable)?;
        let body = super::ext::upgrade_body(self, row.body_version, body)?;
        Ok(((self.columns_of)(&body)?, body.to_string()))
    }
}

impl Write {
    /// For stores: checks that the columns are those of the kind.
    ///
    /// # Errors
    /// `Internal`, which is a mistake in [`Record::columns`](crate::store::Record::columns).
    pub fn check(&self) -> Result<()> {
        let Some((columns, _)) = &self.row else { return Ok(()) };
        let fit = columns.len() == self.kind.columns.len()
            && columns.iter().zip(self.kind.columns).all(|(value, column)| fits(value, column.kind));
        if fit {
            Ok(())
        } else {
            Err(Error::internal(format!("the columns of {} {} are wrong", self.kind.table, self.id)))
        }
    }
}

impl Query {
    /// For stores: checks columns, types, the limit and the cursor.
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        for (n, filter) in self.filter.iter().enumerate() {
            check_value(self.kind, filter.column, &filter.value, &format!("/filter/{n}"), &mut violations);
        }
        if let Select::CountBy(column) = self.select {
            if self.kind.column(column).is_none() {
                violations.push(unknown_column(self.kind, column, "/select"));
            }
        } else {
            if self.limit == 0 {
                violations.push(Violation::new("/limit", "a page of no rows", "ask for at least one"));
            }
            self.check_cursor(&mut violations);
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::invalid(violations)) }
    }

    fn check_cursor(&self, violations: &mut Vec<Violation>) {
        let kind = match self.order {
            None => None,
            Some((column, _)) => match column_kind(self.kind, column) {
                Some(kind) => Some(kind),
                None => return violations.push(unknown_column(self.kind, column, "/order")),
            },
        };
        let fit = match (&self.after, kind) {
            (None, _) => true,
            (Some(cursor), None) => cursor.value == ColumnValue::Null,
            (Some(cursor), Some(kind)) => fits(&cursor.value, kind),
        };
        if !fit {
            violations.push(Violation::new(
                "/after",
                "the cursor belongs to another query",
                "begin again without a cursor",
            ));
        }
    }
}

impl LeaseRequest {
    /// For stores: checks the kind and the filter.
    ///
    /// # Errors
    /// `Invalid`, with everything that is wrong.
    pub fn check(&self) -> Result<()> {
        self.kind.leasing()?;
        let LeaseWhat::Claim { filter, .. } = &self.what else { return Ok(()) };
        let mut violations = Vec::new();
        for (n, filter) in filter.iter().enumerate() {
            let at = format!("/filter/{n}");
            check_value(self.kind, filter.column, &filter.value, &at, &mut violations);
            if filter.test != Test::Equal {
                violations.push(Violation::new(
                    at,
                    "a claim can only ask for equal values",
                    "use Test::Equal",
                ));
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::invalid(violations)) }
    }
}

fn check_value(kind: &Kind, column: &str, value: &ColumnValue, at: &str, violations: &mut Vec<Violation>) {
    match column_kind(kind, column) {
        None => violations.push(unknown_column(kind, column, at)),
        Some(wanted) if !fits(value, wanted) => violations.push(Violation::new(
            at,
            format!("{column} is compared with a value of another type"),
            format!("give a value of the type {wanted:?}"),
        )),
        Some(_) => {}
    }
}

fn unknown_column(kind: &Kind, column: &str, at: &str) -> Violation {
    let known: Vec<&str> =
        std::iter::once("id").chain(kind.columns.iter().map(|column| column.name)).collect();
    Violation::new(
        at,
        format!("{} has no column {column}", kind.table),
        format!("use one of {}", known.join(", ")),
    )
}

fn column_kind(kind: &Kind, column: &str) -> Option<ColumnKind> {
    if column == "id" {
        return Some(ColumnKind::Text);
    }
    kind.column(column).map(|at| kind.columns[at].kind)
}

fn fits(value: &ColumnValue, kind: ColumnKind) -> bool {
    match value {
        ColumnValue::Null => true,
        ColumnValue::Integer(_) => kind == ColumnKind::Integer,
        ColumnValue::Text(_) => kind == ColumnKind::Text,
    }
}
