//! Renewals through Pebble, 16 at a time: are all of them done, is no order wasted, and what processor time does the client
//! need for an order, beside instant-acme for the same orders?
//!
//! `cargo bench --bench acme [orders]`, or with the number in `CERTCTL_BENCH_ORDERS`; 500 without either. Pebble and its
//! challenge test server have to be there (`scripts/install-peers`).
//!
//! Three ways to get the certificates: instant-acme, this issuer driven directly, and the engine with SQLite and a `files`
//! target. The first two get the same requests (CSR), made before, and show nothing: Pebble takes every challenge for
//! fulfilled without looking. The engine makes keys and requests, opens its http-01 listener, commits every step, and deploys
//! two files durably. The goal is that the issuer needs no more processor time than twice instant-acme's.
//!
//! Everybody makes one order after the other, and does all else 16 at a time: Pebble 2.10.1 stands still for good where two
//! orders are made at the same moment, since `makeChallenges` holds an authorization while it waits for the store and
//! `FindValidAuthorization` the store while it waits for that authorization.
// A bench reads the clock and its arguments, prints, and gives up at the first error.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub
)]

mod measure;
#[path = "../tests/all/peers/mod.rs"]
mod peers;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use certctl::{
    Actor, CertificateSpec, Chain, Clock, Context, Csr, Engine, Handle, Issuer, IssuerCapabilities, Order,
    PrivateKey, Progress, RenewalWindow, Result, SubjectAltName, SystemClock,
    issuers::Acme,
    records::{Certificate, CertificateStatus, Job, TargetRecord, Version},
    store::{Change, ColumnValue, Query, Select, Store, Test},
    stores::SqliteStore,
};
use tokio::{sync::Mutex, task::JoinSet};

use measure::{Phase, Spent};
use peers::{CHALLTESTSRV, Challtestsrv, PEBBLE, Pebble, PebbleOptions};

const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() {
    if !peers::has(&[PEBBLE, CHALLTESTSRV]) {
        return;
    }
    let orders = orders();
    let dns = Challtestsrv::start().await;
    let options = PebbleOptions { nonce_reject: 0, always_valid: true, ..PebbleOptions::new(&dns) };
    let http_port = options.http_port;
    let pebble = Pebble::start(options).await;
    let directory = tempfile::tempdir().unwrap();
    let acme = Acme {
        directory_url: pebble.directory_url(),
        ca_file: Some(pebble.ca_file().to_str().unwrap().parse().unwrap()),
        terms_of_service_agreed: true,
        http_address: Some([127, 0, 0, 1].into()),
        http_port,
        ..Acme::default()
    };
    let store = SqliteStore::open(directory.path().join("certs.db")).await.unwrap();
    // "plain" asks for what instant-acme asks for: no renewal information, no replacing.
    let plain = Acme { ari_enabled: false, ..acme.clone() };
    let beside = SqliteStore::open(directory.path().join("issuers/certs.db")).await.unwrap();
    let issuers = Engine::builder(beside).issuer("ca", acme).issuer("plain", plain).build().await.unwrap();
    let gate = Arc::new(Mutex::new(()));
    let gated = async |name: &str| -> Arc<dyn Issuer> {
        let issuer = issuers.issuer(&Actor::process(), name).await.unwrap();
        let gated: Arc<dyn Issuer> = Arc::new(Gated { issuer, gate: gate.clone() });
        gated
    };
    let issuer = gated("plain").await;
    let engine =
        Engine::builder(store).issuer("ca", gated("ca").await).at_once(AT_ONCE).build().await.unwrap();

    let mut requests = Vec::with_capacity(orders);
    for number in 0..orders {
        requests.push(request(number).await);
    }
    let theirs = instant_acme(&pebble).await;
    // Both with their account, connections and nonces.
    each(&requests[..1], |csr| by_instant_acme(theirs.clone(), gate.clone(), csr)).await;
    each(&requests[..1], |csr| by_issuer(issuer.clone(), csr)).await;

    println!("{orders} orders, {AT_ONCE} at a time");
    let before = Counts::of(&pebble);
    let instant = each(&requests, |csr| by_instant_acme(theirs.clone(), gate.clone(), csr)).await;
    let after = Counts::of(&pebble);
    println!("instant-acme: {}", rate(orders, instant, &before, &after));
    let before = after;
    let direct = each(&requests, |csr| by_issuer(issuer.clone(), csr)).await;
    let after = Counts::of(&pebble);
    println!("this issuer, driven directly: {}", rate(orders, direct, &before, &after));

    targets(engine.store(), directory.path(), orders).await;
    for (what, versions) in [("first issuances", 1), ("renewals", 2)] {
        let before = Counts::of(&pebble);
        let phase = Phase::begin();
        for number in 0..orders {
            let (actor, name) = (Actor::process(), format!("host-{number:05}"));
            let _ = match versions {
                1 => engine.want(&actor, spec(&name)).await,
                _ => engine.renew(&actor, &name).await,
            }
            .unwrap();
        }
        drain(&engine, orders, versions).await;
        let spent = phase.end();
        let after = Counts::of(&pebble);
        assert_eq!(after.orders - before.orders, orders, "orders were wasted");
        println!("{what} by the engine: {}", rate(orders, spent, &before, &after));
    }
    let ratio = direct.cpu.as_secs_f64() / instant.cpu.as_secs_f64();
    println!("processor time of an order, this issuer / instant-acme = {ratio:.2} (goal: at most 2)");
}

fn orders() -> usize {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let text = argument.or_else(|| std::env::var("CERTCTL_BENCH_ORDERS").ok());
    text.map_or(500, |text| text.parse().unwrap())
}

async fn request(number: usize) -> Csr {
    let key = PrivateKey::generate(Default::default()).unwrap();
    let name = SubjectAltName::dns(&format!("host-{number:05}.example.com")).unwrap();
    Csr::create(&key, None, &[name]).await.unwrap()
}

// ---- One order, three ways -------------------------------------------------------------------------------------------------

async fn instant_acme(pebble: &Pebble) -> instant_acme::Account {
    let account =
        instant_acme::NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let builder = instant_acme::Account::builder_with_root(pebble.ca_file()).unwrap();
    builder.create(&account, pebble.directory_url(), None).await.unwrap().0
}

async fn by_instant_acme(account: instant_acme::Account, gate: Arc<Mutex<()>>, csr: Csr) {
    use instant_acme::{AuthorizationStatus, ChallengeType, Identifier, NewOrder, OrderStatus, RetryPolicy};
    let SubjectAltName::Dns(name) = &csr.names()[0] else { unreachable!() };
    let identifiers = [Identifier::Dns(name.to_string())];
    let alone = gate.lock().await;
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
    drop(alone);
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.unwrap();
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(ChallengeType::Http01).unwrap();
        assert!(challenge.key_authorization().as_str().contains('.'));
        challenge.set_ready().await.unwrap();
    }
    // What this issuer waits.
    let patience = RetryPolicy::new().initial_delay(Duration::from_millis(500));
    assert_eq!(order.poll_ready(&patience).await.unwrap(), OrderStatus::Ready);
    order.finalize_csr(csr.der()).await.unwrap();
    let patience = patience.initial_delay(Duration::from_secs(1));
    let pem = order.poll_certificate(&patience).await.unwrap();
    assert!(Chain::from_pem(pem.as_bytes()).unwrap().leaf().public_key().unwrap() == csr.public_key());
}

/// An issuer that makes one order at a time.
#[derive(Debug)]
struct Gated {
    issuer: Arc<dyn Issuer>,
    gate: Arc<Mutex<()>>,
}

#[async_trait]
impl Issuer for Gated {
    fn kind(&self) -> &str {
        self.issuer.kind()
    }
    fn capabilities(&self) -> IssuerCapabilities {
        self.issuer.capabilities()
    }
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        let _alone = self.gate.lock().await;
        self.issuer.submit(cx, order).await
    }
    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        self.issuer.poll(cx, order, handle).await
    }
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.issuer.recover(cx, order).await
    }
    async fn renewal_window(&self, cx: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
        self.issuer.renewal_window(cx, chain).await
    }
}

async fn by_issuer(issuer: Arc<dyn Issuer>, csr: Csr) {
    let cx = Context::new(Arc::new(SystemClock));
    let order = Order::from_csr(csr, Default::default(), cx.clock.now());
    let mut progress = issuer.submit(&cx, &order).await.unwrap();
    loop {
        let handle = match progress {
            Progress::Issued { chain } => {
                assert!(chain.leaf().public_key().unwrap() == order.csr.public_key());
                return;
            }
            Progress::Waiting { handle, at } => {
                tokio::time::sleep(at.since(cx.clock.now())).await;
                handle
            }
            Progress::Challenges { handle, .. } => handle,
            Progress::Failed { error } => panic!("{error:?}"),
        };
        progress = issuer.poll(&cx, &order, handle).await.unwrap();
    }
}

fn spec(name: &str) -> CertificateSpec {
    CertificateSpec::new(name).dns(format!("{name}.example.com")).issuer("ca").target(name)
}

/// One target for each certificate, as an operator would have stored them.
async fn targets(store: &dyn Store, directory: &std::path::Path, count: usize) {
    let now = SystemClock.now();
    let event = certctl::records::AuditEvent::new(now, &Actor::process(), "bench", "targets");
    let mut change = Change::new(event);
    let folder = directory.join("tls");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..count {
        let path = |end: &str| folder.join(format!("{number:05}.{end}")).to_str().unwrap().to_owned();
        let target = TargetRecord {
            id: certctl::Id::mint_at(now),
            name: format!("host-{number:05}").into(),
            kind: "files".into(),
            config: Some(serde_json::json!({ "cert_path": path("crt"), "key_path": path("key") })),
            place: Default::default(),
            probe: Default::default(),
            write: Default::default(),
            checked: None,
        };
        change = change.insert(&target).unwrap();
    }
    store.commit(change).await.unwrap();
}

/// Runs the engine until every certificate has so many versions and stands as active; says now and then how far it is.
async fn drain(engine: &Engine, certificates: usize, versions: usize) {
    let store = engine.store();
    let issuing = Query::of::<Job>().filter("kind", Test::Equal, "issue").select(Select::CountBy("state"));
    let open = Query::of::<Job>().filter("finished", Test::Equal, ColumnValue::Null).limit(1);
    let done = async {
        let mut ticks = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ticks += 1;
            let counts = store.query(&issuing).await.unwrap().counts;
            assert!(counts.iter().all(|(state, _)| *state != "attention".into()), "{counts:?}");
            let is =
                |name: &str| counts.iter().find(|(state, _)| *state == name.into()).map_or(0, |(_, n)| *n);
            if ticks % 50 == 0 {
                let done = is("done").saturating_sub(((versions - 1) * certificates) as u64);
                println!("  {done} of {certificates}");
            }
            if store.query(&open).await.unwrap().rows.is_empty() {
                return;
            }
        }
    };
    engine.run(done).await.unwrap();
    let by_status = Query::of::<Certificate>().select(Select::CountBy("status"));
    let counts = store.query(&by_status).await.unwrap().counts;
    assert_eq!(counts, [(ColumnValue::from(CertificateStatus::Active.as_str()), certificates as u64)]);
    let by_issuer = Query::of::<Version>().select(Select::CountBy("issuer"));
    assert_eq!(store.query(&by_issuer).await.unwrap().counts[0].1 as usize, certificates * versions);
}

// ---- Counting --------------------------------------------------------------------------------------------------------------

/// Does it for each, so many at a time.
async fn each<F: Future<Output = ()> + Send + 'static>(requests: &[Csr], one: impl Fn(Csr) -> F) -> Spent {
    let phase = Phase::begin();
    let mut tasks = JoinSet::new();
    for csr in requests {
        if tasks.len() >= AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(one(csr.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    phase.end()
}

/// What Pebble has done so far.
struct Counts {
    orders: usize,
    requests: usize,
}

impl Counts {
    fn of(pebble: &Pebble) -> Self {
        let printed = pebble.printed();
        let count = |what: &str| printed.lines().filter(|line| line.contains(what)).count();
        Self { orders: count("Added order "), requests: count("-> calling handler()") }
    }
}

#[allow(clippy::cast_precision_loss)]
fn rate(orders: usize, spent: Spent, before: &Counts, after: &Counts) -> String {
    let each = |count: usize| count as f64 / orders as f64;
    format!(
        "{:.1} s, {:.2} ms of processor time, {:.1} requests and {:.2} orders each",
        spent.wall.as_secs_f64(),
        spent.cpu.as_secs_f64() * 1e3 / orders as f64,
        each(after.requests - before.requests),
        each(after.orders - before.orders),
    )
}
