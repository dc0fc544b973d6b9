//! Queries: tests, orders, cursors, counts.

use super::{Item, change, event, insert, invalid, item};
use crate::{
    records::AuditEvent,
    store::{
        Change, ColumnValue, Cursor,
        Direction::{Ascending, Descending},
        Query, Record, Select, Store, StoreExt, Test,
    },
};

const NULL: Option<i64> = None;

pub(super) async fn tests(store: &dyn Store) {
    insert(
        store,
        &[
            Item::new("a").size(1).status("x"),
            Item::new("b").size(2).status("X"),
            Item::new("c").size(3).status("é"),
            Item::new("d"),
        ],
    )
    .await;
    let cases: &[(&str, Test, ColumnValue, &str)] = &[
        ("size", Test::Equal, 2.into(), "b"),
        ("size", Test::Equal, NULL.into(), "d"),
        ("size", Test::NotEqual, 2.into(), "acd"),
        ("size", Test::NotEqual, NULL.into(), "abc"),
        ("size", Test::Less, 2.into(), "a"),
        ("size", Test::AtMost, 2.into(), "ab"),
        ("size", Test::Greater, 2.into(), "c"),
        ("size", Test::AtLeast, 2.into(), "bc"),
        ("size", Test::Less, NULL.into(), ""),
        ("size", Test::AtMost, NULL.into(), ""),
        ("size", Test::Greater, NULL.into(), ""),
        ("size", Test::AtLeast, NULL.into(), ""),
        ("size", Test::AtLeast, i64::MIN.into(), "abc"),
        ("status", Test::Equal, "x".into(), "a"),
        ("status", Test::Greater, "X".into(), "ac"),
        ("status", Test::Less, "x".into(), "b"),
        ("id", Test::Equal, "c".into(), "c"),
        ("id", Test::NotEqual, "c".into(), "abd"),
        ("id", Test::AtLeast, "c".into(), "cd"),
        ("id", Test::Less, "b".into(), "a"),
    ];
    for (column, test, value, expected) in cases {
        let query = Query::of::<Item>().filter(column, *test, value.clone()).select(Select::Ids);
        let ids: String = store.query(&query).await.unwrap().ids.iter().map(|id| &**id).collect();
        assert_eq!(ids, *expected, "{column} {test:?} {value:?}");
        let rows = store.query(&query.select(Select::Rows)).await.unwrap().rows;
        assert_eq!(rows.iter().map(|row| &*row.id).collect::<String>(), *expected);
    }
    let both = Query::of::<Item>().filter("size", Test::Greater, 1).filter("status", Test::NotEqual, "é");
    assert_eq!(ids_of(store, both).await, "b", "all conditions must hold");
    let range = Query::of::<Item>().filter("size", Test::Greater, 1).filter("size", Test::Less, 3);
    assert_eq!(ids_of(store, range).await, "b");
}

pub(super) async fn orders(store: &dyn Store) {
    // Ties and nulls, inserted in no order.
    for (id, size) in
        [("f", Some(2)), ("b", None), ("e", Some(1)), ("a", Some(2)), ("d", None), ("c", Some(-5))]
    {
        insert(store, &[Item { size, ..Item::new(id) }]).await;
    }
    assert_eq!(ids_of(store, Query::of::<Item>()).await, "abcdef", "without an order, by id");
    assert_eq!(ids_of(store, Query::of::<Item>().order("size", Ascending)).await, "bdceaf", "null first");
    assert_eq!(ids_of(store, Query::of::<Item>().order("size", Descending)).await, "faecdb", "the reverse");
    assert_eq!(ids_of(store, Query::of::<Item>().order("id", Descending)).await, "fedcba");
    assert_eq!(
        ids_of(store, Query::of::<Item>().order("status", Ascending)).await,
        "abcdef",
        "ties go by id"
    );
    let known = Query::of::<Item>().filter("size", Test::NotEqual, NULL).order("size", Descending);
    assert_eq!(ids_of(store, known).await, "faec");
    let unknown = Query::of::<Item>().filter("size", Test::Equal, NULL).order("size", Descending);
    assert_eq!(ids_of(store, unknown).await, "db");
}

pub(super) async fn cursors(store: &dyn Store) {
    let id = |n: usize| format!("i{:03}", n * 37 % 100);
    let records: Vec<Item> = (0..100)
        .map(|n| {
            let size = if n % 5 == 0 { None } else { Some(i64::try_from(n / 10).unwrap()) };
            Item { size, ..Item::new(&id(n)) }.status(if n % 2 == 0 { "even" } else { "odd" })
        })
        .collect();
    insert(store, &records).await;
    for order in [None, Some(("size", Ascending)), Some(("size", Descending)), Some(("id", Descending))] {
        for limit in [1, 7, 10, 99, 100, 101] {
            for filter in [false, true] {
                let mut query = Query { order, ..Query::of::<Item>() };
                let expected = if filter { 50 } else { 100 };
                if filter {
                    query = query.filter("status", Test::Equal, "odd");
                }
                let whole = store.query(&query.clone().limit(1000).select(Select::Ids)).await.unwrap();
                assert_eq!((whole.ids.len(), whole.next), (expected, None));
                let walked = walk(store, query, limit).await;
                assert_eq!(walked, whole.ids, "{order:?} by {limit} walks everything once, in order");
            }
        }
    }

    // Rows that come and go while somebody walks neither repeat nor hide the others.
    for direction in [Ascending, Descending] {
        let query = Query::of::<Item>().order("size", direction).limit(10).select(Select::Ids);
        let before = walk(store, query.clone(), 10).await;
        let first = store.query(&query).await.unwrap();
        let mut walked = first.ids.clone();
        let gone = item(store, &first.ids[9]).await;
        let new = Item::new(&format!("new-{direction:?}")).size(5);
        store.commit(change().delete(&gone).insert(&new).unwrap()).await.unwrap();
        let mut after = first.next;
        while let Some(cursor) = after {
            let page = store.query(&query.clone().after(Some(cursor))).await.unwrap();
            walked.extend(page.ids);
            after = page.next;
        }
        walked.retain(|id| **id != *new.id);
        assert_eq!(walked, before);
    }
}

pub(super) async fn counts(store: &dyn Store) {
    let counts = async |query: Query, column: &'static str| {
        store.query(&query.select(Select::CountBy(column))).await.unwrap().counts
    };
    assert!(counts(Query::of::<Item>(), "status").await.is_empty());
    insert(
        store,
        &[
            Item::new("a").status("x").size(1),
            Item::new("b").status("x").size(2),
            Item::new("c").status("y").size(2),
            Item::new("d").size(2),
        ],
    )
    .await;
    let none = ColumnValue::Null;
    let by_status = [(none.clone(), 1), ("x".into(), 2), ("y".into(), 1)];
    assert_eq!(counts(Query::of::<Item>(), "status").await, by_status, "by value, null first");
    let small = Query::of::<Item>().limit(1).order("size", Ascending);
    assert_eq!(counts(small, "status").await, by_status, "order and limit do not count");
    assert_eq!(counts(Query::of::<Item>(), "size").await, [(1.into(), 1), (2.into(), 3)], "of any column");
    let twos = Query::of::<Item>().filter("size", Test::Equal, 2);
    assert_eq!(counts(twos, "status").await, [(none.clone(), 1), ("x".into(), 1), ("y".into(), 1)]);
    let x = Query::of::<Item>().filter("status", Test::Equal, "x");
    assert_eq!(counts(x, "status").await, [("x".into(), 2)]);
    let nobody = Query::of::<Item>().filter("size", Test::Greater, 9);
    assert!(counts(nobody, "status").await.is_empty());

    let (mut edited, deleted) = (item(store, "a").await, item(store, "c").await);
    edited.status = None;
    store.commit(change().update(&edited).unwrap().delete(&deleted)).await.unwrap();
    assert_eq!(counts(Query::of::<Item>(), "status").await, [(none, 2), ("x".into(), 1)], "kept up to date");
}

pub(super) async fn nonsense(store: &dyn Store) {
    let query = || Query::of::<Item>();
    invalid(store.query(&query().filter("nope", Test::Equal, 1)).await, "/filter/0");
    invalid(
        store.query(&query().filter("id", Test::Less, "z").filter("size", Test::Equal, "1")).await,
        "/filter/1",
    );
    invalid(store.query(&query().order("nope", Ascending)).await, "/order");
    invalid(store.query(&query().select(Select::CountBy("nope"))).await, "/select");
    invalid(store.query(&query().limit(0)).await, "/limit");
    let cursor = |value: ColumnValue| Some(Cursor { value, id: "a".into() });
    invalid(store.query(&query().after(cursor(1.into()))).await, "/after");
    invalid(store.query(&query().order("size", Ascending).after(cursor("1".into()))).await, "/after");
    let sql = "size\" = 1; DROP TABLE suite_items; --";
    invalid(store.query(&query().order(sql, Ascending)).await, "/order");
    let all = store.query(&query().filter("nope", Test::Equal, 1).order("nope", Ascending).limit(0)).await;
    assert_eq!(all.unwrap_err().violations().len(), 3, "everything that is wrong is said at once");
}

pub(super) async fn typed_calls(store: &dyn Store) {
    let events: Vec<AuditEvent> = (0..5).map(|_| event()).collect();
    let all = events.iter().fold(Change::new(event()), |change, e| change.event(e.clone()));
    store.commit(all).await.unwrap();
    let read = store.read(&events[2].id).await.unwrap();
    assert_eq!(*read, events[2]);
    assert_eq!(store.list_by::<AuditEvent>("resource", "none".into()).await.unwrap().len(), 6);
    let (page, next) = store.list::<AuditEvent>(Query::of::<AuditEvent>().limit(4)).await.unwrap();
    assert_eq!(page.len(), 4);
    let (rest, end) = store.list::<AuditEvent>(Query::of::<AuditEvent>().limit(4).after(next)).await.unwrap();
    assert_eq!((rest.len(), end), (2, None));
    let nobody = crate::Id::<AuditEvent>::with_suffix("nobody");
    assert_eq!(store.read(&nobody).await.unwrap_err().kind(), crate::ErrorKind::NotFound);
    assert_eq!(store.get(Item::KIND, &["nobody"]).await.unwrap(), []);
}

async fn ids_of(store: &dyn Store, query: Query) -> String {
    let page = store.query(&query.select(Select::Ids)).await.unwrap();
    assert!(page.rows.is_empty() && page.counts.is_empty());
    page.ids.iter().map(|id| &**id).collect()
}

async fn walk(store: &dyn Store, query: Query, limit: usize) -> Vec<Box<str>> {
    let mut query = query.limit(limit).select(Select::Ids);
    let mut ids = Vec::new();
    loop {
        let page = store.query(&query).await.unwrap();
        assert!(page.ids.len() <= limit);
        ids.extend(page.ids);
        // A cursor travels as JSON.
        let Some(next) = page.next else { return ids };
        query.after = serde_json::from_value(serde_json::to_value(next).unwrap()).unwrap();
    }
}
