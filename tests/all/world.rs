//! What the tests share: a directory with everything in it, and engines that live there.

use std::path::PathBuf;

use certctl::{
    Actor, CertificateSpec, Engine, EngineBuilder, Home, IntoHome,
    issuers::LocalCa,
    records::{Certificate, CertificateStatus, Deployment, DeploymentState},
    store::Stored,
    stores::SqliteStore,
};

/// A directory of one test, gone with it.
#[derive(Debug)]
pub struct World {
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub async fn home(&self) -> Home {
        SqliteStore::open(self.path("state/certs.db")).await.unwrap().into_home().unwrap()
    }

    /// An engine with the local CA as `local`.
    pub async fn builder(&self) -> EngineBuilder {
        Engine::builder(self.home().await).issuer("local", LocalCa::default())
    }
}

pub fn me() -> Actor {
    Actor::process()
}

pub fn web() -> CertificateSpec {
    CertificateSpec::new("web").dns("web.test").issuer("local").target("web")
}

#[track_caller]
pub fn assert_active(certificate: &Certificate) {
    assert_eq!(certificate.status, CertificateStatus::Active, "{:#?}", certificate.reason);
}

/// The deployment of the only target.
pub async fn deployment(engine: &Engine, certificate: &Certificate) -> Stored<Deployment> {
    let mut deployments = engine.deployments(&certificate.id).await.unwrap();
    assert_eq!(deployments.len(), 1);
    deployments.remove(0)
}

#[track_caller]
pub fn assert_proved(deployment: &Deployment) {
    assert_eq!(
        deployment.state,
        DeploymentState::Proved,
        "{:#?} {:?}",
        deployment.error,
        deployment.warnings
    );
}

/// No certificate of this engine was issued without being recorded, or recorded twice.
pub async fn version_count(engine: &Engine, certificate: &Certificate) -> usize {
    engine.versions(&certificate.id).await.unwrap().len()
}

/// Waits until `check` holds, looking whenever something was committed here.
pub async fn eventually(engine: &Engine, what: &str, check: impl AsyncFn() -> bool) {
    let mut events = engine.events();
    let waiting = async {
        while !check().await {
            events.next().await;
        }
    };
    let timely = tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await;
    assert!(timely.is_ok(), "{what} did not come");
}

/// Runs the engine's loop in the background until dropped or stopped.
pub struct Running {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<certctl::Result<()>>>,
}

impl Running {
    pub fn start(engine: &Engine) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let engine = engine.clone();
        let task = tokio::spawn(async move {
            engine
                .run(async {
                    let _ = stopped.await;
                })
                .await
        });
        Self { stop: Some(stop), task: Some(task) }
    }

    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.task.take().unwrap().await.unwrap().unwrap();
    }
}
