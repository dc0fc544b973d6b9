//! How fast the SQLite store is with a million certificates.
//!
//! `cargo bench --bench store [rows]`, or with the number in `CERTCTL_BENCH_ROWS`; 1,000,000 without either. Each line
//! gives the best and the median of several runs, and the goal that the median is held against.
// A bench reads the clock and its arguments, prints, and gives up at the first error.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use certctl_connectors::stores::SqliteStore;
use certctl_core::{
    Actor, Result, Timestamp,
    records::AuditEvent,
    store::{
        Change, Column, ColumnValue, Direction, Kind, LeaseRequest, LeaseWhat, Leasing, Query, Record,
        Select, Store, StoreExt, Stored, Test, columns_of,
    },
};
use serde::{Deserialize, Serialize};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const DAY: i64 = 86_400_000;

#[tokio::main]
async fn main() -> Result<()> {
    let rows = rows();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    let store = SqliteStore::open(&path).await?;
    Store::open(&store, &[Certificate::KIND, Job::KIND]).await?;

    let begin = Instant::now();
    fill(&store, rows).await?;
    let size = path.metadata().unwrap().len() / 1_000_000;
    println!("{rows} certificates written in {:.1} s, {size} MB\n", begin.elapsed().as_secs_f64());

    let due = Query::of::<Certificate>()
        .filter("renew_at", Test::AtMost, NOW)
        .order("renew_at", Direction::Ascending);
    let due_ids = due.clone().limit(1000).select(Select::Ids);
    let times = timed(50, || store.query(&due_ids)).await?;
    report("due-scan of 1,000 ids", &times, Goal::Within(Duration::from_millis(1)));
    let due_rows = due.clone().limit(1000);
    let times = timed(20, || store.query(&due_rows)).await?;
    report("due-scan of 1,000 rows", &times, Goal::None);

    let active = Query::of::<Certificate>()
        .filter("status", Test::Equal, "active")
        .filter("issuer", Test::Equal, "iss-3")
        .order("not_after", Direction::Descending);
    let times = timed(50, || store.query(&active)).await?;
    report("page of 100, filtered and sorted", &times, Goal::Within(Duration::from_millis(5)));
    let mut deep = active.clone();
    for _ in 0..20 {
        deep.after = store.query(&deep).await?.next.or(deep.after);
    }
    let times = timed(50, || store.query(&deep)).await?;
    report("the same, 20 pages on", &times, Goal::Within(Duration::from_millis(5)));

    let counts = Query::of::<Certificate>().select(Select::CountBy("status"));
    let times = timed(50, || store.query(&counts)).await?;
    report("counts by status", &times, Goal::Within(Duration::from_millis(5)));

    let jobs = (rows / 10).max(1);
    for (at_once, goal) in [(1, Goal::None), (4, Goal::Rate { of: jobs, a_second: 20_000 })] {
        let mut times = Vec::new();
        for _ in 0..2 {
            times.push(create_jobs(&store, &due_rows, jobs, at_once).await?);
        }
        report(&format!("creation of {jobs} due jobs, by {at_once}"), &times, goal);
    }

    let claims = (jobs / 100).clamp(1, 200);
    let seat = store.seat().await?;
    let claim = LeaseRequest {
        kind: Job::KIND,
        seat: seat.name().to_owned(),
        now: NOW,
        until: NOW + Duration::from_secs(60),
        what: LeaseWhat::Claim { filter: Vec::new(), limit: 100 },
    };
    let times = timed(claims, || store.lease(&claim)).await?;
    report("claim of 100", &times, Goal::Rate { of: 100, a_second: 15_000 });
    Ok(())
}

fn rows() -> usize {
    // Cargo adds `--bench`.
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let rows = argument.or_else(|| std::env::var("CERTCTL_BENCH_ROWS").ok());
    rows.map_or(1_000_000, |rows| rows.parse().unwrap())
}

async fn fill(store: &SqliteStore, rows: usize) -> Result<()> {
    let all: Vec<usize> = (0..rows).collect();
    for some in all.chunks(5_000) {
        store
            .commit(some.iter().try_fold(change(), |change, n| change.insert(&Certificate::new(*n, rows)))?)
            .await?;
    }
    Ok(())
}

/// What the engine does where renewals are due: a job for each certificate, which is not looked at again before long.
/// Up to `at_once` changes of 1,000 are on their way.
async fn create_jobs(store: &SqliteStore, due: &Query, jobs: usize, at_once: usize) -> Result<Duration> {
    let begin = Instant::now();
    let mut created = 0;
    let mut commits = tokio::task::JoinSet::new();
    let mut query = due.clone();
    while created < jobs {
        let (mut certificates, next) =
            store.list::<Certificate>(query.clone().limit((jobs - created).min(1000))).await?;
        query.after = next;
        if certificates.is_empty() {
            break;
        }
        // Ids grow with the time.
        let at = NOW + begin.elapsed();
        let mut all = change();
        for certificate in &mut certificates {
            all = all.insert(&Job::new(certificate, at))?;
            certificate.renew_at += 30 * DAY;
            all = all.update(certificate)?;
        }
        created += certificates.len();
        let store = store.clone();
        commits.spawn(async move { store.commit(all).await });
        if commits.len() >= at_once {
            commits.join_next().await.unwrap().unwrap()?;
        }
    }
    while let Some(committed) = commits.join_next().await {
        committed.unwrap()?;
    }
    assert_eq!(created, jobs, "enough certificates are due");
    Ok(begin.elapsed())
}

async fn timed<T, F>(runs: usize, call: impl Fn() -> F) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<T>>,
{
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begin = Instant::now();
        call().await?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

#[derive(Clone, Copy)]
enum Goal {
    None,
    Within(Duration),
    Rate { of: usize, a_second: usize },
}

fn report(what: &str, times: &[Duration], goal: Goal) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let (best, median) = (times[0], times[times.len() / 2]);
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let verdict = |met| if met { "met" } else { "MISSED" };
    let against = match goal {
        Goal::None => String::new(),
        Goal::Within(limit) => format!("goal {} ms: {}", limit.as_millis(), verdict(median <= limit)),
        Goal::Rate { of, a_second } => {
            let rate = of as f64 / median.as_secs_f64();
            format!("{rate:.0}/s, goal {a_second}/s: {}", verdict(rate >= a_second as f64))
        }
    };
    println!("{what:<36} best {:>9.3} ms  median {:>9.3} ms  {against}", millis(best), millis(median));
}

fn change() -> Change {
    Change::new(AuditEvent::new(NOW, &Actor::engine(), "bench.step", "none"))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Certificate {
    id: String,
    name: String,
    status: String,
    issuer: String,
    not_after: i64,
    renew_at: i64,
    names: Vec<String>,
    serial: String,
    fingerprint: String,
    notes: String,
}

impl Certificate {
    fn new(n: usize, of: usize) -> Self {
        let spread = n.wrapping_mul(7_919) % 100_003;
        let status = match n % 20 {
            0..16 => "active",
            16 | 17 => "pending",
            18 => "revoked",
            _ => "attention",
        };
        // Issued one after the other in thirty days, and renewed in that order but for a day of jitter. Those of the
        // first sixteen days are due.
        let n_of = i64::try_from(n).unwrap() * 30 * DAY / i64::try_from(of).unwrap();
        let jitter = i64::try_from(spread).unwrap() * DAY / 100_003;
        let renew_at = NOW.as_millis() + n_of + jitter - 17 * DAY;
        Self {
            id: format!("mc-{n:023}"),
            name: format!("service-{n}"),
            status: status.to_owned(),
            issuer: format!("iss-{}", spread % 10),
            not_after: renew_at + 30 * DAY,
            renew_at,
            names: (0..3).map(|k| format!("service-{n}-{k}.internal.example.com")).collect(),
            serial: format!("{:032x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            fingerprint: format!("{n:064x}"),
            notes: "a line or two that a person wrote about what this certificate is for".to_owned(),
        }
    }
}

impl Record for Certificate {
    const KIND: &'static Kind = &Kind {
        table: "bench_certificates",
        version: 1,
        columns: &[
            Column::text("name"),
            Column::counted("status"),
            Column::text("issuer"),
            Column::integer("not_after"),
            Column::integer("renew_at"),
        ],
        unique: &[&["name"]],
        indexes: &[&["status", "not_after"], &["issuer", "not_after"], &["renew_at"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![
            (&*self.name).into(),
            (&*self.status).into(),
            (&*self.issuer).into(),
            self.not_after.into(),
            self.renew_at.into(),
        ]
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    id: String,
    kind: String,
    subject: String,
    state: String,
    due: Option<i64>,
    group: Option<String>,
    key: Option<String>,
    step: serde_json::Value,
    attempt: u32,
}

impl Job {
    fn new(certificate: &Stored<Certificate>, at: Timestamp) -> Self {
        Self {
            id: certctl_core::Id::<AuditEvent>::mint_at(at).to_string(),
            kind: "renew".to_owned(),
            subject: certificate.id.clone(),
            state: "ready".to_owned(),
            due: Some(certificate.renew_at),
            group: None,
            key: Some(format!("renew {} {}", certificate.id, certificate.version())),
            step: serde_json::json!({ "name": "begin", "certificate": certificate.id, "waited": 0 }),
            attempt: 0,
        }
    }
}

impl Record for Job {
    const KIND: &'static Kind = &Kind {
        table: "bench_jobs",
        version: 1,
        columns: &[
            Column::text("subject"),
            Column::counted("state"),
            Column::integer("due"),
            Column::text("group"),
            Column::text("key"),
        ],
        unique: &[&["key"]],
        indexes: &[&["subject"]],
        leasing: Some(Leasing { due: "due", group: "group" }),
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![
            (&*self.subject).into(),
            (&*self.state).into(),
            self.due.into(),
            self.group.clone().into(),
            self.key.clone().into(),
        ]
    }
}
