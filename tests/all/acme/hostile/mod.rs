//! The ACME issuer against a server that wants it no good. Whatever that does, the job ends with a sentence, nothing is
//! deployed, nothing is run, nothing is written but challenges, and neither time nor memory go without bounds.

mod answers;
mod certificates;
mod orders;
mod others;
mod secrets;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use certctl::{
    CertificateSpec, Clock, Engine, ErrorReport, Home, Issuer,
    host::HostPath,
    issuers::Acme,
    records::{AuditEvent, Certificate, CertificateStatus, Job, JobState},
    store::{MemoryStore, Query, Store, StoreExt, Stored},
    targets::Files,
    testkit::{
        clock::TestClock,
        host::{FaultHost, MemoryHost, OneHost},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    actor,
    server::{Answer, Manners, Resource, Rule, Server, Twist},
};

const CA_FILE: &str = "/etc/ca.pem";
const CERT: &str = "/tls/web.crt";
const KEY: &str = "/tls/web.key";
const WEBROOT: &str = "/srv/www";
/// For ever.
const ALWAYS: std::ops::Range<usize> = 0..usize::MAX;

/// A program and its CA. Time goes on whenever somebody waits for it.
pub(super) struct Life {
    pub(super) server: Server,
    pub(super) engine: Engine,
    pub(super) clock: TestClock,
    pub(super) store: Arc<MemoryStore>,
    files: MemoryHost,
    host: Arc<FaultHost>,
    watch: certctl::engine::JobWatch,
    ticking: JoinHandle<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

impl Life {
    /// With these misbehaviours.
    pub(super) async fn with(rules: Vec<Rule>) -> Self {
        Self::new(Manners { rules, ..Manners::default() }, |_| {}).await
    }

    pub(super) async fn new(manners: Manners, change: impl FnOnce(&mut Acme)) -> Self {
        let clock = TestClock::default();
        let server = Server::start(&clock, manners).await;
        let files = MemoryHost::default();
        for dir in ["/tls", WEBROOT] {
            files.put_dir(dir);
        }
        files.put(CA_FILE, server.ca_pem());
        let host = Arc::new(FaultHost::new(Arc::new(files.clone())));
        let store = Arc::new(MemoryStore::default());
        let home = Home {
            store: store.clone(),
            hosts: Arc::new(OneHost(host.clone())),
            connectors: certctl::connectors(),
            ..Home::in_memory()
        };
        let mut acme = Acme {
            directory_url: server.directory_url(),
            ca_file: Some(HostPath::parse(CA_FILE).unwrap()),
            email: Some("admin@example.com".to_owned()),
            terms_of_service_agreed: true,
            webroot: Some(HostPath::parse(WEBROOT).unwrap()),
            ..Acme::default()
        };
        change(&mut acme);
        let target = Files { cert_path: CERT.into(), key_path: KEY.into(), ..Files::default() };
        let engine = Engine::builder(home)
            .clock(Arc::new(clock.clone()))
            .issuer("ca", acme)
            .target("web", target)
            .build()
            .await
            .unwrap();
        let spec = CertificateSpec::new("web").dns("a.test").dns("b.test").issuer("ca").target("web");
        let watch = engine.want(&actor(), spec).await.unwrap();
        let ticker = clock.clone();
        let ticking = tokio::spawn(async move {
            loop {
                let next = ticker.asleep().await;
                ticker.set(next);
            }
        });
        Self { server, engine, clock, store, files, host, watch, ticking }
    }

    pub(super) async fn issuer(&self) -> Arc<dyn Issuer> {
        self.engine.issuer(&actor(), "ca").await.unwrap()
    }

    pub(super) async fn certificate(&self) -> Stored<Certificate> {
        self.engine.certificate("web").await.unwrap()
    }

    pub(super) async fn jobs(&self) -> Vec<Stored<Job>> {
        self.engine.jobs(&self.certificate().await.id).await.unwrap()
    }

    pub(super) async fn job(&self) -> Stored<Job> {
        self.jobs().await.into_iter().find(|job| &*job.kind == "issue").unwrap()
    }

    /// Steps once, as far as it goes without a longer wait.
    pub(super) async fn step(&self) -> Stored<Job> {
        self.watch.step().await.unwrap();
        self.job().await
    }

    /// Goes on until this holds for the job.
    pub(super) async fn until(&self, done: impl Fn(&Job) -> bool) -> Stored<Job> {
        for _ in 0..5_000 {
            let job = self.step().await;
            if done(&job) {
                return job;
            }
            let due =
                self.jobs().await.iter().filter(|job| !job.state.is_finished()).filter_map(|j| j.due).min();
            let due = due.unwrap_or_else(|| panic!("nothing will happen any more: {job:#?}"));
            self.clock.set(due.max(self.clock.now()));
        }
        panic!("it goes on and on: {} requests", self.server.requests());
    }

    /// Goes on until the certificate is deployed, which failures may delay.
    pub(super) async fn succeeds(&self) -> Stored<Certificate> {
        let job = self.until(|job| job.state.is_finished() || job.state == JobState::Attention).await;
        assert_eq!(job.state, JobState::Done, "{:#?}", job.last_error);
        let certificate = self.certificate().await;
        assert_eq!(certificate.status, CertificateStatus::Active);
        assert_eq!(self.server.wrong(), [""; 0]);
        certificate
    }

    /// Goes on until the first failure, which says this.
    pub(super) async fn fails(&self, sentence: &str) -> ErrorReport {
        let job = self.until(|job| job.last_error.is_some() || job.state.is_finished()).await;
        let error = job.last_error.clone().unwrap_or_else(|| panic!("{sentence}: it did not fail: {job:#?}"));
        let found = error.message.contains(sentence) || error.causes.iter().any(|c| c.contains(sentence));
        assert!(found, "it does not say {sentence:?}: {error:#?}");
        self.assert_harmless(&job).await;
        error
    }

    /// Goes on until somebody has to look.
    pub(super) async fn asks_for_attention(&self) -> ErrorReport {
        let job = self.until(|job| job.state == JobState::Attention || job.state.is_finished()).await;
        assert_eq!(job.state, JobState::Attention, "{job:#?}");
        self.assert_harmless(&job).await;
        job.last_error.clone().unwrap()
    }

    /// Nothing was issued, deployed, run, or written elsewhere; and what is told people is fit for them.
    async fn assert_harmless(&self, job: &Job) {
        let context = || format!("{:#?}", job.last_error);
        let certificate = self.certificate().await;
        assert_eq!(self.engine.versions(&certificate.id).await.unwrap().len(), 0, "{}", context());
        let challenge = format!("{WEBROOT}/.well-known/acme-challenge/{}", Manners::default().token);
        for file in self.files.files() {
            assert!(file == CA_FILE || file == challenge, "{file} was written: {}", context());
        }
        for operation in self.host.operations() {
            assert!(!["run", "connect"].contains(&operation.name), "{operation}: {}", context());
        }
        assert_eq!(self.server.wrong(), [""; 0], "{}", context());
        let error = serde_json::to_value(&job.last_error).unwrap();
        assert_fit(&error);
        for event in self.events().await {
            assert_fit(&serde_json::to_value(&*event).unwrap());
        }
    }

    pub(super) async fn events(&self) -> Vec<Stored<AuditEvent>> {
        self.store.list(Query::of::<AuditEvent>().limit(1_000)).await.unwrap().0
    }

    /// All rows, as they are stored.
    pub(super) async fn everything(&self) -> String {
        let jobs = self.jobs().await;
        let events = self.events().await;
        format!("{jobs:#?}\n{events:#?}")
    }

    pub(super) fn deployed(&self, path: &str) -> Option<Vec<u8>> {
        self.files.content(path)
    }

    pub(super) fn as_store(&self) -> &dyn Store {
        &*self.store
    }
}

/// No control characters, and no end of it.
#[track_caller]
fn assert_fit(value: &serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            assert!(text.len() < 4_000, "{} octets: {text:.200}", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        serde_json::Value::Array(values) => values.iter().for_each(assert_fit),
        serde_json::Value::Object(members) => members.values().for_each(assert_fit),
        _ => {}
    }
}

/// A host that nobody is to contact.
struct Trap {
    port: u16,
    contacts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Trap {
    async fn set() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let contacts = Arc::new(AtomicUsize::new(0));
        let counter = contacts.clone();
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, contacts, task }
    }

    /// By another name than the server's.
    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/elsewhere", self.port)
    }

    fn assert_untouched(&self) {
        assert_eq!(self.contacts.load(Ordering::SeqCst), 0, "somebody followed");
    }
}

/// Of an honest life, all requests for these.
fn always(resource: Resource, twist: Twist) -> Vec<Rule> {
    vec![(resource, ALWAYS, twist)]
}

fn edit(change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Twist {
    Twist::after(move |answer| {
        // Refusals stay what they are.
        if answer.status < 300 {
            answer.edit(&change);
        }
    })
}

fn instead(answer: Answer) -> Twist {
    Twist::Instead(answer)
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_issues() {
    let life = Life::with(Vec::new()).await;
    let certificate = life.succeeds().await;
    let version = super::newest(&life.engine, &certificate).await;
    assert_eq!(life.deployed(CERT).unwrap(), version.chain.to_pem().into_bytes());
    super::settle(&life.engine).await;
    assert_eq!(life.files.files(), [CA_FILE, CERT, KEY], "the challenges are taken away");
    assert_eq!((life.server.orders(), life.server.count(Resource::Challenge)), (1, 2));
    assert!(life.server.requests() < 30, "{}", life.server.requests());
    assert_eq!(life.as_store().list::<Job>(Query::of::<Job>().limit(100)).await.unwrap().0.len(), 6);
}
