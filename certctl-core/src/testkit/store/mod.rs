//! The conformance suite of [`Store`].

mod leases;
mod queries;
mod records;
mod upgrades;
mod writes;

use std::{future::Future, sync::Arc};

use crate::{
    Actor, Error, ErrorKind, Timestamp,
    records::AuditEvent,
    store::{Change, Kind, Record, Store, StoreExt, Stored},
};

pub use records::{Item, Task};

/// Checks everything that [`Store`] promises.
///
/// `open` gives the store of a name: an empty one the first time, and the same one again later, through a new handle
/// where the store can be opened more than once. Nothing has been opened in it (see [`Store::open`]).
///
/// # Panics
/// If the store breaks the contract.
pub async fn conformance<F, Fut>(open: F)
where
    F: Fn(&'static str) -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    let opened = async |name: &'static str| {
        let store = open(name).await;
        store.open(&[Item::KIND, Task::KIND]).await.unwrap();
        store
    };
    writes::insert_and_read(&*opened("insert").await).await;
    writes::expectations(&*opened("expectations").await).await;
    writes::unique_sets(&*opened("unique").await).await;
    writes::all_or_nothing(&*opened("atomic").await).await;
    writes::deletion(&*opened("deletion").await).await;
    writes::audit_events(&*opened("audit").await).await;
    writes::concurrent_edits(&opened("edits").await).await;

    queries::tests(&*opened("tests").await).await;
    queries::orders(&*opened("orders").await).await;
    queries::cursors(&*opened("cursors").await).await;
    queries::counts(&*opened("counts").await).await;
    queries::nonsense(&*opened("nonsense").await).await;
    queries::typed_calls(&*opened("typed").await).await;

    leases::claim_order(&*opened("claim").await).await;
    leases::filters(&*opened("filters").await).await;
    leases::groups(&*opened("groups").await).await;
    leases::fencing(&*opened("fencing").await).await;
    leases::edits_beside_leases(&*opened("beside").await).await;
    leases::take_back(&*opened("take-back").await).await;
    leases::seats(&*opened("seats").await, &*opened("seats").await).await;
    leases::concurrent_claims(opened("race").await, opened("race").await).await;

    upgrades::reopen(opened("reopen").await, opened).await;
    upgrades::older_rows(&open).await;
    upgrades::newer_table(&open).await;
}

/// The time at which the suite takes place.
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn change() -> Change {
    Change::new(event())
}

fn event() -> AuditEvent {
    AuditEvent::new(NOW, &Actor::process(), "suite.step", "none")
}

async fn insert<R: Record>(store: &dyn Store, records: &[R]) {
    let change = records.iter().try_fold(change(), Change::insert).unwrap();
    store.commit(change).await.unwrap();
}

async fn item(store: &dyn Store, id: &str) -> Stored<Item> {
    store.find_by("id", id.into()).await.unwrap().unwrap_or_else(|| panic!("{id} is there"))
}

async fn task(store: &dyn Store, id: &str) -> Stored<Task> {
    store.find_by("id", id.into()).await.unwrap().unwrap_or_else(|| panic!("{id} is there"))
}

async fn rows_of(store: &dyn Store, kind: &'static Kind) -> usize {
    let query = crate::store::Query { kind, limit: 10_000, ..crate::store::Query::of::<Item>() };
    store.query(&query).await.unwrap().rows.len()
}

/// Asserts that a change was refused for this reason, naming this row.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, reason: &str, id: &str) {
    let error = outcome.expect_err("the change is refused");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(error.context_value("reason"), Some(reason), "{error:?}");
    assert_eq!(error.context_value("id"), Some(id), "{error:?}");
    assert_eq!(error.effect(), crate::Effect::None, "{error:?}");
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(outcome: Result<T, Error>, pointer: &str) {
    let error = outcome.expect_err("the call is refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.violations().iter().any(|v| v.pointer == pointer), "{error:?}");
}
