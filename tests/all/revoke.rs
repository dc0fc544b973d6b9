//! Revocation: recorded before the CA is asked, done once, and nothing is issued after it until somebody asks.

use std::{sync::Arc, time::Duration};

use certctl::{
    Actor, CertificateSpec, Clock, Context, Engine, ErrorKind, Issuer, IssuerCapabilities, KeyAlgorithm,
    Order, PrivateKey, Progress, Recovery, Result, Revocation, RevocationReason, Role,
    engine::{RevokeOptions, plan::FAILURES_BEFORE_ATTENTION},
    records::{AuditEvent, Certificate, CertificateStatus, Job, JobState, Placement, Version},
    store::{Direction, Query, StoreExt, Stored},
    testkit::issuer::{RevokeScript, Script, ScriptedIssuer},
};
use tokio::sync::Notify;

use crate::{
    issuers::assert_status,
    rig::{KEY, Rig, actor, assert_no_open_job, open, spec},
    world::{Running, eventually},
};

const DAY: Duration = Duration::from_secs(86_400);

async fn rig(json: bool) -> Rig {
    let all = IssuerCapabilities::all(Recovery::Searchable);
    Rig::with(IssuerCapabilities { revoke: true, renewal_info: true, ..all }, json).await
}

/// An engine with a certificate in service.
async fn in_service() -> (Rig, Engine, Stored<Certificate>, Stored<Version>) {
    let rig = rig(true).await;
    let engine = rig.engine().await;
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
    let version = engine.versions(&certificate.id).await.unwrap().remove(0);
    (rig, engine, certificate, version)
}

fn because(reason: RevocationReason) -> RevokeOptions {
    RevokeOptions { reason, key: None }
}

async fn revoke(engine: &Engine, what: &str) -> Stored<Certificate> {
    let options = because(RevocationReason::Superseded);
    engine.revoke(&actor(), what, options).await.unwrap().step().await.unwrap()
}

async fn placement(engine: &Engine) -> Stored<Placement> {
    engine.store().list::<Placement>(Query::of::<Placement>().limit(10)).await.unwrap().0.remove(0)
}

async fn actions(engine: &Engine) -> Vec<String> {
    let newest = Query::of::<AuditEvent>().order("at", Direction::Descending).limit(500);
    let (events, _) = engine.store().list::<AuditEvent>(newest).await.unwrap();
    events.iter().map(|event| event.action.to_string()).collect()
}

#[tokio::test]
async fn a_revoked_certificate_stays_revoked_until_somebody_asks_for_a_renewal() {
    let (rig, engine, certificate, version) = in_service().await;
    let certificate_before = certificate;
    let certificate = revoke(&engine, &version.serial.to_string()).await;
    assert_status(&certificate, CertificateStatus::Revoked);
    assert_no_open_job(&engine, &certificate).await;
    assert_eq!(rig.ca.revoked(), [(version.chain.clone(), RevocationReason::Superseded)]);
    let stored = engine.store().read(&version.id).await.unwrap();
    let record = stored.revocation.unwrap();
    assert_eq!((record.reason, record.done), (RevocationReason::Superseded, Some(rig.clock.now())));
    let placed = placement(&engine).await;
    assert!(placed.revoked && placed.renew_at.is_none() && placed.ask_at.is_none(), "{placed:?}");
    let actions = actions(&engine).await;
    assert!(actions.iter().any(|action| action == "revocation.requested"));
    assert!(actions.iter().any(|action| action == "certificate.revoked"));

    // Neither the program that starts again, nor another spec, nor the time issues anew.
    rig.host.reset();
    let running = Running::start(&engine);
    for spec in [spec(), spec().dns("www.web.test")] {
        let again = rig.engine().await.ensure(&actor(), spec).await.unwrap();
        assert_status(&again, CertificateStatus::Revoked);
    }
    rig.clock.advance(80 * DAY);
    rig.clock.asleep().await;
    running.stop().await;
    assert_eq!((rig.ca.issued().len(), rig.swaps()), (1, 0));
    assert_status(&engine.certificate("web").await.unwrap(), CertificateStatus::Revoked);

    // Somebody who asks gets what is wanted by now.
    let renewed = rig.renew(&engine).await;
    assert_status(&renewed, CertificateStatus::Active);
    assert_eq!((renewed.id.clone(), rig.ca.issued().len()), (certificate_before.id.clone(), 2));
    rig.assert_deployed(&engine, &renewed).await;
    assert_eq!(rig.ca.issued()[1].leaf().names().len(), 2);
    let placed = placement(&engine).await;
    assert!(!placed.revoked && placed.renew_at.is_some() && placed.ask_at.is_some(), "{placed:?}");
    assert_status(
        &engine.ensure(&actor(), spec().dns("www.web.test")).await.unwrap(),
        CertificateStatus::Active,
    );
}

#[tokio::test]
async fn an_older_version_is_revoked_without_the_certificate() {
    let (rig, engine, _, version) = in_service().await;
    let renewed = rig.renew(&engine).await;
    let before = placement(&engine).await.renew_at;
    let certificate = revoke(&engine, version.id.as_str()).await;
    assert_status(&certificate, CertificateStatus::Active);
    assert_eq!(
        (certificate.serial.clone(), placement(&engine).await.renew_at),
        (renewed.serial.clone(), before)
    );
    assert!(engine.store().read(&version.id).await.unwrap().is_revoked());
    assert_eq!(rig.ca.revoked().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_found_by_id_serial_number_and_fingerprint_however_they_are_written() {
    let colons = |hex: &str| -> String {
        hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>().join(":")
    };
    let spellings: [fn(&Version) -> String; 3] =
        [|v| v.id.to_string(), |v| v.serial.to_string(), |v| v.fingerprint.to_string()];
    for (number, spelling) in spellings.into_iter().enumerate() {
        for shape in 0..3 {
            if number == 0 && shape > 0 {
                continue;
            }
            let (rig, engine, _, version) = in_service().await;
            let plain = spelling(&version);
            let what = match shape {
                0 => plain,
                1 => colons(&plain).to_uppercase(),
                _ => format!(" {} ", plain.to_uppercase()),
            };
            assert_status(&*revoke(&engine, &what).await, CertificateStatus::Revoked);
            assert_eq!(rig.ca.revoked().len(), 1, "{what}");
        }
    }
    let (_, engine, _, _) = in_service().await;
    let refused =
        async |what: &str| engine.revoke(&actor(), what, RevokeOptions::default()).await.unwrap_err();
    let unknown = refused("00:ab:cd").await;
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.message().contains("the CA wants the certificate itself"), "{unknown}");
    assert_eq!(refused(&"ab".repeat(32)).await.kind(), ErrorKind::NotFound);
    assert_eq!(refused("abc").await.kind(), ErrorKind::NotFound, "an odd number of digits is a number too");
    assert_eq!(refused("ver-nothing").await.kind(), ErrorKind::NotFound);
    for nonsense in ["", "web", "zz", "ab:c", &"ab".repeat(33)] {
        let error = refused(nonsense).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{nonsense}");
        assert!(error.to_string().contains("serial number"), "{error}");
    }
}

#[tokio::test]
async fn a_serial_number_that_several_issuers_gave_is_refused_with_a_list() {
    let (rig, engine, certificate, version) = in_service().await;
    let other = certctl::Id::mint_at(rig.clock.now());
    let mut twin = version.clone().into_inner();
    twin.id = certctl::Id::mint_at(rig.clock.now());
    twin.attempt = certctl::Id::mint_at(rig.clock.now());
    twin.issuer = other;
    let event = AuditEvent::new(rig.clock.now(), &actor(), "test", certificate.id.as_str());
    let change = certctl::store::Change::new(event).insert(&twin).unwrap();
    engine.store().commit(change).await.unwrap();
    let error =
        engine.revoke(&actor(), &version.serial.to_string(), RevokeOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    for word in [version.id.as_str(), twin.id.as_str(), "of the issuer ca"] {
        assert!(error.message().contains(word), "{error}");
    }
    assert_status(&*revoke(&engine, version.id.as_str()).await, CertificateStatus::Revoked);
}

#[tokio::test]
async fn what_can_t_be_is_refused_before_anything() {
    let (rig, engine, certificate, version) = in_service().await;
    let events = actions(&engine).await.len();
    let id = version.id.as_str();
    let viewer = Actor::new("eve", Role::Viewer);
    let refusal = engine.revoke(&viewer, id, RevokeOptions::default()).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Denied);
    let refusal = engine.revoke(&actor(), id, because(RevocationReason::RemoveFromCrl)).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Invalid);
    let stranger = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let options = RevokeOptions { key: Some(stranger), ..RevokeOptions::default() };
    assert_eq!(engine.revoke(&actor(), id, options).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(actions(&engine).await.len(), events, "nothing was written");
    assert_eq!(engine.store().read(&certificate.id).await.unwrap().status, CertificateStatus::Active);
    assert_eq!(rig.ca.revocations_asked(), 0);

    let plain = Rig::new(Recovery::Searchable, false).await;
    let engine = plain.engine().await;
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    let events = actions(&engine).await.len();
    let serial = certificate.serial.as_ref().unwrap().to_string();
    let refusal = engine.revoke(&actor(), &serial, RevokeOptions::default()).await.unwrap_err();
    assert_eq!((refusal.kind(), actions(&engine).await.len()), (ErrorKind::Unsupported, events));
    assert!(refusal.message().contains("ca"), "{refusal}");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let (rig, engine, _, version) = in_service().await;
    rig.ca.script_revocations([RevokeScript::Down, RevokeScript::LoseAnswer]);
    let mut certificate = revoke(&engine, version.id.as_str()).await;
    for failures in 1..3 {
        assert_status(&certificate, CertificateStatus::Active);
        let job = open(&engine, &certificate, "revoke").await;
        assert_eq!((job.failures, job.state), (failures, JobState::Ready));
        // The intent is on record, and another process goes on.
        assert!(engine.store().read(&version.id).await.unwrap().revocation.unwrap().done.is_none());
        rig.clock.set(job.due.unwrap());
        certificate = rig.engine().await.ensure(&actor(), spec()).await.unwrap();
    }
    assert_status(&certificate, CertificateStatus::Revoked);
    assert_eq!((rig.ca.revocations_asked(), rig.ca.revoked().len()), (3, 1));
    // Once more changes nothing, and asks nobody.
    assert_status(&*revoke(&engine, version.id.as_str()).await, CertificateStatus::Revoked);
    assert_eq!(rig.ca.revocations_asked(), 3);
}

#[tokio::test]
async fn what_is_asked_for_before_a_restart_is_done_after_it() {
    let (rig, engine, certificate, version) = in_service().await;
    let watch = engine.revoke(&actor(), version.id.as_str(), because(RevocationReason::KeyCompromise)).await;
    assert_eq!(watch.unwrap().jobs().len(), 1);
    drop(engine);
    assert_eq!(rig.ca.revocations_asked(), 0);
    let engine = rig.engine().await;
    let running = Running::start(&engine);
    eventually(&engine, "the revocation", async || {
        engine.store().read(&certificate.id).await.unwrap().status == CertificateStatus::Revoked
    })
    .await;
    running.stop().await;
    assert_eq!(rig.ca.revoked(), [(version.chain.clone(), RevocationReason::KeyCompromise)]);
}

#[tokio::test]
async fn a_second_request_joins_the_first_and_says_why_last() {
    let (rig, engine, certificate, version) = in_service().await;
    let id = version.id.as_str();
    let first = engine.revoke(&actor(), id, because(RevocationReason::Superseded)).await.unwrap();
    let second = engine.revoke(&actor(), id, because(RevocationReason::KeyCompromise)).await.unwrap();
    assert_eq!(first.jobs(), second.jobs());
    let _ = second.step().await.unwrap();
    assert_eq!(rig.ca.revoked(), [(version.chain.clone(), RevocationReason::KeyCompromise)]);
    assert_no_open_job(&engine, &certificate).await;
}

#[tokio::test]
async fn what_keeps_failing_or_is_refused_asks_for_attention() {
    let (rig, engine, _, version) = in_service().await;
    rig.ca.script_revocations([RevokeScript::Refuse]);
    let certificate = revoke(&engine, version.id.as_str()).await;
    assert_status(&certificate, CertificateStatus::Attention);
    let job = open(&engine, &certificate, "revoke").await;
    assert_eq!(job.state, JobState::Attention);
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains("may not revoke"), "{reason:?}");
    // A deployment meanwhile does not make it forget that.
    let certificate = engine.deploy(&actor(), "web").await.unwrap().step().await.unwrap();
    assert_status(&certificate, CertificateStatus::Attention);

    rig.ca.script_revocations(vec![RevokeScript::Down; FAILURES_BEFORE_ATTENTION as usize]);
    let mut certificate = rig.retry(&engine, &job).await;
    for _ in 1..FAILURES_BEFORE_ATTENTION {
        let job = open(&engine, &certificate, "revoke").await;
        rig.clock.set(job.due.unwrap());
        certificate = engine.ensure(&actor(), spec()).await.unwrap();
    }
    let job = open(&engine, &certificate, "revoke").await;
    assert_eq!((job.state, certificate.status), (JobState::Attention, CertificateStatus::Attention));
    // Asking once more takes it up.
    let certificate = revoke(&engine, version.id.as_str()).await;
    assert_status(&certificate, CertificateStatus::Revoked);
    assert_eq!(certificate.reason, None);
}

#[tokio::test]
async fn a_revocation_that_is_cancelled_leaves_the_certificate_as_it_was() {
    let (rig, engine, _, version) = in_service().await;
    rig.ca.script_revocations([RevokeScript::Refuse]);
    let certificate = revoke(&engine, version.id.as_str()).await;
    let job = open(&engine, &certificate, "revoke").await;
    engine.cancel(&actor(), &job.id).await.unwrap();
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(engine.store().read::<Job>(&job.id).await.unwrap().state, JobState::Cancelled);
    assert_status(&certificate, CertificateStatus::Active);
    assert_eq!(engine.store().read(&version.id).await.unwrap().revocation, None);
    assert_eq!(rig.ca.revoked().len(), 0);
}

#[tokio::test]
async fn the_certificate_s_own_key_revokes_in_the_call() {
    let (rig, engine, certificate, version) = in_service().await;
    let own = async || RevokeOptions {
        reason: RevocationReason::KeyCompromise,
        key: Some(certctl::Keys::export(&*rig.keys, version.key.as_ref().unwrap()).await.unwrap()),
    };
    // What the CA refuses is the caller's to know; nothing is left of it.
    rig.ca.script_revocations([RevokeScript::Refuse]);
    let refusal = engine.revoke(&actor(), version.id.as_str(), own().await).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Denied);
    assert_eq!(engine.store().read(&version.id).await.unwrap().revocation, None);
    assert_no_open_job(&engine, &certificate).await;
    // A job that asks for attention meanwhile ends with it.
    rig.ca.script_revocations([RevokeScript::Refuse]);
    assert_status(&*revoke(&engine, version.id.as_str()).await, CertificateStatus::Attention);
    let watch = engine.revoke(&actor(), version.id.as_str(), own().await).await.unwrap();
    assert!(engine.store().read(&version.id).await.unwrap().is_revoked(), "before anybody steps a job");
    let certificate_after = watch.step().await.unwrap();
    assert_status(&certificate_after, CertificateStatus::Revoked);
    assert_eq!(rig.ca.revoked().len(), 1);
    assert_no_open_job(&engine, &certificate).await;
}

#[tokio::test]
async fn a_job_asks_again_where_the_answer_to_the_own_key_was_lost() {
    let (rig, engine, _, version) = in_service().await;
    let key = certctl::Keys::export(&*rig.keys, version.key.as_ref().unwrap()).await.unwrap();
    rig.ca.script_revocations([RevokeScript::LoseAnswer]);
    let options = RevokeOptions { key: Some(key), ..RevokeOptions::default() };
    let watch = engine.revoke(&actor(), version.id.as_str(), options).await.unwrap();
    assert!(!engine.store().read(&version.id).await.unwrap().is_revoked(), "nobody knows");
    let job: Stored<Job> = engine.store().read(&watch.jobs()[0]).await.unwrap();
    assert!(job.last_error.as_ref().unwrap().message.contains("broke"), "{job:#?}");
    assert_status(&watch.step().await.unwrap(), CertificateStatus::Revoked);
    assert_eq!((rig.ca.revocations_asked(), rig.ca.revoked().len()), (2, 1));
}

/// Revokes only when it is let.
#[derive(Debug)]
struct Slow {
    inner: Arc<ScriptedIssuer>,
    asked: Notify,
    answer: Notify,
}

#[async_trait::async_trait]
impl Issuer for Slow {
    fn kind(&self) -> &str {
        "scripted"
    }
    fn capabilities(&self) -> IssuerCapabilities {
        self.inner.capabilities()
    }
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        self.inner.submit(cx, order).await
    }
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.inner.recover(cx, order).await
    }
    async fn revoke(&self, cx: &Context, revocation: &Revocation) -> Result<()> {
        self.asked.notify_one();
        self.answer.notified().await;
        self.inner.revoke(cx, revocation).await
    }
}

#[tokio::test]
async fn a_revocation_with_the_own_key_does_not_depend_on_its_caller() {
    // The caller goes away, or the whole program does.
    for dies in [false, true] {
        let rig = rig(true).await;
        let ca = Arc::new(Slow { inner: rig.ca.clone(), asked: Notify::new(), answer: Notify::new() });
        let engine = rig.builder_with(ca.clone()).build().await.unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let version = engine.versions(&certificate.id).await.unwrap().remove(0);
        let key = certctl::Keys::export(&*rig.keys, version.key.as_ref().unwrap()).await.unwrap();
        let caller = tokio::spawn({
            let (engine, id) = (engine.clone(), version.id.clone());
            let options = RevokeOptions { key: Some(key), ..RevokeOptions::default() };
            async move { engine.revoke(&actor(), id.as_str(), options).await.map(drop) }
        });
        ca.asked.notified().await;
        caller.abort();
        let status = async || engine.store().read(&certificate.id).await.unwrap().status;
        if dies {
            // It never gets to hear the answer: the next program asks for itself, in a while.
            let next = rig.engine().await;
            assert_status(&next.ensure(&actor(), spec()).await.unwrap(), CertificateStatus::Active);
            rig.clock.advance(Duration::from_secs(600));
            assert_status(&next.ensure(&actor(), spec()).await.unwrap(), CertificateStatus::Revoked);
        } else {
            ca.answer.notify_one();
            eventually(&engine, "the end", async || status().await == CertificateStatus::Revoked).await;
        }
        assert_eq!(rig.ca.revoked().len(), 1);
        assert_no_open_job(&engine, &certificate).await;
    }
}

#[tokio::test]
async fn a_key_that_is_compromised_is_not_used_again() {
    let rig = rig(true).await;
    let engine = rig.engine().await;
    let reuse = || CertificateSpec { reuse_key: true, ..spec() };
    let certificate = engine.ensure(&actor(), reuse()).await.unwrap();
    let key = rig.files.content(KEY).unwrap();
    let version = engine.versions(&certificate.id).await.unwrap().remove(0);
    // For another reason, it is.
    revoke(&engine, version.id.as_str()).await;
    rig.renew(&engine).await;
    assert_eq!(rig.files.content(KEY).unwrap(), key);
    let version = engine.versions(&certificate.id).await.unwrap().remove(0);
    let options = because(RevocationReason::KeyCompromise);
    engine.revoke(&actor(), version.id.as_str(), options).await.unwrap().step().await.unwrap();
    let renewed = rig.renew(&engine).await;
    assert_status(&renewed, CertificateStatus::Active);
    assert_ne!(rig.files.content(KEY).unwrap(), key);
}

#[tokio::test]
async fn a_renewal_that_is_under_way_ends_the_revocation_s_effect() {
    let (rig, engine, _, version) = in_service().await;
    let until = rig.clock.now() + DAY;
    rig.ca.script(Script::PendUntil(until));
    rig.renew(&engine).await;
    let certificate = revoke(&engine, version.id.as_str()).await;
    assert_status(&certificate, CertificateStatus::Revoked);
    rig.clock.set(until);
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
    assert_ne!(certificate.serial.as_ref(), Some(&version.serial));
    assert!(placement(&engine).await.renew_at.is_some());
}
