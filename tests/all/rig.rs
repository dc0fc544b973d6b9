//! A life in memory: a scripted CA, a clock that stands still, and a server that is two files.

use std::sync::Arc;

use certctl::{
    Actor, CertificateSpec, Chain, Clock, Engine, EngineBuilder, Home, Issuer, Keys, MemoryKeys, PrivateKey,
    Recovery, Secret, Worker,
    records::{Attempt, Certificate, CertificateStatus, Deployment, Job, JobState, Version},
    store::{MemoryStore, Query, Store, StoreExt, Stored},
    targets::Files,
    testkit::{
        clock::TestClock,
        host::{FaultHost, MemoryHost, OneHost, Operation},
        issuer::ScriptedIssuer,
        worker::JsonWorker,
    },
};

pub const CERT: &str = "/tls/web.crt";
pub const KEY: &str = "/tls/web.key";

/// What outlives an engine.
#[derive(Clone, Debug)]
pub struct Rig {
    pub store: Arc<dyn Store>,
    pub keys: Arc<MemoryKeys>,
    pub host: Arc<FaultHost>,
    pub files: MemoryHost,
    pub clock: TestClock,
    pub ca: Arc<ScriptedIssuer>,
    /// Whether all work goes to JSON and back.
    pub json: bool,
}

impl Rig {
    pub async fn new(recovery: Recovery, json: bool) -> Self {
        Self::with(certctl::IssuerCapabilities::all(recovery), json).await
    }

    pub async fn with(capabilities: certctl::IssuerCapabilities, json: bool) -> Self {
        let clock = TestClock::default();
        let files = MemoryHost::default();
        files.put_dir("/tls");
        Self {
            store: Arc::new(MemoryStore::default()),
            keys: Arc::new(MemoryKeys::default()),
            host: Arc::new(FaultHost::new(Arc::new(files.clone()))),
            files,
            ca: ScriptedIssuer::new(clock.now(), capabilities).await,
            clock,
            json,
        }
    }

    pub fn home(&self) -> Home {
        Home {
            store: self.store.clone(),
            keys: self.keys.clone(),
            hosts: Arc::new(OneHost(self.host.clone())),
            ..Home::in_memory()
        }
    }

    pub fn builder(&self) -> EngineBuilder {
        self.builder_with(self.ca.clone())
    }

    pub fn builder_with(&self, ca: Arc<dyn Issuer>) -> EngineBuilder {
        let files = self.target();
        let (json, keys) = (self.json, self.keys.clone());
        Engine::builder(self.home())
            .clock(Arc::new(self.clock.clone()))
            .issuer("ca", ca)
            .target("web", files)
            .worker(move |local| {
                let local: Arc<dyn Worker> = Arc::new(local);
                if json { Arc::new(JsonWorker::new(local, keys)) } else { local }
            })
    }

    pub fn target(&self) -> Files {
        Files { cert_path: CERT.into(), key_path: KEY.into(), ..Default::default() }
    }

    /// As after a restart: everything in memory is gone, what is stored stays.
    pub async fn engine(&self) -> Engine {
        self.builder().build().await.unwrap()
    }

    /// A second passes: what is made from now on is newer than what was made before.
    pub fn tick(&self) {
        self.clock.advance(std::time::Duration::from_secs(1));
    }

    pub async fn renew(&self, engine: &Engine) -> Stored<Certificate> {
        self.tick();
        engine.renew(&actor(), "web").await.unwrap().step().await.unwrap()
    }

    pub async fn retry(&self, engine: &Engine, job: &Job) -> Stored<Certificate> {
        self.tick();
        engine.retry(&actor(), &job.id).await.unwrap().step().await.unwrap()
    }

    /// The pair at rest, which must be whole.
    pub fn at_rest(&self) -> Option<Chain> {
        let (cert, key) = (self.files.content(CERT)?, self.files.content(KEY)?);
        let chain = Chain::from_pem(&cert).unwrap();
        let key = PrivateKey::from_pem(&Secret::new(key)).unwrap();
        assert_eq!(chain.leaf().public_key().unwrap(), key.public_key(), "the pair is torn");
        Some(chain)
    }

    /// The pair at rest is this certificate's newest version, and nothing else is there.
    pub async fn assert_deployed(&self, engine: &Engine, certificate: &Certificate) {
        let newest = &engine.versions(&certificate.id).await.unwrap()[0];
        assert_eq!(self.at_rest().unwrap(), newest.chain);
        assert_eq!(self.files.files(), [CERT, KEY], "something is left behind");
    }

    /// How often a file was put in its place since the last reset.
    pub fn swaps(&self) -> usize {
        self.host.operations().iter().filter(|operation: &&Operation| operation.name == "swap").count()
    }

    pub async fn attempts(&self) -> Vec<Stored<Attempt>> {
        self.store.list(Query::of::<Attempt>().limit(1_000)).await.unwrap().0
    }

    pub async fn has_key(&self, version: &Version) -> bool {
        self.keys.export(version.key.as_ref().unwrap()).await.is_ok()
    }
}

pub fn spec() -> CertificateSpec {
    CertificateSpec::new("web").dns("web.test").issuer("ca").target("web")
}

pub fn actor() -> Actor {
    Actor::process()
}

/// The job of this kind that is not finished.
pub async fn open(engine: &Engine, certificate: &Certificate, kind: &str) -> Stored<Job> {
    let jobs = engine.jobs(&certificate.id).await.unwrap();
    let mut open: Vec<_> = jobs.iter().filter(|job| &*job.kind == kind && !job.state.is_finished()).collect();
    assert_eq!(open.len(), 1, "{jobs:#?}");
    open.remove(0).clone()
}

pub async fn assert_no_open_job(engine: &Engine, certificate: &Certificate) {
    for job in engine.jobs(&certificate.id).await.unwrap() {
        assert!(job.state.is_finished(), "{job:#?}");
    }
}

/// The issue job asks for attention, and so does its certificate.
pub async fn assert_attention(engine: &Engine, certificate: &Certificate, sentence: &str) -> Stored<Job> {
    let job = open(engine, certificate, "issue").await;
    assert_eq!(job.state, JobState::Attention, "{job:#?}");
    assert_eq!(certificate.status, CertificateStatus::Attention);
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains(sentence), "{:?} does not say {sentence:?}", reason.message);
    job
}

pub async fn only_deployment(engine: &Engine, certificate: &Certificate) -> Stored<Deployment> {
    crate::world::deployment(engine, certificate).await
}

/// How many of these versions' keys are in the store.
pub async fn key_count(keys: &dyn Keys, versions: &[Stored<Version>]) -> usize {
    let mut count = 0;
    for version in versions {
        count += usize::from(keys.export(version.key.as_ref().unwrap()).await.is_ok());
    }
    count
}
