use std::{sync::Arc, time::Duration};

use certctl_core::{
    Clock, SystemClock, Timestamp,
    testkit::clock::{TestClock, conformance},
};

#[test]
fn starts_at_a_fixed_date_and_moves_both_ways() {
    let clock = TestClock::default();
    assert_eq!(clock.now().to_string(), "2027-01-15T12:00:00Z");
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(clock.now().to_string(), "2027-01-16T12:00:00Z");
    clock.set(Timestamp::EPOCH);
    assert_eq!(clock.clone().now(), Timestamp::EPOCH);
}

#[tokio::test]
async fn sleepers_wake_when_their_time_has_come() {
    let clock = TestClock::default();
    let start = clock.now();
    let first = start + Duration::from_secs(10);
    let second = start + Duration::from_secs(20);
    let sleep = |until| {
        let clock = clock.clone();
        tokio::spawn(async move {
            clock.sleep_until(until).await;
            clock.now()
        })
    };
    assert_eq!(clock.waiting(), None);
    let (late, early) = (sleep(second), sleep(first));
    while clock.asleep().await != first {
        tokio::task::yield_now().await;
    }

    clock.advance(Duration::from_secs(9));
    assert_eq!(clock.waiting(), Some(first));
    assert!(!early.is_finished());
    clock.advance(Duration::from_secs(1));
    assert_eq!(clock.waiting(), None, "the first is due and not up yet");
    assert_eq!(early.await.unwrap(), first);
    assert_eq!(clock.asleep().await, second);

    clock.set(start - Duration::from_secs(3_600));
    assert_eq!(clock.asleep().await, second);
    assert!(!late.is_finished());
    clock.set(second + Duration::from_secs(1));
    assert_eq!(late.await.unwrap(), second + Duration::from_secs(1));
    assert_eq!(clock.waiting(), None);
}

#[tokio::test]
async fn a_sleep_that_was_given_up_counts_no_more() {
    let clock = Arc::new(TestClock::default());
    let until = clock.now() + Duration::from_secs(5);
    let sleeper = tokio::spawn({
        let clock = clock.clone();
        async move { clock.sleep_until(until).await }
    });
    assert_eq!(clock.asleep().await, until);
    sleeper.abort();
    assert!(sleeper.await.unwrap_err().is_cancelled());
    assert_eq!(clock.waiting(), None);
}

#[tokio::test]
async fn the_past_needs_no_sleep_and_a_pause_leaves_the_time() {
    let clock = TestClock::default();
    let now = clock.now();
    clock.sleep_until(now).await;
    clock.pause(Duration::from_secs(3_600)).await;
    assert_eq!(clock.now(), now);
}

#[tokio::test]
async fn the_system_clock_sleeps_until_its_time() {
    let clock = SystemClock;
    let until = clock.now() + Duration::from_millis(30);
    clock.sleep_until(until).await;
    assert!(clock.now() >= until);
}

#[tokio::test]
async fn both_clocks_conform() {
    conformance(Arc::new(SystemClock), &|_| {}).await;
    let clock = TestClock::default();
    conformance(Arc::new(clock.clone()), &|span| clock.advance(span)).await;
}
