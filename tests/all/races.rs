//! What others ask for while a step is under way.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use certctl::{
    Context, Engine, Issuer, Result, Worker,
    records::{CertificateStatus, Deployment, JobState},
    store::{Change, Query, Store, StoreExt, Stored},
    testkit::issuer::{Script, ScriptedIssuer},
    worker::{Journal, Work, WorkReport},
};

use crate::rig::{Rig, actor, open, spec};

/// Deletes the deployments while they are carried out, as who takes a target out of a certificate does.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<dyn Worker>,
    store: Arc<dyn Store>,
}

#[async_trait]
impl Worker for Forgetful {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport> {
        let deploys = matches!(work, Work::Deploy(_));
        let report = self.inner.execute(cx, work, journal).await;
        if deploys {
            let query = Query::of::<Deployment>().limit(10);
            let (all, _): (Vec<Stored<Deployment>>, _) = self.store.list(query).await?;
            for one in &all {
                let event =
                    certctl::records::AuditEvent::new(cx.clock.now(), &actor(), "test", one.id.as_str());
                self.store.commit(Change::new(event).delete(one)).await?;
            }
        }
        report
    }
}

#[tokio::test]
async fn a_target_taken_away_during_its_deployment_ends_the_job() {
    let rig = Rig::new(certctl::Recovery::Idempotent, false).await;
    let store = rig.store.clone();
    let worker = |local| Arc::new(Forgetful { inner: Arc::new(local), store }) as Arc<dyn Worker>;
    let engine = rig.builder().worker(worker).build().await.unwrap();
    let life = tokio::spawn(async move { engine.ensure(&actor(), spec()).await });
    let certificate = tokio::time::timeout(std::time::Duration::from_secs(20), life).await;
    let certificate = certificate.expect("the job ends").unwrap().unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active);
    crate::rig::assert_no_open_job(&rig.engine().await, &certificate).await;
}

/// Somebody cancels the job while the CA is being polled.
#[derive(Debug)]
struct Cancelled {
    inner: Arc<ScriptedIssuer>,
    engine: OnceLock<Engine>,
}

#[async_trait]
impl Issuer for Cancelled {
    fn kind(&self) -> &str {
        "scripted"
    }

    fn capabilities(&self) -> certctl::IssuerCapabilities {
        self.inner.capabilities()
    }

    async fn submit(&self, cx: &Context, order: &certctl::Order) -> Result<certctl::Progress> {
        self.inner.submit(cx, order).await
    }

    async fn poll(
        &self,
        cx: &Context,
        order: &certctl::Order,
        handle: certctl::Handle,
    ) -> Result<certctl::Progress> {
        if let Some(engine) = self.engine.get() {
            let query = Query::of::<certctl::records::Job>().limit(1);
            let (jobs, _): (Vec<Stored<certctl::records::Job>>, _) = engine.store().list(query).await?;
            engine.cancel(&actor(), &jobs[0].id).await?;
        }
        self.inner.poll(cx, order, handle).await
    }

    async fn recover(&self, cx: &Context, order: &certctl::Order) -> Result<Option<certctl::Progress>> {
        self.inner.recover(cx, order).await
    }
}

#[tokio::test]
async fn who_cancels_during_a_poll_does_not_wait_for_the_next() {
    let rig = Rig::new(certctl::Recovery::Idempotent, false).await;
    let far = certctl::Clock::now(&rig.clock) + std::time::Duration::from_secs(9 * 86_400);
    rig.ca.script(Script::PendUntil(far));
    let ca = Arc::new(Cancelled { inner: rig.ca.clone(), engine: OnceLock::new() });
    let engine = rig.builder_with(ca.clone()).build().await.unwrap();
    let certificate = engine.ensure(&actor(), spec()).await.unwrap();
    let job = open(&engine, &certificate, "issue").await;
    rig.clock.set(job.due.unwrap());
    ca.engine.set(engine.clone()).unwrap();
    engine.ensure(&actor(), spec()).await.unwrap();
    assert_eq!(engine.store().read(&job.id).await.unwrap().state, JobState::Cancelled);
}
