//! How fast due renewals drain: local CA, SQLite, `files` target with its fsyncs, against the bare sum of the same work.
//!
//! `cargo bench --bench drain [renewals]`, or with the number in `CERTCTL_BENCH_RENEWALS`; 10,000 without either.
//!
//! Bare are: make a key and sign a request; sign a certificate; two durable commits with the rows of a renewal; replace two
//! files durably. Each part alone, with as many tasks at a time as the engine has. The goal is that the engine, which also
//! plans, journals, takes snapshots, checks and forgets keys, needs at most twice their sum.
// A bench reads the clock and its arguments, prints, and gives up at the first error.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used)]

mod measure;

use std::{path::Path, sync::Arc, time::Duration};

use certctl::{
    Actor, CertificateSpec, Clock, Context, Csr, Engine, Env, Home, Id, IntoHome, Issuer, Order, PrivateKey,
    Progress, Secret, SubjectAltName,
    connectors::IssuerConfig,
    host::{FileSpec, Host, HostPath},
    hosts::LocalHost,
    issuers::LocalCa,
    records::{AuditEvent, CertificateStatus, Job, Placement, TargetRecord, Version},
    store::{Change, ColumnValue, Query, Select, Store, Stored, Test},
    stores::SqliteStore,
    testkit::clock::TestClock,
};
use measure::{Phase, Spent};
use tokio::task::JoinSet;

const AT_ONCE: usize = 64;
const NAME: &str = "host-00000.example.com";

#[tokio::main]
async fn main() {
    let renewals = renewals();
    let directory = tempfile::tempdir().unwrap();
    let clock = TestClock::default();
    let home = SqliteStore::open(directory.path().join("certs.db")).await.unwrap().into_home().unwrap();
    let store = home.store.clone();
    let engine = engine(home, &clock).await;

    targets(&*store, &clock, directory.path(), renewals).await;
    let phase = Phase::begin();
    for number in 0..renewals {
        let name = format!("host-{number:05}");
        let spec =
            CertificateSpec::new(&name).dns(format!("{name}.example.com")).issuer("local").target(&name);
        let _ = engine.want(&Actor::process(), spec).await.unwrap();
    }
    println!("{renewals} certificates wanted: {}", rate(renewals, phase.end()));
    let first = drain(&engine, &*store, &clock, renewals, 1).await;
    println!("{renewals} first issuances and deployments: {}", rate(renewals, first));

    clock.advance(Duration::from_secs(61 * 86_400));
    let drained = drain(&engine, &*store, &clock, renewals, 2).await;
    println!("{renewals} due renewals, end to end: {}", rate(renewals, drained));

    let bare = bare(&clock, renewals, directory.path()).await;
    let ratio = bare.wall.as_secs_f64() / drained.wall.as_secs_f64();
    println!("\nbare sum / drained = {ratio:.2} (goal: at least 0.5)");
    let ratio = bare.cpu.as_secs_f64() / drained.cpu.as_secs_f64();
    println!("in processor time: {ratio:.2}");
}

fn renewals() -> usize {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let text = argument.or_else(|| std::env::var("CERTCTL_BENCH_RENEWALS").ok());
    text.map_or(10_000, |text| text.parse().unwrap())
}

async fn engine(home: Home, clock: &TestClock) -> Engine {
    let builder = Engine::builder(home).issuer("local", LocalCa::default()).clock(Arc::new(clock.clone()));
    builder.at_once(AT_ONCE).build().await.unwrap()
}

/// One target for each certificate, as an operator would have stored them.
async fn targets(store: &dyn Store, clock: &TestClock, directory: &Path, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(1_000) {
        let mut change = Change::new(AuditEvent::new(clock.now(), &Actor::process(), "bench", "targets"));
        for number in chunk {
            let folder = directory.join(format!("tls/{:03}", number / 100));
            std::fs::create_dir_all(&folder).unwrap();
            let path = |end: &str| folder.join(format!("{number:05}.{end}")).to_str().unwrap().to_owned();
            change = change
                .insert(&TargetRecord {
                    id: Id::mint_at(clock.now()),
                    name: format!("host-{number:05}").into(),
                    kind: "files".into(),
                    config: Some(serde_json::json!({ "cert_path": path("crt"), "key_path": path("key") })),
                    place: Default::default(),
                    probe: Default::default(),
                    write: Default::default(),
                    checked: None,
                })
                .unwrap();
        }
        store.commit(change).await.unwrap();
    }
}

/// Runs the engine until every certificate has so many versions, and stands as active.
async fn drain(
    engine: &Engine,
    store: &dyn Store,
    clock: &TestClock,
    certificates: usize,
    versions: usize,
) -> Spent {
    let phase = Phase::begin();
    let due = Query::of::<Placement>().filter("renew_at", Test::AtMost, clock.now()).limit(1);
    let open = Query::of::<Job>().select(Select::CountBy("state"));
    let done = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let counts = store.query(&open).await.unwrap().counts;
            assert!(counts.iter().all(|(state, _)| *state != "attention".into()), "{counts:?}");
            let at_rest = counts.iter().all(|(state, _)| *state == "done".into());
            if at_rest && store.query(&due).await.unwrap().rows.is_empty() {
                return;
            }
        }
    };
    engine.run(done).await.unwrap();
    let spent = phase.end();
    let by_status = Query::of::<certctl::records::Certificate>().select(Select::CountBy("status"));
    let counts = store.query(&by_status).await.unwrap().counts;
    assert_eq!(counts, [(ColumnValue::from(CertificateStatus::Active.as_str()), certificates as u64)]);
    let by_issuer = Query::of::<Version>().select(Select::CountBy("issuer"));
    let counts = store.query(&by_issuer).await.unwrap().counts;
    assert_eq!(counts[0].1 as usize, certificates * versions);
    spent
}

async fn bare(clock: &TestClock, count: usize, directory: &Path) -> Spent {
    let issuer: Arc<dyn Issuer> = LocalCa::default().connect(Env::in_memory()).await.unwrap();
    let cx = Context::new(Arc::new(clock.clone()));
    let names = vec![SubjectAltName::dns(NAME).unwrap()];

    let keys = each(count, |_| {
        let names = names.clone();
        async move {
            let key = PrivateKey::generate(Default::default()).unwrap();
            Csr::create(&key, None, &names).await.unwrap();
        }
    })
    .await;
    println!("\nbare: key and request: {}", rate(count, keys));

    let key = PrivateKey::generate(Default::default()).unwrap();
    let csr = Csr::create(&key, None, &names).await.unwrap();
    let order = Order::from_csr(csr, Default::default(), clock.now());
    let Progress::Issued { chain } = issuer.submit(&cx, &order).await.unwrap() else { unreachable!() };
    let signing = each(count, |_| {
        let (issuer, cx, order) = (issuer.clone(), cx.clone(), order.clone());
        async move {
            issuer.submit(&cx, &order).await.unwrap();
        }
    })
    .await;
    println!("bare: signing: {}", rate(count, signing));

    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.join("bare/certs.db")).await.unwrap());
    store.open(certctl::records::KINDS).await.unwrap();
    let sample = sample(clock, &chain);
    let commits = each(count, |_| {
        let (store, sample, now) = (store.clone(), sample.clone(), clock.now());
        async move { sample.commit(&*store, now).await }
    })
    .await;
    println!("bare: two commits: {}", rate(count, commits));

    let folder = directory.join("bare/tls");
    std::fs::create_dir_all(&folder).unwrap();
    let pem = (Secret::new(chain.to_pem()), key.to_pem());
    let replace = |number: usize| {
        let (folder, pem) = (folder.clone(), pem.clone());
        async move {
            let host = LocalHost;
            for (end, bytes, mode) in [("crt", &pem.0, 0o644), ("key", &pem.1, 0o600)] {
                let path = folder.join(format!("{number:05}.{end}"));
                let path = HostPath::parse(path.to_str().unwrap()).unwrap();
                let staged = host.stage(&path, &FileSpec { mode, owner: None }, bytes).await.unwrap();
                host.swap(&staged).await.unwrap();
            }
        }
    };
    // A renewal replaces what is there.
    each(count, replace).await;
    let files = each(count, replace).await;
    println!("bare: two files: {}", rate(count, files));
    let parts = [keys, signing, commits, files];
    Spent { wall: parts.iter().map(|part| part.wall).sum(), cpu: parts.iter().map(|part| part.cpu).sum() }
}

/// The rows that a renewal can't do without: the attempt before the CA is asked, and what came of it.
#[derive(Clone)]
struct Sample {
    version: Version,
    placement: Placement,
    job: Job,
}

impl Sample {
    async fn commit(mut self, store: &dyn Store, now: certctl::Timestamp) {
        self.placement.id = Id::mint_at(now);
        self.job.id = Id::mint_at(now);
        self.version.id = Id::mint_at(now);
        self.version.attempt = Id::mint_at(now);
        self.version.serial = certctl::SerialNumber::from_seed(&certctl::random_bytes());
        let event = |action| AuditEvent::new(now, &Actor::process(), action, "bench");
        let first = Change::new(event("asked")).insert(&self.placement).unwrap().insert(&self.job).unwrap();
        let versions = store.commit(first).await.unwrap();
        let placement = Stored::new(self.placement, versions[0]);
        let job = Stored::new(self.job, versions[1]);
        let second = Change::new(event("issued")).insert(&self.version).unwrap();
        let second = second.update(&placement).unwrap().update(&job).unwrap();
        store.commit(second).await.unwrap();
    }
}

fn sample(clock: &TestClock, chain: &certctl::Chain) -> Sample {
    let now = clock.now();
    let leaf = chain.leaf();
    let certificate = Id::mint_at(now);
    let placement = Placement {
        id: Id::mint_at(now),
        certificate: certificate.clone(),
        holder: certctl::records::Holder::Process,
        version: None,
        job: None,
        renew_at: Some(now),
        ask_at: None,
        window: None,
        asking: certctl::records::Asking::default(),
        revoked: false,
        leaving: false,
    };
    let version = Version {
        id: Id::mint_at(now),
        certificate: certificate.clone(),
        placement: placement.id.clone(),
        attempt: Id::mint_at(now),
        issuer: Id::mint_at(now),
        key: None,
        serial: leaf.serial().clone(),
        fingerprint: leaf.fingerprint(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        created: now,
        key_forgotten: false,
        revocation: None,
        chain: chain.clone(),
    };
    let job = Job {
        id: Id::mint_at(now),
        kind: "bench".into(),
        subject: placement.id.as_str().into(),
        certificate: Some(certificate),
        place: Default::default(),
        group: None,
        parent: None,
        open_children: 0,
        unique: None,
        state: certctl::records::JobState::Done,
        step: serde_json::Value::Null,
        failures: 0,
        setback: None,
        due: None,
        cancel: false,
        last_error: None,
        reported: None,
        actor: Actor::process(),
        created: now,
        finished: Some(now),
    };
    Sample { version, placement, job }
}

/// Does it `count` times, with as many at a time as the engine has.
async fn each<F: Future<Output = ()> + Send + 'static>(count: usize, one: impl Fn(usize) -> F) -> Spent {
    let phase = Phase::begin();
    let mut tasks = JoinSet::new();
    for number in 0..count {
        if tasks.len() >= AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(one(number));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    phase.end()
}

#[allow(clippy::cast_precision_loss)]
fn rate(count: usize, spent: Spent) -> String {
    let a_second = count as f64 / spent.wall.as_secs_f64();
    let each = spent.cpu.as_secs_f64() * 1e3 / count as f64;
    format!("{:.2} s, {a_second:.0}/s, {each:.2} ms of processor time each", spent.wall.as_secs_f64())
}
