//! Orders that end without a certificate, go on at once, or want to wait for ever: none keeps the engine busy, or stops it silently.

use std::{sync::Arc, time::Duration};

use certctl::{
    Clock, Context, Csr, ErrorKind, Issuer, IssuerCapabilities, KeyAlgorithm, PrivateKey, Recovery, Retry,
    Timestamp,
    engine::plan::{FAILURES_BEFORE_ATTENTION, LONGEST_WAIT, POLLS_AT_ONCE},
    records::{AttemptState, CertificateStatus, JobState},
    testkit::issuer::{Script, ScriptedIssuer},
};

use crate::{
    issuers::{ALL, RECOVERABLE, Shower, assert_status, each, next_try},
    rig::{Rig, actor, assert_attention, open, spec},
    world::{Running, eventually},
};

const DAY: Duration = Duration::from_secs(86_400);
const WRONG: &str = "the CA saw the wrong answer at the name";

#[tokio::test]
async fn an_order_that_ends_is_followed_by_another_one_later_and_later() {
    each(ALL, async |rig| {
        rig.ca.script(Script::EndFailed(Retry::Backoff));
        let engine = rig.engine().await;
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let mut last = Duration::ZERO;
        for failures in 1..FAILURES_BEFORE_ATTENTION {
            assert_status(&certificate, CertificateStatus::Pending);
            // The order waits to be polled, with what the last one said still to be seen.
            let job = open(&engine, &certificate, "issue").await;
            assert_eq!(job.failures, failures, "{job:#?}");
            assert!(job.last_error.as_ref().unwrap().message.contains(WRONG));
            let pause = job.due.unwrap().since(rig.clock.now());
            assert!(pause > last.mul_f64(1.1), "{pause:?} after {last:?}");
            last = pause;
            assert_eq!(rig.ca.attempts().len(), failures as usize);
            // Nobody hurries it by wanting the same; a new process goes on counting.
            let engine = rig.engine().await;
            engine.ensure(&actor(), spec()).await.unwrap();
            assert_eq!(rig.ca.attempts().len(), failures as usize);
            certificate = next_try(&rig, &engine, &certificate).await;
        }
        let job = assert_attention(&engine, &certificate, WRONG).await;
        assert_eq!(job.setback.as_ref().unwrap().times, FAILURES_BEFORE_ATTENTION);
        rig.clock.advance(30 * DAY);
        engine.ensure(&actor(), spec()).await.unwrap();
        let orders = rig.ca.attempts();
        assert_eq!(orders.len(), FAILURES_BEFORE_ATTENTION as usize, "it is left alone");
        assert!(orders.iter().all(|(_, calls)| calls.orders == 1 && calls.polls == 1), "{orders:?}");
        assert!(rig.attempts().await.iter().all(|attempt| attempt.state == AttemptState::Failed));

        // Somebody who retries begins anew: one more failure is the first one.
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Attention);
        let job = open(&engine, &certificate, "issue").await;
        assert_eq!((job.state, job.failures, job.setback.as_ref().unwrap().times), (JobState::Ready, 1, 1));
        rig.ca.script(Script::Issue);
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!((certificate.reason.as_ref(), rig.ca.issued().len()), (None, 1));
        let left = crate::rig::key_count(&*rig.keys, &engine.versions(&certificate.id).await.unwrap()).await;
        assert_eq!(left, 1);
        assert!(
            rig.attempts().await.iter().filter(|a| a.state == AttemptState::Failed).all(|a| a.key.is_none())
        );
    })
    .await;
}

#[tokio::test]
async fn what_an_order_ended_of_is_seen_while_the_next_one_is_pending_and_gone_after_it() {
    each(ALL, async |rig| {
        rig.ca.script_next([Script::EndFailed(Retry::Backoff), Script::PendUntil(rig.clock.now() + 2 * DAY)]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let mut certificate = next_try(&rig, &engine, &certificate).await;
        let second = rig.ca.attempts()[1].0.clone();
        // The CA is away for a while during the long order: that is no order that ended.
        for _ in 0..3 {
            let job = open(&engine, &certificate, "issue").await;
            assert_eq!((job.failures, job.setback.as_ref().unwrap().times), (0, 1));
            assert!(job.last_error.as_ref().unwrap().message.contains(WRONG));
            let pending = Script::PendUntil(rig.clock.now() + 2 * DAY);
            rig.ca.rescript(&second, Script::Down);
            certificate = next_try(&rig, &engine, &certificate).await;
            let job = open(&engine, &certificate, "issue").await;
            assert_eq!((job.failures, job.setback.as_ref().unwrap().times), (1, 1));
            assert!(job.last_error.as_ref().unwrap().message.contains("maintenance"));
            rig.ca.rescript(&second, pending);
            certificate = next_try(&rig, &engine, &certificate).await;
        }
        rig.ca.rescript(&second, Script::Issue);
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_status(&certificate, CertificateStatus::Active);
        let jobs = engine.jobs(&certificate.id).await.unwrap();
        let job = jobs.iter().find(|job| &*job.kind == "issue").unwrap();
        assert_eq!((job.state, job.setback.as_ref(), job.last_error.as_ref()), (JobState::Done, None, None));
    })
    .await;
}

#[tokio::test]
async fn an_order_that_ends_for_good_asks_for_attention_at_once() {
    each(ALL, async |rig| {
        rig.ca.script_next([Script::EndFailed(Retry::Never)]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let job = assert_attention(&engine, &certificate, WRONG).await;
        assert_eq!((job.failures, rig.ca.attempts().len()), (1, 1));
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.attempts().await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn another_order_is_made_when_the_ca_says_so() {
    each(ALL, async |rig| {
        let at = rig.clock.now() + 3 * DAY;
        rig.ca.script_next([Script::EndFailed(Retry::After(at))]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(open(&engine, &certificate, "issue").await.due, Some(at));
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_status(&certificate, CertificateStatus::Active);
    })
    .await;
}

#[tokio::test]
async fn challenges_of_an_order_that_ends_are_taken_away() {
    each(ALL, async |rig| {
        rig.ca.script_next([Script::Challenge]);
        let shower = Shower::new(&rig);
        shower.before_the_last(|rig| {
            let attempt = rig.ca.attempts()[0].0.clone();
            rig.ca.rescript(&attempt, Script::EndFailed(Retry::Backoff));
        });
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        let job = open(&engine, &certificate, "issue").await;
        assert_eq!((job.state, job.failures), (JobState::Ready, 1));
        assert_eq!(shower.shown(), 0, "nobody looks at them any more");
        assert_eq!(shower.presented(), 2);
        rig.clock.set(job.due.unwrap());
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
    })
    .await;
}

#[tokio::test]
async fn what_is_shown_is_taken_away_while_somebody_has_to_look() {
    for refused in ["web.test", "www.web.test"] {
        each(ALL, async |rig| {
            rig.ca.script_next([Script::Challenge]);
            let shower = Shower::new(&rig);
            shower.refuse(Some(refused));
            let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
            let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
            let job = assert_attention(&engine, &certificate, "somebody else's").await;
            assert_eq!(shower.shown(), 0, "the other one is not left to be seen");

            // Whoever takes it up again has all of them shown, of the same order.
            shower.refuse(None);
            let certificate = rig.retry(&engine, &job).await;
            assert_status(&certificate, CertificateStatus::Active);
            assert_eq!((shower.shown(), rig.attempts().await.len()), (0, 1));
        })
        .await;
    }
}

#[tokio::test]
async fn an_order_replaces_what_its_own_ca_has_issued() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let other = ScriptedIssuer::new(rig.clock.now(), IssuerCapabilities::all(Recovery::Searchable)).await;
    let engine = rig.builder().issuer("other", other.clone() as Arc<dyn Issuer>).build().await.unwrap();
    engine.ensure(&actor(), spec()).await.unwrap();
    rig.renew(&engine).await;
    let last = |ca: &ScriptedIssuer| {
        let newest = ca.attempts().pop().unwrap().0;
        ca.replaces(&newest)
    };
    assert_eq!(rig.ca.replaces(&rig.ca.attempts()[0].0), None);
    assert_eq!(last(&rig.ca).as_ref(), rig.ca.issued().first());
    // Another CA knows nothing of it.
    rig.tick();
    engine.ensure(&actor(), spec().issuer("other")).await.unwrap();
    assert_eq!((other.issued().len(), last(&other)), (1, None));
    rig.renew(&engine).await;
    assert_eq!(last(&other).as_ref(), other.issued().first());
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_may_have_ended() {
    each(RECOVERABLE, async |rig| {
        rig.ca.script_next([Script::LoseAnswer]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let first = rig.ca.attempts()[0].0.clone();
        rig.ca.rescript(&first, Script::EndFailed(Retry::Backoff));
        let certificate = next_try(&rig, &engine, &certificate).await;
        let job = open(&engine, &certificate, "issue").await;
        assert!(job.last_error.as_ref().unwrap().message.contains(WRONG), "{job:#?}");
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.attempts().await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_order_that_goes_on_at_once_is_polled_at_once() {
    each(ALL, async |rig| {
        rig.ca.script(Script::GoOn(POLLS_AT_ONCE));
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.ca.attempts()[0].1.polls, POLLS_AT_ONCE);
    })
    .await;
}

#[tokio::test]
async fn an_order_that_goes_on_for_ever_keeps_nobody_busy() {
    each(ALL, async |rig| {
        rig.ca.script(Script::GoOn(u32::MAX));
        let engine = rig.engine().await;
        let ensuring = tokio::spawn(async move { engine.ensure(&actor(), spec()).await });
        for turn in 1..4 {
            // Each turn polls a few times more, and rests for a second.
            let woken = rig.clock.asleep().await;
            assert_eq!(woken, rig.clock.now() + Duration::from_secs(1));
            assert_eq!(rig.ca.attempts()[0].1.polls, turn * (POLLS_AT_ONCE + 1) - 1);
            rig.clock.set(woken);
        }
        ensuring.abort();
    })
    .await;
}

#[tokio::test]
async fn the_same_handle_is_not_polled_in_a_circle() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Repeat(3));
        let engine = rig.engine().await;
        let ensuring = tokio::spawn(async move { engine.ensure(&actor(), spec()).await });
        // The first handle is polled at once, as it differs from none.
        for polls in 1..3 {
            let woken = rig.clock.asleep().await;
            assert_eq!(woken, rig.clock.now() + Duration::from_secs(1));
            assert_eq!(rig.ca.attempts()[0].1.polls, polls);
            rig.clock.set(woken);
        }
        assert_status(&ensuring.await.unwrap().unwrap(), CertificateStatus::Active);
    })
    .await;
}

#[tokio::test]
async fn a_ca_that_says_in_ten_years_is_asked_every_day() {
    each(ALL, async |rig| {
        rig.ca.script(Script::WaitUntil(rig.clock.now() + 3_650 * DAY));
        let engine = rig.engine().await;
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        for polls in 0..3 {
            let due = open(&engine, &certificate, "issue").await.due.unwrap();
            assert_eq!((due, rig.ca.attempts()[0].1.polls), (rig.clock.now() + LONGEST_WAIT, polls));
            certificate = next_try(&rig, &engine, &certificate).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_rate_limit_for_years_asks_for_attention() {
    each(ALL, async |rig| {
        rig.ca.script(Script::RateLimit(rig.clock.now() + 365 * DAY));
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_attention(&engine, &certificate, "too many orders").await;
    })
    .await;
}

#[tokio::test]
async fn ever_new_challenges_end_the_order() {
    each(ALL, async |rig| {
        rig.ca.script(Script::ChallengeForEver);
        let shower = Shower::new(&rig);
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_attention(&engine, &certificate, "wants ever new challenges").await;
        assert_eq!((shower.shown(), shower.presented()), (0, 20));
    })
    .await;
}

#[tokio::test]
async fn what_is_shown_already_is_shown_once_more_at_once_but_not_in_a_circle() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Challenge);
        // The CA waits for a second name, which never comes.
        let shower = Shower::new(&rig);
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let ensuring = tokio::spawn(async move { engine.ensure(&actor(), spec()).await });
        for presented in [1 + 3, 1 + 4] {
            let woken = rig.clock.asleep().await;
            assert_eq!((woken, shower.presented()), (rig.clock.now() + Duration::from_secs(10), presented));
            rig.clock.set(woken);
        }
        ensuring.abort();
    })
    .await;
}

#[tokio::test]
async fn the_loop_polls_at_once_when_the_challenges_are_shown() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    rig.ca.script(Script::Challenge);
    let shower = Shower::new(&rig);
    shower.fail(Some(certctl::Error::unavailable("the web server is down")));
    let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
    let running = Running::start(&engine);
    let spec = || spec().dns("www.web.test");
    let watch = engine.want(&actor(), spec()).await.unwrap();
    let presents = async |state: fn(&certctl::records::Job) -> bool| {
        let certificate = engine.certificate("web").await.unwrap();
        let jobs = engine.jobs(&certificate.id).await.unwrap();
        let presents: Vec<_> = jobs.into_iter().filter(|job| &*job.kind == "present").collect();
        presents.len() == 2 && presents.iter().all(|job| state(job))
    };
    eventually(&engine, "the failures", async || presents(|job| job.failures == 1).await).await;
    assert_eq!(rig.ca.attempts()[0].1.polls, 0);
    shower.fail(None);
    rig.clock.advance(Duration::from_secs(120));
    // The clock stands still from here on.
    watch.wait().await.unwrap();
    eventually(&engine, "the certificate", async || {
        engine.certificate("web").await.unwrap().status == CertificateStatus::Active
    })
    .await;
    assert_eq!(rig.ca.attempts()[0].1.polls, 1);
    running.stop().await;
}

#[tokio::test]
async fn without_an_engine_the_same_rules_hold() {
    let rig = Rig::new(Recovery::Searchable, false).await;
    let cx = Context::new(Arc::new(rig.clock.clone()));
    let issue = async |script: Script| {
        rig.ca.script(script);
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let csr = Csr::create(&key, None, &["web.test".parse().unwrap()]).await.unwrap();
        certctl::issue(&*rig.ca, &cx, csr, certctl::records::Profile::default()).await
    };
    let ended = issue(Script::EndFailed(Retry::Never)).await.unwrap_err();
    assert_eq!((ended.kind(), ended.message()), (ErrorKind::Denied, WRONG));
    issue(Script::GoOn(POLLS_AT_ONCE)).await.unwrap();

    // Who says "in ten years" is asked a day later.
    let begin = rig.clock.now();
    let mut waiting = std::pin::pin!(issue(Script::WaitUntil(begin + 3_650 * DAY)));
    let woken: Timestamp = tokio::select! {
        _ = &mut waiting => panic!("it does not issue"),
        woken = rig.clock.asleep() => woken,
    };
    assert_eq!(woken, begin + LONGEST_WAIT);
    // And who says "now" with the same handle, a second later.
    let mut waiting = std::pin::pin!(issue(Script::Repeat(u32::MAX)));
    let woken = tokio::select! {
        _ = &mut waiting => panic!("it does not issue"),
        woken = soonest(&rig, begin + DAY) => woken,
    };
    assert_eq!(woken, begin + Duration::from_secs(1));
}

/// Waits until somebody sleeps who wakes before `end`.
async fn soonest(rig: &Rig, end: Timestamp) -> Timestamp {
    loop {
        let woken = rig.clock.asleep().await;
        if woken < end {
            return woken;
        }
        tokio::task::yield_now().await;
    }
}
