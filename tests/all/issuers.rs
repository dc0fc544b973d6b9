//! CAs that are slow, lose answers, want challenges, or answer wrongly. Each life runs twice: with the work done directly, and
//! with work and reports that go to JSON and back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use certctl::{
    Challenge, Clock, Context, Engine, Error, ErrorKind, Recovery, Result, Solver,
    engine::plan::FAILURES_BEFORE_ATTENTION,
    records::{AttemptState, Certificate, CertificateStatus, DeploymentState, JobState},
    store::{StoreExt, Stored},
    testkit::issuer::Script,
};

use crate::rig::{KEY, Rig, actor, assert_attention, assert_no_open_job, only_deployment, open, spec};

const DAY: Duration = Duration::from_secs(86_400);

/// Runs the life for both kinds of worker and both ways to recover.
pub async fn each(recoveries: &[Recovery], life: impl AsyncFn(Rig)) {
    for recovery in recoveries {
        for json in [false, true] {
            let rig = Rig::new(*recovery, json).await;
            life(rig.clone()).await;
            rig.ca.assert_no_second_order();
        }
    }
}

pub const RECOVERABLE: &[Recovery] = &[Recovery::Idempotent, Recovery::Searchable];
pub const ALL: &[Recovery] = &[Recovery::Idempotent, Recovery::Searchable, Recovery::None];

#[track_caller]
pub fn assert_status(certificate: &Certificate, status: CertificateStatus) {
    assert_eq!(certificate.status, status, "{certificate:#?}");
}

/// Lets the time pass until the open issue job is due, and steps it.
pub async fn next_try(rig: &Rig, engine: &Engine, certificate: &Certificate) -> Stored<Certificate> {
    let job = open(engine, certificate, "issue").await;
    rig.clock.set(job.due.expect("the job waits for a time"));
    engine.ensure(&actor(), spec()).await.unwrap()
}

#[tokio::test]
async fn the_whole_life() {
    each(ALL, async |rig| {
        let engine = rig.engine().await;
        let first = engine.ensure(&actor(), spec()).await.unwrap();
        assert_status(&first, CertificateStatus::Active);
        assert_no_open_job(&engine, &first).await;
        rig.assert_deployed(&engine, &first).await;

        // At the next start nothing happens.
        rig.host.reset();
        let again = rig.engine().await.ensure(&actor(), spec()).await.unwrap();
        assert_status(&again, CertificateStatus::Active);
        assert_eq!((rig.swaps(), rig.ca.issued().len()), (0, 1));

        let renewed = rig.renew(&engine).await;
        assert_status(&renewed, CertificateStatus::Active);
        assert_ne!(renewed.serial, first.serial);
        rig.assert_deployed(&engine, &renewed).await;
        assert_eq!((rig.swaps(), rig.ca.issued().len()), (2, 2));
        let versions = engine.versions(&renewed.id).await.unwrap();
        assert_eq!(versions.len(), 2);
        assert!(rig.has_key(&versions[0]).await, "the key in service is kept");
        assert!(!rig.has_key(&versions[1]).await && versions[1].key_forgotten, "the old one is gone");
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_is_recovered() {
    each(RECOVERABLE, async |rig| {
        rig.ca.script(Script::LoseAnswer);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_status(&certificate, CertificateStatus::Pending);
        let job = open(&engine, &certificate, "issue").await;
        assert!(job.due.unwrap() > rig.clock.now() && job.failures == 1, "{job:#?}");

        // A restart in between, and a CA that is down when it is asked what became of the order.
        let engine = rig.engine().await;
        let attempt = rig.attempts().await[0].id.clone();
        rig.ca.rescript(&attempt, Script::Issue);
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.ca.calls(&attempt).orders, 1);
        assert_eq!(rig.ca.calls(&attempt).submits, 1);
        assert_eq!(rig.ca.issued().len(), 1);
        rig.assert_deployed(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_is_recovered_although_the_ca_is_down_at_first() {
    each(RECOVERABLE, async |rig| {
        let ca = Arc::new(Moody::new(&rig));
        rig.ca.script(Script::LoseAnswer);
        let engine = rig.builder_with(ca.clone()).build().await.unwrap();
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        for error in [
            Error::unavailable("the CA is down"),
            Error::unavailable("the CA is down").with_effect(certctl::Effect::Unknown),
            Error::new(ErrorKind::RateLimited, "slowly"),
        ] {
            *ca.recover.lock().unwrap() = Some(error);
            certificate = next_try(&rig, &engine, &certificate).await;
            assert_status(&certificate, CertificateStatus::Pending);
        }
        // A refusal to look it up says nothing about the order either.
        *ca.recover.lock().unwrap() = Some(Error::new(ErrorKind::Denied, "not with this account"));
        certificate = next_try(&rig, &engine, &certificate).await;
        let job = assert_attention(&engine, &certificate, "not with this account").await;
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.ca.issued().len(), 1);
        assert_eq!(rig.attempts().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_that_cannot_be_recovered_asks_for_attention() {
    each(&[Recovery::None], async |rig| {
        rig.ca.script_next([Script::LoseAnswer]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let job = assert_attention(&engine, &certificate, "the answer of the CA was lost").await;

        // Neither a restart, nor the time, nor another spec orders again.
        let engine = rig.engine().await;
        rig.clock.advance(30 * DAY);
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_attention(&engine, &certificate, "the answer of the CA was lost").await;
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        assert_attention(&engine, &certificate, "the answer of the CA was lost").await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(rig.ca.issued().len(), 1);
        assert_eq!(certificate.status, CertificateStatus::Attention);

        // Somebody has looked there.
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(certificate.reason, None);
        assert_eq!(rig.attempts().await.len(), 2);
        assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 1);
        rig.assert_deployed(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_request_is_sent_again_once() {
    each(RECOVERABLE, async |rig| {
        rig.ca.script(Script::LoseRequest);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_status(&certificate, CertificateStatus::Active);
        let attempts = rig.ca.attempts();
        assert_eq!(attempts.len(), 1);
        let calls = attempts[0].1;
        assert_eq!((calls.submits, calls.recovers, calls.orders), (2, 1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_order_may_take_days() {
    each(ALL, async |rig| {
        let until = rig.clock.now() + 3 * DAY;
        rig.ca.script(Script::PendUntil(until));
        let engine = rig.engine().await;
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let mut restarts = 0;
        while rig.clock.now() < until {
            assert_status(&certificate, CertificateStatus::Pending);
            let attempt = rig.attempts().await.remove(0);
            assert!(attempt.handle.is_some() && attempt.state == AttemptState::Open);
            // A new process each time has the handle alone.
            let engine = rig.engine().await;
            certificate = next_try(&rig, &engine, &certificate).await;
            restarts += 1;
        }
        assert_eq!(restarts, 12);
        assert_status(&certificate, CertificateStatus::Active);
        let calls = rig.ca.attempts()[0].1;
        assert_eq!((calls.submits, calls.recovers, calls.polls, calls.orders), (1, 0, 12, 1));
        rig.assert_deployed(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_pending_is_polled_by_the_loop_when_it_is_due() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    rig.ca.script(Script::PendUntil(rig.clock.now() + DAY));
    let engine = rig.engine().await;
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    let running = crate::world::Running::start(&engine);
    for polls in 0..4 {
        let due = open(&engine, &certificate, "issue").await.due.unwrap();
        // Nothing happens before.
        rig.clock.set(due - Duration::from_millis(1));
        rig.clock.asleep().await;
        assert_eq!(rig.ca.attempts()[0].1.polls, polls);
        rig.clock.set(due);
        crate::world::eventually(&engine, "the poll", async || rig.ca.attempts()[0].1.polls == polls + 1)
            .await;
        crate::world::eventually(&engine, "its commit", async || {
            let jobs = engine.jobs(&certificate.id).await.unwrap();
            jobs.iter().all(|job| job.state.is_finished() || job.due.is_some_and(|at| at > due))
        })
        .await;
    }
    running.stop().await;
    let certificate = engine.certificate("web").await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
    rig.ca.assert_no_second_order();
}

/// Shows challenges to the scripted CA.
#[derive(Debug)]
pub struct Shower {
    rig: Rig,
    state: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    now: Vec<Challenge>,
    presented: usize,
    fail: Option<Error>,
    hook: Option<fn(&Rig)>,
    refused: Option<&'static str>,
}

impl Shower {
    pub fn new(rig: &Rig) -> Arc<Self> {
        Arc::new(Self { rig: rig.clone(), state: Mutex::default() })
    }

    /// Does this when both names are shown, before anybody can see that.
    pub fn before_the_last(&self, hook: fn(&Rig)) {
        self.state.lock().unwrap().hook = Some(hook);
    }

    pub fn fail(&self, error: Option<Error>) {
        self.state.lock().unwrap().fail = error;
    }

    /// Shows nothing for this name.
    pub fn refuse(&self, name: Option<&'static str>) {
        self.state.lock().unwrap().refused = name;
    }

    pub fn presented(&self) -> usize {
        self.state.lock().unwrap().presented
    }

    pub fn shown(&self) -> usize {
        self.state.lock().unwrap().now.len()
    }
}

#[async_trait::async_trait]
impl Solver for Shower {
    fn solves(&self, _: &Challenge) -> bool {
        true
    }

    async fn present(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        if let Some(error) = &state.fail {
            return Err(error.clone());
        }
        if state.refused.is_some_and(|name| name == challenge.name.to_string()) {
            return Err(Error::new(ErrorKind::Denied, "the zone is somebody else's"));
        }
        if !state.now.contains(challenge) {
            state.now.push(challenge.clone());
        }
        state.presented += 1;
        if let (2, Some(hook)) = (state.now.len(), state.hook) {
            hook(&self.rig);
        }
        self.rig.ca.set_presented(state.now.len() == 2);
        Ok(())
    }

    async fn retract(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        state.now.retain(|shown| shown != challenge);
        Ok(())
    }
}

#[tokio::test]
async fn challenges_are_shown_and_taken_away() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Challenge);
        let shower = Shower::new(&rig);
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        assert_no_open_job(&engine, &certificate).await;
        assert_eq!(shower.shown(), 0, "they are taken away afterwards");
        assert_eq!(shower.state.lock().unwrap().presented, 2, "each is shown once");
        assert_eq!(rig.ca.attempts()[0].1.polls, 1, "the CA is asked once they are all shown");
    })
    .await;
}

#[tokio::test]
async fn challenges_are_taken_away_after_a_failure_too() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Challenge);
        let shower = Shower::new(&rig);
        let ca = Arc::new(Moody::new(&rig));
        *ca.poll.lock().unwrap() = Some(Error::new(ErrorKind::Denied, "nobody answers at web.test"));
        let engine = rig.builder_with(ca.clone()).solver(shower.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        let job = assert_attention(&engine, &certificate, "nobody answers at web.test").await;
        assert_eq!(shower.shown(), 0);

        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(shower.shown(), 0);
        assert_eq!(rig.attempts().await.len(), 2, "a refused order is not taken up again");
        let left = crate::rig::key_count(&*rig.keys, &engine.versions(&certificate.id).await.unwrap()).await;
        assert_eq!(left, 1);
        let failed = rig.attempts().await.into_iter().find(|a| a.state == AttemptState::Failed).unwrap();
        assert_eq!(failed.key, None, "the key of the refused attempt is gone");
    })
    .await;
}

#[tokio::test]
async fn a_challenge_that_nobody_can_show_asks_for_attention() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Challenge);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        let job = assert_attention(&engine, &certificate, "register a solver").await;
        let reason = certificate.reason.as_ref().unwrap();
        assert!(reason.message.contains("web.test") && reason.message.contains("http-01"), "{reason:?}");

        // The program is started again, with a solver; the same order goes on.
        let shower = Shower::new(&rig);
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.attempts().await.len(), 1);
        assert_eq!(shower.shown(), 0);
        assert_no_open_job(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_order_takes_its_challenges_away() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Challenge);
        let shower = Shower::new(&rig);
        shower.state.lock().unwrap().fail = Some(Error::unavailable("the web server is down"));
        let engine = rig.builder().solver(shower.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        let job = open(&engine, &certificate, "issue").await;
        assert_eq!((job.state, job.open_children), (JobState::Waiting, 2));
        engine.cancel(&actor(), &job.id).await.unwrap();
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        assert_eq!(engine.store().read(&job.id).await.unwrap().state, JobState::Cancelled);
        assert_eq!(shower.shown(), 0);

        // It can be wanted again.
        shower.state.lock().unwrap().fail = None;
        let _ = certificate;
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        let certificate = match certificate.status {
            CertificateStatus::Active => certificate,
            _ => rig.renew(&engine).await,
        };
        assert_status(&certificate, CertificateStatus::Active);
    })
    .await;
}

#[tokio::test]
async fn a_ca_that_is_down_is_asked_again_later_and_later() {
    each(ALL, async |rig| {
        rig.ca.script(Script::Down);
        let engine = rig.engine().await;
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let mut last = Duration::ZERO;
        for failures in 1..FAILURES_BEFORE_ATTENTION {
            assert_status(&certificate, CertificateStatus::Pending);
            let job = open(&engine, &certificate, "issue").await;
            let pause = job.due.unwrap().since(rig.clock.now());
            assert_eq!(job.failures, failures);
            assert!(
                pause > last.mul_f64(1.1) && pause <= Duration::from_secs(6 * 3_600),
                "{pause:?} after {last:?}"
            );
            last = pause;
            // Whoever asks for the same meanwhile does not hurry it.
            assert_eq!(engine.ensure(&actor(), spec()).await.unwrap().status, CertificateStatus::Pending);
            assert_eq!(rig.ca.attempts()[0].1.submits, failures);
            certificate = next_try(&rig, &engine, &certificate).await;
        }
        let job = assert_attention(&engine, &certificate, "the CA is down for maintenance").await;
        rig.clock.advance(30 * DAY);
        engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(rig.ca.attempts()[0].1.submits, FAILURES_BEFORE_ATTENTION, "it is left alone");

        rig.ca.script(Script::Issue);
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.attempts().await.len(), 1, "it was the same attempt all the time");
    })
    .await;
}

#[tokio::test]
async fn a_ca_that_was_down_issues_later() {
    each(ALL, async |rig| {
        rig.ca.script_next([Script::Down, Script::Down]);
        let engine = rig.engine().await;
        let mut certificate = engine.ensure(&actor(), spec()).await.unwrap();
        for _ in 0..2 {
            certificate = next_try(&rig, &engine, &certificate).await;
        }
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(certificate.reason, None);
    })
    .await;
}

#[tokio::test]
async fn a_rate_limit_is_honoured() {
    each(ALL, async |rig| {
        let at = rig.clock.now() + 5 * DAY;
        rig.ca.script(Script::RateLimit(at));
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(open(&engine, &certificate, "issue").await.due, Some(at));
        rig.clock.set(at - Duration::from_secs(1));
        engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(rig.ca.attempts()[0].1.submits, 1);
        rig.clock.set(at);
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_asks_for_attention_at_once_in_the_words_of_the_ca() {
    each(ALL, async |rig| {
        rig.ca.script_next([Script::Reject]);
        let engine = rig.engine().await;
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let job = assert_attention(&engine, &certificate, "the CA's policy does not allow the name").await;
        assert_eq!(job.failures, 1);
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_attention(&engine, &certificate, "the CA's policy").await;
        assert_eq!(rig.ca.attempts().len(), 1);

        // Another name is another order, and needs nobody who retries.
        let certificate = engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(engine.versions(&certificate.id).await.unwrap()[0].chain.leaf().names().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_wrong_certificate_never_goes_into_service() {
    for script in [Script::OtherKey, Script::OtherNames, Script::GarbageChain, Script::Expired] {
        each(ALL, async |rig| {
            // At the first issue: nothing is deployed at all.
            rig.ca.script(script.clone());
            let engine = rig.engine().await;
            let certificate = engine.ensure(&actor(), spec()).await.unwrap();
            let job = assert_attention(&engine, &certificate, "was not asked for").await;
            assert_eq!(rig.files.files(), Vec::<String>::new());
            assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 0);

            // At a renewal: what is in service stays.
            rig.ca.script(Script::Issue);
            let first = rig.retry(&engine, &job).await;
            assert_status(&first, CertificateStatus::Active);
            rig.ca.script(script.clone());
            let certificate = rig.renew(&engine).await;
            let job = assert_attention(&engine, &certificate, "was not asked for").await;
            assert_eq!(certificate.serial, first.serial);
            rig.assert_deployed(&engine, &certificate).await;
            let deployment = only_deployment(&engine, &certificate).await;
            assert_eq!(deployment.state, DeploymentState::Unproved);
            assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 1);
            assert!(rig.has_key(&engine.versions(&certificate.id).await.unwrap()[0]).await);

            // A deployment meanwhile, such as at each start, is no reason to forget that somebody has to look.
            let certificate = engine.deploy(&actor(), "web").await.unwrap().step().await.unwrap();
            assert_attention(&engine, &certificate, "was not asked for").await;

            rig.ca.script(Script::Issue);
            let renewed = rig.retry(&engine, &job).await;
            assert_status(&renewed, CertificateStatus::Active);
            assert_ne!(renewed.serial, first.serial);
            rig.assert_deployed(&engine, &renewed).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_old_pair_in_service() {
    each(ALL, async |rig| {
        let engine = rig.engine().await;
        let first = engine.ensure(&actor(), spec()).await.unwrap();
        rig.ca.script(Script::Down);
        let certificate = rig.renew(&engine).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(certificate.serial, first.serial);
        rig.ca.script(Script::Reject);
        let certificate = next_try(&rig, &engine, &certificate).await;
        assert_attention(&engine, &certificate, "policy").await;
        assert_eq!(certificate.serial, first.serial);
        rig.assert_deployed(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn an_attempt_asks_for_what_was_wanted_when_it_was_made() {
    each(RECOVERABLE, async |rig| {
        rig.ca.script_next([Script::LoseAnswer]);
        let engine = rig.engine().await;
        let certificate =
            engine.ensure(&actor(), spec().lifetime(certctl::Lifetime::days(30))).await.unwrap();
        let longer = || spec().lifetime(certctl::Lifetime::days(60));
        engine.ensure(&actor(), longer()).await.unwrap();
        rig.clock.set(open(&engine, &certificate, "issue").await.due.unwrap());
        let certificate = engine.ensure(&actor(), longer()).await.unwrap();
        // What was ordered is found again as it was ordered, and then what is wanted now is ordered.
        let lifetimes = |versions: Vec<Stored<certctl::records::Version>>| -> Vec<u64> {
            versions.iter().map(|v| v.not_after.since(v.not_before).as_secs() / 86_400).collect()
        };
        assert_eq!(lifetimes(engine.versions(&certificate.id).await.unwrap()), [30]);
        rig.tick();
        let certificate = engine.ensure(&actor(), longer()).await.unwrap();
        assert_eq!(lifetimes(engine.versions(&certificate.id).await.unwrap()), [60, 30]);
        let attempts = rig.attempts().await;
        assert_eq!(attempts.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_key_is_kept_where_that_is_asked_for() {
    each(ALL, async |rig| {
        let reuse = || {
            let mut spec = spec();
            spec.reuse_key = true;
            spec
        };
        let engine = rig.engine().await;
        engine.ensure(&actor(), reuse()).await.unwrap();
        let key = rig.files.content(KEY).unwrap();
        // An attempt that comes to nothing does not take the kept key along.
        rig.ca.script_next([Script::Reject]);
        let certificate = rig.renew(&engine).await;
        let job = assert_attention(&engine, &certificate, "policy").await;
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        assert_eq!(rig.files.content(KEY).unwrap(), key);
        let versions = engine.versions(&certificate.id).await.unwrap();
        assert_eq!(versions.len(), 2);
        assert_eq!(versions[0].key, versions[1].key);
        assert!(rig.has_key(&versions[0]).await);

        // Another algorithm needs another key.
        let mut other = reuse();
        other.key_algorithm = Some(certctl::KeyAlgorithm::EcdsaP384);
        rig.tick();
        let certificate = engine.ensure(&actor(), other).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        let versions = engine.versions(&certificate.id).await.unwrap();
        assert_ne!(versions[0].key, versions[1].key);
        rig.assert_deployed(&engine, &certificate).await;
    })
    .await;
}

#[tokio::test]
async fn a_key_is_kept_while_a_deployment_has_it() {
    each(ALL, async |rig| {
        let engine = rig.engine().await;
        engine.ensure(&actor(), spec()).await.unwrap();
        rig.host.fail_if(
            |operation| operation.name == "stage",
            certctl::testkit::host::When::Before,
            certctl::testkit::host::FaultHost::disk_full(),
        );
        let certificate = rig.renew(&engine).await;
        assert_status(&certificate, CertificateStatus::Partial);
        assert!(certificate.reason.as_ref().unwrap().message.contains("disk is full"));
        let versions = engine.versions(&certificate.id).await.unwrap();
        assert_eq!(versions.len(), 2);
        assert!(rig.has_key(&versions[0]).await && rig.has_key(&versions[1]).await, "both keys are kept");
        assert_eq!(rig.at_rest().unwrap(), versions[1].chain, "the old pair is in service");

        rig.host.reset();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        rig.assert_deployed(&engine, &certificate).await;
        let certificate = rig.renew(&engine).await;
        let versions = engine.versions(&certificate.id).await.unwrap();
        let left = crate::rig::key_count(&*rig.keys, &versions).await;
        assert_eq!(left, 1, "those that nothing has any more are gone");
    })
    .await;
}

#[tokio::test]
async fn an_issuer_that_panics_is_one_job_s_failure() {
    each(RECOVERABLE, async |rig| {
        let ca = Arc::new(Moody::new(&rig));
        *ca.panics.lock().unwrap() = true;
        let engine = rig.builder_with(ca.clone()).build().await.unwrap();
        let running = crate::world::Running::start(&engine);
        let certificate = engine.want(&actor(), spec()).await.unwrap().wait().await.unwrap();
        let job = assert_attention(&engine, &certificate, "panicked").await;
        assert_eq!(job.last_error.as_ref().unwrap().kind, ErrorKind::Internal);

        *ca.panics.lock().unwrap() = false;
        let certificate = engine.retry(&actor(), &job.id).await.unwrap().wait().await.unwrap();
        assert_status(&certificate, CertificateStatus::Active);
        running.stop().await;
    })
    .await;
}

/// Passes on to the scripted CA, unless it is told otherwise for the next call.
#[derive(Debug)]
struct Moody {
    inner: Arc<certctl::testkit::issuer::ScriptedIssuer>,
    poll: Mutex<Option<Error>>,
    recover: Mutex<Option<Error>>,
    panics: Mutex<bool>,
}

impl Moody {
    fn new(rig: &Rig) -> Self {
        Self {
            inner: rig.ca.clone(),
            poll: Mutex::default(),
            recover: Mutex::default(),
            panics: Mutex::default(),
        }
    }
}

#[async_trait::async_trait]
impl certctl::Issuer for Moody {
    fn kind(&self) -> &str {
        "scripted"
    }

    fn capabilities(&self) -> certctl::IssuerCapabilities {
        self.inner.capabilities()
    }

    async fn submit(&self, cx: &Context, order: &certctl::Order) -> Result<certctl::Progress> {
        let panics = *self.panics.lock().unwrap();
        assert!(!panics, "the connector has a bug");
        self.inner.submit(cx, order).await
    }

    async fn poll(
        &self,
        cx: &Context,
        order: &certctl::Order,
        handle: certctl::Handle,
    ) -> Result<certctl::Progress> {
        let error = self.poll.lock().unwrap().take();
        match error {
            Some(error) => Err(error),
            None => self.inner.poll(cx, order, handle).await,
        }
    }

    async fn recover(&self, cx: &Context, order: &certctl::Order) -> Result<Option<certctl::Progress>> {
        let error = self.recover.lock().unwrap().take();
        match error {
            Some(error) => Err(error),
            None => self.inner.recover(cx, order).await,
        }
    }
}
