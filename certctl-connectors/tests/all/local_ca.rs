//! The local CA: kept, shared, renewed in time, and the same for the same order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use certctl_connectors::{ISSUERS, issuers::LocalCa};
use certctl_core::{
    Chain, Clock, Context, Env, Error, ErrorKind, ExtendedKeyUsage, Issuer, KeyAlgorithm, KeyKind, Lifetime,
    Order, PrivateKey, Progress, Result, Secret, State, Timestamp,
    connectors::{Connectors, IssuerConfig, IssuerKind, Tables},
    testkit::{
        clock::TestClock,
        issuer::{conformance, order},
    },
};
use serde_json::json;
use tokio::sync::Barrier;

const DAY: Duration = Duration::from_secs(86_400);

struct World {
    clock: TestClock,
    env: Env,
    cx: Context,
}

fn world() -> World {
    let clock = TestClock::default();
    let mut env = Env::in_memory();
    env.clock = Arc::new(clock.clone());
    World { cx: Context::new(Arc::new(clock.clone())), env, clock }
}

impl World {
    async fn ca(&self) -> Arc<dyn Issuer> {
        LocalCa::default().connect(self.env.clone()).await.unwrap()
    }

    /// Made yesterday: no certificate begins before the CA does.
    async fn ready_ca(&self) -> Arc<dyn Issuer> {
        let ca = self.ca().await;
        let first = self.issue(&ca, &self.order(None).await).await;
        assert_eq!(first.leaf().not_before(), first.certificates()[1].not_before());
        self.clock.advance(DAY);
        ca
    }

    async fn order(&self, lifetime: Option<Lifetime>) -> Order {
        order(&self.clock, KeyAlgorithm::EcdsaP256, &["web.test"], lifetime).await.0
    }

    async fn issue(&self, ca: &Arc<dyn Issuer>, order: &Order) -> Chain {
        issued(ca.submit(&self.cx, order).await.unwrap())
    }

    async fn root(&self, ca: &Arc<dyn Issuer>) -> certctl_core::X509Certificate {
        let mut anchors = ca.trust_anchors(&self.cx).await.unwrap();
        assert_eq!(anchors.len(), 1);
        anchors.remove(0)
    }
}

fn issued(progress: Progress) -> Chain {
    match progress {
        Progress::Issued { chain } => chain,
        other => panic!("the local CA issues at once: {other:?}"),
    }
}

#[tokio::test]
async fn conforms() {
    let world = world();
    conformance(world.ca().await, &world.clock, &|_| panic!("the local CA wants no challenges")).await;
}

#[tokio::test]
async fn conforms_with_rsa_and_ed25519_keys_of_its_own() {
    for (algorithm, kind) in
        [(KeyAlgorithm::Rsa2048, KeyKind::Rsa { bits: 2048 }), (KeyAlgorithm::Ed25519, KeyKind::Ed25519)]
    {
        let world = world();
        let config = LocalCa { key_algorithm: algorithm, ..LocalCa::default() };
        let ca = config.connect(world.env.clone()).await.unwrap();
        conformance(ca.clone(), &world.clock, &|_| panic!("the local CA wants no challenges")).await;
        assert_eq!(world.root(&ca).await.public_key().unwrap().kind(), kind);
    }
}

#[tokio::test]
async fn the_chain_is_a_leaf_and_an_issuing_ca_under_the_root() {
    let world = world();
    let ca = world.ready_ca().await;
    let order = world.order(None).await;
    let chain = world.issue(&ca, &order).await;
    let root = world.root(&ca).await;
    let [leaf, issuing] = chain.certificates() else { panic!("leaf and issuing CA: {chain:?}") };
    leaf.verify_signed_by(issuing).unwrap();
    issuing.verify_signed_by(&root).unwrap();
    root.verify_signed_by(&root).unwrap();
    assert_eq!(root.subject_common_name(), Some("CertCtl Local CA"));
    assert_eq!(issuing.subject_common_name(), Some("CertCtl Local CA Issuing 1"));
    assert_eq!((issuing.is_ca(), issuing.path_length()), (true, Some(0)));
    // 90 days, begun an hour before for clients whose clocks are behind.
    let begin = leaf.not_before();
    assert_eq!(leaf.not_after().since(begin), DAY * 90);
    assert!(begin <= order.created && order.created.since(begin) <= Duration::from_secs(3_600));
    assert!(begin >= issuing.not_before() && leaf.not_after() <= issuing.not_after());
}

#[tokio::test]
async fn a_profile_decides_about_lifetime_and_usage() {
    let world = world();
    let ca = world.ready_ca().await;
    let mut order = world.order(Some(Lifetime::hours(2))).await;
    order.profile.extended_key_usages = vec![ExtendedKeyUsage::ClientAuth];
    let leaf = world.issue(&ca, &order).await.leaf().clone();
    assert_eq!(leaf.not_after().since(leaf.not_before()), Duration::from_secs(7_200));
    assert_eq!(order.created.since(leaf.not_before()), Duration::from_secs(360), "5 % of the lifetime");
    // id-kp-clientAuth, and not id-kp-serverAuth (RFC 5280 section 4.2.1.12).
    let has = |last: u8| leaf.der().windows(8).any(|w| w == [0x2b, 6, 1, 5, 5, 7, 3, last]);
    assert!(has(2) && !has(1));
}

#[tokio::test]
async fn another_process_on_the_same_store_is_the_same_ca() {
    let world = world();
    let (one, two) = (world.ca().await, world.ca().await);
    let first = world.issue(&one, &world.order(None).await).await;
    let second = world.issue(&two, &world.order(None).await).await;
    assert_eq!(first.certificates()[1], second.certificates()[1]);
    assert_eq!(world.root(&one).await, world.root(&two).await);
    assert_ne!(first.leaf().serial(), second.leaf().serial());
    // A configuration that is changed later does not make a new CA.
    let config = LocalCa { ca_common_name: "Another".into(), ..LocalCa::default() };
    let three = config.connect(world.env.clone()).await.unwrap();
    assert_eq!(world.root(&three).await, world.root(&one).await);
}

#[tokio::test]
async fn another_store_is_another_ca() {
    let (here, there) = (world(), world());
    assert_ne!(here.root(&here.ca().await).await, there.root(&there.ca().await).await);
}

/// What the constructor got, but everybody who looks for the first time looks at the same time.
#[derive(Debug)]
struct Together {
    inner: Arc<dyn State>,
    barrier: Barrier,
    first: AtomicU32,
}

const CALLERS: u32 = 8;

#[async_trait]
impl State for Together {
    async fn load(&self, name: &str) -> Result<Option<(Secret, u64)>> {
        let found = self.inner.load(name).await?;
        if self.first.fetch_add(1, Ordering::SeqCst) < CALLERS {
            self.barrier.wait().await;
        }
        Ok(found)
    }

    async fn save(&self, name: &str, value: &Secret, expected: Option<u64>) -> Result<u64> {
        self.inner.save(name, value, expected).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_uses_at_once_make_one_ca() {
    let mut world = world();
    world.env.state = Arc::new(Together {
        inner: world.env.state.clone(),
        barrier: Barrier::new(CALLERS as usize),
        first: AtomicU32::new(0),
    });
    let world = Arc::new(world);
    let uses: Vec<_> = (0..CALLERS)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move {
                let ca = world.ca().await;
                let chain = world.issue(&ca, &world.order(None).await).await;
                (world.root(&ca).await.fingerprint(), chain)
            })
        })
        .collect();
    let mut seen = Vec::new();
    for one in uses {
        seen.push(one.await.unwrap());
    }
    let (root, chain) = &seen[0];
    for (other_root, other) in &seen[1..] {
        assert_eq!(root, other_root);
        assert_eq!(chain.certificates()[1], other.certificates()[1]);
    }
}

#[tokio::test]
async fn one_issuer_that_is_used_at_once_makes_one_ca() {
    let world = world();
    let ca = world.ca().await;
    let order = world.order(None).await;
    let all = [(); 8].map(|()| ca.submit(&world.cx, &order));
    let [a, b, c, d, e, f, g, h] = all;
    let all = tokio::join!(a, b, c, d, e, f, g, h);
    let chains =
        [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7].map(|answer| issued(answer.unwrap()));
    assert!(chains.iter().all(|chain| chain.leaf().tbs_der() == chains[0].leaf().tbs_der()));
    assert!(chains.iter().all(|chain| chain.certificates()[1] == chains[0].certificates()[1]));
}

#[tokio::test]
async fn the_same_order_gives_the_same_certificate_wherever_and_whenever() {
    let world = world();
    let ca = world.ca().await;
    let order = world.order(None).await;
    let first = world.issue(&ca, &order).await;
    let stored = serde_json::to_string(&order).unwrap();
    let order: Order = serde_json::from_str(&stored).unwrap();
    world.clock.advance(DAY * 3);
    let elsewhere = world.ca().await;
    let again = issued(elsewhere.recover(&world.cx, &order).await.unwrap().unwrap());
    assert_eq!(again.leaf().tbs_der(), first.leaf().tbs_der());
    assert_eq!(again.leaf().serial(), first.leaf().serial());
    let other = Order { seed: [9; 20], ..order };
    assert_ne!(world.issue(&ca, &other).await.leaf().serial(), first.leaf().serial());
}

#[tokio::test]
async fn the_issuing_ca_is_replaced_before_a_leaf_would_outlive_it() {
    let world = world();
    let (ca, idle) = (world.ca().await, world.ca().await);
    let early = world.order(None).await;
    let first = world.issue(&ca, &early).await;
    world.issue(&idle, &early).await;
    world.clock.advance(DAY * (5 * 365 - 30));
    let order = world.order(None).await;
    let next = world.issue(&ca, &order).await;
    let (old, new) = (&first.certificates()[1], &next.certificates()[1]);
    assert_eq!(new.subject_common_name(), Some("CertCtl Local CA Issuing 2"));
    assert_ne!(old.public_key().unwrap(), new.public_key().unwrap());
    assert!(next.leaf().not_after() <= new.not_after() && next.leaf().not_after() > old.not_after());
    new.verify_signed_by(&world.root(&ca).await).unwrap();
    // The process that saw nothing of it takes the same, and what was asked for before is still what it was.
    assert_eq!(world.issue(&idle, &order).await.leaf().tbs_der(), next.leaf().tbs_der());
    assert_eq!(world.issue(&ca, &early).await.leaf().tbs_der(), first.leaf().tbs_der());
    // A short one still fits under the old one; after its end, it is gone.
    let short = world.order(Some(Lifetime::days(7))).await;
    assert_eq!(world.issue(&ca, &short).await.certificates()[1], *old);
    world.clock.advance(DAY * 60);
    assert_eq!(world.issue(&world.ca().await, &world.order(None).await).await.certificates()[1], *new);
}

#[tokio::test]
async fn a_lifetime_beyond_the_usual_issuing_ca_gets_one_that_lives_long_enough() {
    let world = world();
    let ca = world.ready_ca().await;
    let chain = world.issue(&ca, &world.order(Some(Lifetime::days(3_650))).await).await;
    let span = chain.leaf().not_after().since(chain.leaf().not_before());
    assert!(span <= DAY * 3_650 && span > DAY * 3_649);
    assert_eq!(chain.certificates()[1].subject_common_name(), Some("CertCtl Local CA Issuing 2"));
    assert!(chain.leaf().not_after() <= chain.certificates()[1].not_after());
}

#[tokio::test]
async fn nothing_outlives_the_root_and_an_expired_root_says_so() {
    let world = world();
    let ca = world.ca().await;
    let root = world.root(&ca).await;
    world.clock.set(root.not_after() - DAY * 10);
    let order = world.order(None).await;
    let chain = world.issue(&ca, &order).await;
    chain.check(order.csr.public_key(), &order.names, world.clock.now()).unwrap();
    assert_eq!(chain.leaf().not_after(), root.not_after());
    assert_eq!(world.issue(&world.ca().await, &order).await.leaf().tbs_der(), chain.leaf().tbs_der());

    world.clock.advance(DAY * 11);
    for ca in [ca, world.ca().await] {
        let refused = ca.submit(&world.cx, &world.order(None).await).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(refused.message().contains("root CertCtl Local CA expired at"), "{refused}");
        assert!(refused.message().contains("set up a new issuer"), "{refused}");
        // What had to be trusted can still be asked for.
        assert_eq!(world.root(&ca).await, root);
    }
}

#[tokio::test]
async fn what_the_ca_can_not_certify_is_refused_with_everything_that_is_wrong() {
    let world = world();
    let ca = world.ca().await;
    let mut order = world.order(None).await;
    order.names.clear();
    order.common_name = Some("x".repeat(65));
    order.profile.lifetime = Some(Lifetime::secs(0));
    let refused = ca.submit(&world.cx, &order).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let pointers: Vec<_> = refused.violations().iter().map(|v| v.pointer.as_str()).collect();
    assert_eq!(pointers, ["/common_name", "/not_after"]);
}

/// A store that is away until somebody brings it back, and keeps what was written last.
#[derive(Debug)]
struct Away {
    inner: Arc<dyn State>,
    away: AtomicBool,
    calls: AtomicU32,
}

#[async_trait]
impl State for Away {
    async fn load(&self, name: &str) -> Result<Option<(Secret, u64)>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.load(name).await
    }

    async fn save(&self, name: &str, value: &Secret, expected: Option<u64>) -> Result<u64> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the store is away"));
        }
        self.inner.save(name, value, expected).await
    }
}

#[tokio::test]
async fn nothing_is_asked_before_first_use_and_a_ca_that_was_not_stored_is_not_used() {
    let mut world = world();
    let state = Arc::new(Away {
        inner: world.env.state.clone(),
        away: AtomicBool::new(true),
        calls: AtomicU32::new(0),
    });
    world.env.state = state.clone();
    let ca = world.ca().await;
    assert_eq!(state.calls.load(Ordering::SeqCst), 0, "connecting asks nothing");
    let order = world.order(None).await;
    let refused = ca.submit(&world.cx, &order).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    state.away.store(false, Ordering::SeqCst);
    let chain = world.issue(&ca, &order).await;
    assert_eq!(world.issue(&world.ca().await, &order).await.leaf().tbs_der(), chain.leaf().tbs_der());
    let calls = state.calls.load(Ordering::SeqCst);
    for _ in 0..10 {
        world.issue(&ca, &world.order(None).await).await;
    }
    assert_eq!(state.calls.load(Ordering::SeqCst), calls, "signing reads nothing");
}

#[tokio::test]
async fn keys_are_in_the_state_and_nowhere_else() {
    let world = world();
    let ca = world.ca().await;
    world.issue(&ca, &world.order(None).await).await;
    let (value, _) = world.env.state.load("ca").await.unwrap().unwrap();
    let text = value.expose_str().unwrap().to_owned();
    assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 2);
    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let key = stored["root"]["key"].as_str().unwrap();
    PrivateKey::from_pem(&Secret::new(key)).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!format!("{ca:?}").contains(secret), "no key is printed");

    // A state that does not read is an error that quotes nothing of it.
    let broken = text.replacen("\"version\":1", "\"version\":\"1\"", 1);
    let version = world.env.state.load("ca").await.unwrap().unwrap().1;
    world.env.state.save("ca", &Secret::new(broken), Some(version)).await.unwrap();
    let refused = world.ca().await.submit(&world.cx, &world.order(None).await).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Internal);
    assert!(!format!("{refused:?}").contains(secret) && !format!("{refused:?}").contains("PRIVATE"));
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    world.env.state.save("ca", &Secret::new(newer), Some(version + 1)).await.unwrap();
    let refused = world.ca().await.submit(&world.cx, &world.order(None).await).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
}

#[test]
fn configurations_are_checked() {
    let connectors = Connectors::default().with(Tables { issuers: ISSUERS, ..Tables::default() });
    let kind = connectors.issuer("local").unwrap();
    assert_eq!(connectors.issuer("GenericCA").unwrap().name, kind.name);
    kind.check(&json!({})).unwrap();
    kind.check(&json!({ "ca_common_name": "Mine", "validity_days": 1, "key_algorithm": "RSA-4096" }))
        .unwrap();
    for (config, pointers) in [
        (json!({ "ca_common_name": "" }), &["/ca_common_name"][..]),
        (json!({ "ca_common_name": "x".repeat(49) }), &["/ca_common_name"]),
        (json!({ "ca_common_name": "a\nb", "validity_days": 0 }), &["/ca_common_name", "/validity_days"]),
        (json!({ "validity_days": 3_651 }), &["/validity_days"]),
        (json!({ "validity_days": "90" }), &["/validity_days"]),
        (json!({ "key_algorithm": "DSA" }), &["/key_algorithm"]),
        (json!({ "ca_cert_path": "/etc/ca.pem" }), &["/ca_cert_path"]),
    ] {
        let refused = kind.check(&config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{config}");
        let found: Vec<_> = refused.violations().iter().map(|v| v.pointer.as_str()).collect();
        assert_eq!(found, pointers, "{config}: {refused}");
        assert!(refused.violations().iter().all(|v| !v.remedy.is_empty()));
    }
    assert_eq!(kind.schema().as_value()["properties"]["validity_days"]["default"], 90);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_not_connected() {
    let world = world();
    let kind = IssuerKind::of::<LocalCa>();
    let refused = kind.connect(&json!({ "validity_days": 0 }), world.env).await.unwrap_err();
    assert_eq!(refused.violations()[0].pointer, "/validity_days");
}

#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn openssl_verifies_the_chain() {
    let world = world();
    // openssl looks at its own clock.
    world.clock.set(certctl_core::SystemClock.now());
    let ca = world.ca().await;
    let chain = world.issue(&ca, &world.order(None).await).await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root = file("root.pem", world.root(&ca).await.to_pem());
    let issuers = file("issuers.pem", chain.issuers_pem());
    let leaf = file("leaf.pem", chain.leaf().to_pem());
    let mut command = std::process::Command::new("openssl");
    command.args([
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "web.test",
        "-CAfile",
    ]);
    let output = match command.arg(&root).arg("-untrusted").arg(&issuers).arg(&leaf).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(), "openssl: {error}");
            return eprintln!("skipped: openssl: {error}");
        }
    };
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn time_that_runs_backwards_changes_nothing() {
    let world = world();
    let ca = world.ca().await;
    let order = world.order(None).await;
    let first = world.issue(&ca, &order).await;
    world.clock.set(Timestamp::from_secs(1_600_000_000));
    let again = world.issue(&ca, &order).await;
    assert_eq!(first.leaf().tbs_der(), again.leaf().tbs_der());
}
