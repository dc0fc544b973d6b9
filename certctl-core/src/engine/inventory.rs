//! What is stored, for those who may look: nothing is read by a frontend without this.

use crate::{
    Actor, Chain, Error, ErrorKind, Identified, Permission, Result,
    engine::Engine,
    records::{
        Agent, ApiKey, AuditEvent, Certificate, Deployment, HostRecord, IssuerRecord, Job, Placement,
        ProfileRecord, TargetRecord, Version,
    },
    store::{ColumnValue, Cursor, Query, Record, Select, StoreExt, Stored},
};

/// A record that somebody may look at, given the permission.
pub trait Readable: Record + Identified {
    /// What it takes to look at these.
    const PERMISSION: Permission = Permission::Read;
}

impl Readable for Certificate {}
impl Readable for Placement {}
impl Readable for Version {}
impl Readable for Deployment {}
impl Readable for Job {}
impl Readable for IssuerRecord {}
impl Readable for TargetRecord {}
impl Readable for HostRecord {}
impl Readable for ProfileRecord {}
impl Readable for Agent {}
impl Readable for AuditEvent {}
impl Readable for ApiKey {
    const PERMISSION: Permission = Permission::ManageAccess;
}

impl Engine {
    /// The most records of one page.
    pub const MAX_PAGE: usize = 1_000;

    /// The record of this id or, where such records have names, of this name.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn read<R: Readable>(&self, actor: &Actor, id_or_name: &str) -> Result<Stored<R>> {
        actor.require(R::PERMISSION)?;
        let not_found = || Error::not_found(R::NOUN, id_or_name);
        if R::KIND.column("name").is_none() && !crate::Id::<R>::looks_like(id_or_name) {
            return Err(not_found());
        }
        match self.inner.store.resolve(id_or_name).await {
            // What can't be an id is nobody's.
            Err(e) if e.kind() == ErrorKind::Invalid => Err(not_found()),
            found => found,
        }
    }

    /// The records with these ids, in that order; those that do not exist are left out.
    ///
    /// # Errors
    /// `Denied` if the actor may not.
    pub async fn read_all<R: Readable>(&self, actor: &Actor, ids: &[crate::Id<R>]) -> Result<Vec<Stored<R>>> {
        actor.require(R::PERMISSION)?;
        self.inner.store.read_all(ids).await
    }

    /// A page of records, and where the next one begins: at most [`Engine::MAX_PAGE`].
    ///
    /// # Errors
    /// `Invalid` for a query about other records, a column that they do not have, a cursor of another query, or a page that
    /// is too large; `Denied` if the actor may not.
    pub async fn list<R: Readable>(
        &self,
        actor: &Actor,
        query: Query,
    ) -> Result<(Vec<Stored<R>>, Option<Cursor>)> {
        actor.require(R::PERMISSION)?;
        if query.kind.table != R::KIND.table {
            return Err(Error::internal(format!(
                "a query about {} can't list {}",
                query.kind.table,
                R::KIND.table
            )));
        }
        if query.limit > Self::MAX_PAGE {
            let message = format!("a page of {} is too large", query.limit);
            let remedy = format!("ask for at most {}", Self::MAX_PAGE);
            return Err(Error::invalid_field("/limit", message, remedy));
        }
        StoreExt::list(&*self.inner.store, query).await
    }

    /// The newest version's chain, leaf first: what is public of a certificate, for whoever holds its key.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if there is no version yet, `Denied` if the actor may not.
    pub async fn export(&self, actor: &Actor, id_or_name: &str) -> Result<Chain> {
        let certificate: Stored<Certificate> = self.read(actor, id_or_name).await?;
        let newest = self.versions(&certificate.id).await?.into_iter().next();
        newest.map(|version| version.into_inner().chain).ok_or_else(|| {
            let message =
                format!("certificate {} has no version yet: its first one is on its way", certificate.name);
            Error::new(ErrorKind::Precondition, message)
        })
    }

    /// How many records there are by each value of a column.
    ///
    /// # Errors
    /// `Invalid` for a column that they do not have, `Denied` if the actor may not.
    pub async fn counts<R: Readable>(
        &self,
        actor: &Actor,
        column: &'static str,
    ) -> Result<Vec<(ColumnValue, u64)>> {
        actor.require(R::PERMISSION)?;
        let page = self.inner.store.query(&Query::of::<R>().select(Select::CountBy(column))).await?;
        Ok(page.counts)
    }
}
