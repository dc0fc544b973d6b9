//! The monotonic clock stands still, and the wall clock is moved by days, forward and back: what is due happens, once.

use std::{sync::Arc, time::Duration};

use certctl::{
    Clock, Engine, Recovery, Timestamp,
    records::{Certificate, CertificateStatus, Job, Placement},
    store::{Query, StoreExt, Stored},
    testkit::{
        clock::TestClock,
        host::{FaultHost, When},
    },
};

use crate::{
    rig::{Rig, actor, assert_no_open_job, spec},
    world::{Running, eventually},
};

const DAY: Duration = Duration::from_secs(86_400);

/// No time passes unless the wall clock is moved: pauses never end, until the test says so.
#[derive(Clone, Debug)]
struct Frozen {
    wall: TestClock,
    thaw: Arc<tokio::sync::Notify>,
}

impl Frozen {
    fn new(wall: &TestClock) -> Self {
        Self { wall: wall.clone(), thaw: Arc::default() }
    }
}

#[async_trait::async_trait]
impl Clock for Frozen {
    fn now(&self) -> Timestamp {
        self.wall.now()
    }
    async fn sleep_until(&self, until: Timestamp) {
        self.wall.sleep_until(until).await;
    }
    async fn pause(&self, _: Duration) {
        self.thaw.notified().await;
    }
}

struct Life {
    rig: Rig,
    clock: Frozen,
    engine: Engine,
    certificate: Stored<Certificate>,
    running: Running,
}

impl Life {
    /// A certificate of 90 days in service, and the loop.
    async fn new() -> Self {
        let rig = Rig::new(Recovery::Searchable, true).await;
        let clock = Frozen::new(&rig.clock);
        let engine = rig.builder().clock(Arc::new(clock.clone())).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let running = Running::start(&engine);
        rig.clock.asleep().await;
        Self { rig, clock, engine, certificate, running }
    }

    /// Moves the wall clock, and waits until the loop has seen that and sleeps again.
    async fn set(&self, now: Timestamp) {
        self.rig.clock.set(now);
        self.quiet().await;
    }

    /// Waits until the loop sleeps and no job is due.
    async fn quiet(&self) {
        eventually(&self.engine, "rest", async || {
            self.rig.clock.asleep().await;
            let now = self.rig.clock.now();
            let (jobs, _) = self.engine.store().list::<Job>(Query::of::<Job>().limit(1_000)).await.unwrap();
            let placements: Vec<Stored<Placement>> =
                self.engine.store().list_by("certificate", (&self.certificate.id).into()).await.unwrap();
            jobs.iter().all(|job| job.state.is_finished() || job.due.is_some_and(|due| due > now))
                && placements.iter().all(|placement| placement.renew_at.is_some_and(|at| at > now))
        })
        .await;
    }

    async fn renew_at(&self) -> Timestamp {
        let placements: Vec<Stored<Placement>> =
            self.engine.store().list_by("certificate", (&self.certificate.id).into()).await.unwrap();
        placements[0].renew_at.unwrap()
    }

    fn issued(&self) -> usize {
        self.rig.ca.issued().len()
    }

    async fn end(self) {
        let certificate = self.engine.certificate("web").await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active);
        assert_no_open_job(&self.engine, &certificate).await;
        assert_eq!(self.engine.versions(&certificate.id).await.unwrap().len(), self.issued());
        self.rig.assert_deployed(&self.engine, &certificate).await;
        self.rig.ca.assert_no_second_order();
        self.running.stop().await;
    }
}

#[tokio::test]
async fn a_renewal_happens_at_two_thirds_of_the_lifetime_and_not_before() {
    let life = Life::new().await;
    let begin = life.certificate.created;
    assert_eq!(life.renew_at().await, begin + 60 * DAY);
    for day in [1, 30, 59] {
        life.set(begin + day * DAY).await;
        assert_eq!(life.issued(), 1, "on day {day}");
    }
    life.set(begin + 60 * DAY - Duration::from_millis(1)).await;
    assert_eq!(life.issued(), 1);
    life.set(begin + 60 * DAY).await;
    assert_eq!(life.issued(), 2);
    assert_eq!(life.renew_at().await, begin + 120 * DAY);
    life.end().await;
}

#[tokio::test]
async fn a_clock_that_goes_back_and_forth_renews_once() {
    let life = Life::new().await;
    let due = life.renew_at().await;
    life.set(due + DAY).await;
    assert_eq!(life.issued(), 2);
    for _ in 0..3 {
        life.set(due - 30 * DAY).await;
        life.set(due + DAY).await;
        life.set(due + 2 * DAY).await;
        assert_eq!(life.issued(), 2);
    }
    // The next one comes in its time.
    life.set(life.renew_at().await).await;
    assert_eq!(life.issued(), 3);
    life.end().await;
}

#[tokio::test]
async fn a_jump_far_beyond_the_end_renews_once() {
    let life = Life::new().await;
    life.set(life.certificate.created + 1_000 * DAY).await;
    assert_eq!(life.issued(), 2);
    assert_eq!(life.renew_at().await, life.certificate.created + 1_060 * DAY);
    life.end().await;
}

#[tokio::test]
async fn what_is_asked_for_happens_although_the_clock_has_gone_back() {
    let life = Life::new().await;
    // Without the loop being woken by anything else than the clock: it sleeps by a clock that was ahead.
    life.set(life.certificate.created + 20 * DAY).await;
    life.rig.clock.set(life.certificate.created + DAY);
    life.engine.renew(&actor(), "web").await.unwrap().wait().await.unwrap();
    assert_eq!(life.issued(), 2);
    life.end().await;
}

#[tokio::test]
async fn a_job_that_was_due_is_due_although_the_clock_has_gone_back() {
    let life = Life::new().await;
    let begin = life.certificate.created;
    life.running.stop().await;
    life.rig.host.reset();
    life.rig.files.put(crate::rig::CERT, "torn");
    // Asked for by a clock that was ahead by a month; stepped by one that is right.
    life.rig.clock.set(begin + 30 * DAY);
    let watch = life.engine.deploy(&actor(), "web").await.unwrap();
    life.rig.clock.set(begin + DAY);
    let running = Running::start(&life.engine);
    watch.wait().await.unwrap();
    eventually(&life.engine, "the deployment", async || life.rig.swaps() == 1).await;
    Life { running, ..life }.end().await;
}

#[tokio::test]
async fn a_later_try_is_not_late_because_the_clock_has_gone_back() {
    let life = Life::new().await;
    let begin = life.certificate.created;
    life.set(begin + 30 * DAY).await;
    life.rig.host.fail_if(|op| op.name == "stage", When::Before, FaultHost::disk_full());
    life.rig.files.put(crate::rig::CERT, "torn");
    life.engine.deploy(&actor(), "web").await.unwrap().wait().await.unwrap();
    let job = crate::rig::open(&life.engine, &life.certificate, "deploy").await;
    assert!(job.due.unwrap() > begin + 30 * DAY);

    life.rig.host.reset();
    life.rig.clock.set(begin + DAY);
    // Nothing else wakes the loop now.
    eventually(&life.engine, "the earlier time", async || {
        life.clock.thaw.notify_waiters();
        tokio::task::yield_now().await;
        let job = crate::rig::open(&life.engine, &life.certificate, "deploy").await;
        let pause = job.due.unwrap().since(begin + DAY);
        pause > Duration::ZERO && pause <= Duration::from_secs(120)
    })
    .await;
    life.set(begin + 2 * DAY).await;
    life.end().await;
}

#[tokio::test]
async fn many_certificates_are_renewed_once_each() {
    let rig = Rig::new(Recovery::Searchable, false).await;
    let engine = rig.builder().clock(Arc::new(Frozen::new(&rig.clock))).build().await.unwrap();
    let running = Running::start(&engine);
    for number in 0..50 {
        let spec =
            certctl::CertificateSpec::new(format!("c{number}")).dns(format!("c{number}.test")).issuer("ca");
        engine.want(&actor(), spec).await.unwrap().wait().await.unwrap();
    }
    let begin = rig.clock.now();
    for now in [begin + 61 * DAY, begin + 10 * DAY, begin + 62 * DAY] {
        rig.clock.set(now);
        eventually(&engine, "the renewals", async || {
            rig.clock.asleep().await;
            rig.ca.issued().len() == 100
        })
        .await;
    }
    assert_eq!(rig.ca.issued().len(), 100);
    rig.ca.assert_no_second_order();
    running.stop().await;
}

#[tokio::test]
async fn finished_jobs_are_kept_for_a_week() {
    let life = Life::new().await;
    let jobs = async || life.engine.jobs(&life.certificate.id).await.unwrap().len();
    let begin = life.certificate.created;
    assert_eq!(jobs().await, 2, "issue and deploy");
    life.set(begin + 7 * DAY).await;
    assert_eq!(jobs().await, 2);
    life.rig.clock.set(begin + 8 * DAY);
    eventually(&life.engine, "the pruning", async || jobs().await == 0).await;
    life.quiet().await;
    life.end().await;
}
