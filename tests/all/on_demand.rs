//! Certificates for names that clients ask for: once for all who wait, within limits, and known again after a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use certctl::{
    Actor, Clock, Engine, Error, ErrorKind, Fingerprint, Recovery, Result, Retry, Role, TlsResolver,
    records::CertificateStatus,
    testkit::issuer::Script,
    tls::{OnDemand, OnDemandLimits},
};

use crate::rig::{Rig, actor, spec};

const MINUTE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(30);

/// An engine with a resolver, and how often `decide` was asked.
struct Server {
    rig: Rig,
    engine: Engine,
    resolver: Arc<TlsResolver>,
    on_demand: OnDemand,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn new() -> Self {
        Self::with(Rig::new(Recovery::Idempotent, false).await, OnDemandLimits::default()).await
    }

    /// As after a restart, if the rig has been used before. Names that begin with `no` are refused.
    async fn with(rig: Rig, limits: OnDemandLimits) -> Self {
        let engine = rig.engine().await;
        let resolver = Arc::new(TlsResolver::new());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let on_demand = OnDemand::new(&engine, &resolver, "ca", limits, move |name| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                match name.as_str() {
                    "broken.test" => Err(Error::unavailable("the list of names is away")),
                    name if name.starts_with("panic") => panic!("as the application may"),
                    name => Ok(!name.starts_with("no")),
                }
            }
        });
        Self { rig, engine, resolver, on_demand, asked }
    }

    async fn prepare(&self, name: &str) -> Result<()> {
        self.on_demand.prepare(Some(name)).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn current(&self, name: &str) -> Option<Fingerprint> {
        self.resolver.current(&format!("on-demand:{name}"))
    }

    fn ordered(&self) -> usize {
        self.rig.ca.issued().len()
    }

    /// Until another certificate than this is served.
    async fn changed(&self, name: &str, old: Option<Fingerprint>) {
        let changed = async {
            while self.current(name) == old {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, changed).await.expect("another certificate comes");
    }
}

#[tokio::test]
async fn all_who_wait_for_a_name_get_one_certificate() {
    let server = Arc::new(Server::new().await);
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..40 {
        let server = server.clone();
        // Names are the same whatever their case.
        let name = ["web.test", "WEB.test", "web.test."][number % 3];
        waiting.spawn(async move { server.prepare(name).await });
    }
    for done in waiting.join_all().await {
        done.unwrap();
    }
    assert_eq!((server.asked(), server.ordered()), (1, 1));
    let bundle = server.resolver.bundle("on-demand:web.test").unwrap();
    assert_eq!(bundle.chain.leaf().names(), ["web.test".parse().unwrap()]);
    server.prepare("web.test").await.unwrap();
    server.on_demand.prepare(None).await.expect("no name, nothing to do");
    assert_eq!((server.asked(), server.ordered()), (1, 1));
    let certificate = server.engine.certificate("on-demand:web.test").await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active);
}

#[tokio::test]
async fn a_name_that_is_refused_is_not_asked_about_again_for_a_while() {
    let server = Server::new().await;
    for name in ["no.test", "broken.test"] {
        let before = server.asked();
        let first = server.prepare(name).await.unwrap_err();
        assert_eq!(server.prepare(name).await.unwrap_err().to_string(), first.to_string());
        server.rig.clock.advance(4 * MINUTE);
        server.prepare(name).await.unwrap_err();
        assert_eq!(server.asked(), before + 1);
        server.rig.clock.advance(2 * MINUTE);
        server.prepare(name).await.unwrap_err();
        assert_eq!(server.asked(), before + 2);
    }
    assert_eq!(server.prepare("no.test").await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(server.rig.attempts().await.len(), 0, "nothing is written for them");
    assert_eq!(server.resolver.current("on-demand:no.test"), None);
}

#[tokio::test]
async fn what_is_no_name_is_not_even_asked_about() {
    let server = Server::new().await;
    let long = format!("{}.test", "a.".repeat(110));
    for name in
        ["", ".", "*.web.test", "192.0.2.1", "2001:db8::1", "a b.test", "a_b.test", "../x", "ü.test", &long]
    {
        let refused = server.prepare(name).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn only_so_many_are_obtained_within_an_hour() {
    let limits = OnDemandLimits { per_hour: 2, ..OnDemandLimits::default() };
    let server = Server::with(Rig::new(Recovery::Idempotent, false).await, limits.clone()).await;
    let begun = server.rig.clock.now();
    server.prepare("a.test").await.unwrap();
    server.rig.clock.advance(10 * MINUTE);
    server.prepare("b.test").await.unwrap();
    let refused = server.prepare("c.test").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RateLimited);
    assert_eq!(refused.retry(), Retry::After(begun + 60 * MINUTE));
    server.prepare("a.test").await.expect("what is there serves");
    assert_eq!(server.asked(), 2, "what can't be had is not decided about");

    // A process that is started anew does not begin anew.
    let server = Server::with(server.rig, limits).await;
    for name in ["c.test", "d.test", "e.test"] {
        assert_eq!(server.prepare(name).await.unwrap_err().kind(), ErrorKind::RateLimited);
    }
    server.prepare("a.test").await.expect("what is there serves");
    assert_eq!(server.asked(), 0);
    server.rig.clock.advance(51 * MINUTE);
    server.prepare("c.test").await.expect("the first was over an hour ago");
    assert_eq!(server.prepare("d.test").await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!(server.ordered(), 3);
}

#[tokio::test]
async fn names_that_are_refused_take_no_places() {
    let limits = OnDemandLimits { per_hour: 2, ..OnDemandLimits::default() };
    let server = Server::with(Rig::new(Recovery::Idempotent, false).await, limits).await;
    for number in 0..10 {
        let refused = server.prepare(&format!("no{number}.test")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);
    }
    for name in ["a.test", "b.test"] {
        server.prepare(name).await.unwrap();
    }
    assert_eq!(server.asked(), 12);
    let refused = server.prepare("no10.test").await.unwrap_err();
    assert_eq!((refused.kind(), server.asked()), (ErrorKind::RateLimited, 12));
}

#[tokio::test]
async fn a_panic_of_the_application_takes_no_place_though_nobody_waits() {
    let limits = OnDemandLimits { names_at_once: 2, ..OnDemandLimits::default() };
    let server = Server::with(Rig::new(Recovery::Idempotent, false).await, limits).await;
    for number in 0..2 {
        // The client goes away at once.
        let name = format!("panic{number}.test");
        let client = server.prepare(&name);
        tokio::select! {
            biased;
            _ = client => panic!("that was quick"),
            () = std::future::ready(()) => {}
        }
    }
    let free = async {
        while let Err(error) = server.prepare("a.test").await {
            assert_eq!(error.kind(), ErrorKind::RateLimited);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, free).await.expect("the places are free again");
}

#[tokio::test]
async fn however_many_are_decided_about_at_once_the_limit_is_kept() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let gate = Arc::new(tokio::sync::Barrier::new(5));
    let decided = gate.clone();
    let limits = OnDemandLimits { per_hour: 2, ..OnDemandLimits::default() };
    let on_demand = OnDemand::new(&engine, &Arc::new(TlsResolver::new()), "ca", limits, move |_| {
        let decided = decided.clone();
        async move {
            decided.wait().await;
            Ok(true)
        }
    });
    let names = (0..5).map(|number| {
        let on_demand = on_demand.clone();
        async move { on_demand.prepare(Some(&format!("n{number}.test"))).await.is_ok() }
    });
    let done = names.collect::<tokio::task::JoinSet<_>>().join_all().await;
    assert_eq!((done.iter().filter(|done| **done).count(), rig.ca.issued().len()), (2, 2));
}

#[tokio::test]
async fn names_are_known_again_after_a_restart() {
    let server = Server::new().await;
    server.prepare("web.test").await.unwrap();
    let served = server.current("web.test");
    let server = Server::with(server.rig, OnDemandLimits::default()).await;
    assert_eq!(server.current("web.test"), None);
    server.prepare("web.test").await.unwrap();
    assert_eq!(server.current("web.test"), served);
    assert_eq!((server.asked(), server.ordered()), (0, 1));
}

#[tokio::test]
async fn a_renewal_is_picked_up() {
    let server = Server::new().await;
    server.prepare("web.test").await.unwrap();
    let old = server.current("web.test");
    server.rig.tick();
    server.engine.renew(&actor(), "on-demand:web.test").await.unwrap().step().await.unwrap();
    server.prepare("web.test").await.unwrap();
    assert_eq!(server.current("web.test"), old, "the store is not asked at each handshake");
    server.rig.clock.advance(MINUTE);
    server.prepare("web.test").await.unwrap();
    server.changed("web.test", old).await;
    let newest = &server.engine.bundle(&actor(), "on-demand:web.test").await.unwrap().chain;
    assert_eq!(server.current("web.test"), Some(newest.leaf().fingerprint()));
    assert_eq!((server.asked(), server.ordered()), (1, 2));
}

#[tokio::test]
async fn one_that_has_expired_is_obtained_anew_before_it_is_served() {
    let server = Server::new().await;
    server.prepare("web.test").await.unwrap();
    let old = server.current("web.test");
    server.rig.clock.advance(Duration::from_secs(200 * 86_400));
    server.prepare("web.test").await.unwrap();
    assert_ne!(server.current("web.test"), old);
    assert_eq!((server.asked(), server.ordered()), (2, 2));
}

#[tokio::test]
async fn what_the_ca_refuses_is_tried_again_after_a_pause() {
    let server = Server::new().await;
    server.rig.ca.script(Script::Reject);
    let refused = server.prepare("web.test").await.unwrap_err();
    assert!(refused.to_string().contains("the CA's policy does not allow the name"), "{refused}");
    server.rig.ca.script(Script::Issue);
    server.prepare("web.test").await.expect_err("not yet");
    let attempts = server.rig.attempts().await.len();
    server.rig.clock.advance(6 * MINUTE);
    server.prepare("web.test").await.unwrap();
    assert!(server.current("web.test").is_some());
    assert_eq!(server.rig.attempts().await.len(), attempts + 1);
    server.rig.ca.assert_no_second_order();
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_not_repeated() {
    let server = Server::with(Rig::new(Recovery::None, false).await, OnDemandLimits::default()).await;
    server.rig.ca.script(Script::LoseAnswer);
    server.prepare("web.test").await.unwrap_err();
    server.rig.clock.advance(6 * MINUTE);
    server.prepare("web.test").await.unwrap_err();
    assert_eq!(server.rig.ca.attempts().len(), 1, "that is for a person to look at");
    server.rig.ca.assert_no_second_order();
}

#[tokio::test]
async fn a_ca_that_lets_one_wait_is_waited_for_by_so_many_at_the_same_time() {
    let limits =
        OnDemandLimits { at_once: 2, deadline: Duration::from_millis(300), ..OnDemandLimits::default() };
    let server = Arc::new(Server::with(Rig::new(Recovery::Idempotent, false).await, limits).await);
    server.rig.ca.script(Script::PendUntil(server.rig.clock.now() + MINUTE));
    let mut waiting = tokio::task::JoinSet::new();
    for name in ["a.test", "b.test", "c.test"] {
        let server = server.clone();
        waiting.spawn(async move { server.prepare(name).await });
    }
    for done in waiting.join_all().await {
        let late = done.unwrap_err();
        assert_eq!((late.kind(), late.retry()), (ErrorKind::Unavailable, Retry::Backoff));
    }
    assert_eq!(server.rig.ca.attempts().len(), 2, "the third waits for a place");
    // It went on without those who gave up.
    server.rig.clock.advance(7 * 60 * MINUTE);
    for name in ["a.test", "b.test", "c.test"] {
        server.changed(name, None).await;
        server.prepare(name).await.unwrap();
    }
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn a_flood_of_names_is_refused_at_once() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let resolver = Arc::new(TlsResolver::new());
    let decided = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = decided.clone();
    let limits = OnDemandLimits { names_at_once: 3, ..OnDemandLimits::default() };
    let on_demand = OnDemand::new(&engine, &resolver, "ca", limits, move |_| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(true)
        }
    });
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..20 {
        let on_demand = on_demand.clone();
        waiting.spawn(async move { on_demand.prepare(Some(&format!("n{number}.test"))).await });
    }
    for _ in 0..17 {
        let refused = waiting.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::RateLimited, Retry::Backoff));
    }
    // Who asks for a name that is being looked into waits with the others.
    let (again, name) = (on_demand.clone(), "n0.test");
    decided.add_permits(20);
    for done in waiting.join_all().await {
        done.unwrap();
    }
    assert_eq!(rig.ca.issued().len(), 3);
    again.prepare(Some(name)).await.expect("that they were too many is not held against names");
}

#[tokio::test]
async fn a_decision_that_takes_too_long_is_a_no() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let resolver = Arc::new(TlsResolver::new());
    let limits = OnDemandLimits { decide_within: Duration::from_millis(20), ..OnDemandLimits::default() };
    let on_demand = OnDemand::new(&engine, &resolver, "ca", limits, |_| std::future::pending());
    let refused = on_demand.prepare(Some("web.test")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("not decided in time"), "{refused}");
    assert_eq!(rig.ca.issued().len(), 0);
}

#[tokio::test]
async fn a_name_that_is_forgotten_is_neither_served_nor_renewed_until_it_is_decided_anew() {
    let server = Server::new().await;
    server.prepare("web.test").await.unwrap();
    let denied = server.on_demand.forget(&Actor::new("somebody", Role::Viewer), "web.test").await;
    assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
    assert!(server.current("web.test").is_some());
    for _ in 0..2 {
        server.on_demand.forget(&actor(), "WEB.test").await.unwrap();
        assert_eq!(server.current("web.test"), None);
    }
    server.on_demand.forget(&actor(), "never.test").await.unwrap();

    // What is due by its age is left alone.
    server.rig.clock.advance(Duration::from_secs(80 * 86_400));
    let running = crate::world::Running::start(&server.engine);
    server.engine.ensure(&actor(), spec()).await.unwrap();
    running.stop().await;
    let certificate = server.engine.certificate("on-demand:web.test").await.unwrap();
    assert_eq!(server.engine.versions(&certificate.id).await.unwrap().len(), 1);

    // Neither is it served from the store without a yes.
    let server = Server::with(server.rig, OnDemandLimits::default()).await;
    server.prepare("web.test").await.unwrap();
    assert_eq!(server.asked(), 1);
    assert_eq!(server.engine.versions(&certificate.id).await.unwrap().len(), 2, "it is renewed again");
    assert!(server.current("web.test").is_some());
    server.rig.clock.advance(2 * MINUTE);
    server.prepare("web.test").await.unwrap();
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_certificate_past_half_of_its_life_is_decided_about_again() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let resolver = Arc::new(TlsResolver::new());
    let (allowed, asked) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(0)));
    let (allow, count) = (allowed.clone(), asked.clone());
    let on_demand = OnDemand::new(&engine, &resolver, "ca", OnDemandLimits::default(), move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let answer = match allow.load(Ordering::Relaxed) {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::unavailable("the list of names is away")),
        };
        async move { answer }
    });
    let prepare = async || on_demand.prepare(Some("web.test")).await;
    let asked_times = async |times: usize| {
        let asking = async {
            while asked.load(Ordering::Relaxed) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.expect("it is asked again");
    };
    let served = || resolver.current("on-demand:web.test").is_some();
    prepare().await.unwrap();
    rig.clock.advance(Duration::from_secs(40 * 86_400));
    prepare().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it is young");
    rig.clock.advance(Duration::from_secs(10 * 86_400));
    for (answer, times) in [(1, 2), (2, 3)] {
        allowed.store(answer, Ordering::Relaxed);
        prepare().await.unwrap();
        asked_times(times).await;
        assert!(served(), "no answer is no no");
        rig.clock.advance(61 * MINUTE);
    }
    allowed.store(0, Ordering::Relaxed);
    prepare().await.expect("what is there serves while it is asked");
    asked_times(4).await;
    let gone = async {
        while served() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("it is not served any more");
    let refused = async {
        while prepare().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("it is refused");
    assert_eq!(rig.ca.issued().len(), 1);
}

#[tokio::test]
async fn a_name_that_is_served_already_is_left_alone() {
    let server = Server::new().await;
    server.engine.ensure(&actor(), spec()).await.unwrap();
    let bundle = server.engine.bundle(&actor(), "web").await.unwrap();
    server.resolver.install("web", &bundle).unwrap();
    server.prepare("web.test").await.unwrap();
    assert_eq!((server.asked(), server.current("web.test")), (0, None));
    // Once that has expired, it is no certificate for the name any more.
    server.rig.clock.advance(Duration::from_secs(200 * 86_400));
    server.prepare("web.test").await.unwrap();
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn keys_are_for_administrators() {
    let server = Server::new().await;
    let certificate = server.engine.ensure(&actor(), spec()).await.unwrap();
    for role in [Role::Operator, Role::Viewer, Role::Agent] {
        let refused = server.engine.bundle(&Actor::new("somebody", role), "web").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);
    }
    let bundle = server.engine.bundle(&actor(), certificate.id.as_str()).await.unwrap();
    assert_eq!(bundle.chain, server.engine.versions(&certificate.id).await.unwrap()[0].chain);
    assert_eq!(bundle.chain.leaf().public_key().unwrap(), bundle.key.public_key());
    assert_eq!(server.engine.bundle(&actor(), "other").await.unwrap_err().kind(), ErrorKind::NotFound);

    // One whose key is elsewhere, and one that is not there yet.
    let key = certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap();
    let csr = certctl::Csr::create(&key, None, &["csr.test".parse().unwrap()]).await.unwrap().to_pem();
    let elsewhere = certctl::CertificateSpec::new("elsewhere").issuer("ca").csr(csr);
    server.engine.ensure(&actor(), elsewhere).await.unwrap();
    server.rig.ca.script(Script::Down);
    let pending = certctl::CertificateSpec::new("pending").dns("pending.test").issuer("ca");
    server.engine.ensure(&actor(), pending).await.unwrap();
    for (name, why) in [("elsewhere", "its key is not held"), ("pending", "no version yet")] {
        let refused = server.engine.bundle(&actor(), name).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(refused.message().contains(why), "{refused}");
    }
}
