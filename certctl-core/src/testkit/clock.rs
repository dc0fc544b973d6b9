//! A clock that stands still until a test moves it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Clock, Timestamp};

/// A [`Clock`] that a test moves, in both directions. Clones show the same time.
///
/// ```
/// use std::time::Duration;
/// use certctl_core::{Clock, testkit::clock::TestClock};
/// let clock = TestClock::default();
/// assert_eq!(clock.now().to_string(), "2027-01-15T12:00:00Z");
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now().to_string(), "2027-01-15T12:01:00Z");
/// ```
#[derive(Clone, Debug)]
pub struct TestClock(Arc<State>);

#[derive(Debug)]
struct State {
    now: watch::Sender<Timestamp>,
    /// How many sleepers wait for each time.
    sleepers: watch::Sender<BTreeMap<Timestamp, usize>>,
}

impl Default for TestClock {
    /// At 2027-01-15T12:00:00Z.
    fn default() -> Self {
        Self::at(Timestamp::from_secs(1_800_014_400))
    }
}

impl TestClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(State { now: watch::Sender::new(now), sleepers: watch::Sender::default() }))
    }

    /// Moves the time on.
    pub fn advance(&self, span: Duration) {
        self.0.now.send_modify(|now| *now = *now + span);
        self.0.sleepers.send_modify(|_| {});
    }

    /// Sets the time, also back.
    pub fn set(&self, now: Timestamp) {
        self.0.now.send_replace(now);
        self.0.sleepers.send_modify(|_| {});
    }

    /// When the first sleeper wakes; none if nobody sleeps, or if somebody is due and has not got up yet.
    pub fn waiting(&self) -> Option<Timestamp> {
        let now = self.now();
        let first = self.0.sleepers.borrow().keys().next().copied();
        first.filter(|first| *first > now)
    }

    /// Waits until somebody sleeps and nobody is due; returns when the first sleeper wakes.
    ///
    /// With several sleepers this may return while one that has just been woken works on.
    pub async fn asleep(&self) -> Timestamp {
        let mut sleepers = self.0.sleepers.subscribe();
        loop {
            if let Some(first) = self.waiting() {
                return first;
            }
            if sleepers.changed().await.is_err() {
                // The sender lives as long as this clock.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.now.borrow()
    }

    async fn sleep_until(&self, until: Timestamp) {
        let mut now = self.0.now.subscribe();
        if *now.borrow_and_update() >= until {
            return;
        }
        let _asleep = Asleep::new(&self.0, until);
        // Fails only without a sender, and this clock has it.
        let _ = now.wait_for(|now| *now >= until).await;
    }

    /// Waits for real, 20 ms at most, and leaves the time as it is: who pauses waits for something outside the test,
    /// such as a process. Whoever gives up after a number of pauses does so here as well.
    #[allow(clippy::disallowed_methods)]
    async fn pause(&self, span: Duration) {
        tokio::task::yield_now().await;
        tokio::time::sleep(span.min(Duration::from_millis(20))).await;
    }
}

/// Checks that a clock keeps the contract of [`Clock`]. `advance` lets that much time pass, for a clock that does not go by
/// itself; for one that does, it does nothing.
///
/// # Panics
/// If it does not.
pub async fn conformance(clock: Arc<dyn Clock>, advance: &(dyn Fn(Duration) + Sync)) {
    const STEP: Duration = Duration::from_millis(20);
    let start = clock.now();
    assert!(start > Timestamp::from_secs(1_700_000_000), "it shows a time of this age: {start}");
    // What has passed needs no sleep: nothing has to advance.
    clock.sleep_until(start).await;
    clock.sleep_until(start - Duration::from_secs(86_400 * 365)).await;

    // Sleepers wake when it is time, each at its own, and not before.
    let sleep = |until| {
        let clock = clock.clone();
        tokio::spawn(async move {
            clock.sleep_until(until).await;
            clock.now()
        })
    };
    let far = sleep(clock.now() + Duration::from_secs(86_400 * 3_650));
    let ends = [clock.now() + STEP * 2, clock.now() + STEP];
    let sleepers = ends.map(sleep);
    advance(STEP);
    advance(STEP);
    for (sleeper, end) in sleepers.into_iter().zip(ends) {
        let woken = sleeper.await.expect("a sleep does not panic");
        assert!(woken >= end, "nobody is woken before {end}: {woken}");
    }
    assert!(!far.is_finished(), "who sleeps for years sleeps on");
    far.abort();

    clock.pause(Duration::from_millis(1)).await;
    assert!(clock.now() >= start + STEP * 2, "time has passed");
}

/// Somebody who sleeps, until dropped: a sleep that was given up counts no more.
struct Asleep<'a> {
    state: &'a State,
    until: Timestamp,
}

impl<'a> Asleep<'a> {
    fn new(state: &'a State, until: Timestamp) -> Self {
        state.sleepers.send_modify(|sleepers| *sleepers.entry(until).or_default() += 1);
        Self { state, until }
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.state.sleepers.send_modify(|sleepers| {
            if let Some(count) = sleepers.get_mut(&self.until) {
                *count -= 1;
                if *count == 0 {
                    sleepers.remove(&self.until);
                }
            }
        });
    }
}
