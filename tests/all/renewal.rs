//! The CA says when it wants its certificates renewed (RFC 9773), and the loop asks by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use certctl::{
    CertificateSpec, Chain, Clock, Context, Engine, Error, ErrorKind, Handle, Issuer, IssuerCapabilities,
    Order, Progress, Recovery, RenewalWindow, Result, Retry, Timestamp,
    engine::plan::{self, HURRIES_IN_A_ROW, Heard, Opinion},
    records::{AuditEvent, Certificate, Placement, RenewalPolicy},
    store::{Direction, Query, StoreExt, Stored},
    testkit::issuer::ScriptedIssuer,
};

use crate::{
    rig::{Rig, actor, spec},
    world::{Running, eventually},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

struct Life {
    rig: Rig,
    engine: Engine,
    begin: Timestamp,
    running: Running,
}

async fn rig() -> Rig {
    rig_with(true).await
}

async fn rig_with(json: bool) -> Rig {
    let capabilities =
        IssuerCapabilities { renewal_info: true, ..IssuerCapabilities::all(Recovery::Searchable) };
    Rig::with(capabilities, json).await
}

impl Life {
    /// A certificate of 90 days in service, and the loop; the CA says `window` when it is asked.
    async fn new(window: impl FnOnce(Timestamp) -> Result<Option<RenewalWindow>>) -> Self {
        let rig = rig().await;
        let begin = rig.clock.now();
        rig.ca.set_window(window(begin));
        let engine = rig.engine().await;
        engine.ensure(&actor(), spec()).await.unwrap();
        let running = Running::start(&engine);
        Self { rig, engine, begin, running }
    }

    async fn placement(&self) -> Stored<Placement> {
        placements(&self.engine).await.remove(0)
    }

    fn asked(&self) -> usize {
        self.rig.ca.windows_asked().len()
    }

    fn issued(&self) -> usize {
        self.rig.ca.issued().len()
    }

    /// Lets the time pass until the CA is to be asked, and waits for what was heard to be written down.
    async fn ask(&self) -> Stored<Placement> {
        let before = self.placement().await;
        let (due, asked) = (before.ask_at.unwrap(), self.asked());
        self.rig.clock.set(due);
        self.heard(asked + 1).await
    }

    /// Waits until the CA was asked so often, and nothing is under way.
    async fn heard(&self, asked: usize) -> Stored<Placement> {
        eventually(&self.engine, "the answer", async || {
            let placement = self.placement().await;
            let heard = events(&self.engine, "renewal_windows.heard").await.len();
            self.asked() == asked && heard == asked && placement.job.is_none()
        })
        .await;
        self.placement().await
    }

    async fn issued_so_often(&self, issued: usize) {
        eventually(&self.engine, "the renewal", async || {
            self.issued() == issued && self.placement().await.job.is_none()
        })
        .await;
    }
}

async fn placements(engine: &Engine) -> Vec<Stored<Placement>> {
    engine.store().list::<Placement>(Query::of::<Placement>().limit(1_000)).await.unwrap().0
}

async fn events(engine: &Engine, action: &str) -> Vec<Stored<AuditEvent>> {
    let (events, _) = engine
        .store()
        .list::<AuditEvent>(Query::of::<AuditEvent>().order("at", Direction::Descending).limit(500))
        .await
        .unwrap();
    events.into_iter().filter(|event| &*event.action == action).collect()
}

fn window(start: Timestamp, end: Timestamp, ask_again: Timestamp) -> Result<Option<RenewalWindow>> {
    Ok(Some(RenewalWindow { start, end, ask_again, explanation: Some("https://ca.test/why".into()) }))
}

#[tokio::test]
async fn a_renewal_happens_within_the_window_of_the_ca() {
    let life = Life::new(|begin| window(begin + 70 * DAY, begin + 72 * DAY, begin + 6 * HOUR)).await;
    let before = life.placement().await;
    // Until the CA was heard, the share of the lifetime holds.
    assert_eq!(before.renew_at, Some(life.begin + 60 * DAY));
    assert!(
        before.ask_at.unwrap() > life.begin && before.ask_at.unwrap() <= life.begin + MINUTE + HOUR / 3600
    );
    let heard = life.ask().await;
    let at = heard.renew_at.unwrap();
    assert!(at >= life.begin + 70 * DAY && at <= life.begin + 72 * DAY, "{at}");
    assert_eq!(heard.window.as_ref().unwrap().explanation.as_deref(), Some("https://ca.test/why"));
    assert_eq!(heard.ask_at, Some(life.begin + 6 * HOUR));
    let changed = events(&life.engine, "renewal_window.changed").await;
    assert_eq!(changed.len(), 1);
    let text = serde_json::to_string(&*changed[0]).unwrap();
    for word in
        ["https://ca.test/why", &(life.begin + 70 * DAY).to_string(), &(life.begin + 72 * DAY).to_string()]
    {
        assert!(text.contains(word), "{text}");
    }

    // The same window leaves the moment as it is.
    life.rig.ca.set_window(window(life.begin + 70 * DAY, life.begin + 72 * DAY, life.begin + 400 * DAY));
    assert_eq!(life.ask().await.renew_at, Some(at));
    assert_eq!(events(&life.engine, "renewal_window.changed").await.len(), 1);

    life.rig.clock.set(at - Duration::from_millis(1));
    life.heard(3).await;
    assert_eq!(life.issued(), 1, "not before");
    life.rig.ca.set_window(Ok(None));
    life.rig.clock.set(at);
    life.issued_so_often(2).await;
    // Then it is asked about the new one, which has no window so far.
    let placement = life.placement().await;
    assert_eq!((placement.window.clone(), placement.renew_at), (None, Some(at.floor_secs() + 60 * DAY)));
    life.ask().await;
    assert_eq!(life.rig.ca.windows_asked().last(), life.rig.ca.issued().last());
    life.running.stop().await;
}

#[tokio::test]
async fn a_ca_that_revokes_brings_the_renewal_forward() {
    let life = Life::new(|begin| window(begin + 70 * DAY, begin + 72 * DAY, begin + DAY)).await;
    life.ask().await;
    let now = life.begin + DAY;
    life.rig.ca.set_window(window(now - HOUR, now - HOUR / 2, now + 6 * HOUR));
    let asked = life.asked();
    life.rig.clock.set(now);
    // It is asked about the old one, and renews at once.
    life.issued_so_often(2).await;
    assert_eq!(life.asked(), asked + 1);
    let certificate = life.engine.certificate("web").await.unwrap();
    life.rig.assert_deployed(&life.engine, &certificate).await;
    life.running.stop().await;
}

#[tokio::test]
async fn a_ca_that_wants_every_new_certificate_renewed_is_heeded_a_few_times() {
    let life = Life::new(|begin| window(begin - HOUR, begin, begin + HOUR)).await;
    let mut orders = 1;
    let mut last = Duration::ZERO;
    while orders <= HURRIES_IN_A_ROW as usize {
        let issued = life.rig.clock.now();
        life.rig.clock.set(life.placement().await.ask_at.unwrap());
        let asked = life.asked();
        eventually(&life.engine, "the answer", async || life.asked() > asked).await;
        if orders > 1 {
            // Later and later.
            let placement = life.heard(orders).await;
            let at = placement.renew_at.unwrap();
            assert!(at.since(issued) > last && at <= issued + 6 * HOUR, "{at}");
            last = at.since(issued);
            life.rig.clock.set(at);
        }
        orders += 1;
        life.issued_so_often(orders).await;
    }
    let issued = life.rig.clock.now();
    let left_alone = life.ask().await;
    assert_eq!(left_alone.renew_at, Some(issued.floor_secs() + 60 * DAY), "the share of the lifetime holds");
    assert_eq!(life.issued(), HURRIES_IN_A_ROW as usize + 1);
    life.running.stop().await;
}

#[tokio::test]
async fn the_ca_says_when_to_ask_again_within_limits() {
    let life = Life::new(|begin| window(begin + 70 * DAY, begin + 72 * DAY, begin)).await;
    // At once is a minute.
    let placement = life.ask().await;
    assert_eq!(placement.ask_at, Some(life.rig.clock.now() + MINUTE));
    let say =
        |ask_again| life.rig.ca.set_window(window(life.begin + 70 * DAY, life.begin + 72 * DAY, ask_again));
    say(life.begin + 3 * HOUR);
    assert_eq!(life.ask().await.ask_at, Some(life.begin + 3 * HOUR));
    // Next month is a day.
    say(life.begin + 30 * DAY);
    assert_eq!(life.ask().await.ask_at, Some(life.begin + 3 * HOUR + DAY));
    life.running.stop().await;
}

#[tokio::test]
async fn a_ca_that_does_not_answer_is_asked_later_and_later() {
    let life = Life::new(|_| Err(Error::unavailable("the CA is down"))).await;
    let mut last = Duration::ZERO;
    for failures in 1..8 {
        let placement = life.ask().await;
        assert_eq!(placement.asking.failures, failures);
        assert_eq!(placement.renew_at, Some(life.begin + 60 * DAY), "the share of the lifetime holds");
        let pause = placement.ask_at.unwrap().since(life.rig.clock.now());
        assert!(pause >= HOUR * 3 / 4 && pause <= 6 * HOUR && (failures > 3 || pause > last), "{pause:?}");
        last = pause;
    }
    let told = life.placement().await.ask_at.unwrap() + 5 * HOUR;
    life.rig.ca.set_window(Err(Error::new(ErrorKind::RateLimited, "slowly").with_retry(Retry::After(told))));
    assert_eq!(life.ask().await.ask_at, Some(told));
    // It is back.
    life.rig.ca.set_window(window(life.begin + 50 * DAY, life.begin + 51 * DAY, told));
    let placement = life.ask().await;
    assert_eq!(placement.asking.failures, 0);
    assert!(placement.renew_at.unwrap() < life.begin + 60 * DAY);
    // A failure later on does not forget what was heard.
    life.rig.ca.set_window(Err(Error::unavailable("the CA is down")));
    let after = life.ask().await;
    assert_eq!((after.renew_at, &after.window), (placement.renew_at, &placement.window));
    // Without an opinion, the share of the lifetime holds again.
    life.rig.ca.set_window(Ok(None));
    let after = life.ask().await;
    assert_eq!((after.renew_at, after.window.as_ref()), (Some(life.begin + 60 * DAY), None));
    assert_eq!(after.ask_at, Some(life.rig.clock.now() + DAY));
    life.running.stop().await;
}

#[tokio::test]
async fn a_ca_without_an_opinion_is_not_asked() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(placements(&engine).await[0].ask_at, None);

    // It learns to have one: at the next start it is asked about what it issued before.
    let capabilities = IssuerCapabilities { renewal_info: true, ..rig.ca.capabilities() };
    let ca = Arc::new(Slow { inner: rig.ca.clone(), capabilities, answer: Arc::default() });
    let engine = rig.builder_with(ca).build().await.unwrap();
    engine.ensure(&actor(), spec()).await.unwrap();
    let ask_at = placements(&engine).await[0].ask_at;
    assert!(ask_at.is_some_and(|at| at > rig.clock.now()));
    engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(placements(&engine).await[0].ask_at, ask_at, "once is enough");
}

#[tokio::test]
async fn nobody_asks_about_a_certificate_whose_key_is_elsewhere_or_while_a_renewal_is_open() {
    let rig = rig().await;
    let key = certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap();
    let csr = certctl::Csr::create(&key, None, &["elsewhere.test".parse().unwrap()]).await.unwrap();
    let engine = rig.engine().await;
    engine.ensure(&actor(), CertificateSpec::new("else").issuer("ca").csr(csr.to_pem())).await.unwrap();
    assert_eq!(placements(&engine).await[0].ask_at, None);
    engine.ensure(&actor(), spec()).await.unwrap();
    let web =
        async || placements(&engine).await.into_iter().find(|p| p.renew_at.is_some() || p.job.is_some());
    assert!(web().await.unwrap().ask_at.is_some());
    rig.ca.script(certctl::testkit::issuer::Script::Down);
    rig.renew(&engine).await;
    let open = web().await.unwrap();
    assert!(open.job.is_some() && open.ask_at.is_none(), "{open:?}");
}

#[tokio::test]
async fn two_engines_ask_once_and_in_few_commits() {
    const CERTIFICATES: usize = 210;
    let rig = rig_with(false).await;
    let begin = rig.clock.now();
    let engines = [rig.engine().await, rig.engine().await];
    for number in 0..CERTIFICATES {
        let name = format!("c{number}");
        let spec = CertificateSpec::new(&*name).dns(format!("{name}.test")).issuer("ca");
        engines[0].ensure(&actor(), spec).await.unwrap();
    }
    let running = [Running::start(&engines[0]), Running::start(&engines[1])];
    for round in 1..3_u32 {
        let now = begin + 12 * HOUR * round;
        rig.ca.set_window(window(begin + 70 * DAY, begin + 72 * DAY, now + 12 * HOUR));
        rig.clock.set(now);
        let heard = |p: &Placement| p.window.is_some() && p.ask_at.is_some_and(|at| at > now + HOUR);
        // Each process hears of its own commits alone.
        let mut news = engines[0].events();
        while !placements(&engines[0]).await.iter().all(|placement| heard(placement)) {
            let _ = tokio::time::timeout(Duration::from_millis(50), news.next()).await;
        }
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for chain in rig.ca.windows_asked() {
            *times.entry(chain.leaf().serial().to_string()).or_default() += 1;
        }
        assert_eq!(times.len(), CERTIFICATES);
        assert!(times.values().all(|n| *n == round as usize), "asked twice: {times:?}");
        let commits = events(&engines[0], "renewal_windows.asked").await.len()
            + events(&engines[0], "renewal_windows.heard").await.len();
        assert!(commits <= 8 * round as usize, "{commits} commits in {round} rounds");
    }
    let moments: Vec<_> = placements(&engines[0]).await.iter().map(|p| p.renew_at.unwrap()).collect();
    assert!(moments.iter().all(|at| *at >= begin + 70 * DAY && *at <= begin + 72 * DAY));
    let early = moments.iter().filter(|at| **at < begin + 71 * DAY).count();
    assert!(early > 60 && early < 150, "they are spread over the window: {early} in its first half");
    for running in running {
        running.stop().await;
    }
}

/// Answers questions about windows only when it is let.
#[derive(Debug)]
struct Slow {
    inner: Arc<ScriptedIssuer>,
    capabilities: IssuerCapabilities,
    answer: Arc<tokio::sync::Notify>,
}

#[async_trait::async_trait]
impl Issuer for Slow {
    fn kind(&self) -> &str {
        "scripted"
    }
    fn capabilities(&self) -> IssuerCapabilities {
        self.capabilities.clone()
    }
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        self.inner.submit(cx, order).await
    }
    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        self.inner.poll(cx, order, handle).await
    }
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.inner.recover(cx, order).await
    }
    async fn renewal_window(&self, cx: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
        let window = self.inner.renewal_window(cx, chain).await;
        self.answer.notified().await;
        window
    }
}

#[tokio::test]
async fn a_ca_that_is_slow_to_answer_keeps_nobody_from_renewing() {
    let rig = rig().await;
    let answer = Arc::new(tokio::sync::Notify::new());
    let ca = Slow { inner: rig.ca.clone(), capabilities: rig.ca.capabilities(), answer: answer.clone() };
    let engine = rig.builder_with(Arc::new(ca)).build().await.unwrap();
    engine.ensure(&actor(), spec()).await.unwrap();
    let running = Running::start(&engine);
    rig.clock.set(placements(&engine).await[0].ask_at.unwrap());
    eventually(&engine, "the question", async || rig.ca.windows_asked().len() == 1).await;
    // The question hangs, and is under way once.
    let certificate = engine.renew(&actor(), "web").await.unwrap().wait().await.unwrap();
    let newest = rig.ca.issued().last().unwrap().leaf().serial().clone();
    assert_eq!((rig.ca.issued().len(), certificate.serial.as_ref()), (2, Some(&newest)));
    assert_eq!(rig.ca.windows_asked().len(), 1);
    // What it says about the old one does not count for the new one.
    let now = rig.clock.now();
    rig.ca.set_window(window(now - HOUR, now, now));
    let before = placements(&engine).await.remove(0);
    answer.notify_one();
    running.stop().await;
    let after = placements(&engine).await.remove(0);
    assert_eq!((after.window.as_ref(), after.renew_at), (None, before.renew_at));
}

#[tokio::test]
async fn who_is_asked_too_late_by_a_clock_that_was_wrong_is_asked_by_one_that_is_right() {
    let life = Life::new(|begin| window(begin + 70 * DAY, begin + 72 * DAY, begin + HOUR)).await;
    // A clock that is a month ahead, and is put right.
    life.rig.clock.set(life.begin + 30 * DAY);
    life.heard(1).await;
    let now = life.begin + 2 * HOUR;
    life.rig.clock.set(now);
    eventually(&life.engine, "the earlier time", async || {
        life.placement().await.ask_at.is_some_and(|at| at <= now + MINUTE)
    })
    .await;
    life.ask().await;
    life.running.stop().await;
}

#[tokio::test]
async fn windows_that_make_no_sense_are_passed_over() {
    let rig = rig().await;
    let engine = rig.engine().await;
    let certificate: Stored<Certificate> = engine.ensure(&actor(), spec()).await.unwrap();
    let version = engine.versions(&certificate.id).await.unwrap().remove(0);
    let placement = placements(&engine).await.remove(0);
    let (begin, end) = (version.not_before, version.not_after);
    let now = begin + DAY;
    let hear = |start, until, chance| {
        let mut placement = placement.clone();
        let window = RenewalWindow { start, end: until, ask_again: now + HOUR, explanation: None };
        let opinion = Opinion::Window(window);
        let heard = plan::hear(&mut placement, RenewalPolicy::default(), &version, opinion, now, chance);
        (heard, placement.into_inner())
    };
    for (start, until) in [
        (begin + 50 * DAY, begin + 40 * DAY),
        (begin + 50 * DAY, begin + 50 * DAY),
        (end, end + DAY),
        (Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MIN)),
    ] {
        let (heard, after) = hear(start, until, 0.5);
        assert!(matches!(heard, Heard::Nonsense(_)), "{start} to {until}: {heard:?}");
        assert_eq!(
            (after.renew_at, after.window.as_ref(), after.asking.failures),
            (placement.renew_at, None, 1)
        );
        assert!(after.ask_at.unwrap() >= now + HOUR / 2);
    }
    // One that is over, even for years, means at once (RFC 9773 section 4.2).
    let (heard, after) = hear(Timestamp::EPOCH, Timestamp::EPOCH + DAY, 0.5);
    assert_eq!((heard, after.renew_at), (Heard::Changed, Some(now)));
    // Within the window, whatever chance says; and always before the end.
    for (start, until) in [
        (begin + 10 * DAY, begin + 11 * DAY),
        (begin - DAY, begin + 100 * DAY),
        (begin + 89 * DAY, begin + 1_000 * DAY),
        (Timestamp::from_millis(i64::MIN), Timestamp::from_millis(i64::MAX)),
    ] {
        for chance in [0.0, 0.3, 1.0, f64::MAX] {
            let (heard, after) = hear(start, until, chance);
            let at = after.renew_at.unwrap();
            assert_eq!(heard, Heard::Changed, "{start} to {until}");
            assert!(at >= now && at < end, "{at} for {start} to {until}");
            assert!(at <= until && (at >= start || at >= end - 5 * DAY), "{at} for {start} to {until}");
        }
    }
}
