//! A store in memory, for tests and for programs that keep nothing.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use crate::{
    Error, Result, Timestamp,
    records::AuditEvent,
    store::{
        Change, ColumnValue, Cursor, Direction, Expect, Filter, Kind, Lease, LeaseRequest, LeaseUse,
        LeaseWhat, Leased, Page, Parts, Query, Record, Refusal, Row, Seat, Select, Store, Test, Write,
    },
};

/// A store in memory. It is gone with the last handle; clones are handles of the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    tables: Arc<Mutex<HashMap<&'static str, Table>>>,
    seats: Arc<Mutex<BTreeSet<u32>>>,
}

#[async_trait]
impl Store for MemoryStore {
    async fn open(&self, kinds: &[&'static Kind]) -> Result<()> {
        let mut tables = lock(&self.tables);
        let mut opened: HashMap<&'static str, Table> = HashMap::new();
        for &kind in kinds.iter().chain([&AuditEvent::KIND]) {
            kind.check()?;
            match tables.get(kind.table) {
                Some(table) if table.kind.version > kind.version => {
                    return Err(kind.newer(table.kind.version));
                }
                Some(table) if table.kind.version == kind.version => {}
                Some(table) => drop(opened.insert(kind.table, table.upgraded(kind)?)),
                None => drop(opened.insert(kind.table, Table::new(kind))),
            }
        }
        // Only now, so that a refusal leaves everything as it was.
        tables.extend(opened);
        Ok(())
    }

    async fn get(&self, kind: &'static Kind, ids: &[&str]) -> Result<Vec<Row>> {
        let mut tables = lock(&self.tables);
        let table = table(&mut tables, kind.table)?;
        Ok(ids.iter().filter_map(|id| table.rows.get_key_value(*id)).map(|(id, slot)| slot.row(id)).collect())
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        query.check()?;
        let mut tables = lock(&self.tables);
        let table = table(&mut tables, query.kind.table)?;
        Ok(match query.select {
            Select::CountBy(column) => Page { counts: table.count(&query.filter, column), ..Page::default() },
            Select::Rows | Select::Ids => table.page(query),
        })
    }

    async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        let Parts { writes, leases } = change.into_parts()?;
        writes.iter().try_for_each(Write::check)?;
        let mut tables = lock(&self.tables);
        for (lease, _) in &leases {
            let held =
                table(&mut tables, lease.table)?.rows.get(&lease.id).is_some_and(|slot| slot.held_by(lease));
            if !held {
                return Err(Refusal::Lease.error(lease.table, &lease.id));
            }
        }
        let versions = write_all(&mut tables, &writes)?;
        for (lease, then) in &leases {
            // The change may have deleted the row.
            if let (LeaseUse::Release, Some(slot)) =
                (then, table(&mut tables, lease.table)?.rows.get_mut(&lease.id))
            {
                slot.seat = None;
            }
        }
        Ok(versions)
    }

    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>> {
        request.check()?;
        let mut tables = lock(&self.tables);
        let table = table(&mut tables, request.kind.table)?;
        let ids = match &request.what {
            LeaseWhat::Claim { filter, limit } => table.claim(request, filter, *limit)?,
            LeaseWhat::Extend(leases) => table.extend(request, leases),
            LeaseWhat::Release(leases) => table.release(request, leases),
        };
        Ok(ids.iter().filter_map(|id| table.leased(id)).collect())
    }

    async fn seat(&self) -> Result<Seat> {
        let mut taken = lock(&self.seats);
        let number = (0..).find(|n| !taken.contains(n)).unwrap_or(u32::MAX);
        taken.insert(number);
        Ok(Seat::new(number, Seated { seats: Arc::clone(&self.seats), number }))
    }
}

struct Seated {
    seats: Arc<Mutex<BTreeSet<u32>>>,
    number: u32,
}

impl Drop for Seated {
    fn drop(&mut self) {
        lock(&self.seats).remove(&self.number);
    }
}

#[derive(Debug)]
struct Table {
    kind: &'static Kind,
    rows: BTreeMap<Box<str>, Slot>,
    /// For each unique set, who has which values.
    unique: Vec<HashMap<Vec<ColumnValue>, Box<str>>>,
    /// For each counted column, how many rows have which value.
    counts: Vec<(usize, BTreeMap<ColumnValue, u64>)>,
}

#[derive(Clone, Debug)]
struct Slot {
    version: u64,
    body_version: u16,
    body: String,
    columns: Vec<ColumnValue>,
    seat: Option<Box<str>>,
    token: u64,
    until: Timestamp,
}

impl Slot {
    fn row(&self, id: &str) -> Row {
        Row { id: id.into(), version: self.version, body_version: self.body_version, body: self.body.clone() }
    }

    /// Expiry plays no part: a lease is lost when somebody else takes the row, not before.
    fn held_by(&self, lease: &Lease) -> bool {
        self.seat.is_some() && self.token == lease.token
    }

    /// Whether the row may not be claimed by this request; see [`LeaseWhat::Claim`].
    fn held_against(&self, request: &LeaseRequest, seat_prefix: &str) -> bool {
        self.seat.as_deref().is_some_and(|seat| {
            *seat == *request.seat || (self.until > request.now && !seat.starts_with(seat_prefix))
        })
    }
}

impl Table {
    fn new(kind: &'static Kind) -> Self {
        let counted = kind.columns.iter().enumerate().filter(|(_, column)| column.counted);
        Self {
            kind,
            rows: BTreeMap::new(),
            unique: vec![HashMap::new(); kind.unique.len()],
            counts: counted.map(|(at, _)| (at, BTreeMap::new())).collect(),
        }
    }

    fn upgraded(&self, kind: &'static Kind) -> Result<Self> {
        let mut table = Self::new(kind);
        for (id, slot) in &self.rows {
            let (columns, body) = kind.upgrade_row(&slot.row(id))?;
            let slot = Slot { columns, body, body_version: kind.version, ..slot.clone() };
            if table.taken(id, &slot.columns) {
                return Err(Refusal::Unique.error(kind.table, id));
            }
            table.set(id, Some(slot));
        }
        Ok(table)
    }

    /// Whether another row has the same values in a unique set.
    fn taken(&self, id: &str, columns: &[ColumnValue]) -> bool {
        self.kind.unique.iter().zip(&self.unique).any(|(set, owners)| {
            self.key(set, columns).and_then(|key| owners.get(&key)).is_some_and(|owner| **owner != *id)
        })
    }

    /// The values of a unique set; none if one is null.
    fn key(&self, set: &[&str], columns: &[ColumnValue]) -> Option<Vec<ColumnValue>> {
        let values: Vec<_> = set.iter().map(|name| self.value_of(columns, "", name)).collect();
        (!values.contains(&ColumnValue::Null)).then_some(values)
    }

    fn value_of(&self, columns: &[ColumnValue], id: &str, name: &str) -> ColumnValue {
        match self.kind.column(name) {
            Some(at) => columns[at].clone(),
            None => id.into(),
        }
    }

    /// Puts or removes a row, keeping unique sets and counts; gives what was there.
    fn set(&mut self, id: &str, slot: Option<Slot>) -> Option<Slot> {
        let before = self.rows.remove(id);
        if let Some(before) = &before {
            for (n, set) in self.kind.unique.iter().enumerate() {
                if let Some(key) = self.key(set, &before.columns) {
                    self.unique[n].remove(&key);
                }
            }
            for (at, counts) in &mut self.counts {
                if let Some(n) = counts.get_mut(&before.columns[*at]) {
                    *n -= 1;
                }
            }
        }
        if let Some(slot) = slot {
            for (n, set) in self.kind.unique.iter().enumerate() {
                if let Some(key) = self.key(set, &slot.columns) {
                    self.unique[n].insert(key, id.into());
                }
            }
            for (at, counts) in &mut self.counts {
                *counts.entry(slot.columns[*at].clone()).or_default() += 1;
            }
            self.rows.insert(id.into(), slot);
        }
        before
    }

    fn matches(&self, id: &str, slot: &Slot, filter: &[Filter]) -> bool {
        filter.iter().all(|f| holds(f.test, &self.value_of(&slot.columns, id, f.column), &f.value))
    }

    fn count(&self, filter: &[Filter], column: &str) -> Vec<(ColumnValue, u64)> {
        if let (true, Some(at)) = (filter.is_empty(), self.kind.column(column))
            && let Some((_, kept)) = self.counts.iter().find(|(counted, _)| *counted == at)
        {
            return kept.iter().filter(|(_, n)| **n > 0).map(|(value, n)| (value.clone(), *n)).collect();
        }
        let mut counts = BTreeMap::new();
        for (id, slot) in self.rows.iter().filter(|(id, slot)| self.matches(id, slot, filter)) {
            *counts.entry(self.value_of(&slot.columns, id, column)).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    fn page(&self, query: &Query) -> Page {
        let wanted = query.limit.saturating_add(1);
        let mut found: Vec<(ColumnValue, &Box<str>, &Slot)>;
        if let Some((column, direction)) = query.order {
            let compare = |a: (&ColumnValue, &str), b: (&ColumnValue, &str)| match direction {
                Direction::Ascending => a.cmp(&b),
                Direction::Descending => b.cmp(&a),
            };
            let after = |value: &ColumnValue, id: &str| {
                query
                    .after
                    .as_ref()
                    .is_none_or(|c| compare((value, id), (&c.value, &c.id)) == Ordering::Greater)
            };
            let rows = self.rows.iter().filter(|(id, slot)| self.matches(id, slot, &query.filter));
            found = rows
                .map(|(id, slot)| (self.value_of(&slot.columns, id, column), id, slot))
                .filter(|(value, id, _)| after(value, id))
                .collect();
            found.sort_unstable_by(|a, b| compare((&a.0, a.1), (&b.0, b.1)));
            found.truncate(wanted);
        } else {
            let start = query.after.as_ref().map_or(Bound::Unbounded, |c| Bound::Excluded(&*c.id));
            let rows = self.rows.range::<str, _>((start, Bound::Unbounded));
            let rows = rows.filter(|(id, slot)| self.matches(id, slot, &query.filter));
            found = rows.take(wanted).map(|(id, slot)| (ColumnValue::Null, id, slot)).collect();
        }
        let mut page = Page::default();
        if found.len() > query.limit {
            found.truncate(query.limit);
            page.next = found.last().map(|(value, id, _)| Cursor { value: value.clone(), id: (*id).clone() });
        }
        match query.select {
            Select::Ids => page.ids = found.iter().map(|(_, id, _)| (*id).clone()).collect(),
            _ => page.rows = found.iter().map(|(_, id, slot)| slot.row(id)).collect(),
        }
        page
    }

    fn claim(&mut self, request: &LeaseRequest, filter: &[Filter], limit: usize) -> Result<Vec<Box<str>>> {
        let leasing = self.kind.leasing()?;
        let seat_prefix = request.seat_prefix();
        let mut busy = HashSet::new();
        let mut free = Vec::new();
        for (id, slot) in &self.rows {
            let group = self.value_of(&slot.columns, id, leasing.group);
            if slot.held_against(request, &seat_prefix) {
                busy.insert(group);
            } else if let ColumnValue::Integer(due) = self.value_of(&slot.columns, id, leasing.due)
                && due <= request.now.as_millis()
                && self.matches(id, slot, filter)
            {
                free.push((due, id.clone(), group));
            }
        }
        free.retain(|(_, _, group)| *group == ColumnValue::Null || !busy.contains(group));
        free.sort_unstable();

        // A group comes as a whole, in the place of its earliest row.
        let mut members: HashMap<&ColumnValue, Vec<&Box<str>>> = HashMap::new();
        for (_, id, group) in &free {
            members.entry(group).or_default().push(id);
        }
        let mut taken: Vec<Box<str>> = Vec::new();
        let mut groups = HashSet::new();
        for (_, id, group) in &free {
            if taken.len() >= limit {
                break;
            }
            if *group == ColumnValue::Null {
                taken.push(id.clone());
            } else if groups.insert(group) {
                taken.extend(members[group].iter().map(|id| (*id).clone()));
            }
        }
        // What is left of older leases in these groups is lost, so that a group never has two masters.
        for slot in self.rows.values_mut() {
            let at = self.kind.column(leasing.group);
            if at.is_some_and(|at| groups.contains(&slot.columns[at])) {
                slot.seat = None;
            }
        }
        for id in &taken {
            let Some(slot) = self.rows.get_mut(id) else { continue };
            slot.seat = Some(request.seat.as_str().into());
            slot.token += 1;
            slot.until = request.until;
        }
        Ok(taken)
    }

    fn extend(&mut self, request: &LeaseRequest, leases: &[Lease]) -> Vec<Box<str>> {
        let mut extended = Vec::new();
        for lease in leases {
            if let Some(slot) = self.rows.get_mut(&lease.id)
                && slot.held_by(lease)
                && slot.seat.as_deref() == Some(&request.seat)
            {
                slot.until = request.until;
                extended.push(lease.id.clone());
            }
        }
        extended
    }

    fn release(&mut self, request: &LeaseRequest, leases: &[Lease]) -> Vec<Box<str>> {
        for lease in leases {
            if let Some(slot) = self.rows.get_mut(&lease.id)
                && slot.held_by(lease)
                && slot.seat.as_deref() == Some(&request.seat)
            {
                slot.seat = None;
            }
        }
        Vec::new()
    }

    fn leased(&self, id: &str) -> Option<Leased> {
        let slot = self.rows.get(id)?;
        let lease = Lease { table: self.kind.table, id: id.into(), token: slot.token, until: slot.until };
        Some(Leased { lease, row: slot.row(id) })
    }
}

/// All the writes, or none.
fn write_all(tables: &mut HashMap<&'static str, Table>, writes: &[Write]) -> Result<Vec<u64>> {
    let mut versions = Vec::with_capacity(writes.len());
    let mut undo: Vec<(&Write, Option<Slot>)> = Vec::new();
    for write in writes {
        match write_one(tables, write) {
            Ok((version, before)) => {
                versions.push(version);
                undo.push((write, before));
            }
            Err(error) => {
                for (write, before) in undo.into_iter().rev() {
                    table(tables, write.kind.table)?.set(&write.id, before);
                }
                return Err(error);
            }
        }
    }
    Ok(versions)
}

/// The new version, and what was there before.
fn write_one(tables: &mut HashMap<&'static str, Table>, write: &Write) -> Result<(u64, Option<Slot>)> {
    let table = table(tables, write.kind.table)?;
    let refuse = |refusal: Refusal| Err(refusal.error(write.kind.table, &write.id));
    let there = table.rows.get(&write.id);
    match (there, write.expect) {
        (Some(_), Expect::Absent) => return refuse(Refusal::Exists),
        (None, Expect::Version(_)) => return refuse(Refusal::Missing),
        (Some(slot), Expect::Version(version)) if slot.version != version => return refuse(Refusal::Version),
        _ => {}
    }
    let Some((columns, body)) = &write.row else {
        return Ok((0, table.set(&write.id, None)));
    };
    if table.taken(&write.id, columns) {
        return refuse(Refusal::Unique);
    }
    let version = there.map_or(0, |slot| slot.version) + 1;
    let slot = Slot {
        version,
        body_version: write.kind.version,
        body: body.clone(),
        columns: columns.clone(),
        seat: there.and_then(|slot| slot.seat.clone()),
        token: there.map_or(0, |slot| slot.token),
        until: there.map_or(Timestamp::EPOCH, |slot| slot.until),
    };
    Ok((version, table.set(&write.id, Some(slot))))
}

fn holds(test: Test, column: &ColumnValue, value: &ColumnValue) -> bool {
    let known = *column != ColumnValue::Null && *value != ColumnValue::Null;
    match test {
        Test::Equal => column == value,
        Test::NotEqual => column != value,
        Test::Less => known && column < value,
        Test::AtMost => known && column <= value,
        Test::Greater => known && column > value,
        Test::AtLeast => known && column >= value,
    }
}

fn table<'a>(tables: &'a mut HashMap<&'static str, Table>, name: &str) -> Result<&'a mut Table> {
    tables.get_mut(name).ok_or_else(|| Error::internal(format!("the table {name} was not opened")))
}

/// No code that holds one of these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
