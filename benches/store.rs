//! How fast the SQLite store is with a million certificates.
//!
//! `cargo bench --bench store [rows]`, or with the number in `CERTCTL_BENCH_ROWS`; 1,000,000 without either. Each line
//! gives the best and the median of several runs, and the goal that the median is held against.
// A bench reads the clock and its arguments, prints, and gives up at the first error.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use certctl::{
    Actor, Id, KeyAlgorithm, Result, SerialNumber, SubjectAltName, Timestamp,
    records::{
        AuditEvent, Certificate, CertificateStatus, Holder, IssuerRecord, Job, JobState, KINDS, KeyPolicy,
        Place, Placement, Profile, RenewalPolicy,
    },
    store::{
        Change, Direction, LeaseRequest, LeaseWhat, Query, Record, Select, Store, StoreExt, Stored, Test,
    },
    stores::SqliteStore,
};
use tokio::task::JoinSet;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[tokio::main]
async fn main() -> Result<()> {
    let rows = rows();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certs.db");
    let store = SqliteStore::open(&path).await?;
    Store::open(&store, KINDS).await?;

    let begin = Instant::now();
    fill(&store, rows).await?;
    let size = path.metadata().unwrap().len() / 1_000_000;
    println!("{rows} certificates written in {:.1} s, {size} MB\n", begin.elapsed().as_secs_f64());

    let due = Query::of::<Placement>()
        .filter("renew_at", Test::AtMost, NOW)
        .order("renew_at", Direction::Ascending);
    let due = due.limit(1000);
    let due_ids = due.clone().select(Select::Ids);
    let times = timed(50, || store.query(&due_ids)).await?;
    report("due-scan of 1,000 ids", &times, Goal::Within(Duration::from_millis(1)));
    let times = timed(20, || store.query(&due)).await?;
    report("due-scan of 1,000 rows", &times, Goal::None);

    let active = Query::of::<Certificate>()
        .filter("status", Test::Equal, "active")
        .filter("issuer", Test::Equal, &issuer(3))
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
    // The engine waits for each change before it makes the next one.
    for (at_once, how) in [(1, "one by one"), (4, "four at once")] {
        let mut times = Vec::new();
        for _ in 0..2 {
            times.push(create_jobs(&store, &due, jobs, at_once).await?);
        }
        report(&format!("{jobs} due jobs, {how}"), &times, Goal::Rate { of: jobs, a_second: 20_000 });
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
        let mut change = change();
        for n in some {
            let certificate = certificate(*n, rows)?;
            let placement = placement(&certificate);
            change = change.insert(&certificate)?.insert(&placement)?;
        }
        store.commit(change).await?;
    }
    Ok(())
}

/// What the engine does where renewals are due: a job for each placement, which is not due any more. Up to `at_once` changes
/// of 1,000 are on their way.
async fn create_jobs(store: &SqliteStore, due: &Query, jobs: usize, at_once: usize) -> Result<Duration> {
    let begin = Instant::now();
    let mut created = 0;
    let mut commits = JoinSet::new();
    let mut query = due.clone();
    while created < jobs {
        let (mut placements, next) =
            store.list::<Placement>(query.clone().limit((jobs - created).min(1000))).await?;
        query.after = next;
        if placements.is_empty() {
            break;
        }
        // Ids grow with the time.
        let at = NOW + begin.elapsed();
        let mut all = change();
        for placement in &mut placements {
            let job = job(placement, at);
            placement.job = Some(job.id.clone());
            placement.renew_at = None;
            all = all.update(placement)?.insert(&job)?;
        }
        created += placements.len();
        let store = store.clone();
        commits.spawn(async move { store.commit(all).await });
        if commits.len() >= at_once {
            commits.join_next().await.unwrap().unwrap()?;
        }
    }
    while let Some(committed) = commits.join_next().await {
        committed.unwrap()?;
    }
    assert_eq!(created, jobs, "enough placements are due");
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

/// One of those that were issued one after the other in the last 90 days, for 90 days.
fn certificate(n: usize, of: usize) -> Result<Certificate> {
    const LIFETIME: Duration = Duration::from_secs(90 * 86_400);
    let age = LIFETIME.mul_f64(1.0 - n as f64 / of as f64);
    let created = NOW - age;
    let status = match n % 20 {
        0..16 => CertificateStatus::Active,
        16 | 17 => CertificateStatus::Partial,
        18 => CertificateStatus::Revoked,
        _ => CertificateStatus::Attention,
    };
    let mut seed = [0; 20];
    seed[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let name = format!("service-{n}");
    let dns = |k: usize| SubjectAltName::dns(&format!("{name}-{k}.internal.example.com"));
    Ok(Certificate {
        id: Id::mint_at(created),
        names: (0..3).map(dns).collect::<Result<_>>()?,
        name: name.into(),
        common_name: None,
        issuer: issuer(n.wrapping_mul(7_919) % 10),
        profile_id: None,
        profile: Profile::default(),
        key: KeyPolicy::Made { algorithm: KeyAlgorithm::EcdsaP256, reuse_key: false },
        renewal: RenewalPolicy::default(),
        targets: vec![Id::with_suffix("somewhere")],
        status,
        reason: None,
        not_after: Some(created + LIFETIME),
        serial: Some(SerialNumber::from_seed(&seed)),
        created,
        updated: created,
    })
}

/// Its placement. The older half of them are due.
fn placement(certificate: &Certificate) -> Placement {
    Placement {
        id: Id::mint_at(certificate.created),
        certificate: certificate.id.clone(),
        holder: Holder::Process,
        version: Some(Id::mint_at(certificate.created)),
        job: None,
        renew_at: Some(certificate.created + Duration::from_secs(45 * 86_400)),
        ask_at: None,
        window: None,
        asking: certctl::records::Asking::default(),
        revoked: false,
        leaving: false,
    }
}

fn job(placement: &Stored<Placement>, at: Timestamp) -> Job {
    Job {
        id: Id::mint_at(at),
        kind: "issue".into(),
        subject: placement.id.as_str().into(),
        certificate: Some(placement.certificate.clone()),
        place: Place::default(),
        group: None,
        parent: None,
        open_children: 0,
        unique: Some(format!("issue:{}", placement.id).into()),
        state: JobState::Ready,
        step: serde_json::json!({ "at": "request", "generation": 0 }),
        failures: 0,
        setback: None,
        due: Some(NOW),
        cancel: false,
        last_error: None,
        reported: None,
        actor: Actor::engine(),
        created: at,
        finished: None,
    }
}

fn issuer(n: usize) -> Id<IssuerRecord> {
    Id::with_suffix(&n.to_string())
}
