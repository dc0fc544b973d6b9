//! Column values, to SQLite and back.

use certctl_core::store::{ColumnValue, Row};
use rusqlite::{
    ToSql,
    types::{ToSqlOutput, Value, ValueRef},
};

/// A column's value as a parameter.
pub(super) struct Param<'a>(pub(super) &'a ColumnValue);

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            ColumnValue::Null => ToSqlOutput::Owned(Value::Null),
            ColumnValue::Integer(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            ColumnValue::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// A column of a result row.
pub(super) fn column(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<ColumnValue> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => ColumnValue::Null,
        ValueRef::Integer(number) => ColumnValue::Integer(number),
        other => ColumnValue::Text(other.as_str()?.into()),
    })
}

/// A text column.
pub(super) fn text(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Box<str>> {
    Ok(row.get_ref(at)?.as_str()?.into())
}

/// `id, row_version, body_version, body`, beginning with this column.
pub(super) fn row(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Row> {
    Ok(Row {
        id: text(row, at)?,
        version: row.get::<_, i64>(at + 1)?.unsigned_abs(),
        body_version: row.get(at + 2)?,
        body: row.get(at + 3)?,
    })
}
