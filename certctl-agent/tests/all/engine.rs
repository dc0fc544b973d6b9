//! Agents and a real engine in one process: everything but HTTP.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use certctl_agent::{AgentBuilder, Enrolled, Uplink, policy::Policy};
use certctl_connectors::issuers::LocalCa;
use certctl_core::{
    Actor, CertificateSpec, Clock, Engine, Error, Home, Result, Secret, TargetSpec,
    engine::{AgentKeys, AgentSession, PlaceSpec, Session, SessionChallenge, SessionRequest},
    records::{Agent, Certificate, CertificateStatus, Job, JobState},
    store::Stored,
    testkit::clock::TestClock,
    worker::{AssignedJob, Assignment, JobToken, Reported, WorkResult},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::fake::Running;

fn me() -> Actor {
    Actor::process()
}

/// The server's side: a home, and an engine in it that can be ended and started again.
struct Server {
    home: Home,
    clock: TestClock,
    engine: RwLock<Option<Engine>>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    /// Every text that went over the wire.
    wire: Mutex<Vec<String>>,
}

impl Server {
    async fn new() -> Arc<Self> {
        let home = Home { connectors: certctl_connectors::connectors(), ..Home::in_memory() };
        let server = Arc::new(Self {
            home,
            clock: TestClock::default(),
            engine: RwLock::default(),
            stop: Mutex::default(),
            wire: Mutex::default(),
        });
        server.start().await;
        server
    }

    async fn start(&self) {
        let engine = Engine::builder(self.home.clone())
            .clock(Arc::new(self.clock.clone()))
            .issuer("local", LocalCa::default())
            .default_issuer("local")
            .build()
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let runs = engine.clone();
        tokio::spawn(async move {
            runs.run(async move {
                let _ = stopped.await;
            })
            .await
        });
        *self.stop.lock().unwrap() = Some(stop);
        *self.engine.write().unwrap() = Some(engine);
    }

    /// It can't be reached from now on.
    fn end(&self) {
        *self.engine.write().unwrap() = None;
        drop(self.stop.lock().unwrap().take());
    }

    fn engine(&self) -> Engine {
        self.engine.read().unwrap().clone().expect("the server runs")
    }

    async fn token(&self, name: &str) -> Secret {
        self.engine().create_enroll_token(&me(), name, None).await.unwrap().1
    }

    async fn agent(&self, name: &str) -> Stored<Agent> {
        self.engine().read::<Agent>(&me(), name).await.unwrap()
    }

    /// Waits until this is so.
    async fn until<F: Future<Output = bool>>(&self, what: &str, so: impl Fn(Engine) -> F) {
        let waiting = async {
            while !so(self.engine()).await {
                self.clock.pause(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err() {
            let jobs =
                self.engine().list::<Job>(&me(), certctl_core::store::Query::of::<Job>()).await.unwrap().0;
            panic!("{what} did not come about: {jobs:#?}");
        }
    }

    async fn settled(&self, name: &str) -> Stored<Certificate> {
        self.until("the certificate", async |engine: Engine| {
            let certificate = engine.read::<Certificate>(&me(), name).await.unwrap();
            let jobs = engine.jobs(&certificate.id).await.unwrap();
            jobs.iter().all(|job| job.state.is_finished() || job.state == JobState::Attention)
        })
        .await;
        self.engine().read(&me(), name).await.unwrap()
    }

    async fn jobs(&self, name: &str, kind: &str) -> Vec<Stored<Job>> {
        let certificate = self.engine().read::<Certificate>(&me(), name).await.unwrap();
        let jobs = self.engine().jobs(&certificate.id).await.unwrap();
        jobs.into_iter().filter(|job| &*job.kind == kind).collect()
    }

    fn assert_no_key_on_the_wire(&self) {
        let wire = self.wire.lock().unwrap();
        assert!(wire.len() > 5);
        for text in wire.iter() {
            assert!(!text.contains("PRIVATE KEY"), "{text}");
        }
    }
}

/// The way to it from one address.
#[derive(Clone)]
struct Way {
    server: Arc<Server>,
    address: &'static str,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.address)
    }
}

impl Way {
    fn engine(&self) -> Result<Engine> {
        let engine = self.server.engine.read().unwrap().clone();
        engine.ok_or_else(|| Error::unavailable("the server can't be reached: no connection"))
    }

    /// Goes to JSON and back.
    fn wire<T: Serialize + DeserializeOwned>(&self, value: &T) -> T {
        let text = serde_json::to_string(value).unwrap();
        let back = serde_json::from_str(&text).unwrap();
        self.server.wire.lock().unwrap().push(text);
        back
    }
}

#[async_trait]
impl Uplink for Way {
    async fn enroll(&self, token: &Secret, keys: &AgentKeys) -> Result<Enrolled> {
        let agent = self.engine()?.enroll(token, &self.wire(keys)).await?;
        Ok(Enrolled { agent: agent.id.clone(), name: agent.name.clone() })
    }

    async fn session_challenge(&self) -> Result<SessionChallenge> {
        Ok(self.wire(&self.engine()?.session_challenge()))
    }

    async fn open_session(&self, request: &SessionRequest) -> Result<Session> {
        self.engine()?.open_session(&self.wire(request), Some(self.address)).await
    }

    async fn heartbeat(&self, session: &Session) -> Result<()> {
        let engine = self.engine()?;
        let session = engine.agent_session(&session.token).await?;
        engine.heartbeat(&session, Some(self.address)).await
    }

    async fn lease(&self, session: &Session, limit: usize, _: Duration) -> Result<Vec<Assignment>> {
        let engine = self.engine()?;
        let session = engine.agent_session(&session.token).await?;
        // A connection that ends with the server: short, and asked again.
        self.server.clock.pause(Duration::from_millis(5)).await;
        let given = engine.lease_work(&session, limit, self.server.clock.now()).await?;
        self.engine()?;
        Ok(self.wire(&given))
    }

    async fn extend(&self, session: &Session, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        let engine = self.engine()?;
        let session = engine.agent_session(&session.token).await?;
        Ok(self.wire(&engine.extend_work(&session, jobs).await?))
    }

    async fn report(&self, session: &Session, result: &WorkResult) -> Result<Reported> {
        let engine = self.engine()?;
        let session = engine.agent_session(&session.token).await?;
        engine.report_work(&session, self.wire(result)).await
    }
}

/// A machine for an agent.
struct Machine {
    dir: TempDir,
    way: Way,
}

impl Machine {
    fn new(server: &Arc<Server>, address: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tls")).unwrap();
        Self { dir, way: Way { server: server.clone(), address } }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn builder(&self) -> AgentBuilder {
        AgentBuilder::with_uplink(Arc::new(self.way.clone()), "https://certctl.test", self.path("state"))
            .clock(Arc::new(self.way.server.clock.clone()))
    }

    fn start(&self) -> Running {
        Running::of(self.builder())
    }

    fn enroll(&self, token: Secret) -> Running {
        Running::of(self.builder().token(token))
    }

    fn spec(&self, name: &str, agent: &str) -> TargetSpec {
        let file = |end: &str| self.path(&format!("tls/{name}.{end}")).to_string_lossy().into_owned();
        let config = json!({ "cert_path": file("crt"), "key_path": file("key") });
        let place = PlaceSpec { agent: Some(agent.to_owned()), host: None };
        TargetSpec { place, ..TargetSpec::new(name, "files", config) }
    }

    fn key(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(&format!("tls/{name}.key"))).ok()
    }

    fn leaf(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(&format!("tls/{name}.crt"))).ok()
    }
}

#[tokio::test]
async fn a_life_on_two_agents() {
    let server = Server::new().await;
    let (one, two) = (Machine::new(&server, "192.0.2.1"), Machine::new(&server, "192.0.2.2"));
    let running = [one.enroll(server.token("one").await), two.enroll(server.token("two").await)];
    server.engine().put_target(&me(), one.spec("a", "one")).await.unwrap();
    server.engine().put_target(&me(), two.spec("b", "two")).await.unwrap();
    let spec = CertificateSpec::new("web").dns("web.test").target("a").target("b");
    let _ = server.engine().want(&me(), spec).await.unwrap();
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    let before = (one.leaf("a").unwrap(), two.leaf("b").unwrap());
    assert_ne!(before.0, before.1, "each has a certificate of its own");
    assert_ne!(one.key("a"), two.key("b"));

    let _ = server.engine().renew(&me(), "web").await.unwrap();
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    assert_ne!(one.leaf("a").unwrap(), before.0);
    assert_ne!(two.leaf("b").unwrap(), before.1);
    server.assert_no_key_on_the_wire();
    for agent in running {
        agent.stop().await.unwrap();
    }
    let presence = server.engine().agent_presence(&me(), "one").await.unwrap().unwrap();
    assert_eq!(presence.now.address.as_deref(), Some("192.0.2.1"));
}

#[tokio::test]
async fn a_token_works_once_in_its_hour_and_guessing_does_not() {
    let server = Server::new().await;
    let token = server.token("web-1").await;
    let first = Machine::new(&server, "192.0.2.1");
    let running = first.enroll(token.clone());
    server
        .until("it enrols", async |engine: Engine| {
            engine.read::<Agent>(&me(), "web-1").await.unwrap().enrolled.is_some()
        })
        .await;
    running.stop().await.unwrap();

    let expired = server.token("web-2").await;
    server.clock.advance(Duration::from_secs(3600));
    let other = server.token("web-3").await;
    let mut guessed = other.expose().to_vec();
    let last = guessed.last_mut().unwrap();
    *last = if *last == b'A' { b'B' } else { b'A' };
    for (what, token) in [("used", token), ("expired", expired), ("guessed", Secret::new(guessed))] {
        let machine = Machine::new(&server, "203.0.113.9");
        let error = machine.enroll(token).ended().await.unwrap_err();
        assert_eq!(error.kind(), certctl_core::ErrorKind::Unauthenticated, "{what}: {error}");
        assert!(!machine.path("state/identity.json").exists());
    }
    // The one that was guessed at is good still.
    let machine = Machine::new(&server, "192.0.2.3");
    let running = machine.enroll(other);
    server
        .until("it enrols", async |engine: Engine| {
            engine.read::<Agent>(&me(), "web-3").await.unwrap().enrolled.is_some()
        })
        .await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_for_a_day_finds_everything_as_it_was() {
    let server = Server::new().await;
    let machine = Machine::new(&server, "192.0.2.1");
    let running = machine.enroll(server.token("web-1").await);
    server.engine().put_target(&me(), machine.spec("a", "web-1")).await.unwrap();
    let _ =
        server.engine().want(&me(), CertificateSpec::new("web").dns("web.test").target("a")).await.unwrap();
    server.settled("web").await;
    let leaf = machine.leaf("a").unwrap();

    server.end();
    server.clock.advance(Duration::from_secs(86_400));
    // The agent starts anew meanwhile, without anybody to ask.
    running.stop().await.unwrap();
    let running = machine.start();
    server.clock.pause(Duration::from_millis(20)).await;
    assert_eq!(machine.leaf("a").unwrap(), leaf, "what is deployed stays");

    server.start().await;
    let _ = server.engine().renew(&me(), "web").await.unwrap();
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    assert_ne!(machine.leaf("a").unwrap(), leaf);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn of_a_copied_identity_both_are_told_and_an_operator_decides() {
    let server = Server::new().await;
    let original = Machine::new(&server, "192.0.2.1");
    let running = original.enroll(server.token("web-1").await);
    server.engine().put_target(&me(), original.spec("a", "web-1")).await.unwrap();
    let _ =
        server.engine().want(&me(), CertificateSpec::new("web").dns("web.test").target("a")).await.unwrap();
    server.settled("web").await;

    let copy = Machine::new(&server, "203.0.113.7");
    std::fs::create_dir(copy.path("state")).unwrap();
    for name in ["identity.json", "identity.key", "sealing.key"] {
        std::fs::copy(original.path("state").join(name), copy.path("state").join(name)).unwrap();
    }
    // What is in flight as a process starts is let go.
    server.clock.advance(Duration::from_secs(10));
    let copied = copy.start();
    server
        .until("a clash", async |engine: Engine| {
            // The one before it is heard of once more, after the time for what was in flight.
            server.clock.advance(Duration::from_secs(6));
            engine.read::<Agent>(&me(), "web-1").await.unwrap().clash.is_some()
        })
        .await;
    let clash = server.agent("web-1").await.clash.clone().unwrap();
    let address =
        |one: &certctl_core::records::Instance| one.address.as_deref().unwrap_or_default().to_owned();
    let mut addresses: Vec<String> = clash.instances.iter().map(address).collect();
    addresses.sort();
    assert_eq!(addresses, ["192.0.2.1", "203.0.113.7"]);

    // Nobody gets work until somebody has decided.
    let _ = server.engine().renew(&me(), "web").await.unwrap();
    let keep = clash.instances.iter().find(|one| address(one) == "192.0.2.1").unwrap();
    server.engine().resolve_agent(&me(), "web-1", &keep.instance).await.unwrap();
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    assert!(server.agent("web-1").await.clash.is_none());
    assert!(original.key("a").is_some());
    running.stop().await.unwrap();
    copied.stop().await.unwrap();
    assert!(!copy.path("state/keys").read_dir().unwrap().any(|_| true), "the copy was given nothing to do");
}

#[tokio::test]
async fn a_revoked_agent_gets_nothing_and_enrols_anew_from_an_empty_directory() {
    let server = Server::new().await;
    let machine = Machine::new(&server, "192.0.2.1");
    let running = machine.enroll(server.token("web-1").await);
    server.engine().put_target(&me(), machine.spec("a", "web-1")).await.unwrap();
    let _ =
        server.engine().want(&me(), CertificateSpec::new("web").dns("web.test").target("a")).await.unwrap();
    server.settled("web").await;
    let leaf = machine.leaf("a");

    server.engine().revoke_agent(&me(), "web-1").await.unwrap();
    let _ = server.engine().renew(&me(), "web").await.unwrap();
    for _ in 0..10 {
        server.clock.pause(Duration::from_millis(20)).await;
    }
    assert_eq!(machine.leaf("a"), leaf, "it is given nothing, and what it has deployed stays");
    running.stop().await.unwrap();

    let token = server.token("web-1").await;
    std::fs::rename(machine.path("state"), machine.path("before")).unwrap();
    let running = machine.enroll(token);
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    assert_ne!(machine.leaf("a"), leaf);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_an_agent_refuses_waits_for_a_person_with_the_line_that_would_allow_it() {
    let server = Server::new().await;
    let machine = Machine::new(&server, "192.0.2.1");
    let policy = Policy { kinds: Some(Vec::new()), ..Policy::default() };
    let agent = machine
        .builder()
        .token(server.token("web-1").await)
        .policy(policy, Some("/etc/certctl/agent.toml".into()))
        .open()
        .await
        .unwrap();
    let guard = agent.guard();
    let running = Running::of_agent(agent);
    server.engine().put_target(&me(), machine.spec("a", "web-1")).await.unwrap();
    let _ =
        server.engine().want(&me(), CertificateSpec::new("web").dns("web.test").target("a")).await.unwrap();
    let certificate = server.settled("web").await;
    assert_ne!(certificate.status, CertificateStatus::Active);
    let job = server.jobs("web", "deploy").await.remove(0);
    assert_eq!(job.state, JobState::Attention, "{job:?}");
    let error = job.last_error.clone().unwrap();
    assert_eq!(error.kind, certctl_core::ErrorKind::Denied);
    assert!(error.message.contains(r#"kinds = ["files"]"#), "{}", error.message);
    assert!(error.message.contains("/etc/certctl/agent.toml"), "{}", error.message);
    assert!(machine.key("a").is_none());

    // Its owner writes the line.
    guard.replace(Policy { kinds: Some(vec!["files".to_owned()]), ..Policy::default() }).unwrap();
    let _ = server.engine().retry(&me(), &job.id).await.unwrap();
    let certificate = server.settled("web").await;
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    running.stop().await.unwrap();
}

/// A request that waits is older than what an operator decides meanwhile.
#[tokio::test]
async fn a_request_that_waits_is_refused_once_its_agent_is_revoked() {
    let server = Server::new().await;
    let machine = Machine::new(&server, "192.0.2.1");
    let running = machine.enroll(server.token("web-1").await);
    server.engine().put_target(&me(), machine.spec("a", "web-1")).await.unwrap();
    let _ =
        server.engine().want(&me(), CertificateSpec::new("web").dns("web.test").target("a")).await.unwrap();
    server.settled("web").await;
    running.stop().await.unwrap();

    let agent = server.agent("web-1").await;
    let session =
        AgentSession { agent: agent.id.clone(), name: agent.name.clone(), instance: "its-process".into() };
    let (engine, until) = (server.engine(), server.clock.now() + Duration::from_secs(25));
    let waits = tokio::spawn(async move { engine.lease_work(&session, 4, until).await });
    tokio::task::yield_now().await;
    server.engine().revoke_agent(&me(), "web-1").await.unwrap();
    let _ = server.engine().renew(&me(), "web").await.unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!(error.context_value("reason"), Some("turned_away"), "{error}");
}
