//! A server in memory that does what a test tells it to, and a machine with an agent on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use certctl_agent::{Agent, AgentBuilder, Enrolled, Uplink, policy::Policy};
use certctl_connectors::hosts::LocalHost;
use certctl_core::{
    CertificateAuthority, Chain, Clock, Csr, Effect, Error, ErrorKind, Id, Key, KeyAlgorithm, LeafRequest,
    Lifetime, PrivateKey, Result, Retry, Secret, SignatureAlgorithm, SubjectAltName, Timestamp,
    engine::{AgentKeys, Session, SessionChallenge, SessionRequest},
    random_bytes,
    records::{self, Job, Place, Probe, TargetRecord},
    testkit::{
        clock::TestClock,
        host::{FaultHost, OneHost},
    },
    worker::{
        AssignedJob, Assignment, DeployItem, DeployWork, JobToken, MakeCsr, Outcome, Reported, Work,
        WorkReport, WorkResult,
    },
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub const TOKEN: &str = "enroll_1_secret";
pub const AGENT: &str = "ag-web-1";

/// A server that a test scripts.
#[derive(Debug)]
pub struct Fake {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub struct State {
    pub keys: Option<AgentKeys>,
    /// Can't be reached.
    pub away: bool,
    /// How many answers to this call are lost: it is done all the same.
    pub lose: BTreeMap<&'static str, usize>,
    /// What every call with a session gets.
    pub refuse: Option<Error>,
    /// What the next report gets.
    pub refuse_report: Option<Error>,
    sessions: BTreeSet<String>,
    pub opened: Vec<SessionRequest>,
    waiting: Vec<Assignment>,
    leased: BTreeMap<Id<Job>, (u64, Assignment)>,
    pub cancel: BTreeSet<Id<Job>>,
    pub reports: Vec<WorkResult>,
    /// Every call, in that order.
    pub calls: Vec<&'static str>,
    last_token: u64,
}

impl State {
    pub fn is_leased(&self, id: &Id<Job>) -> bool {
        self.leased.contains_key(id)
    }

    pub fn token_of(&self, id: &Id<Job>) -> u64 {
        self.leased[id].0
    }
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Changes how it behaves, or looks at what it was told.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.state());
        self.changed.send_modify(|n| *n += 1);
        out
    }

    /// Hands out work, with a job for each of these.
    pub fn give(&self, jobs: &[&str], work: Work) -> Id<Job> {
        let jobs: Vec<Id<Job>> = jobs.iter().map(|id| Id::parse(id).unwrap()).collect();
        let id = jobs[0].clone();
        self.with(|state| {
            let jobs = jobs.iter().map(|id| {
                state.last_token += 1;
                AssignedJob { id: id.clone(), token: state.last_token, cancel: false }
            });
            let jobs: Vec<_> = jobs.collect();
            let until = Timestamp::from_secs(1_800_014_460);
            state.waiting.push(Assignment { id: id.clone(), jobs, until, work });
        });
        id
    }

    /// Hands it out as it is.
    pub fn give_as_it_is(&self, assignment: Assignment) {
        self.with(|state| state.waiting.push(assignment));
    }

    /// The leases are over: what was leased is handed out again, with new tokens.
    pub fn expire(&self) {
        self.with(|state| {
            for (_, (_, mut assignment)) in std::mem::take(&mut state.leased) {
                for job in &mut assignment.jobs {
                    state.last_token += 1;
                    job.token = state.last_token;
                }
                state.waiting.push(assignment);
            }
        });
    }

    pub fn end_sessions(&self) {
        self.with(|state| state.sessions.clear());
    }

    /// Waits until this is so.
    pub async fn until(&self, what: &str, so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !so(&self.state()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err() {
            panic!("{what} did not come about: {:?}", self.state().calls);
        }
    }

    /// Waits for the report about this work, and takes it.
    pub async fn report(&self, id: &Id<Job>) -> Outcome {
        let about = |result: &WorkResult| result.jobs[0].id == *id;
        self.until("a report", |state| state.reports.iter().any(about)).await;
        self.with(|state| {
            let at = state.reports.iter().position(about).unwrap();
            state.reports.remove(at).outcome
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What every call begins with; says whether its answer gets lost.
    fn begin(&self, call: &'static str, session: Option<&Session>) -> Result<bool> {
        let answer = {
            let mut state = self.state();
            state.calls.push(call);
            let lost = state.lose.get_mut(call).is_some_and(|left| {
                let lose = *left > 0;
                *left = left.saturating_sub(1);
                lose
            });
            if state.away {
                Err(Error::unavailable("the server at nowhere can't be reached: no connection"))
            } else if let Some(refused) =
                state.refuse.as_ref().filter(|_| call != "challenge" && call != "enroll")
            {
                Err(refused.clone())
            } else if session
                .is_some_and(|session| !state.sessions.contains(session.token.expose_str().unwrap()))
            {
                Err(Error::new(ErrorKind::Unauthenticated, "the session is over"))
            } else {
                Ok(lost)
            }
        };
        self.changed.send_modify(|n| *n += 1);
        answer
    }
}

fn lost<T>(lost: bool, answer: T) -> Result<T> {
    if lost {
        return Err(Error::unavailable("the answer was lost").with_effect(Effect::Unknown));
    }
    Ok(answer)
}

#[async_trait]
impl Uplink for Fake {
    async fn enroll(&self, token: &Secret, keys: &AgentKeys) -> Result<Enrolled> {
        let is_lost = self.begin("enroll", None)?;
        let message = AgentKeys::message(token, &keys.signing_key, &keys.sealing_key);
        assert!(!message.is_empty() && !keys.signature.is_empty());
        let mut state = self.state();
        let known = state.keys.as_ref();
        if token.expose() != TOKEN.as_bytes() || known.is_some_and(|known| known != keys) {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                "the enrolment token is wrong, used or expired",
            ));
        }
        state.keys = Some(keys.clone());
        lost(is_lost, Enrolled { agent: Id::parse(AGENT).unwrap(), name: "web-1".into() })
    }

    async fn session_challenge(&self) -> Result<SessionChallenge> {
        self.begin("challenge", None)?;
        Ok(SessionChallenge { challenge: "sign me".to_owned(), expires: Timestamp::EPOCH })
    }

    async fn open_session(&self, request: &SessionRequest) -> Result<Session> {
        self.begin("session", None)?;
        let mut state = self.state();
        let key = &state.keys.as_ref().expect("it has enrolled").signing_key;
        let signature = decoded(&request.signature);
        key.verify(SignatureAlgorithm::EcdsaSha256, &request.message(), &signature).unwrap();
        assert_eq!(request.agent, AGENT);
        state.opened.push(request.clone());
        let token = format!("session-{}", state.opened.len());
        state.sessions.insert(token.clone());
        Ok(Session {
            token: Secret::new(token),
            agent: Id::parse(AGENT)?,
            name: "web-1".into(),
            expires: Timestamp::EPOCH,
        })
    }

    async fn heartbeat(&self, session: &Session) -> Result<()> {
        self.begin("heartbeat", Some(session)).map(drop)
    }

    async fn lease(&self, session: &Session, limit: usize, _: Duration) -> Result<Vec<Assignment>> {
        let is_lost = self.begin("lease", Some(session))?;
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut state = self.state();
                let count = limit.min(state.waiting.len());
                let taken: Vec<Assignment> = state.waiting.drain(..count).collect();
                for assignment in &taken {
                    let token = assignment.jobs.first().map_or(0, |job| job.token);
                    state.leased.insert(assignment.id.clone(), (token, assignment.clone()));
                }
                if !taken.is_empty() {
                    return lost(is_lost, taken);
                }
                let known = state.sessions.contains(session.token.expose_str()?);
                if state.away || state.refuse.is_some() || !known {
                    drop(state);
                    return Err(self.begin("lease cut off", Some(session)).expect_err("it is cut off"));
                }
            }
            changed.changed().await.unwrap();
        }
    }

    async fn extend(&self, session: &Session, jobs: &[JobToken]) -> Result<Vec<AssignedJob>> {
        self.begin("extend", Some(session))?;
        let state = self.state();
        let held = state.leased.values().flat_map(|(_, assignment)| &assignment.jobs);
        let held = held.filter(|held| jobs.contains(&held.token()));
        Ok(held.map(|job| AssignedJob { cancel: state.cancel.contains(&job.id), ..job.clone() }).collect())
    }

    async fn report(&self, session: &Session, result: &WorkResult) -> Result<Reported> {
        let is_lost = self.begin("report", Some(session))?;
        let text = serde_json::to_string(result).unwrap();
        assert!(!text.contains("PRIVATE"), "a key went over the wire: {text}");
        let reported = self.with(|state| {
            if let Some(refused) = state.refuse_report.take() {
                return Err(refused);
            }
            let held = state.leased.get(&result.jobs[0].id);
            let reported = match held {
                Some((token, _)) if *token == result.jobs[0].token => Reported::Recorded,
                Some(_) => return Ok(Reported::Superseded),
                // A lease that is over holds as long as nobody else has taken the job, and then it is not given out any more.
                None if state.waiting.iter().any(|waiting| waiting.id == result.jobs[0].id) => {
                    state.waiting.retain(|waiting| waiting.id != result.jobs[0].id);
                    Reported::Recorded
                }
                None => Reported::Already,
            };
            state.leased.remove(&result.jobs[0].id);
            state.reports.push(result.clone());
            Ok(reported)
        })?;
        lost(is_lost, reported)
    }
}

fn decoded(text: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(text).unwrap()
}

/// Counts what its clock was asked to wait for.
#[derive(Clone, Debug)]
pub struct Pauses {
    pub clock: TestClock,
    pub spans: Arc<Mutex<Vec<Duration>>>,
}

#[async_trait]
impl Clock for Pauses {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
    async fn sleep_until(&self, until: Timestamp) {
        self.clock.sleep_until(until).await;
    }
    async fn pause(&self, span: Duration) {
        self.spans.lock().unwrap().push(span);
        self.clock.pause(span).await;
    }
}

/// A machine with an agent on it.
pub struct Machine {
    pub dir: TempDir,
    pub fake: Arc<Fake>,
    pub host: Arc<FaultHost>,
    pub clock: Pauses,
    ca: CertificateAuthority,
}

/// An agent that runs.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    pub fn of(builder: AgentBuilder) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(builder.run(told(stopped))) }
    }

    pub fn of_agent(agent: Agent) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(agent.run(told(stopped))) }
    }

    /// As SIGTERM does.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// As SIGKILL does: nothing more happens.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub async fn ended(self) -> Result<()> {
        self.task.await.unwrap()
    }
}

async fn told(stopped: oneshot::Receiver<()>) {
    if stopped.await.is_err() {
        // The test is over.
        std::future::pending::<()>().await;
    }
}

impl Machine {
    pub async fn new() -> Self {
        let clock = TestClock::default();
        let (now, life) = (clock.now(), Lifetime::days(30));
        let key = || Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let root = CertificateAuthority::create_root(key(), "Root", now, life, [1; 20]).await.unwrap();
        let ca = CertificateAuthority::create_issuing(&root, key(), "CA", now, life, [2; 20]).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tls")).unwrap();
        Self {
            dir,
            fake: Fake::new(),
            host: Arc::new(FaultHost::new(Arc::new(LocalHost))),
            clock: Pauses { clock, spans: Arc::default() },
            ca,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn builder(&self) -> AgentBuilder {
        AgentBuilder::with_uplink(self.fake.clone(), "https://certctl.test", self.path("state"))
            .token(Secret::new(TOKEN))
            .hosts(Arc::new(OneHost(self.host.clone())))
            .clock(Arc::new(self.clock.clone()))
    }

    pub fn start(&self) -> Running {
        self.start_with(self.builder())
    }

    pub fn start_restricted(&self, policy: Policy) -> Running {
        self.start_with(self.builder().policy(policy, Some("/etc/certctl/agent.toml".into())))
    }

    pub fn start_with(&self, builder: AgentBuilder) -> Running {
        Running::of(builder)
    }

    /// Has the agent make a key, and certifies it.
    pub async fn certificate(&self, key: &str) -> (Id<Key>, Chain) {
        let key: Id<Key> = Id::parse(key).unwrap();
        let work = Work::MakeCsr(MakeCsr {
            key: key.clone(),
            algorithm: KeyAlgorithm::EcdsaP256,
            common_name: None,
            names: names(),
        });
        let id = self.fake.give(&[&format!("job-csr-{}", key.suffix())], work);
        let Outcome::Report(WorkReport::Csr(csr)) = self.fake.report(&id).await else {
            panic!("no request came");
        };
        (key, self.certify(&csr).await)
    }

    async fn certify(&self, csr: &Csr) -> Chain {
        let now = self.clock.now();
        let request = LeafRequest {
            public_key: csr.public_key().clone(),
            names: csr.names().to_vec(),
            common_name: None,
            not_before: now,
            not_after: now + Lifetime::days(20).as_duration(),
            serial_seed: random_bytes(),
            usages: Vec::new(),
        };
        self.ca.sign(&request).await.unwrap()
    }

    /// A target of two files in this directory.
    pub fn target(&self, dir: &str) -> TargetRecord {
        self.target_with(json!({
            "cert_path": self.text(&format!("{dir}/web.crt")),
            "key_path": self.text(&format!("{dir}/web.key")),
        }))
    }

    pub fn target_with(&self, config: serde_json::Value) -> TargetRecord {
        serde_json::from_value::<TargetRecord>(json!({
            "id": "tgt-web",
            "name": "web",
            "kind": "files",
            "config": config,
            "place": Place { agent: Some(Id::<records::Agent>::parse(AGENT).unwrap()), host: None },
            "probe": Probe::default(),
        }))
        .unwrap()
    }

    pub fn item(&self, target: TargetRecord, (key, chain): &(Id<Key>, Chain)) -> DeployItem {
        DeployItem {
            deployment: Id::parse("dep-web").unwrap(),
            target,
            version: Id::parse(&format!("ver-{}", key.suffix())).unwrap(),
            chain: chain.clone(),
            key: key.clone(),
            names: names(),
            previous: None,
            behind: Vec::new(),
        }
    }

    pub fn deploy(&self, target: TargetRecord, certificate: &(Id<Key>, Chain)) -> Work {
        Work::Deploy(DeployWork { items: vec![self.item(target, certificate)] })
    }

    /// The files of the journal.
    pub fn journal(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state/journal")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Whether what is in `dir` is this certificate, and its key.
    pub fn holds(&self, dir: &str, (_, chain): &(Id<Key>, Chain)) -> bool {
        let there = self.content(&format!("{dir}/web.crt"));
        let key = self.content(&format!("{dir}/web.key"));
        if there != chain.to_pem() {
            return false;
        }
        let key = PrivateKey::from_pem(&Secret::new(key)).unwrap();
        key.public_key() == chain.leaf().public_key().unwrap()
    }
}

fn names() -> Vec<SubjectAltName> {
    vec!["web.test".parse().unwrap()]
}

/// The session's own refusals.
pub fn turned_away() -> Error {
    Error::new(ErrorKind::Denied, "this agent was revoked").with("reason", "turned_away")
}

pub fn clash() -> Error {
    Error::new(ErrorKind::Conflict, "this identity is used by two processes at once")
        .with("reason", "clash")
        .with_retry(Retry::Never)
}
