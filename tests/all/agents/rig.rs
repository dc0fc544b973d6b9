//! An engine without a host of its own, and agents in this process: a `LocalWorker` over `lease_work`, `extend_work` and
//! `report_work`. Whatever goes between them goes to JSON and back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use certctl::{
    CertificateSpec, Chain, Clock, Context, Engine, Home, Id, Keys, MemoryKeys, PrivateKey, Recovery, Result,
    Secret, TargetSpec, Timestamp, Worker,
    engine::{AgentSession, PlaceSpec},
    records::{Agent, Certificate, Deployment, Job, Version},
    store::{MemoryStore, Store, Stored},
    testkit::{
        clock::TestClock,
        host::{FaultHost, MemoryHost, OneHost},
        issuer::ScriptedIssuer,
        worker::JsonWorker,
    },
    worker::{Assignment, JobToken, Journal, Outcome, Reported, Work, WorkReport, WorkResult},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::world::me;

/// What outlives an engine.
pub struct Yard {
    pub home: Home,
    /// Nothing is ever made here.
    pub keys: Arc<MemoryKeys>,
    /// Nothing is ever done here.
    pub host: Arc<FaultHost>,
    pub clock: TestClock,
    pub ca: Arc<ScriptedIssuer>,
}

impl Yard {
    pub async fn new() -> Self {
        let clock = TestClock::default();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let keys = Arc::new(MemoryKeys::default());
        let host = Arc::new(FaultHost::new(Arc::new(MemoryHost::default())));
        let home = Home {
            store,
            keys: keys.clone(),
            hosts: Arc::new(OneHost(host.clone())),
            connectors: certctl::connectors(),
            ..Home::in_memory()
        };
        let capabilities = certctl::IssuerCapabilities {
            revoke: true,
            ..certctl::IssuerCapabilities::all(Recovery::Searchable)
        };
        Self { home, keys, host, ca: ScriptedIssuer::new(clock.now(), capabilities).await, clock }
    }

    /// As after a restart.
    pub async fn engine(&self) -> Engine {
        let clock = Arc::new(self.clock.clone());
        let ca: Arc<dyn certctl::Issuer> = self.ca.clone();
        Engine::builder(self.home.clone()).clock(clock).issuer("ca", ca).build().await.unwrap()
    }

    /// A second passes: what is made from now on is newer than what was made before.
    pub fn tick(&self) {
        self.clock.advance(std::time::Duration::from_secs(1));
    }

    /// An agent of this name, with nothing on it.
    pub async fn agent(&self, engine: &Engine, name: &str) -> Machine {
        let (agent, _, _) = engine.create_enroll_token(&me(), name, None).await.unwrap();
        let files = MemoryHost::default();
        files.put_dir("/tls");
        Machine {
            id: agent.id.clone(),
            name: name.into(),
            clock: self.clock.clone(),
            keys: Arc::new(MemoryKeys::default()),
            host: Arc::new(FaultHost::new(Arc::new(files.clone()))),
            files,
            disk: Arc::default(),
            starts: AtomicUsize::new(0),
            wire: Arc::default(),
        }
    }

    /// Nothing was done, and no key was made, where the engine is.
    pub fn assert_untouched(&self) {
        assert_eq!(self.host.count(), 0, "{:?}", self.host.operations());
    }
}

/// What outlives an agent's process.
#[derive(Debug)]
pub struct Machine {
    pub id: Id<Agent>,
    pub name: Box<str>,
    pub clock: TestClock,
    pub keys: Arc<MemoryKeys>,
    pub host: Arc<FaultHost>,
    pub files: MemoryHost,
    disk: Arc<Mutex<Disk>>,
    starts: AtomicUsize,
    /// Every text that went between the agent and the engine.
    pub wire: Arc<Mutex<Vec<String>>>,
}

/// An agent's journal: what was begun by deployment, and what was not reported yet.
#[derive(Debug, Default)]
struct Disk {
    begun: BTreeMap<String, Value>,
    results: Vec<(Id<Job>, Outcome)>,
}

impl Machine {
    pub fn cert(&self, name: &str) -> String {
        format!("/tls/{name}.crt")
    }

    /// A target of plain files on this machine.
    pub async fn target(&self, engine: &Engine, name: &str) -> TargetSpec {
        let config = json!({ "cert_path": self.cert(name), "key_path": format!("/tls/{name}.key") });
        let place = PlaceSpec { agent: Some(self.name.to_string()), host: None };
        let spec = TargetSpec { place, ..TargetSpec::new(name, "files", config) };
        engine.put_target(&me(), spec.clone()).await.unwrap();
        // The agent has looked at it; what it does from now on is what a test is about.
        self.start().await.drain(engine).await.unwrap();
        self.wire.lock().unwrap().clear();
        spec
    }

    /// Starts the agent: what it had in memory is gone.
    pub async fn start(&self) -> Process<'_> {
        let number = self.starts.fetch_add(1, Ordering::SeqCst);
        let session = AgentSession {
            agent: self.id.clone(),
            name: self.name.clone(),
            instance: format!("instance-{number}"),
        };
        let home = Home {
            keys: self.keys.clone(),
            hosts: Arc::new(OneHost(self.host.clone())),
            connectors: certctl::connectors(),
            ..Home::in_memory()
        };
        let slot: Arc<Mutex<Option<Arc<dyn Worker>>>> = Arc::default();
        let (keep, keys) = (slot.clone(), self.keys.clone());
        let builder = Engine::builder(home).clock(Arc::new(self.clock.clone())).worker(move |local| {
            let worker: Arc<dyn Worker> = Arc::new(JsonWorker::new(Arc::new(local), keys));
            *keep.lock().unwrap() = Some(worker.clone());
            worker
        });
        builder.build().await.unwrap();
        let worker = slot.lock().unwrap().take().unwrap();
        Process { machine: self, session, worker, fuse: AtomicUsize::new(0) }
    }

    /// The pair at rest, which must be whole.
    pub fn at_rest(&self, name: &str) -> Option<Chain> {
        let cert = self.files.content(&self.cert(name))?;
        let key = self.files.content(&format!("/tls/{name}.key"))?;
        let chain = Chain::from_pem(&cert).unwrap();
        let key = PrivateKey::from_pem(&Secret::new(key)).unwrap();
        assert_eq!(chain.leaf().public_key().unwrap(), key.public_key(), "the pair is torn");
        Some(chain)
    }

    /// How often a file was put in its place.
    pub fn swaps(&self) -> usize {
        self.host.operations().iter().filter(|operation| operation.name == "swap").count()
    }

    /// No text that went over the wire has one of these keys in it.
    pub async fn assert_no_key_on_the_wire(&self, versions: &[Stored<Version>]) {
        let texts = self.wire.lock().unwrap().clone();
        assert!(!texts.is_empty());
        for version in versions {
            let Ok(key) = self.keys.export(version.key.as_ref().unwrap()).await else { continue };
            let pem = key.to_pem();
            let lines = pem.expose_str().unwrap().lines().filter(|line| !line.starts_with('-'));
            for line in lines.filter(|line| line.len() > 20) {
                assert!(texts.iter().all(|text| !text.contains(line)), "a private key is on the wire");
            }
        }
        assert!(texts.iter().all(|text| !text.contains("PRIVATE KEY")));
    }
}

/// The process is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Dead;

/// One process of an agent.
pub struct Process<'a> {
    pub machine: &'a Machine,
    pub session: AgentSession,
    worker: Arc<dyn Worker>,
    /// How many boundaries are left; 0 never burns.
    fuse: AtomicUsize,
}

impl Process<'_> {
    /// Dies at the boundary of this number; gets through with 0.
    pub fn dies_at(&self, boundary: usize) {
        self.fuse.store(boundary, Ordering::SeqCst);
    }

    fn boundary(&self) -> std::result::Result<(), Dead> {
        let left = self.fuse.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        if left == 1 {
            return Err(Dead);
        }
        self.fuse.store(left - 1, Ordering::SeqCst);
        Ok(())
    }

    /// To JSON and back.
    pub fn wire<T: Serialize + DeserializeOwned>(&self, value: &T) -> T {
        let text = serde_json::to_string(value).unwrap();
        let back = serde_json::from_str(&text).unwrap();
        self.machine.wire.lock().unwrap().push(text);
        back
    }

    pub async fn lease(&self, engine: &Engine) -> Vec<Assignment> {
        let given = engine.lease_work(&self.session, 16, Timestamp::EPOCH).await.unwrap();
        self.wire(&given)
    }

    /// The one assignment that there is.
    pub async fn lease_one(&self, engine: &Engine) -> Assignment {
        let mut given = self.lease(engine).await;
        assert_eq!(given.len(), 1, "{given:#?}");
        given.remove(0)
    }

    /// Carries an assignment out.
    pub async fn execute(&self, work: Work) -> Outcome {
        let cx = Context::new(Arc::new(self.machine.clock.clone()));
        let deployments: Vec<String> = match &work {
            Work::Deploy(work) => work.items.iter().map(|item| item.deployment.to_string()).collect(),
            _ => Vec::new(),
        };
        let journal = DiskJournal { disk: self.machine.disk.clone(), deployments };
        match self.worker.execute(&cx, work, &journal).await {
            Ok(report) => Outcome::Report(report),
            Err(e) => Outcome::Failed(e.report()),
        }
    }

    pub async fn report(&self, engine: &Engine, result: &WorkResult) -> Result<Reported> {
        engine.report_work(&self.session, self.wire(result)).await
    }

    /// Works until there is nothing to do, as an agent does; gives how many assignments it was given.
    pub async fn drain(&self, engine: &Engine) -> std::result::Result<usize, Dead> {
        let mut done = 0;
        loop {
            self.boundary()?;
            let given = self.lease(engine).await;
            self.boundary()?;
            if given.is_empty() {
                return Ok(done);
            }
            for assignment in given {
                done += 1;
                self.assignment(engine, assignment).await?;
            }
        }
    }

    async fn assignment(&self, engine: &Engine, assignment: Assignment) -> std::result::Result<(), Dead> {
        let known = {
            let disk = self.machine.disk.lock().unwrap();
            disk.results.iter().find(|(id, _)| *id == assignment.id).map(|(_, outcome)| outcome.clone())
        };
        let outcome = match known {
            Some(outcome) => outcome,
            None => {
                let outcome = self.execute(assignment.work.clone()).await;
                self.boundary()?;
                self.machine.disk.lock().unwrap().results.push((assignment.id.clone(), outcome.clone()));
                outcome
            }
        };
        self.boundary()?;
        let result = WorkResult { jobs: tokens(&assignment), outcome };
        self.report(engine, &result).await.unwrap();
        self.boundary()?;
        self.acknowledged(&assignment.id, &result.outcome);
        Ok(())
    }

    fn acknowledged(&self, id: &Id<Job>, outcome: &Outcome) {
        let mut disk = self.machine.disk.lock().unwrap();
        disk.results.retain(|(known, _)| known != id);
        if let Outcome::Report(WorkReport::Deployed(reports)) = outcome {
            for report in reports.iter().filter(|report| !report.unfinished) {
                disk.begun.remove(report.deployment.as_str());
            }
        }
    }
}

pub fn tokens(assignment: &Assignment) -> Vec<JobToken> {
    assignment.jobs.iter().map(certctl::worker::AssignedJob::token).collect()
}

/// The agent's journal for one assignment.
#[derive(Debug)]
struct DiskJournal {
    disk: Arc<Mutex<Disk>>,
    deployments: Vec<String>,
}

#[async_trait::async_trait]
impl Journal for DiskJournal {
    async fn load(&self) -> Result<Option<Value>> {
        let disk = self.disk.lock().unwrap();
        let begun = disk.begun.iter().filter(|(deployment, _)| self.deployments.contains(deployment));
        let entries: serde_json::Map<_, _> =
            begun.map(|(name, entry)| (name.clone(), entry.clone())).collect();
        Ok((!entries.is_empty()).then_some(Value::Object(entries)))
    }

    async fn save(&self, entry: &Value) -> Result<()> {
        for (deployment, entry) in entry.as_object().unwrap() {
            self.disk.lock().unwrap().begun.insert(deployment.clone(), entry.clone());
        }
        Ok(())
    }
}

/// A certificate for these targets.
pub fn spec(targets: &[&str]) -> CertificateSpec {
    let spec = CertificateSpec::new("web").dns("web.test").issuer("ca");
    targets.iter().fold(spec, |spec, target| spec.target(*target))
}

/// Engine and agents, by turns, until nobody has anything to do now.
pub async fn settle(engine: &Engine, agents: &[&Process<'_>]) -> Certificate {
    loop {
        let certificate = step(engine).await;
        let mut done = 0;
        for agent in agents {
            done += agent.drain(engine).await.unwrap();
        }
        if done == 0 {
            return certificate;
        }
    }
}

/// What the engine itself can do now.
pub async fn step(engine: &Engine) -> Certificate {
    let certificate = engine.certificate("web").await.unwrap();
    let newest = engine.jobs(&certificate.id).await.unwrap().remove(0);
    // Whichever it is: all of the certificate's jobs that are due here are stepped.
    engine.watch_job(&me(), &newest.id).await.unwrap().step().await.unwrap().into_inner()
}

pub async fn deployments(engine: &Engine) -> Vec<Stored<Deployment>> {
    let certificate = engine.certificate("web").await.unwrap();
    engine.deployments(&certificate.id).await.unwrap()
}

pub async fn versions(engine: &Engine) -> Vec<Stored<Version>> {
    let certificate = engine.certificate("web").await.unwrap();
    engine.versions(&certificate.id).await.unwrap()
}

pub async fn jobs(engine: &Engine) -> Vec<Stored<Job>> {
    let certificate = engine.certificate("web").await.unwrap();
    engine.jobs(&certificate.id).await.unwrap()
}

pub async fn assert_no_open_job(engine: &Engine) {
    for job in jobs(engine).await {
        assert!(job.state.is_finished(), "{job:#?}");
    }
}
