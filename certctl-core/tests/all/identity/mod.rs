//! Who may ask: API keys, and agents from their enrolment on.

mod access;
mod agents;
mod inventory;
mod recipient;
mod sessions;

use std::{sync::Arc, time::Duration};

use certctl_core::{
    Actor, Clock, Engine, Error, ErrorKind, Home, Key, KeyAlgorithm, Keys, MemoryKeys, PrivateKey,
    RecipientKey, Result, Role, Secret,
    engine::{AgentKeys, AgentSession, Session, SessionRequest},
    records::{Agent, AuditEvent, KINDS},
    store::{Query, Select, StoreExt, Stored},
    testkit::{clock::TestClock, issuer::ScriptedIssuer},
};

/// An engine in memory, and what outlives it.
struct World {
    engine: Engine,
    home: Home,
    clock: TestClock,
}

impl World {
    async fn new() -> Self {
        let (home, clock) = (Home::in_memory(), TestClock::default());
        let engine = engine(&home, &clock).await;
        Self { engine, home, clock }
    }

    /// Another server on the same store, or the same one after a restart.
    async fn other(&self) -> Engine {
        engine(&self.home, &self.clock).await
    }

    fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }

    async fn token(&self, name: &str) -> Secret {
        self.engine.create_enroll_token(&admin(), name, None).await.unwrap().1
    }

    /// An agent that has enrolled.
    async fn enrolled(&self, name: &str) -> Machine {
        let machine = Machine::new(name);
        self.enroll(&machine, &self.token(name).await).await.unwrap();
        machine
    }

    async fn enroll(&self, machine: &Machine, token: &Secret) -> Result<Stored<Agent>> {
        self.engine.enroll(token, &machine.keys(token).await).await
    }

    async fn open(&self, machine: &Machine) -> Result<Session> {
        self.open_from(machine, None).await
    }

    async fn open_from(&self, machine: &Machine, address: Option<&str>) -> Result<Session> {
        // Two challenges of one millisecond are one too many for a clock that stands still.
        self.pass(Duration::from_millis(1));
        self.engine.open_session(&machine.request(&self.engine).await, address).await
    }

    async fn session(&self, token: &Secret) -> Result<AgentSession> {
        self.engine.agent_session(token).await
    }

    async fn agent(&self, name: &str) -> Stored<Agent> {
        self.engine.read(&admin(), name).await.unwrap()
    }

    /// What happened to a record, in order.
    async fn actions(&self, resource: &str) -> Vec<AuditEvent> {
        let mut events: Vec<AuditEvent> = self
            .home
            .store
            .list_by::<AuditEvent>("resource", resource.into())
            .await
            .unwrap()
            .into_iter()
            .map(Stored::into_inner)
            .collect();
        events.sort_by(|a, b| a.id.cmp(&b.id));
        events
    }

    /// Everything that is stored, as text.
    async fn everything(&self) -> String {
        let mut all = String::new();
        for kind in KINDS {
            let query = Query { kind, select: Select::Rows, limit: 10_000, ..Query::of::<Agent>() };
            for row in self.home.store.query(&query).await.unwrap().rows {
                all.push_str(&row.id);
                all.push_str(&row.body);
            }
        }
        all
    }
}

async fn engine(home: &Home, clock: &TestClock) -> Engine {
    let ca = ScriptedIssuer::new(
        clock.now(),
        certctl_core::IssuerCapabilities::all(certctl_core::Recovery::Idempotent),
    );
    let ca: Arc<dyn certctl_core::Issuer> = ca.await;
    Engine::builder(home.clone()).clock(Arc::new(clock.clone())).issuer("ca", ca).build().await.unwrap()
}

/// What an agent has in its state directory, and the process that has read it.
#[derive(Clone, Debug)]
struct Machine {
    name: String,
    signing: PrivateKey,
    sealing: RecipientKey,
    instance: String,
}

impl Machine {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            signing: PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap(),
            sealing: RecipientKey::generate().unwrap(),
            instance: format!("{name}-first-process"),
        }
    }

    /// The same state directory in another process.
    fn process(&self, instance: &str) -> Self {
        Self { instance: instance.into(), ..self.clone() }
    }

    async fn keys(&self, token: &Secret) -> AgentKeys {
        AgentKeys::sign(token, &self.signing, self.sealing.recipient()).await.unwrap()
    }

    async fn request(&self, engine: &Engine) -> SessionRequest {
        let request =
            SessionRequest { version: "1.0".into(), ..SessionRequest::new(&self.name, &self.instance) };
        request.sign(&engine.session_challenge(), &self.signing).await.unwrap()
    }
}

fn admin() -> Actor {
    Actor::process()
}

fn as_role(role: Role) -> Actor {
    Actor::new("somebody", role)
}

#[track_caller]
fn assert_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    error
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T>, pointers: &[&str]) {
    let error = assert_kind(result, ErrorKind::Invalid);
    let found: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
    assert_eq!(found, pointers, "{error:?}");
    assert!(error.violations().iter().all(|violation| !violation.remedy.is_empty()));
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
