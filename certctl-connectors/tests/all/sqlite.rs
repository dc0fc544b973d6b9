//! The SQLite store: the suite, and what only a store on disk can get wrong.
// Children and their environment are what these tests are about.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use certctl_connectors::stores::SqliteStore;
use certctl_core::{
    Actor, ErrorKind, Id, Result, Timestamp,
    records::AuditEvent,
    store::{Change, Kind, LeaseRequest, LeaseUse, LeaseWhat, Query, Record, Select, Store, Stored, Test},
    testkit::{
        self,
        store::{Item, Task},
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const KINDS: [&Kind; 2] = [Item::KIND, Task::KIND];
/// Tells a child process which database is meant.
const DATABASE: &str = "CERTCTL_TEST_DATABASE";

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_store_conforms() {
    let directory = tempfile::tempdir().unwrap();
    testkit::store::conformance(|name| {
        let path = directory.path().join(format!("{name}.db"));
        async move { Arc::new(SqliteStore::open(path).await.unwrap()) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/deep/certs.db");
    let store = opened(&path).await;
    let _seat = store.seat().await.unwrap();
    store.commit(insert(&[task("t")])).await.unwrap();
    assert_eq!(store.directory(), path.parent());
    for below in ["new", "new/deep"] {
        let mode = directory.path().join(below).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "{below}");
    }
    let files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(Result::unwrap).collect();
    assert!(files.len() >= 3, "the database, its log and a seat: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().mode() & 0o077, 0, "{file:?}");
    }
    drop(store);
    assert!(!path.with_extension("db-wal").exists(), "the last handle closes the file");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    std::fs::write(
        &path,
        "this is text, and long enough to be looked at as the header of a database".repeat(9),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("not a SQLite database"), "{error:?}");
    assert_eq!(error.context_value("file"), path.to_str());
    assert_eq!(std::fs::read(&path).unwrap(), before, "nothing was written to it");
}

#[tokio::test]
async fn a_damaged_database_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    let store = opened(&path).await;
    let tasks: Vec<Task> = (0..2000).map(|n| task(&format!("t{n:05}"))).collect();
    store.commit(insert(&tasks)).await.unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();

    let outcome: Result<_> = async {
        let store = SqliteStore::open(&path).await?;
        Store::open(&store, &KINDS).await?;
        store.query(&Query::of::<Task>()).await
    }
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("damaged"), "{error:?}");
    assert_eq!(error.context_value("file"), path.to_str());
}

#[tokio::test]
async fn a_directory_that_cant_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    // A file in the way stops also who may write everywhere.
    let path = file.join("below/certs.db");
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains(path.to_str().unwrap()), "{error:?}");
    let error = SqliteStore::open(directory.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "a directory is no database: {error:?}");

    let locked = directory.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(locked.join("probe"), "").is_err() {
        let error = SqliteStore::open(locked.join("certs.db")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
        assert!(error.message().contains("can't be created"), "{error:?}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    drop(opened(&path).await);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("99"), "{error:?}");
}

/// One change of a group fails, the others that are committed with it do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_change_does_not_hurt_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    let store = Arc::new(opened(&path).await);
    // While somebody else writes, all of these queue up and become one group.
    let mut raw = rusqlite::Connection::open(&path).unwrap();
    let busy = raw.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let commits: Vec<_> = (0..40)
        .map(|n| {
            let store = Arc::clone(&store);
            // Every fourth is the second with its id.
            let id = if n % 4 == 3 { n - 1 } else { n };
            tokio::spawn(async move { (n, store.commit(insert(&[task(&format!("t{id}"))])).await) })
        })
        .collect();
    tokio::task::yield_now().await;
    busy.rollback().unwrap();
    let mut failed = 0;
    for commit in commits {
        let (n, outcome) = commit.await.unwrap();
        if let Err(error) = outcome {
            assert!(n % 4 >= 2, "{n}: {error:?}");
            assert_eq!(error.context_value("reason"), Some("exists"));
            failed += 1;
        }
    }
    assert_eq!(failed, 10);
    let counts = store.query(&Query::of::<Task>().select(Select::CountBy("place"))).await.unwrap().counts;
    assert_eq!(counts, [("here".into(), 30)]);
    assert_eq!(counted(&*store).await, 30);
}

/// Two processes claim from one file; a third sees that each row was claimed once.
#[tokio::test]
async fn two_processes_claim_each_row_once() {
    const ROWS: usize = 2000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    let store = opened(&path).await;
    let tasks: Vec<Task> = (0..ROWS).map(|n| task(&format!("t{n:05}"))).collect();
    store.commit(insert(&tasks)).await.unwrap();

    let children: Vec<Child> = (0..2).map(|_| child("child_claims", &path)).collect();
    let mut claimed = HashSet::new();
    let mut seats = HashSet::new();
    let mut total = 0;
    for mut child in children {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(std::io::Result::ok);
        let mut lines = lines.skip_while(|line| !line.starts_with("seat "));
        seats.insert(lines.next().expect("the child has a seat"));
        for id in lines.filter_map(|line| line.strip_prefix("id ").map(str::to_owned)) {
            total += 1;
            assert!(claimed.insert(id.clone()), "{id} was claimed twice");
        }
        assert!(child.wait().unwrap().success());
    }
    assert_eq!((total, seats.len()), (ROWS, 2));
    // Both edited what they claimed, so that the kept counts had two writers.
    let counts = store.query(&Query::of::<Task>().select(Select::CountBy("place"))).await.unwrap().counts;
    assert_eq!(counts, [("done".into(), ROWS as u64)]);
    assert_eq!(counted(&store).await, ROWS);
}

/// The other process of [`two_processes_claim_each_row_once`]; nothing by itself.
#[tokio::test]
async fn child_claims() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = opened(Path::new(&path)).await;
    let seat = store.seat().await.unwrap();
    println!("\nseat {}", seat.name());
    loop {
        let leased = store.lease(&claim(seat.name(), 20)).await.unwrap();
        if leased.is_empty() {
            return;
        }
        for leased in leased {
            let mut task = Stored::<Task>::read(&leased.row).unwrap();
            task.place = "done".to_owned();
            task.due = None;
            let done = change().update(&task).unwrap().lease(&leased.lease, LeaseUse::Release);
            store.commit(done).await.unwrap();
            println!("id {}", leased.row.id);
        }
    }
}

/// A process that is killed while it writes has lost nothing that it was told is written, and its seat is free.
#[tokio::test]
async fn what_was_committed_outlives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    for acknowledged in [1, 25, 60] {
        let mut child = child("child_commits", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ids: Vec<String> = Vec::new();
        while ids.len() < acknowledged {
            let line = lines.next().expect("the child goes on for ever").unwrap();
            ids.extend(line.strip_prefix("id ").map(str::to_owned));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had still written down before it was killed.
        let rest = lines.map_while(std::io::Result::ok);
        ids.extend(
            rest.filter_map(|line| line.strip_prefix("id ").map(str::to_owned)).filter(|id| id.len() == 31),
        );

        let store = opened(&path).await;
        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(store.get(Item::KIND, &asked).await.unwrap().len(), ids.len());
        let events =
            store.query(&Query::of::<AuditEvent>().limit(100_000).select(Select::Ids)).await.unwrap().ids;
        let items = store.query(&Query::of::<Item>().limit(100_000).select(Select::Ids)).await.unwrap().ids;
        assert_eq!(events.len() * 2, items.len(), "each change has two items and one event, or is not there");
        let counts =
            store.query(&Query::of::<Item>().select(Select::CountBy("status"))).await.unwrap().counts;
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), items.len() as u64);
        let seat = store.seat().await.unwrap();
        assert!(seat.name().starts_with("0/"), "the dead process's seat: {seat:?}");
    }
}

/// The other process of [`what_was_committed_outlives_a_kill`]; nothing by itself.
#[tokio::test(flavor = "multi_thread")]
async fn child_commits() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = Arc::new(opened(Path::new(&path)).await);
    let _seat = store.seat().await.unwrap();
    println!();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(&store);
        workers.spawn(async move {
            loop {
                let ids = [0, 1].map(|_| id());
                let two = ids.iter().try_fold(change(), |change, id| change.insert(&item(id))).unwrap();
                if let Err(error) = store.commit(two).await {
                    return error;
                }
                println!("id {}\nid {}", ids[0], ids[1]);
            }
        });
    }
    panic!("none of them ends on its own: {:?}", workers.join_next().await);
}

/// A disk that takes no more fails the change that asks for it, and the store goes on.
#[tokio::test]
async fn a_full_disk_is_an_error_and_no_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    drop(opened(&path).await);
    // The limit on the size of a file stands for the disk: 2 MiB.
    let script = "ulimit -f 2048; trap '' XFSZ; exec \"$0\" --exact --nocapture sqlite::child_fills";
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh").args(["-c", script]).arg(this).env(DATABASE, &path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = said.lines().find_map(|line| line.strip_prefix("written ")).expect("it says what it wrote");
    let written: usize = line.parse().unwrap();
    let store = opened(&path).await;
    assert_eq!(counted(&store).await, written, "neither more nor less than was acknowledged");
}

/// The other process of [`a_full_disk_is_an_error_and_no_end`]; nothing by itself.
#[tokio::test]
async fn child_fills() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = opened(Path::new(&path)).await;
    let mut written = 0;
    let error = loop {
        let many: Vec<Task> = (0..100).map(|n| task(&format!("{written}-{n}-{}", "x".repeat(500)))).collect();
        match store.commit(insert(&many)).await {
            Ok(_) => written += many.len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("disk"), "{error:?}");
    assert_eq!(counted(&store).await, written, "it can still be read");
    let again = store.commit(insert(&[Task { place: "x".repeat(1 << 20), ..task("large") }])).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Unavailable, "and the writer is alive");
    println!("\nwritten {written}");
}

async fn opened(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path).await.unwrap();
    Store::open(&store, &KINDS).await.unwrap();
    store
}

fn child(test: &str, database: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("sqlite::{test}")])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn change() -> Change {
    Change::new(AuditEvent::new(NOW, &Actor::process(), "test.step", "none"))
}

fn insert(tasks: &[Task]) -> Change {
    tasks.iter().try_fold(change(), Change::insert).unwrap()
}

fn task(id: &str) -> Task {
    Task { id: id.to_owned(), due: Some(NOW.as_millis()), group: None, place: "here".to_owned(), edits: 0 }
}

fn item(id: &str) -> Item {
    let name = Some(id.to_owned());
    Item { id: id.to_owned(), name, status: Some("s".to_owned()), shelf: None, slot: None, size: None }
}

/// 31 characters, unlike any other.
fn id() -> String {
    let id = Id::<AuditEvent>::mint_at(NOW);
    format!("item-{}xxx", id.suffix())
}

fn claim(seat: &str, limit: usize) -> LeaseRequest {
    LeaseRequest {
        kind: Task::KIND,
        seat: seat.to_owned(),
        now: NOW,
        until: NOW + Duration::from_secs(60),
        what: LeaseWhat::Claim { filter: Vec::new(), limit },
    }
}

/// The number of tasks, counted one by one.
async fn counted(store: &dyn Store) -> usize {
    let query = Query::of::<Task>().filter("id", Test::NotEqual, "").limit(100_000).select(Select::Ids);
    store.query(&query).await.unwrap().ids.len()
}
