//! Leases: order, groups, fencing, expiry, seats, races.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Item, NOW, Task, at, change, insert, invalid, refused, task};
use crate::{
    Timestamp,
    store::{Filter, Lease, LeaseRequest, LeaseUse, LeaseWhat, Leased, Record, Seat, Store, Stored, Test},
};

pub(super) async fn claim_order(store: &dyn Store) {
    insert(
        store,
        &[
            Task::new("late", at(-1)),
            Task::new("b", at(-10)),
            Task::new("a", at(-10)),
            Task::new("now", NOW),
            Task::new("future", at(1)),
            Task::never("never"),
        ],
    )
    .await;
    assert_eq!(claim(store, "s1", NOW, 0).await, [""; 0]);
    assert_eq!(claim(store, "s1", NOW, 2).await, ["a", "b"], "earliest first, ties by id");
    assert_eq!(claim(store, "s1", NOW, 1).await, ["late"], "not what is held, by the same seat either");
    assert_eq!(claim(store, "s2", NOW, 10).await, ["now"], "not what is not due");
    assert_eq!(claim(store, "s2", at(1), 10).await, ["future"], "the time is the caller's");
    assert_eq!(claim(store, "s2", at(999), 10).await, [""; 0]);

    let leased = store.lease(&request("s1", at(2000), LeaseWhat::Extend(vec![]))).await.unwrap();
    assert!(leased.is_empty());
    let wrong = LeaseRequest { kind: Item::KIND, ..request("s1", NOW, anything(1)) };
    invalid(store.lease(&wrong).await, "/kind");
}

pub(super) async fn filters(store: &dyn Store) {
    insert(
        store,
        &[
            Task::new("a", at(-3)).place("here"),
            Task::new("b", at(-2)).place("there"),
            Task::new("c", at(-1)).place("there").group("g"),
            Task::new("d", at(-1)).place("here").group("g"),
        ],
    )
    .await;
    let at_place = |place: &str, test| LeaseWhat::Claim {
        filter: vec![Filter { column: "place", test, value: place.into() }],
        limit: 10,
    };
    invalid(store.lease(&request("s", NOW, at_place("there", Test::NotEqual))).await, "/filter/0");
    let got = store.lease(&request("s", NOW, at_place("there", Test::Equal))).await.unwrap();
    assert_eq!(ids(&got), ["b", "c"]);
    assert_eq!(*Stored::<Task>::read(&got[0].row).unwrap(), *task(store, "b").await, "with the row itself");
    assert_eq!(got[0].lease.until, at(1000));
    assert_eq!(got[0].lease.table, Task::KIND.table);
    let rest = store.lease(&request("s", NOW, at_place("here", Test::Equal))).await.unwrap();
    assert_eq!(ids(&rest), ["a"], "a group is exclusive, whatever its rows match");
}

pub(super) async fn groups(store: &dyn Store) {
    insert(
        store,
        &[
            Task::new("g1", at(-10)).group("g"),
            Task::new("h1", at(-9)).group("h"),
            Task::new("g2", at(-8)).group("g"),
            Task::new("x", at(-7)),
            Task::new("g3", at(-1)).group("g"),
            Task::new("g4", at(5)).group("g"),
        ],
    )
    .await;
    let mut first = store.lease(&request("s1", NOW, anything(1))).await.unwrap();
    first.sort_by(|a, b| a.row.id.cmp(&b.row.id));
    assert_eq!(
        ids(&first),
        ["g1", "g2", "g3"],
        "a group comes together, beyond the limit, but only what is due"
    );

    // Neither another seat nor the same one gets what joins a group that is held.
    assert_eq!(claim(store, "s2", at(10), 10).await, ["h1", "x"]);
    assert_eq!(claim(store, "s1", at(10), 10).await, [""; 0]);
    insert(store, &[Task::new("g0", at(-20)).group("g")]).await;
    assert_eq!(claim(store, "s2", at(10), 10).await, [""; 0]);

    // The last release frees the group.
    for leased in &first[..2] {
        store.commit(change().lease(&leased.lease, LeaseUse::Release)).await.unwrap();
        assert_eq!(claim(store, "s2", at(10), 10).await, [""; 0]);
    }
    store.commit(change().lease(&first[2].lease, LeaseUse::Release)).await.unwrap();
    let second = store.lease(&request("s2", at(10), anything(1))).await.unwrap();
    assert_eq!(sorted(&second), ["g0", "g1", "g2", "g3", "g4"]);

    // A group that expired is taken as a whole, and the one before has lost every part of it, also what is not due.
    let mut parked = task(store, "g4").await;
    parked.due = None;
    let by_id = |id: &str| second.iter().find(|l| &*l.row.id == id).unwrap().lease.clone();
    let keep = change().update(&parked).unwrap().lease(&by_id("g4"), LeaseUse::Keep);
    store.commit(keep).await.unwrap();
    let third = store.lease(&request("s3", at(1010), anything(1))).await.unwrap();
    assert_eq!(sorted(&third), ["g0", "g1", "g2", "g3"]);
    for id in ["g0", "g4"] {
        refused(store.commit(change().lease(&by_id(id), LeaseUse::Keep)).await, "lease", id);
    }
}

pub(super) async fn fencing(store: &dyn Store) {
    insert(store, &[Task::new("a", at(-2)), Task::new("b", at(-1))]).await;
    let first = store.lease(&request("s1", NOW, anything(2))).await.unwrap();
    let (a, b) = (&first[0].lease, &first[1].lease);

    // It expires at its end, and is held until somebody else takes the row.
    assert_eq!(claim(store, "s2", at(999), 10).await, [""; 0]);
    store.commit(change().lease(a, LeaseUse::Keep)).await.unwrap();
    let second = store.lease(&request("s2", at(1000), anything(1))).await.unwrap();
    assert_eq!(ids(&second), ["a"]);
    assert!(second[0].lease.token > a.token, "each claim has a greater token");

    let mut edited = task(store, "a").await;
    edited.edits = 1;
    for then in [LeaseUse::Keep, LeaseUse::Release] {
        let late = change().update(&edited).unwrap().lease(a, then);
        refused(store.commit(late).await, "lease", "a");
    }
    assert_eq!(task(store, "a").await.edits, 0, "who lost the lease writes nothing");
    store.commit(change().update(&edited).unwrap().lease(&second[0].lease, LeaseUse::Keep)).await.unwrap();
    assert_eq!(task(store, "a").await.edits, 1);

    // Extending gives what is still held, with the row as it is now.
    let extend = LeaseWhat::Extend(vec![a.clone(), b.clone()]);
    let extended = store.lease(&request("s1", at(1500), extend)).await.unwrap();
    assert_eq!(ids(&extended), ["b"]);
    assert_eq!((extended[0].lease.until, extended[0].lease.token), (at(2500), b.token));
    let foreign = LeaseWhat::Extend(vec![b.clone()]);
    assert!(store.lease(&request("s2", at(1500), foreign)).await.unwrap().is_empty(), "it is another seat's");
    assert_eq!(claim(store, "s3", at(2000), 10).await, ["a"]);
    assert_eq!(claim(store, "s3", at(2499), 10).await, [""; 0]);

    // Released is free at once, and not held any more.
    store.commit(change().lease(b, LeaseUse::Release)).await.unwrap();
    refused(store.commit(change().lease(b, LeaseUse::Release)).await, "lease", "b");
    let again = LeaseWhat::Extend(vec![b.clone()]);
    assert!(store.lease(&request("s1", at(2499), again)).await.unwrap().is_empty());
    assert_eq!(claim(store, "s3", at(2499), 10).await, ["b"]);

    // Given back is free at once, for its own seat too; a stranger gives nothing back.
    insert(store, &[Task::new("d", at(-1))]).await;
    let d = store.lease(&request("s1", at(2499), anything(1))).await.unwrap().remove(0).lease;
    store.lease(&request("s2", at(2499), LeaseWhat::Release(vec![d.clone()]))).await.unwrap();
    assert_eq!(claim(store, "s2", at(2499), 10).await, [""; 0]);
    let none = store.lease(&request("s1", at(2499), LeaseWhat::Release(vec![d.clone()]))).await.unwrap();
    assert!(none.is_empty());
    assert_eq!(claim(store, "s1", at(2499), 10).await, ["d"]);
    refused(store.commit(change().lease(&d, LeaseUse::Keep)).await, "lease", "d");

    // A change that fails for another reason releases nothing; a deleted row has no lease.
    insert(store, &[Task::new("c", at(-1))]).await;
    let c = store.lease(&request("s1", NOW, anything(1))).await.unwrap().remove(0).lease;
    let clash = change().insert(&Task::new("c", NOW)).unwrap().lease(&c, LeaseUse::Release);
    refused(store.commit(clash).await, "exists", "c");
    let deleted = task(store, "c").await;
    store.commit(change().delete(&deleted).lease(&c, LeaseUse::Release)).await.unwrap();
    refused(store.commit(change().lease(&c, LeaseUse::Keep)).await, "lease", "c");
}

pub(super) async fn edits_beside_leases(store: &dyn Store) {
    insert(store, &[Task::new("a", at(-1))]).await;
    let mut edited = task(store, "a").await;
    let lease = store.lease(&request("s", NOW, anything(1))).await.unwrap().remove(0);
    assert_eq!(lease.row.version, 1, "a lease is no edit");
    edited.edits = 1;
    let versions = store.commit(change().update(&edited).unwrap()).await.unwrap();
    assert_eq!(versions[0], 2, "the edit was not in its way");

    // And the edit left the lease alone.
    assert_eq!(claim(store, "s", at(1), 10).await, [""; 0]);
    let extended = store.lease(&request("s", at(1), LeaseWhat::Extend(vec![lease.lease]))).await.unwrap();
    assert_eq!(extended[0].row.version, 2);
    let mut edited = Stored::<Task>::read(&extended[0].row).unwrap();
    edited.due = Some(at(50).as_millis());
    let done = change().update(&edited).unwrap().lease(&extended[0].lease, LeaseUse::Release);
    store.commit(done).await.unwrap();
    assert_eq!(claim(store, "s", at(49), 10).await, [""; 0], "it is due as the edit says");
    assert_eq!(claim(store, "s", at(50), 10).await, ["a"]);
}

/// Whoever sits down on a seat gets at once what its former occupant had; nobody else does, and nobody gets what they
/// hold themselves.
pub(super) async fn take_back(store: &dyn Store) {
    insert(
        store,
        &[
            Task::new("a", at(-3)),
            Task::new("b", at(-2)).group("g"),
            Task::new("c", at(-2)).group("g"),
            Task::new("d", at(-1)),
        ],
    )
    .await;
    let dead = store.lease(&request("1/dead", NOW, anything(3))).await.unwrap();
    assert_eq!(ids(&dead), ["a", "b", "c"]);
    assert_eq!(claim(store, "2/other", NOW, 10).await, ["d"]);
    assert_eq!(claim(store, "11/alive", at(1), 10).await, [""; 0], "seat 11 is not seat 1");
    store.commit(change().lease(&dead[0].lease, LeaseUse::Keep)).await.unwrap();

    let back = store.lease(&request("1/alive", at(1), anything(2))).await.unwrap();
    assert_eq!(ids(&back), ["a", "b", "c"], "groups as well, and d is another seat's");
    for leased in &dead {
        let late = change().lease(&leased.lease, LeaseUse::Keep);
        refused(store.commit(late).await, "lease", &leased.lease.id);
    }
    let late = LeaseWhat::Extend(dead.into_iter().map(|leased| leased.lease).collect());
    assert!(store.lease(&request("1/dead", at(1), late)).await.unwrap().is_empty());

    // Its own leases are held for it also when they are over, in groups too; for others they are over.
    insert(store, &[Task::new("e", at(-1)).group("g")]).await;
    assert_eq!(claim(store, "1/alive", at(5000), 10).await, ["d"]);
    assert_eq!(claim(store, "2/other", at(5000), 10).await, ["a", "b", "c", "e"]);
}

pub(super) async fn seats(one: &dyn Store, other: &dyn Store) {
    let first = one.seat().await.unwrap();
    let second = other.seat().await.unwrap();
    let third = one.seat().await.unwrap();
    let number = |seat: &Seat| seat.name().split_once('/').unwrap().0.to_owned();
    let numbers = [number(&first), number(&second), number(&third)];
    assert_eq!(HashSet::from(numbers.clone()).len(), 3, "{numbers:?}");
    let before = second.name().to_owned();
    drop(second);
    let again = one.seat().await.unwrap();
    assert_eq!(number(&again), numbers[1], "a seat that is free is taken again");
    assert_ne!(again.name(), before, "by another occupant");
}

/// Many tasks at two handles and four seats: each row is leased once.
pub(super) async fn concurrent_claims(one: Arc<dyn Store>, other: Arc<dyn Store>) {
    const ROWS: usize = 400;
    let records: Vec<Task> = (0..ROWS)
        .map(|n| {
            let task = Task::new(&format!("t{n:04}"), at(-i64::try_from(n % 50).unwrap()));
            if n % 4 == 0 { task.group(&format!("g{}", n % 20)) } else { task }
        })
        .collect();
    insert(&*one, &records).await;
    let seats: Vec<_> = (0..16)
        .map(|n| {
            let store = if n % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&other) };
            tokio::spawn(async move {
                let seat = format!("s{}", n % 4);
                let mut got = Vec::new();
                loop {
                    let leased = store.lease(&request(&seat, NOW, anything(7))).await.unwrap();
                    if leased.is_empty() {
                        return got;
                    }
                    got.extend(leased.into_iter().map(|l| (seat.clone(), l)));
                }
            })
        })
        .collect();
    let mut owners: HashMap<Box<str>, String> = HashMap::new();
    let mut groups: HashMap<String, String> = HashMap::new();
    for task in seats {
        for (seat, leased) in task.await.unwrap() {
            assert_eq!(leased.lease.token, 1);
            if let Some(group) = Stored::<Task>::read(&leased.row).unwrap().group.clone() {
                assert_eq!(
                    *groups.entry(group).or_insert_with(|| seat.clone()),
                    seat,
                    "a group has one seat"
                );
            }
            assert!(owners.insert(leased.row.id, seat).is_none(), "each row is leased once");
        }
    }
    assert_eq!(owners.len(), ROWS);
}

fn request(seat: &str, now: Timestamp, what: LeaseWhat) -> LeaseRequest {
    LeaseRequest {
        kind: Task::KIND,
        seat: seat.to_owned(),
        now,
        until: now + std::time::Duration::from_millis(1000),
        what,
    }
}

fn anything(limit: usize) -> LeaseWhat {
    LeaseWhat::Claim { filter: Vec::new(), limit }
}

async fn claim(store: &dyn Store, seat: &str, now: Timestamp, limit: usize) -> Vec<String> {
    ids(&store.lease(&request(seat, now, anything(limit))).await.unwrap())
}

fn ids(leased: &[Leased]) -> Vec<String> {
    for Leased { lease: Lease { id, .. }, row } in leased {
        assert_eq!(*id, row.id);
    }
    leased.iter().map(|leased| leased.row.id.to_string()).collect()
}

fn sorted(leased: &[Leased]) -> Vec<String> {
    let mut ids = ids(leased);
    ids.sort_unstable();
    ids
}
