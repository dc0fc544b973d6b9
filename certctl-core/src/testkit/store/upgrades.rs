//! What is there when a store is opened again, by the same program, a newer or an older one.

use std::sync::Arc;

use super::{
    Item, NOW, Task, at, change, insert, item,
    records::{After, Before},
    refused, task,
};
use crate::{
    ErrorKind, Result,
    store::{Kind, LeaseRequest, LeaseUse, LeaseWhat, Query, Record, Select, Store, StoreExt, Stored, Test},
};

pub(super) async fn reopen(store: Arc<dyn Store>, again: impl AsyncFn(&'static str) -> Arc<dyn Store>) {
    insert(&*store, &[Item::new("a").name("n").status("s").size(1), Item::new("b").status("s")]).await;
    insert(&*store, &[Task::new("t", at(-1))]).await;
    let mut edited = item(&*store, "a").await;
    edited.size = Some(2);
    store.commit(change().update(&edited).unwrap()).await.unwrap();
    let claim = LeaseRequest {
        kind: Task::KIND,
        seat: "s".to_owned(),
        now: NOW,
        until: at(1000),
        what: LeaseWhat::Claim { filter: Vec::new(), limit: 1 },
    };
    let lease = store.lease(&claim).await.unwrap().remove(0).lease;
    // Opening twice changes nothing.
    store.open(&[Item::KIND, Task::KIND]).await.unwrap();
    drop(store);

    let store = again("reopen").await;
    let read = item(&*store, "a").await;
    assert_eq!((read.size, read.version()), (Some(2), 2));
    refused(store.commit(change().insert(&Item::new("c").name("n")).unwrap()).await, "unique", "c");
    let counts = store.query(&Query::of::<Item>().select(Select::CountBy("status"))).await.unwrap().counts;
    assert_eq!(counts, [("s".into(), 2)]);
    let claim = LeaseRequest { seat: "other".to_owned(), ..claim };
    assert!(store.lease(&claim).await.unwrap().is_empty(), "leases outlive the handle");
    store.commit(change().lease(&lease, LeaseUse::Release)).await.unwrap();
    assert_eq!(task(&*store, "t").await.version(), 1);
}

pub(super) async fn older_rows<F, Fut>(open: &F)
where
    F: Fn(&'static str) -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    let store = open("older").await;
    store.open(&[Before::KIND]).await.unwrap();
    let before = |n: usize| Before { id: format!("b{n:04}"), name: format!("name {n:04}") };
    let records: Vec<Before> = (0..1500).map(before).collect();
    insert(&*store, &records).await;
    let mut edited: Stored<Before> = store.find_by("id", "b0007".into()).await.unwrap().unwrap();
    edited.name = "seven".to_owned();
    store.commit(change().update(&edited).unwrap()).await.unwrap();
    drop(store);

    let store = open("older").await;
    store.open(&[After::KIND]).await.unwrap();
    let seven: Stored<After> = store.find_by("title", "SEVEN".into()).await.unwrap().unwrap();
    let expected =
        After { id: "b0007".to_owned(), title: "SEVEN".to_owned(), length: 5, initial: "S".to_owned() };
    assert_eq!(*seven, expected);
    assert_eq!(seven.version(), 2, "bringing a row up to date is no edit");
    let row = store.get(After::KIND, &["b0007"]).await.unwrap().remove(0);
    assert_eq!(row.body_version, After::KIND.version);
    let counts = store.query(&Query::of::<After>().select(Select::CountBy("initial"))).await.unwrap().counts;
    assert_eq!(counts, [("N".into(), 1499), ("S".into(), 1)], "a new column is filled, and counted");
    let long = Query::of::<After>().filter("length", Test::Equal, 9).limit(2000);
    assert_eq!(store.query(&long).await.unwrap().rows.len(), 1499);
    let clash = After { id: "new".to_owned(), ..expected.clone() };
    refused(store.commit(change().insert(&clash).unwrap()).await, "unique", "new");
    let fresh = After { id: "new".to_owned(), title: "OTHER".to_owned(), ..expected };
    store.commit(change().insert(&fresh).unwrap()).await.unwrap();
}

pub(super) async fn newer_table<F, Fut>(open: &F)
where
    F: Fn(&'static str) -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    let store = open("newer").await;
    store.open(&[After::KIND]).await.unwrap();
    let record = After { id: "a".to_owned(), title: "A".to_owned(), length: 1, initial: "A".to_owned() };
    insert(&*store, std::slice::from_ref(&record)).await;
    drop(store);

    let store = open("newer").await;
    // The kind that could be opened comes first, and must not be there either.
    let outcome: Result<()> = store.open(&[Item::KIND, Before::KIND]).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    for part in [Before::KIND.table, "3", "1"] {
        assert!(error.message().contains(part), "{error:?} names {part}");
    }
    assert!(store.get(Item::KIND, &["a"]).await.is_err(), "nothing was opened");
    let kinds: [&'static Kind; 1] = [After::KIND];
    store.open(&kinds).await.unwrap();
    assert_eq!(*store.find_by::<After>("title", "A".into()).await.unwrap().unwrap(), record);
}
