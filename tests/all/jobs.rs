//! Jobs: joined, cancelled, broken by a connector, and never dropped half done.

use std::sync::Arc;

use certctl::{
    Bundle, Context, Engine, ErrorKind, Recovery, Result, Target,
    host::Host,
    records::{Certificate, CertificateStatus, DeploymentState, Job, JobState},
    store::{StoreExt, Stored},
    target::{Observed, Plan, Snapshot},
    testkit::{
        host::{FaultHost, When},
        issuer::Script,
    },
};
use tokio::sync::Semaphore;

use crate::{
    rig::{Rig, actor, assert_no_open_job, only_deployment, open, spec},
    world::{Running, eventually},
};

/// Does what the real one does, once it is let.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn Target>,
    /// Who has come to apply.
    came: Semaphore,
    /// Who may go on.
    may: Semaphore,
    panics: std::sync::atomic::AtomicBool,
}

impl Gate {
    async fn builder(rig: &Rig) -> (Arc<Self>, certctl::EngineBuilder) {
        use certctl::connectors::{Site, TargetConfig};
        let files = certctl::targets::Files {
            cert_path: crate::rig::CERT.into(),
            key_path: crate::rig::KEY.into(),
            ..Default::default()
        };
        let host: Arc<dyn Host> = rig.host.clone();
        let site = Site { env: certctl::Env::in_memory(), host, write: Default::default() };
        let gate = Arc::new(Self {
            inner: files.connect(site).unwrap(),
            came: Semaphore::new(0),
            may: Semaphore::new(0),
            panics: Default::default(),
        });
        let target: Arc<dyn Target> = gate.clone();
        let ca: Arc<dyn certctl::Issuer> = rig.ca.clone();
        let builder = Engine::builder(rig.home())
            .clock(Arc::new(rig.clock.clone()))
            .issuer("ca", ca)
            .target("web", target);
        (gate, builder)
    }

    async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    fn open(&self) {
        self.may.add_permits(1);
    }
}

#[async_trait::async_trait]
impl Target for Gate {
    fn kind(&self) -> &str {
        self.inner.kind()
    }
    fn unit(&self) -> Option<String> {
        self.inner.unit()
    }
    fn address(&self) -> String {
        self.inner.address()
    }
    fn host(&self) -> Option<Arc<dyn Host>> {
        self.inner.host()
    }
    async fn observe(&self, cx: &Context) -> Result<Observed> {
        self.inner.observe(cx).await
    }
    async fn plan(&self, cx: &Context, bundle: &Bundle) -> Result<Plan> {
        self.inner.plan(cx, bundle).await
    }
    async fn snapshot(&self, cx: &Context, name: &str) -> Result<Snapshot> {
        self.inner.snapshot(cx, name).await
    }
    async fn holds(&self, cx: &Context, snapshot: &Snapshot) -> Result<bool> {
        self.inner.holds(cx, snapshot).await
    }
    async fn apply(&self, cx: &Context, bundle: &Bundle) -> Result<()> {
        let panics = self.panics.load(std::sync::atomic::Ordering::SeqCst);
        assert!(!panics, "the connector has a bug");
        self.came.add_permits(1);
        self.may.acquire().await.unwrap().forget();
        self.inner.apply(cx, bundle).await
    }
    async fn validate(&self, cx: &Context) -> Result<()> {
        self.inner.validate(cx).await
    }
    async fn reload(&self, cx: &Context) -> Result<()> {
        self.inner.reload(cx).await
    }
    async fn start(&self, cx: &Context) -> Result<bool> {
        self.inner.start(cx).await
    }
    async fn restore(&self, cx: &Context, snapshot: &Snapshot) -> Result<()> {
        self.inner.restore(cx, snapshot).await
    }
    async fn discard(&self, cx: &Context, snapshot: &Snapshot) -> Result<()> {
        self.inner.discard(cx, snapshot).await
    }
}

async fn ensure(engine: Engine) -> Result<Stored<Certificate>> {
    engine.ensure(&actor(), spec()).await
}

async fn job(engine: &Engine, kind: &str) -> Stored<Job> {
    open(engine, &engine.certificate("web").await.unwrap(), kind).await
}

#[tokio::test]
async fn a_second_renewal_joins_the_first() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    engine.ensure(&actor(), spec()).await.unwrap();
    rig.tick();
    let first = engine.renew(&actor(), "web").await.unwrap();
    let second = engine.renew(&actor(), "web").await.unwrap();
    assert_eq!(first.jobs(), second.jobs());
    // At the same time, by several.
    let (a, b, c) = tokio::join!(first.step(), second.step(), ensure(engine.clone()));
    let serials = [a.unwrap(), b.unwrap(), c.unwrap()].map(|certificate| certificate.serial.clone());
    assert!(serials.iter().all(|serial| *serial == serials[0]));
    assert_eq!(rig.ca.issued().len(), 2);
}

#[tokio::test]
async fn a_renewal_is_cancelled_before_the_ca_is_asked() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    let first = engine.ensure(&actor(), spec()).await.unwrap();
    let watch = engine.renew(&actor(), "web").await.unwrap();
    engine.cancel(&actor(), &watch.jobs()[0]).await.unwrap();
    let certificate = watch.step().await.unwrap();
    assert_eq!(engine.store().read(&watch.jobs()[0]).await.unwrap().state, JobState::Cancelled);
    assert_eq!((certificate.status, &certificate.serial), (CertificateStatus::Active, &first.serial));
    assert_eq!(rig.ca.issued().len(), 1);

    let renewed = rig.renew(&engine).await;
    assert_ne!(renewed.serial, first.serial);
    rig.assert_deployed(&engine, &renewed).await;
}

#[tokio::test]
async fn a_job_that_asks_for_attention_can_be_cancelled() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    let first = engine.ensure(&actor(), spec()).await.unwrap();
    for script in [Script::Reject, Script::OtherKey] {
        rig.ca.script(script);
        let certificate = rig.renew(&engine).await;
        assert_eq!(certificate.status, CertificateStatus::Attention);
        engine.cancel(&actor(), &job(&engine, "issue").await.id).await.unwrap();
        // The loop obeys; what is in service is in service, and nobody has to look any more.
        let running = Running::start(&engine);
        eventually(&engine, "the end of the job", async || {
            engine.jobs(&first.id).await.unwrap().iter().all(|job| job.state.is_finished())
        })
        .await;
        running.stop().await;
        let certificate = engine.certificate("web").await.unwrap();
        assert_eq!((certificate.status, certificate.reason.clone()), (CertificateStatus::Active, None));
        assert_eq!(certificate.serial, first.serial);
    }
    rig.ca.script(Script::Issue);
    assert_eq!(rig.renew(&engine).await.status, CertificateStatus::Active);
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_can_be_given_up() {
    for recovery in [Recovery::Searchable, Recovery::None] {
        let rig = Rig::new(recovery, true).await;
        let engine = rig.engine().await;
        rig.ca.script_next([Script::LoseAnswer]);
        engine.ensure(&actor(), spec()).await.unwrap();
        let lost = job(&engine, "issue").await;
        engine.cancel(&actor(), &lost.id).await.unwrap();
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        let lost = engine.store().read(&lost.id).await.unwrap();
        match recovery {
            // It was found: there is no reason to throw it away.
            Recovery::Searchable => assert_eq!(lost.state, JobState::Done),
            _ => assert_eq!(lost.state, JobState::Cancelled),
        }
        let certificate = match certificate.status {
            CertificateStatus::Active => certificate,
            _ => engine.ensure(&actor(), spec()).await.unwrap(),
        };
        assert_eq!(certificate.status, CertificateStatus::Active);
        rig.ca.assert_no_second_order();
    }
}

#[tokio::test]
async fn a_deployment_is_cancelled_before_its_first_write_and_not_after() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let (gate, builder) = Gate::builder(&rig).await;
    let engine = builder.build().await.unwrap();
    // Before: the job is there, and nobody has begun.
    gate.open();
    let first = engine.ensure(&actor(), spec()).await.unwrap();
    rig.files.put(crate::rig::CERT, "torn");
    let watch = engine.deploy(&actor(), "web").await.unwrap();
    engine.cancel(&actor(), &watch.jobs()[0]).await.unwrap();
    watch.step().await.unwrap();
    assert_eq!(engine.store().read(&watch.jobs()[0]).await.unwrap().state, JobState::Cancelled);
    assert_eq!(rig.files.content(crate::rig::CERT).unwrap(), b"torn");
    assert_eq!(only_deployment(&engine, &first).await.error, None);

    // After: it ends well all the same.
    gate.came.forget_permits(1);
    let running = Running::start(&engine);
    let watch = engine.deploy(&actor(), "web").await.unwrap();
    gate.came().await;
    engine.cancel(&actor(), &watch.jobs()[0]).await.unwrap();
    gate.open();
    let certificate = watch.wait().await.unwrap();
    eventually(&engine, "the end of the job", async || {
        engine.store().read(&watch.jobs()[0]).await.unwrap().state.is_finished()
    })
    .await;
    assert_eq!(engine.store().read(&watch.jobs()[0]).await.unwrap().state, JobState::Done);
    rig.assert_deployed(&engine, &certificate).await;
    running.stop().await;
}

#[tokio::test]
async fn the_loop_ends_when_what_it_has_begun_has_ended() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let (gate, builder) = Gate::builder(&rig).await;
    let engine = builder.build().await.unwrap();
    let running = Running::start(&engine);
    let _ = engine.want(&actor(), spec()).await.unwrap();
    gate.came().await;
    let mut stopping = tokio::spawn(running.stop());
    // It has been told, and waits.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!stopping.is_finished());
    gate.open();
    (&mut stopping).await.unwrap();
    let certificate = engine.certificate("web").await.unwrap();
    rig.assert_deployed(&engine, &certificate).await;
    let jobs = engine.jobs(&certificate.id).await.unwrap();
    let deploy = jobs.iter().find(|job| &*job.kind == "deploy").unwrap();
    assert_eq!(deploy.state, JobState::Done, "what was written is recorded as well");
}

#[tokio::test]
async fn who_goes_away_cancels_nothing() {
    for looped in [false, true] {
        let rig = Rig::new(Recovery::Searchable, true).await;
        let (gate, builder) = Gate::builder(&rig).await;
        let engine = builder.build().await.unwrap();
        let caller = if looped {
            let _ = engine.want(&actor(), spec()).await.unwrap();
            let engine = engine.clone();
            tokio::spawn(async move { engine.run(std::future::pending()).await.unwrap() })
        } else {
            let engine = engine.clone();
            tokio::spawn(async move { drop(ensure(engine).await.unwrap()) })
        };
        gate.came().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        gate.open();
        eventually(&engine, "the deployment", async || {
            let certificate = engine.certificate("web").await.unwrap();
            only_deployment(&engine, &certificate).await.state == DeploymentState::Unproved
        })
        .await;
        // And no job is left in nobody's hands.
        let certificate = engine.ensure(&actor(), spec()).await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active);
        assert_no_open_job(&engine, &certificate).await;
        assert_eq!(rig.ca.issued().len(), 1);
    }
}

#[tokio::test]
async fn a_target_that_panics_is_one_deployment_s_failure() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let (gate, builder) = Gate::builder(&rig).await;
    let engine = builder.build().await.unwrap();
    let running = Running::start(&engine);
    gate.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let certificate = engine.want(&actor(), spec()).await.unwrap().wait().await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Partial);
    let deployment = only_deployment(&engine, &certificate).await;
    assert_eq!(deployment.state, DeploymentState::Failed);
    assert_eq!(deployment.error.as_ref().unwrap().kind, ErrorKind::Internal);
    let deploy = job(&engine, "deploy").await;
    assert_eq!(deploy.state, JobState::Attention);
    // Others go on.
    let other = certctl::CertificateSpec::new("other").dns("other.test").issuer("ca");
    let other = engine.want(&actor(), other).await.unwrap().wait().await.unwrap();
    assert_eq!(other.status, CertificateStatus::Active);

    gate.panics.store(false, std::sync::atomic::Ordering::SeqCst);
    gate.open();
    let certificate = engine.retry(&actor(), &deploy.id).await.unwrap().wait().await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active);
    assert_eq!(certificate.reason, None);
    rig.assert_deployed(&engine, &certificate).await;
    running.stop().await;
}

#[tokio::test]
async fn a_target_that_is_added_meanwhile_gets_the_certificate_too() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let (gate, builder) = Gate::builder(&rig).await;
    let files = certctl::targets::Files {
        cert_path: "/tls/second.crt".into(),
        key_path: "/tls/second.key".into(),
        ..Default::default()
    };
    let engine = builder.target("second", files).build().await.unwrap();
    let running = Running::start(&engine);
    let _ = engine.want(&actor(), spec()).await.unwrap();
    gate.came().await;
    let watch = engine.want(&actor(), spec().target("second")).await.unwrap();
    gate.open();
    watch.wait().await.unwrap();
    eventually(&engine, "both", async || {
        engine.certificate("web").await.unwrap().status == CertificateStatus::Active
    })
    .await;
    running.stop().await;
    let certificate = engine.certificate("web").await.unwrap();
    let newest = &engine.versions(&certificate.id).await.unwrap()[0];
    assert_eq!(rig.files.content("/tls/second.crt").unwrap(), newest.chain.to_pem().into_bytes());
    assert_eq!(rig.ca.issued().len(), 1);
}

#[tokio::test]
async fn a_target_that_is_given_up_is_no_longer_a_reason() {
    let rig = Rig::new(Recovery::Searchable, true).await;
    let engine = rig.engine().await;
    rig.host.fail_if(|op| op.name == "stage", When::Before, FaultHost::disk_full());
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Partial);
    let alone = certctl::CertificateSpec::new("web").dns("web.test").issuer("ca");
    let certificate = engine.ensure(&actor(), alone).await.unwrap();
    assert_eq!((certificate.status, certificate.reason.clone()), (CertificateStatus::Active, None));
    assert_eq!(engine.deployments(&certificate.id).await.unwrap().len(), 0);
}
