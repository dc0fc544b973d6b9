//! What must not be lost or hidden while something else goes wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use certctl::{
    CertificateSpec, Context, Engine, Error, Id, Issuer, IssuerCapabilities, Order, Progress, Recovery,
    Result,
    records::{
        AttemptState, AuditEvent, Certificate, CertificateStatus, Deployment, DeploymentState, JobState,
    },
    store::{Change, Kind, LeaseRequest, Leased, Page, Query, Record, Row, Seat, Store, StoreExt, Stored},
    targets::Files,
    testkit::{
        host::{FaultHost, When},
        issuer::{Script, ScriptedIssuer},
    },
};

use crate::{
    issuers::assert_status,
    rig::{CERT, KEY, Rig, actor, assert_attention, only_deployment, open, spec},
    world::Running,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A store that can be away.
#[derive(Debug)]
struct Away {
    inner: Arc<dyn Store>,
    away: AtomicBool,
}

impl Away {
    fn here(&self) -> Result<()> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("the store is away")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Away {
    async fn open(&self, kinds: &[&'static Kind]) -> Result<()> {
        self.inner.open(kinds).await
    }
    async fn get(&self, kind: &'static Kind, ids: &[&str]) -> Result<Vec<Row>> {
        self.here()?;
        self.inner.get(kind, ids).await
    }
    async fn query(&self, query: &Query) -> Result<Page> {
        self.here()?;
        self.inner.query(query).await
    }
    async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        self.here()?;
        self.inner.commit(change).await
    }
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>> {
        self.here()?;
        self.inner.lease(request).await
    }
    async fn seat(&self) -> Result<Seat> {
        self.inner.seat().await
    }
}

/// Takes the store along when it is asked.
#[derive(Debug)]
struct Cutting {
    inner: Arc<ScriptedIssuer>,
    store: Arc<Away>,
    asked: tokio::sync::Notify,
}

#[async_trait]
impl Issuer for Cutting {
    fn kind(&self) -> &str {
        "scripted"
    }
    fn capabilities(&self) -> IssuerCapabilities {
        self.inner.capabilities()
    }
    async fn submit(&self, _: &Context, _: &Order) -> Result<Progress> {
        self.store.away.store(true, Ordering::SeqCst);
        self.asked.notify_one();
        Err(Error::unavailable("the network is away"))
    }
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.inner.recover(cx, order).await
    }
}

#[tokio::test]
async fn the_loop_ends_although_the_store_is_away_and_nothing_is_lost() {
    let mut rig = Rig::new(Recovery::Searchable, false).await;
    let store = Arc::new(Away { inner: rig.store.clone(), away: AtomicBool::new(false) });
    rig.store = store.clone();
    let ca =
        Arc::new(Cutting { inner: rig.ca.clone(), store: store.clone(), asked: tokio::sync::Notify::new() });
    let engine = rig.builder_with(ca.clone()).build().await.unwrap();
    let running = Running::start(&engine);
    let _ = engine.want(&actor(), spec()).await.unwrap();
    ca.asked.notified().await;
    let ended = tokio::time::timeout(Duration::from_secs(30), running.stop()).await;
    assert!(ended.is_ok(), "the loop ends");
    drop(engine);

    // The next program finds the step where it stood.
    store.away.store(false, Ordering::SeqCst);
    rig.clock.advance(Duration::from_secs(61));
    let certificate = rig.engine().await.ensure(&actor(), spec()).await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
    assert_eq!((rig.ca.issued().len(), rig.attempts().await.len()), (1, 1));
}

/// Writes a record as no program would.
async fn forge<R: Record>(engine: &Engine, record: &Stored<R>) {
    let event = AuditEvent::new(certctl::Timestamp::EPOCH, &actor(), "test.forged", "test");
    engine.store().commit(Change::new(event).update(record).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_rollback_that_failed_is_not_hidden_by_another_failure() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    rig.host.fail_if(|op| op.name == "stage", When::Before, FaultHost::disk_full());
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    rig.host.reset();
    let mut job = open(&engine, &certificate, "deploy").await;
    job.step = serde_json::json!({ "something": "to bring back" });
    forge(&engine, &job).await;
    let mut deployment = only_deployment(&engine, &certificate).await;
    deployment.state = DeploymentState::RollbackFailed;
    deployment.wanted = Some(Id::mint_at(certctl::Timestamp::EPOCH));
    forge(&engine, &deployment).await;

    engine.retry(&actor(), &job.id).await.unwrap().step().await.unwrap();
    let after = only_deployment(&engine, &certificate).await;
    assert_eq!(after.state, DeploymentState::RollbackFailed, "{after:#?}");
    assert!(after.error.as_ref().unwrap().message.contains("version"), "the newest failure is said");
    let job = open(&engine, &certificate, "deploy").await;
    assert!(job.state == JobState::Attention && !job.step.is_null(), "{job:#?}");
}

#[tokio::test]
async fn a_target_that_is_given_up_half_written_is_kept_until_that_has_ended() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    rig.host.fail_if(|op| op.name == "stage", When::Before, FaultHost::disk_full());
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    let mut job = open(&engine, &certificate, "deploy").await;
    job.step = serde_json::json!({ "something": "to bring back" });
    forge(&engine, &job).await;
    let mut deployment = only_deployment(&engine, &certificate).await;
    deployment.state = DeploymentState::RollbackFailed;
    forge(&engine, &deployment).await;

    let alone = || CertificateSpec::new("web").dns("web.test").issuer("ca");
    engine.ensure(&actor(), alone()).await.unwrap();
    let kept = only_deployment(&engine, &certificate).await;
    assert_eq!(kept.id, deployment.id);
    let mut job = open(&engine, &certificate, "deploy").await;
    assert!(!job.step.is_null(), "the way back is still known");
    job.step = serde_json::Value::Null;
    forge(&engine, &job).await;
    engine.ensure(&actor(), alone()).await.unwrap();
    assert_eq!(engine.deployments(&certificate.id).await.unwrap().len(), 0);
}

#[tokio::test]
async fn one_target_that_cannot_be_read_leaves_the_others_of_its_unit_alone() {
    let rig = Rig::new(Recovery::Searchable, false).await;
    rig.files.on_run(|_, _| Some(Ok(certctl::host::Output { code: Some(0), text: String::new() })));
    let files = |name: &str| Files {
        cert_path: format!("/tls/{name}.crt"),
        key_path: format!("/tls/{name}.key"),
        command: Some("reload".into()),
        ..Files::default()
    };
    let engine = rig.builder().target("one", files("one")).target("two", files("two")).build().await.unwrap();
    let spec = || CertificateSpec::new("both").dns("both.test").issuer("ca").target("one").target("two");
    let certificate: Stored<Certificate> = engine.ensure(&actor(), spec()).await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
    let whole = rig.files.content("/tls/one.crt").unwrap();

    for name in ["one", "two"] {
        rig.files.put(&format!("/tls/{name}.crt"), "torn");
    }
    let watch = engine.deploy(&actor(), "both").await.unwrap();
    let jobs = engine.store().read_all(watch.jobs()).await.unwrap();
    assert!(jobs.len() == 2 && jobs[0].group.is_some() && jobs[0].group == jobs[1].group, "{jobs:#?}");
    let mut bad: Stored<Deployment> =
        engine.store().read(&Id::parse(&jobs[0].subject).unwrap()).await.unwrap();
    bad.wanted = Some(Id::mint_at(certctl::Timestamp::EPOCH));
    forge(&engine, &bad).await;
    let certificate = watch.step().await.unwrap();
    assert_status(&certificate, CertificateStatus::Partial);
    let deployments = engine.deployments(&certificate.id).await.unwrap();
    for deployment in &deployments {
        let failed = deployment.state == DeploymentState::Failed;
        assert_eq!(failed, deployment.id == bad.id, "{deployment:#?}");
    }
    let mended = ["one", "two"].map(|name| rig.files.content(&format!("/tls/{name}.crt")).unwrap() == whole);
    assert_eq!(mended.iter().filter(|mended| **mended).count(), 1, "{mended:?}");
    // Whoever asks again has the other one mended as well.
    let certificate = engine.deploy(&actor(), "both").await.unwrap().step().await.unwrap();
    assert_status(&certificate, CertificateStatus::Active);
}

#[tokio::test]
async fn what_is_in_service_stays_whole_while_the_next_one_is_on_its_way() {
    for (script, status) in [
        (Script::PendUntil(certctl::Timestamp::from_secs(1_900_000_000)), CertificateStatus::Active),
        (Script::Reject, CertificateStatus::Attention),
    ] {
        let rig = Rig::new(Recovery::Searchable, true).await;
        let engine = rig.engine().await;
        engine.ensure(&actor(), spec()).await.unwrap();
        let chain = rig.at_rest().unwrap();
        rig.ca.script(script);
        let certificate = rig.renew(&engine).await;
        assert_status(&certificate, status);
        for lost in [CERT, KEY] {
            rig.files.put(lost, "torn");
            let certificate = rig.engine().await.ensure(&actor(), spec()).await.unwrap();
            assert_eq!(rig.at_rest().unwrap(), chain, "{lost}");
            assert_status(&certificate, status);
        }
        assert_eq!(rig.ca.attempts().len(), 2, "nothing is ordered for that");
        // And the next one comes as if nothing had been.
        let attempt = rig.ca.attempts()[1].0.clone();
        rig.ca.rescript(&attempt, Script::Issue);
        rig.ca.script(Script::Issue);
        rig.clock.advance(DAY);
        let job = open(&engine, &engine.certificate("web").await.unwrap(), "issue").await;
        let certificate = rig.retry(&engine, &job).await;
        assert_status(&certificate, CertificateStatus::Active);
        rig.assert_deployed(&engine, &certificate).await;
    }
}

#[tokio::test]
async fn a_certificate_that_was_not_asked_for_is_kept_with_its_attempt() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    rig.ca.script(Script::OtherKey);
    let engine = rig.engine().await;
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_attention(&engine, &certificate, "was not asked for").await;
    let attempt = rig.attempts().await.remove(0);
    assert_eq!(attempt.state, AttemptState::Failed);
    assert_eq!(attempt.rejected.as_ref(), rig.ca.issued().first(), "it can be revoked by hand");
}
