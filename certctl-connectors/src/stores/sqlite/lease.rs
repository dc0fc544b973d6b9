//! Claiming and extending leases, within a transaction of the writer.

use std::collections::HashSet;

use certctl_core::{
    Result, Timestamp,
    store::{ColumnValue, Filter, Lease, LeaseRequest, LeaseWhat, Leased, Leasing},
};
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::{
    error::error,
    sql::{ROW, Statement, Table},
    values::{self, Param},
};

/// Whether a row that has a lease may not be claimed: at the time `?1`, by `?2` on the seat `?3`.
const HELD: &str = "(lease_seat = ?2 OR (lease_until > ?1 AND substr(lease_seat, 1, length(?3)) <> ?3))";

pub(super) fn lease(connection: &Connection, table: &Table, request: &LeaseRequest) -> Result<Vec<Leased>> {
    let leasing = table.kind.leasing()?;
    let claims = Claims { connection, table, leasing, request };
    let leased = match &request.what {
        LeaseWhat::Claim { filter, limit } => claims.claim(filter, *limit),
        LeaseWhat::Extend(leases) => {
            leases.iter().filter_map(|lease| claims.extend(lease).transpose()).collect()
        }
        LeaseWhat::Release(leases) => {
            leases.iter().try_for_each(|lease| claims.release(lease)).map(|()| Vec::new())
        }
    };
    leased.map_err(|e| error(e, "leasing"))
}

struct Claims<'a> {
    connection: &'a Connection,
    table: &'a Table,
    leasing: Leasing,
    request: &'a LeaseRequest,
}

/// A row that may be taken. In the order of claims.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    due: i64,
    id: Box<str>,
    group: ColumnValue,
    number: i64,
}

impl Claims<'_> {
    fn claim(&self, filter: &[Filter], limit: usize) -> rusqlite::Result<Vec<Leased>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut candidates = self.candidates("lease_seat IS NULL", filter, limit)?;
        let lost = format!("lease_seat IS NOT NULL AND NOT {HELD}");
        candidates.extend(self.candidates(&lost, filter, limit)?);
        candidates.sort_unstable();

        // A group comes as a whole, in the place of its earliest row.
        let mut taken = Vec::new();
        let mut groups = HashSet::new();
        for Candidate { group, number, .. } in candidates {
            if taken.len() >= limit {
                break;
            }
            if group == ColumnValue::Null {
                taken.push(number);
            } else if groups.insert(group.clone()) {
                taken.extend(self.members(filter, &group)?);
                self.end_group(group)?;
            }
        }
        let sql = format!(
            "UPDATE \"{}\" SET lease_seat = ?, lease_token = lease_token + 1, lease_until = ? WHERE row_number = ?
             RETURNING {ROW}, lease_token",
            self.table.kind.table
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut leased = Vec::with_capacity(taken.len());
        for number in taken {
            let until = self.request.until.as_millis();
            leased.push(
                statement.query_row(params![self.request.seat, until, number], |row| self.leased(row))?,
            );
        }
        Ok(leased)
    }

    /// The earliest rows that are due, match, and whose group nobody holds.
    fn candidates(&self, state: &str, filter: &[Filter], limit: usize) -> rusqlite::Result<Vec<Candidate>> {
        let Leasing { due, group } = self.leasing;
        let table = self.table.kind.table;
        let mut statement = Statement::new(format!(
            "SELECT \"{due}\", id, \"{group}\", row_number FROM \"{table}\" AS t
             WHERE {state} AND \"{due}\" <= ?1 AND (\"{group}\" IS NULL OR NOT EXISTS (
                 SELECT 1 FROM \"{table}\" AS other
                 WHERE other.\"{group}\" = t.\"{group}\" AND other.lease_seat IS NOT NULL AND {HELD}
             ))"
        ));
        statement.params = vec![self.now(), (&*self.request.seat).into(), self.request.seat_prefix().into()];
        statement.filter(filter);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement.push(&format!(" ORDER BY \"{due}\", id LIMIT ?"), [limit.into()]);
        self.read(&statement, |row| {
            Ok(Candidate {
                due: row.get(0)?,
                id: values::text(row, 1)?,
                group: values::column(row, 2)?,
                number: row.get(3)?,
            })
        })
    }

    /// The rows of a free group that are due and match.
    fn members(&self, filter: &[Filter], group: &ColumnValue) -> rusqlite::Result<Vec<i64>> {
        let Leasing { due, group: column } = self.leasing;
        let mut statement = Statement::new(format!(
            "SELECT row_number FROM \"{}\" WHERE \"{column}\" = ? AND \"{due}\" <= ?",
            self.table.kind.table
        ));
        statement.params = vec![group.clone(), self.now()];
        statement.filter(filter);
        statement.push(&format!(" ORDER BY \"{due}\", id"), []);
        self.read(&statement, |row| row.get(0))
    }

    /// Ends what leases there are in a free group, all of them lost, so that it never has two masters.
    fn end_group(&self, group: ColumnValue) -> rusqlite::Result<()> {
        let mut statement = Statement::new(format!(
            "UPDATE \"{}\" SET lease_seat = NULL, lease_until = NULL WHERE lease_seat IS NOT NULL AND \"{}\" = ?",
            self.table.kind.table, self.leasing.group
        ));
        statement.params.push(group);
        self.run(&statement)
    }

    fn extend(&self, lease: &Lease) -> rusqlite::Result<Option<Leased>> {
        let sql = format!(
            "UPDATE \"{}\" SET lease_until = ? WHERE id = ? AND lease_token = ? AND lease_seat = ?
             RETURNING {ROW}, lease_token",
            self.table.kind.table
        );
        let token = i64::try_from(lease.token).unwrap_or(i64::MAX);
        let until = self.request.until.as_millis();
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found =
            statement.query_row(params![until, &*lease.id, token, self.request.seat], |row| self.leased(row));
        found.optional()
    }

    fn release(&self, lease: &Lease) -> rusqlite::Result<()> {
        let sql = format!(
            "UPDATE \"{}\" SET lease_seat = NULL, lease_until = NULL
             WHERE id = ? AND lease_token = ? AND lease_seat = ?",
            self.table.kind.table
        );
        let token = i64::try_from(lease.token).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.execute(params![&*lease.id, token, self.request.seat]).map(drop)
    }

    fn leased(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Leased> {
        let token = row.get::<_, i64>(4)?.unsigned_abs();
        let row = values::row(row, 0)?;
        let until: Timestamp = self.request.until;
        let lease = Lease { table: self.table.kind.table, id: row.id.clone(), token, until };
        Ok(Leased { lease, row })
    }

    fn now(&self) -> ColumnValue {
        self.request.now.into()
    }

    fn read<T>(
        &self,
        statement: &Statement,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut prepared = self.connection.prepare_cached(&statement.sql)?;
        let rows = prepared.query_map(params_from_iter(statement.params.iter().map(Param)), read)?;
        rows.collect()
    }

    fn run(&self, statement: &Statement) -> rusqlite::Result<()> {
        let mut prepared = self.connection.prepare_cached(&statement.sql)?;
        prepared.execute(params_from_iter(statement.params.iter().map(Param))).map(drop)
    }
}
