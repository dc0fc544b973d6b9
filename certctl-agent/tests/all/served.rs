//! The program itself, against a real server over HTTPS.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use certctl_client::{Client, types::EnrollTokenRequest};
use certctl_core::{
    CertificateSpec, Clock, Secret, SystemClock, TargetSpec, engine::PlaceSpec, random_bytes,
    records::CertificateStatus, testkit::clock::TestClock,
};
use certctl_server::{Config, Server};
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

/// A server, and a directory for it and its agents.
struct World {
    dir: TempDir,
    url: String,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<certctl_core::Result<()>>>,
    clock: Arc<dyn Clock>,
}

impl World {
    async fn new(clock: Arc<dyn Clock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self { dir, url: String::new(), port: 0, stop: None, serving: None, clock };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let config = Config {
            data_dir: self.path("server"),
            listen: ([127, 0, 0, 1], self.port).into(),
            ..Config::default()
        };
        let server = Server::builder(config).clock(self.clock.clone()).start().await.unwrap();
        self.port = server.address().port();
        self.url = format!("https://localhost:{}", self.port);
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        self.serving = Some(tokio::spawn(server.run(async {
            let _ = stopped.await;
        })));
    }

    async fn end(&mut self) {
        drop(self.stop.take());
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self) -> Client {
        let key = std::fs::read_to_string(self.path("server/admin.key")).unwrap();
        Client::builder(&self.url)
            .ca_file(self.path("server/ca.pem"))
            .api_key(Secret::new(key.trim()))
            .build()
            .unwrap()
    }

    async fn token(&self, name: &str) -> Secret {
        let request = EnrollTokenRequest { name: name.to_owned(), valid: None };
        self.client().create_enroll_token(&request).await.unwrap().token.into_secret()
    }

    /// The program, as a service manager starts it.
    fn agent(&self, state: &str, token: Option<&Secret>) -> Program {
        // The program itself, as an operator starts it.
        #[allow(clippy::disallowed_methods)]
        let mut command = Command::new(env!("CARGO_BIN_EXE_certctl-agent"));
        command
            .env_clear()
            .env("CERTCTL_SERVER_URL", &self.url)
            .args(["--ca", self.path("server/ca.pem").to_str().unwrap()])
            .args(["--state-dir", self.path(state).to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.path(&format!("{state}.log"))).unwrap());
        if let Some(token) = token {
            command.env("CERTCTL_ENROLL_TOKEN", token.expose_str().unwrap());
        }
        Program(command.spawn().unwrap())
    }

    async fn target(&self, name: &str, agent: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        let runs = self.path(&format!("{name}/runs"));
        let config = json!({
            "cert_path": self.path(name).join("web.crt"),
            "key_path": self.path(name).join("web.key"),
            "command": ["sh", "-c", format!("echo run >> {}", runs.display())],
        });
        let place = PlaceSpec { agent: Some(agent.to_owned()), host: None };
        let spec = TargetSpec { place, ..TargetSpec::new(name, "files", config) };
        self.client().create_target(&spec).await.unwrap();
    }

    /// Waits until the newest version is what the file has, and all is well.
    async fn settled(&self, name: &str, versions: usize) {
        let client = self.client();
        let waiting = async {
            loop {
                let now = client.certificate(name).await.unwrap();
                let there =
                    std::fs::read_to_string(self.path(&format!("{name}/web.crt"))).unwrap_or_default();
                // A job that is open would take the next renewal for itself.
                if now.versions.len() == versions
                    && now.jobs.is_empty()
                    && now.status == CertificateStatus::Active
                    && !there.is_empty()
                {
                    let served = certctl_core::Chain::from_pem(there.as_bytes()).unwrap();
                    if served.leaf().fingerprint() == now.versions[0].fingerprint_sha256 {
                        return;
                    }
                }
                SystemClock.pause(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), waiting).await.is_err() {
            let log = std::fs::read_to_string(self.path("a.log")).unwrap_or_default();
            panic!("{name} did not settle: {:#?}\n{log}", client.certificate(name).await);
        }
    }
}

/// Ends with the test.
struct Program(Child);

impl Program {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// As a service manager does.
    async fn terminate(mut self) -> std::process::ExitStatus {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.ended().await
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            SystemClock.pause(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn web() -> CertificateSpec {
    CertificateSpec::new("web").dns("web.test").target("web")
}

#[tokio::test]
async fn the_program_enrols_deploys_and_stops_cleanly() {
    let world = World::new(Arc::new(SystemClock)).await;
    let token = world.token("web-1").await;
    let agent = world.agent("a", Some(&token));
    world.target("web", "web-1").await;
    world.client().create_certificate(&web()).await.unwrap();
    world.settled("web", 1).await;
    assert!(agent.terminate().await.success());
    let log = std::fs::read_to_string(world.path("a.log")).unwrap();
    assert!(!log.contains("ERROR") && !log.contains(token.expose_str().unwrap()), "{log}");

    // A token that was used is no one else's way in.
    let mut other = world.agent("b", Some(&token));
    assert_eq!(other.ended().await.code(), Some(1));
    let log = std::fs::read_to_string(world.path("b.log")).unwrap();
    assert!(log.contains("wrong, used or expired"), "{log}");
    // And the state directory is a way in without one.
    let again = world.agent("a", None);
    world.client().renew("web", &Default::default()).await.unwrap();
    world.settled("web", 2).await;
    assert!(again.terminate().await.success());
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_certificate_of_its_ca_is_the_same_server() {
    let clock = TestClock::at(SystemClock.now());
    let mut world = World::new(Arc::new(clock.clone())).await;
    let agent = world.agent("a", Some(&world.token("web-1").await));
    world.target("web", "web-1").await;
    world.client().create_certificate(&web()).await.unwrap();
    world.settled("web", 1).await;
    let before = world.client().certificate("certctl-server").await.unwrap().versions.len();
    world.end().await;
    // What is newest is told by the time.
    clock.advance(Duration::from_secs(1));
    world.start().await;
    world.client().renew("certctl-server", &Default::default()).await.unwrap();
    let renewed = async {
        while world.client().certificate("certctl-server").await.unwrap().versions.len() == before {
            SystemClock.pause(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.expect("it is renewed");
    world.client().renew("web", &Default::default()).await.unwrap();
    world.settled("web", 2).await;
    assert!(agent.terminate().await.success());
}

/// Killed again and again while it renews: each version is issued once and deployed, and nothing stays behind.
#[tokio::test]
async fn killed_at_random_moments_it_loses_and_repeats_nothing() {
    let world = World::new(Arc::new(SystemClock)).await;
    let mut agent = world.agent("a", Some(&world.token("web-1").await));
    world.target("web", "web-1").await;
    world.client().create_certificate(&web()).await.unwrap();
    world.settled("web", 1).await;
    const ROUNDS: usize = 12;
    for round in 0..ROUNDS {
        world.client().renew("web", &Default::default()).await.unwrap();
        let millis = u16::from_le_bytes(random_bytes::<2>()) % 160;
        SystemClock.pause(Duration::from_millis(millis.into())).await;
        agent.kill();
        agent = world.agent("a", None);
        world.settled("web", round + 2).await;
    }
    assert!(agent.terminate().await.success());
    let left: Vec<String> = std::fs::read_dir(world.path("web"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left.len(), 3, "the pair, and the count of reloads: {left:?}");
    let journal: Vec<_> =
        std::fs::read_dir(world.path("a/journal")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(journal.is_empty(), "{journal:?}");
    // A reload that was cut off is made again, and no other.
    let runs = std::fs::read_to_string(world.path("web/runs")).unwrap().lines().count();
    assert!((ROUNDS + 1..=2 * ROUNDS + 1).contains(&runs), "{runs}");
}
