use crate::{
    Error, Result,
    records::AuditEvent,
    store::{ColumnValue, Kind, Lease, Record, Stored},
};

/// Several writes that happen all or not at all, together with the audit event that explains them.
#[derive(Debug)]
pub struct Change {
    events: Vec<AuditEvent>,
    writes: Vec<Write>,
    leases: Vec<(Lease, LeaseUse)>,
}

/// One write.
#[derive(Debug)]
pub struct Write {
    /// Which table.
    pub kind: &'static Kind,
    /// Which row.
    pub id: Box<str>,
    /// What must be there now.
    pub expect: Expect,
    /// The new columns and body; none deletes the row.
    pub row: Option<(Vec<ColumnValue>, String)>,
}

/// What a change is made of, for stores.
#[derive(Debug)]
pub struct Parts {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// The leases that must be held, and what becomes of them.
    pub leases: Vec<(Lease, LeaseUse)>,
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// The row has this version.
    Version(u64),
}

/// What becomes of a lease that a change names; in either case the change fails unless it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseUse {
    /// It stays.
    Keep,
    /// It ends with this change.
    Release,
}

impl Change {
    /// A change explained by `event`.
    pub fn new(event: AuditEvent) -> Self {
        Self { events: vec![event], writes: Vec::new(), leases: Vec::new() }
    }

    /// A change that nothing has to explain: when somebody was last seen. Whatever a person could ask about has an event.
    pub(crate) fn unaudited() -> Self {
        Self { events: Vec::new(), writes: Vec::new(), leases: Vec::new() }
    }

    /// A further event, where one is not enough to explain it.
    #[must_use]
    pub fn event(mut self, event: AuditEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Writes a record that must not exist yet.
    ///
    /// # Errors
    /// `Internal` if the record has no JSON form.
    pub fn insert<R: Record>(self, record: &R) -> Result<Self> {
        self.put(record, Expect::Absent)
    }

    /// Writes a record that must not have changed since it was read.
    ///
    /// # Errors
    /// `Internal` if the record has no JSON form.
    pub fn update<R: Record>(self, record: &Stored<R>) -> Result<Self> {
        self.put(&**record, Expect::Version(record.version()))
    }

    /// Deletes a record that must not have changed since it was read.
    #[must_use]
    pub fn delete<R: Record>(mut self, record: &Stored<R>) -> Self {
        self.writes.push(Write {
            kind: R::KIND,
            id: record.id().into(),
            expect: Expect::Version(record.version()),
            row: None,
        });
        self
    }

    /// Names a lease that must be held.
    #[must_use]
    pub fn lease(mut self, lease: &Lease, then: LeaseUse) -> Self {
        self.leases.push((lease.clone(), then));
        self
    }

    /// The events.
    pub fn events(&self) -> &[AuditEvent] {
        &self.events
    }

    /// What is written, but for the events.
    pub(crate) fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// For stores: the parts. The events' rows are the last writes.
    ///
    /// # Errors
    /// `Internal` if an event has no JSON form.
    pub fn into_parts(mut self) -> Result<Parts> {
        for event in std::mem::take(&mut self.events) {
            self = self.put(&event, Expect::Absent)?;
        }
        Ok(Parts { writes: self.writes, leases: self.leases })
    }

    fn put<R: Record>(mut self, record: &R, expect: Expect) -> Result<Self> {
        let body = serde_json::to_string(record).map_err(|e| {
            Error::internal(format!("a record of {} has no JSON form", R::KIND.table)).with_source(e)
        })?;
        self.writes.push(Write {
            kind: R::KIND,
            id: record.id().into(),
            expect,
            row: Some((record.columns(), body)),
        });
        Ok(self)
    }
}
