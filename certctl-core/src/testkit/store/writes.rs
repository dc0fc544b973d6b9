//! Commits: expectations, unique sets, all or nothing, audit events.

use std::sync::Arc;

use super::{Item, change, event, insert, item, refused, rows_of};
use crate::{
    records::AuditEvent,
    store::{Change, Query, Record, Store, StoreExt, Stored},
};

pub(super) async fn insert_and_read(store: &dyn Store) {
    let odd = "ünïcode \u{1F512} \u{0} ' \" \\ \n";
    let first = Item::new("a").name(odd).status("new").shelf(Some("s"), Some(i64::MIN)).size(i64::MAX);
    let versions =
        store.commit(change().insert(&first).unwrap().insert(&Item::new("b")).unwrap()).await.unwrap();
    assert_eq!(versions[..2], [1, 1], "new rows have version 1");

    let read = item(store, "a").await;
    assert_eq!(*read, first);
    assert_eq!(read.version(), 1);
    let rows = store.get(Item::KIND, &["b", "nobody", "a", "b"]).await.unwrap();
    let ids: Vec<&str> = rows.iter().map(|row| &*row.id).collect();
    assert_eq!(ids, ["b", "a", "b"], "rows come in the order asked, without those that do not exist");
    assert_eq!(rows[0].body_version, Item::KIND.version);
    assert!(store.get(Item::KIND, &[]).await.unwrap().is_empty());

    let mut read = item(store, "a").await;
    read.size = None;
    assert_eq!(store.commit(change().update(&read).unwrap()).await.unwrap()[0], 2, "each write counts");
    assert_eq!(item(store, "a").await.size, None);
}

pub(super) async fn expectations(store: &dyn Store) {
    insert(store, &[Item::new("a").size(1)]).await;
    let read = item(store, "a").await;
    refused(store.commit(change().insert(&Item::new("a")).unwrap()).await, "exists", "a");

    let mut ours = read.clone();
    ours.size = Some(2);
    store.commit(change().update(&ours).unwrap()).await.unwrap();
    let mut theirs = read.clone();
    theirs.size = Some(3);
    refused(store.commit(change().update(&theirs).unwrap()).await, "version", "a");
    refused(store.commit(change().delete(&theirs)).await, "version", "a");
    assert_eq!(item(store, "a").await.size, Some(2), "the refused edit left nothing");

    let current = item(store, "a").await;
    store.commit(change().delete(&current)).await.unwrap();
    refused(store.commit(change().update(&current).unwrap()).await, "missing", "a");
    refused(store.commit(change().delete(&current)).await, "missing", "a");

    // Within one change, a later write sees the earlier one.
    let twice = change().insert(&Item::new("b")).unwrap().insert(&Item::new("b")).unwrap();
    refused(store.commit(twice).await, "exists", "b");
    let mut written = Stored::<Item>::read(&inserted_row("b")).unwrap();
    written.size = Some(7);
    let both = change().insert(&Item::new("b")).unwrap().update(&written).unwrap();
    assert_eq!(store.commit(both).await.unwrap()[..2], [1, 2]);
    assert_eq!(item(store, "b").await.size, Some(7));
}

pub(super) async fn unique_sets(store: &dyn Store) {
    let named = |id: &str| Item::new(id).name("x");
    insert(store, &[named("a")]).await;
    refused(store.commit(change().insert(&named("b")).unwrap()).await, "unique", "b");
    assert!(store.get(Item::KIND, &["b"]).await.unwrap().is_empty());
    // The id is looked at first.
    refused(store.commit(change().insert(&named("a")).unwrap()).await, "exists", "a");

    // Nulls do not count, whole or in part.
    insert(store, &[Item::new("n1"), Item::new("n2")]).await;
    let half = |id: &str| Item::new(id).shelf(Some("s"), None);
    insert(
        store,
        &[half("h1"), half("h2"), Item::new("h3").shelf(None, Some(1)), Item::new("h4").shelf(None, Some(1))],
    )
    .await;
    let whole = |id: &str, slot| Item::new(id).shelf(Some("s"), Some(slot));
    insert(store, &[whole("w1", 1), whole("w2", 2)]).await;
    refused(store.commit(change().insert(&whole("w3", 2)).unwrap()).await, "unique", "w3");
    let mut moved = item(store, "w1").await;
    moved.slot = Some(2);
    refused(store.commit(change().update(&moved).unwrap()).await, "unique", "w1");
    let mut filled = item(store, "h1").await;
    filled.slot = Some(1);
    refused(store.commit(change().update(&filled).unwrap()).await, "unique", "h1");

    // A row keeps what it has.
    let mut same = item(store, "a").await;
    same.size = Some(1);
    store.commit(change().update(&same).unwrap()).await.unwrap();

    // One change frees the name and takes it, by an edit and by a deletion.
    let mut freed = item(store, "a").await;
    freed.name = Some("y".to_owned());
    store.commit(change().update(&freed).unwrap().insert(&named("b")).unwrap()).await.unwrap();
    assert_eq!(store.find_by::<Item>("name", "x".into()).await.unwrap().unwrap().id, "b");
    let deleted = item(store, "b").await;
    store.commit(change().delete(&deleted).insert(&named("c")).unwrap()).await.unwrap();
    assert_eq!(store.find_by::<Item>("name", "x".into()).await.unwrap().unwrap().id, "c");

    // What a refused change took is free again.
    let both = change().insert(&Item::new("d").name("z")).unwrap().insert(&named("e")).unwrap();
    refused(store.commit(both).await, "unique", "e");
    insert(store, &[Item::new("f").name("z")]).await;
}

pub(super) async fn all_or_nothing(store: &dyn Store) {
    insert(store, &[Item::new("a").name("a").status("old"), Item::new("b"), Item::new("taken").name("t")])
        .await;
    let before = rows_of(store, Item::KIND).await;
    let mut edited = item(store, "a").await;
    edited.status = Some("new".to_owned());
    edited.name = None;
    let deleted = item(store, "b").await;
    let many = |last: &Item| {
        let all =
            change().update(&edited).unwrap().delete(&deleted).insert(&Item::new("c").name("a")).unwrap();
        all.insert(last).unwrap()
    };
    refused(store.commit(many(&Item::new("d").name("t"))).await, "unique", "d");
    refused(store.commit(many(&Item::new("taken"))).await, "exists", "taken");
    assert_eq!(rows_of(store, Item::KIND).await, before);
    assert_eq!(item(store, "a").await.status.as_deref(), Some("old"));
    assert_eq!(item(store, "a").await.version(), 1);
    assert_eq!(item(store, "b").await.version(), 1);
    assert!(store.get(Item::KIND, &["c", "d"]).await.unwrap().is_empty());
    let counts =
        store.query(&Query::of::<Item>().select(crate::store::Select::CountBy("status"))).await.unwrap();
    assert_eq!(counts.counts, [(None::<&str>.into(), 2), ("old".into(), 1)], "counts are undone as well");

    store.commit(many(&Item::new("d").name("d"))).await.unwrap();
    assert_eq!(rows_of(store, Item::KIND).await, before + 1);
}

pub(super) async fn deletion(store: &dyn Store) {
    insert(store, &[Item::new("a").name("n").status("s").size(1), Item::new("b").size(1)]).await;
    let read = item(store, "a").await;
    let versions = store.commit(change().delete(&read)).await.unwrap();
    assert_eq!(versions[0], 0, "a deletion has no version");
    assert!(store.get(Item::KIND, &["a"]).await.unwrap().is_empty());
    let by_size = Query::of::<Item>().filter("size", crate::store::Test::Equal, 1);
    assert_eq!(store.query(&by_size).await.unwrap().rows.len(), 1);
    insert(store, &[Item::new("a").name("n")]).await;
    assert_eq!(item(store, "a").await.version(), 1, "a row begins anew");
}

pub(super) async fn audit_events(store: &dyn Store) {
    let event = event().with("fact", "value");
    let id = event.id.clone();
    store.commit(Change::new(event.clone()).insert(&Item::new("a")).unwrap()).await.unwrap();
    assert_eq!(*store.read(&id).await.unwrap(), event);

    let refused_event = super::event();
    let id = refused_event.id.clone();
    refused(store.commit(Change::new(refused_event).insert(&Item::new("a")).unwrap()).await, "exists", "a");
    assert!(store.find(&id).await.unwrap().is_none(), "a change that did not happen is not explained");

    // An event alone is a change, and a change may have several.
    let (first, second) = (super::event(), super::event());
    let ids = [second.id.clone(), first.id.clone()];
    store.commit(Change::new(first.clone()).event(second.clone())).await.unwrap();
    let read: Vec<AuditEvent> =
        store.read_all(&ids).await.unwrap().into_iter().map(Stored::into_inner).collect();
    assert_eq!(read, [second, first.clone()]);
    refused(store.commit(Change::new(first)).await, "exists", ids[1].as_str());
}

/// Of many who count in one row at the same time, each success is in the sum.
pub(super) async fn concurrent_edits(store: &Arc<dyn Store>) {
    insert(&**store, &[Item::new("sum").size(0)]).await;
    let tasks = (0..8).map(|_| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let mut read = item(&*store, "sum").await;
                read.size = read.size.map(|n| n + 1);
                match store.commit(change().update(&read).unwrap()).await {
                    Ok(_) => done += 1,
                    Err(error) => refused(Err::<(), _>(error), "version", "sum"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let read = item(&**store, "sum").await;
    assert_eq!((read.size, read.version()), (Some(80), 81));
}

/// What [`Store::get`] would give for a new item.
fn inserted_row(id: &str) -> crate::store::Row {
    let body = serde_json::to_string(&Item::new(id)).unwrap();
    crate::store::Row { id: id.into(), version: 1, body_version: Item::KIND.version, body }
}
