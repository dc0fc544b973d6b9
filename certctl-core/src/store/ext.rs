use std::ops::{Deref, DerefMut};

use async_trait::async_trait;

use crate::{
    Error, Id, Identified, Result,
    store::{ColumnValue, Cursor, Kind, Query, Record, Row, Select, Store, Test},
};

/// A record as it was read, with the version that a later write expects.
#[derive(Clone, Debug)]
pub struct Stored<R> {
    record: R,
    version: u64,
}

impl<R: Record> Stored<R> {
    /// Reads a row, bringing an older body up to date.
    ///
    /// # Errors
    /// `Internal` if the body does not read, `Precondition` if it is newer than this program.
    pub fn read(row: &Row) -> Result<Self> {
        let unreadable = |e: serde_json::Error| {
            Error::internal(format!("{} {} does not read", R::KIND.table, row.id)).with_source(e)
        };
        let record = if row.body_version == R::KIND.version {
            serde_json::from_str(&row.body).map_err(unreadable)?
        } else {
            let body = serde_json::from_str(&row.body).map_err(unreadable)?;
            let body = upgrade_body(R::KIND, row.body_version, body)?;
            serde_json::from_value(body).map_err(unreadable)?
        };
        Ok(Self { record, version: row.version })
    }

    /// A record that has this version in the store.
    pub fn new(record: R, version: u64) -> Self {
        Self { record, version }
    }

    /// The version that the row had when it was read.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The same record after it was written with this version.
    #[must_use]
    pub fn at_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// The record alone.
    pub fn into_inner(self) -> R {
        self.record
    }
}

impl<R> Deref for Stored<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.record
    }
}

impl<R> DerefMut for Stored<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.record
    }
}

/// Brings a body to the kind's version, step by step.
///
/// # Errors
/// `Precondition` if it is newer than this program.
pub(crate) fn upgrade_body(kind: &Kind, from: u16, mut body: serde_json::Value) -> Result<serde_json::Value> {
    if from > kind.version {
        return Err(Error::new(
            crate::ErrorKind::Precondition,
            format!(
                "a row of {} has version {from}, and this program knows {}: use a newer program",
                kind.table, kind.version
            ),
        ));
    }
    for version in from..kind.version {
        body = (kind.upgrade)(version, body)?;
    }
    Ok(body)
}

/// Typed calls over [`Store`].
#[async_trait]
pub trait StoreExt: Store {
    /// The record with this id.
    ///
    /// # Errors
    /// `NotFound`, and what [`Store::get`] gives.
    async fn read<R: Record + Identified>(&self, id: &Id<R>) -> Result<Stored<R>> {
        self.find(id).await?.ok_or_else(|| Error::not_found(R::NOUN, id))
    }

    /// The record with this id, if there is one.
    async fn find<R: Record + Identified>(&self, id: &Id<R>) -> Result<Option<Stored<R>>> {
        self.get(R::KIND, &[id.as_str()]).await?.first().map(Stored::read).transpose()
    }

    /// The records with these ids, in that order; those that do not exist are left out.
    async fn read_all<R: Record + Identified>(&self, ids: &[Id<R>]) -> Result<Vec<Stored<R>>> {
        let ids: Vec<&str> = ids.iter().map(Id::as_str).collect();
        self.get(R::KIND, &ids).await?.iter().map(Stored::read).collect()
    }

    /// The one record whose column has this value, if there is one.
    async fn find_by<R: Record>(
        &self,
        column: &'static str,
        value: ColumnValue,
    ) -> Result<Option<Stored<R>>> {
        let query = Query::of::<R>().filter(column, Test::Equal, value).limit(1);
        self.query(&query).await?.rows.first().map(Stored::read).transpose()
    }

    /// A page of records, and where the next one begins.
    async fn list<R: Record>(&self, query: Query) -> Result<(Vec<Stored<R>>, Option<Cursor>)> {
        let page = self.query(&query.select(Select::Rows)).await?;
        let records = page.rows.iter().map(Stored::read).collect::<Result<_>>()?;
        Ok((records, page.next))
    }

    /// Every record whose column has this value, however many pages that takes.
    async fn list_by<R: Record>(&self, column: &'static str, value: ColumnValue) -> Result<Vec<Stored<R>>> {
        let mut all = Vec::new();
        let mut query = Query::of::<R>().filter(column, Test::Equal, value).limit(500);
        loop {
            let (mut page, next) = self.list(query.clone()).await?;
            all.append(&mut page);
            match next {
                Some(cursor) => query.after = Some(cursor),
                None => return Ok(all),
            }
        }
    }

    /// The record that somebody means by an id or a name.
    ///
    /// # Errors
    /// `NotFound`.
    async fn resolve<R: Record + Identified>(&self, id_or_name: &str) -> Result<Stored<R>> {
        let found = if Id::<R>::looks_like(id_or_name) {
            self.find(&Id::<R>::parse(id_or_name)?).await?
        } else {
            self.find_by("name", id_or_name.into()).await?
        };
        found.ok_or_else(|| Error::not_found(R::NOUN, id_or_name))
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
