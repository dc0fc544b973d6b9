//! The store: typed records over a small object-safe core.
//!
//! A [`Kind`] describes a record's table; [`Store`] moves [`Row`]s; [`StoreExt`] gives and takes typed records. There is
//! no [`Change`] without the audit event that explains it.

mod change;
mod check;
mod ext;
mod memory;

use std::{any::Any, fmt, fmt::Debug, path::Path};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Result, Timestamp};

pub use change::{Change, Expect, LeaseUse, Parts, Write};
pub use check::Refusal;
pub use ext::{StoreExt, Stored};
pub use memory::MemoryStore;

/// Where records live. Memory, SQLite and PostgreSQL implement it and pass one conformance suite
/// (`certctl_core::testkit::store`).
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Creates what is missing and brings older rows up to date. Called before anything else; may be called again with
    /// further kinds. The table of audit events is opened in any case.
    ///
    /// # Errors
    /// `Precondition` if a table was written by a newer program; nothing is changed then.
    async fn open(&self, kinds: &[&'static Kind]) -> Result<()>;

    /// The rows with these ids, in the order asked; those that do not exist are left out.
    async fn get(&self, kind: &'static Kind, ids: &[&str]) -> Result<Vec<Row>>;

    /// Rows, ids or counts.
    ///
    /// # Errors
    /// `Invalid` for a column that the kind does not have, a value of another type than the column's, a limit of zero,
    /// or a cursor of another query.
    async fn query(&self, query: &Query) -> Result<Page>;

    /// Writes everything or nothing, durably. The writes happen in order: a unique value that one of them frees can be
    /// taken by a later one. A lease that the change names must be held, which an expired one is for as long as nobody
    /// else has taken the row (or its group).
    ///
    /// Gives the new version of each written row, in the order of the writes (0 for a deletion).
    ///
    /// # Errors
    /// `Conflict` if an expectation does not hold or a unique set is taken, with the row's `id` in the context, and
    /// `reason` = `exists`, `version`, `missing`, `unique` or `lease`. Nothing was written then.
    async fn commit(&self, change: Change) -> Result<Vec<u64>>;

    /// Takes or extends leases. Rows whose group is leased by somebody, the same seat included, are passed over; the
    /// rows of one group that are due and match are taken together, even beyond the limit. Taking a group ends what
    /// expired leases there are in it.
    ///
    /// # Errors
    /// `Invalid` for a kind without [`Kind::leasing`], or a filter that is not [`Test::Equal`].
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>>;

    /// A place at this store for the life of this process. Whoever had the same seat before is dead for certain, so
    /// that leases of that seat may be taken back at once.
    async fn seat(&self) -> Result<Seat>;

    /// The directory that the store lives in, for stores that are files.
    fn directory(&self) -> Option<&Path> {
        None
    }
}

/// A numbered seat at a store; free again when dropped, or when the process dies. Its name is the number, a slash, and a
/// random part of its present occupant: `0/h2k9…`.
pub struct Seat {
    name: String,
    _guard: Box<dyn Any + Send + Sync>,
}

impl Seat {
    /// `guard` holds the seat for as long as it lives.
    pub fn new(number: u32, guard: impl Any + Send + Sync) -> Self {
        Self { name: format!("{number}/{}", crate::random::text(10)), _guard: Box::new(guard) }
    }

    /// The seat's name, which is what stands in the leases.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.name)
    }
}

/// A record that the store can hold. Bodies are JSON; what is filtered or sorted by is a real column as well.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The table.
    const KIND: &'static Kind;

    /// The record's id.
    fn id(&self) -> &str;

    /// The values of [`Kind::columns`], in that order.
    fn columns(&self) -> Vec<ColumnValue>;

    /// Brings the body of an older version to the next one.
    ///
    /// # Errors
    /// `Internal` for a version that never existed.
    fn upgrade(from: u16, body: Value) -> Result<Value> {
        let _ = body;
        Err(crate::Error::internal(format!("{} has no version {from}", Self::KIND.table)))
    }
}

/// A table: its name, columns and unique sets, and how old bodies are brought up to date.
#[derive(Debug)]
pub struct Kind {
    /// The table's name.
    pub table: &'static str,
    /// The version of the bodies and columns; a program refuses a newer one.
    pub version: u16,
    /// The real columns.
    pub columns: &'static [Column],
    /// Sets of columns that are unique; a row with a null in the set does not count.
    pub unique: &'static [&'static [&'static str]],
    /// Further indexes, for filters and orders; each ends with the id on its own.
    pub indexes: &'static [&'static [&'static str]],
    /// For rows that are leased: which columns say when and with whom.
    pub leasing: Option<Leasing>,
    /// The columns of a body of the current version; [`columns_of`] for the record's type.
    pub columns_of: fn(&Value) -> Result<Vec<ColumnValue>>,
    /// [`Record::upgrade`] of the record's type.
    pub upgrade: fn(u16, Value) -> Result<Value>,
}

impl Kind {
    /// The position of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// Which columns decide about leases.
#[derive(Clone, Copy, Debug)]
pub struct Leasing {
    /// An integer column: a row can be leased from this time on (Unix milliseconds); null means never.
    pub due: &'static str,
    /// A text column: rows of one group are leased together, and to one seat at a time; null stands alone.
    pub group: &'static str,
}

/// A real column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnKind,
    /// Whether counts by its value are kept, so that asking for them costs nothing.
    pub counted: bool,
}

impl Column {
    /// A text column.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Text, counted: false }
    }

    /// An integer column.
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Integer, counted: false }
    }

    /// A text column whose counts by value are kept.
    pub const fn counted(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::Text, counted: true }
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// UTF-8, compared byte by byte.
    Text,
    /// 64 bits, signed.
    Integer,
}

/// The value of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum ColumnValue {
    /// No value; sorts first.
    Null,
    /// See [`ColumnKind::Integer`].
    Integer(i64),
    /// See [`ColumnKind::Text`].
    Text(Box<str>),
}

impl From<&str> for ColumnValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}
impl From<String> for ColumnValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}
impl From<i64> for ColumnValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}
impl From<Timestamp> for ColumnValue {
    fn from(time: Timestamp) -> Self {
        Self::Integer(time.as_millis())
    }
}
impl<R> From<&crate::Id<R>> for ColumnValue
where
    R: crate::Identified,
{
    fn from(id: &crate::Id<R>) -> Self {
        Self::Text(id.as_str().into())
    }
}
impl<T: Into<ColumnValue>> From<Option<T>> for ColumnValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The columns of a body, for [`Kind::columns_of`].
///
/// # Errors
/// `Internal` if the body is not one of `R`.
pub fn columns_of<R: Record>(body: &Value) -> Result<Vec<ColumnValue>> {
    let record = R::deserialize(body).map_err(|e| {
        crate::Error::internal(format!("a row of {} does not read", R::KIND.table)).with_source(e)
    })?;
    Ok(record.columns())
}

/// A stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The record's id.
    pub id: Box<str>,
    /// Counts the writes of this row, from 1. Leases do not touch it.
    pub version: u64,
    /// The version of the body's form; see [`Kind::version`].
    pub body_version: u16,
    /// JSON.
    pub body: String,
}

/// A question about one kind.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which table.
    pub kind: &'static Kind,
    /// All must hold.
    pub filter: Vec<Filter>,
    /// The order, by a column or `id`. Ties are ordered by id in the same direction; no order at all is by id, ascending.
    pub order: Option<(&'static str, Direction)>,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// At most so many rows or ids.
    pub limit: usize,
    /// What to give.
    pub select: Select,
}

impl Query {
    /// Rows of this kind, by id, 100 a page.
    pub fn of<R: Record>() -> Self {
        Self { kind: R::KIND, filter: Vec::new(), order: None, after: None, limit: 100, select: Select::Rows }
    }

    /// Adds a condition.
    #[must_use]
    pub fn filter(mut self, column: &'static str, test: Test, value: impl Into<ColumnValue>) -> Self {
        self.filter.push(Filter { column, test, value: value.into() });
        self
    }

    /// Orders by a column.
    #[must_use]
    pub fn order(mut self, column: &'static str, direction: Direction) -> Self {
        self.order = Some((column, direction));
        self
    }

    /// Sets the page's size.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Begins where the page before ended.
    #[must_use]
    pub fn after(mut self, cursor: Option<Cursor>) -> Self {
        self.after = cursor;
        self
    }

    /// Chooses between rows, ids and counts.
    #[must_use]
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }
}

/// A condition on one column.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The column, or `id`.
    pub column: &'static str,
    /// How to compare.
    pub test: Test,
    /// With what. `Equal` and `NotEqual` take null as a value; the others never hold for null.
    pub value: ColumnValue,
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Test {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// The direction of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Ascending,
    Descending,
}

/// What a query gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// Whole rows.
    Rows,
    /// Ids alone: an index is enough.
    Ids,
    /// How many rows there are by each value of this column; order, cursor and limit do not count.
    CountBy(&'static str),
}

/// Where a page ended: the order's value and the id of its last row. Opaque to those who pass it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Cursor {
    /// The value of the order's column.
    pub value: ColumnValue,
    /// The row's id.
    pub id: Box<str>,
}

/// What a query gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// For [`Select::Rows`].
    pub rows: Vec<Row>,
    /// For [`Select::Ids`].
    pub ids: Vec<Box<str>>,
    /// For [`Select::CountBy`], by value.
    pub counts: Vec<(ColumnValue, u64)>,
    /// Where to go on, if there is more.
    pub next: Option<Cursor>,
}

/// Takes leases, or extends those that are held.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Which table.
    pub kind: &'static Kind,
    /// Who asks: [`Seat::name`].
    pub seat: String,
    /// The time now.
    pub now: Timestamp,
    /// Until when the leases hold.
    pub until: Timestamp,
    /// What is wanted.
    pub what: LeaseWhat,
}

impl LeaseRequest {
    /// For stores: what the names of this seat's occupants begin with; see [`Seat`].
    pub fn seat_prefix(&self) -> String {
        let number = self.seat.split_once('/').map_or(&*self.seat, |(number, _)| number);
        format!("{number}/")
    }
}

/// What a [`LeaseRequest`] wants.
#[derive(Clone, Debug)]
pub enum LeaseWhat {
    /// Rows that are due, earliest first, that nobody holds. Nobody holds a row whose lease is over, or whose lease is of
    /// the same seat's earlier occupant ([`Seat::name`] with another part after the slash), who is dead for certain. The
    /// asking occupant's own leases count as held even when they are over: it knows itself what it does.
    Claim {
        /// Conditions besides being due, all with [`Test::Equal`].
        filter: Vec<Filter>,
        /// At most so many, but for whole groups.
        limit: usize,
    },
    /// More time for these; those that are lost meanwhile are left out of the answer.
    Extend(Vec<Lease>),
    /// Gives these back, so that anybody can have them at once; those that were lost meanwhile are passed over. The answer is
    /// empty.
    Release(Vec<Lease>),
}

/// A lease on one row. Every commit about the row names it, and fails once somebody else holds the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which table.
    pub table: &'static str,
    /// The row.
    pub id: Box<str>,
    /// Grows with each claim of the row.
    pub token: u64,
    /// Until when it holds. From then on others may take the row.
    pub until: Timestamp,
}

/// A row and the lease on it.
#[derive(Clone, Debug)]
pub struct Leased {
    /// The lease.
    pub lease: Lease,
    /// The row as it was when leased.
    pub row: Row,
}
