//! Two processes on one SQLite file share the work, and nothing is done twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
};

use certctl::{
    CertificateSpec, Context, Effect, Engine, Env, Home, IntoHome, Issuer, IssuerCapabilities, Order,
    Progress, Recovery, Result,
    connectors::IssuerConfig,
    issuers::LocalCa,
    records::{Attempt, Certificate, Deployment, Job, JobState, Version},
    store::{ColumnValue, Query, Record, Select, StoreExt},
    stores::SqliteStore,
    targets::Files,
};

use crate::world::me;

const DIR: &str = "CERTCTL_TEST_PROCESS_DIR";
const CERTIFICATES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_the_work_and_nothing_is_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path()).await;
    let mut children = [Process::start(dir.path()), Process::start(dir.path())];
    // Both are up and find nothing to do, before there is anything.
    for child in &mut children {
        assert_eq!(child.line(), "ready");
    }
    for number in 0..CERTIFICATES {
        let _ = engine.want(&me(), spec(number)).await.unwrap();
    }
    for child in &mut children {
        child.go();
    }
    for child in &mut children {
        assert_eq!(child.line(), "done");
        assert!(child.process.wait().unwrap().success());
    }

    assert_eq!(count::<Certificate>(&engine, "status").await, by("active", CERTIFICATES));
    assert_eq!(count::<Job>(&engine, "state").await, by(JobState::Done.as_str(), 2 * CERTIFICATES));
    assert_eq!(count::<Deployment>(&engine, "state").await, by("unproved", CERTIFICATES));
    assert_eq!(count::<Attempt>(&engine, "state").await, by("issued", CERTIFICATES));
    let versions = engine.store().list::<Version>(Query::of::<Version>().limit(1_000)).await.unwrap().0;
    assert_eq!(versions.len(), CERTIFICATES);

    // Each was ordered once, and each pair was brought into service once: by one or by the other.
    for what in ["ordered", "reloaded"] {
        let lines = lines(&dir.path().join(what));
        let subjects: BTreeSet<&str> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            (lines.len(), subjects.len()),
            (CERTIFICATES, CERTIFICATES),
            "{what}: something was done twice"
        );
    }
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(&dir.path().join("ordered")) {
        *shares.entry(line.split_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    let workers: BTreeSet<String> = children.iter().map(|child| child.process.id().to_string()).collect();
    assert_eq!(
        shares.keys().cloned().collect::<BTreeSet<_>>(),
        workers,
        "both did some of the work: {shares:?}"
    );
}

/// One of the two; nothing by itself.
#[tokio::test]
async fn child_works() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let engine = engine(Path::new(&dir)).await;
    say("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let watched = engine.clone();
    let all_active = async move {
        // What the other one does is no event here.
        let mut events = watched.events();
        loop {
            if count::<Certificate>(&watched, "status").await == by("active", CERTIFICATES)
                && count::<Job>(&watched, "state").await == by("done", 2 * CERTIFICATES)
            {
                return;
            }
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), events.next()).await;
        }
    };
    engine.run(all_active).await.unwrap();
    say("done");
}

/// For the parent: the harness's own lines are on another stream, or told apart by this prefix.
fn say(word: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n> {word}").unwrap();
    out.flush().unwrap();
}

fn spec(number: usize) -> CertificateSpec {
    CertificateSpec::new(format!("c{number}"))
        .dns(format!("c{number}.test"))
        .issuer("ca")
        .target(format!("t{number}"))
}

async fn engine(dir: &Path) -> Engine {
    let home = SqliteStore::open(dir.join("state/certs.db")).await.unwrap().into_home().unwrap();
    std::fs::create_dir_all(dir.join("tls")).unwrap();
    let mut builder = Engine::builder(home.clone()).issuer("ca", noting_ca(dir, &home).await).at_once(4);
    let reload = dir.join("reload.sh");
    if !reload.exists() {
        let script = format!("#!/bin/sh\necho $PPID $1 >> {}/reloaded\n", dir.display());
        std::fs::write(&reload, script).unwrap();
    }
    for number in 0..CERTIFICATES {
        let path = |end: &str| dir.join(format!("tls/{number}.{end}")).to_str().unwrap().to_owned();
        let files = Files {
            cert_path: path("crt"),
            key_path: path("key"),
            command: Some(format!("/bin/sh {} {number}", reload.display()).as_str().into()),
            ..Default::default()
        };
        builder = builder.target(format!("t{number}"), files);
    }
    builder.build().await.unwrap()
}

async fn count<R: Record>(engine: &Engine, column: &'static str) -> Vec<(ColumnValue, u64)> {
    let query = Query::of::<R>().select(Select::CountBy(column));
    engine.store().query(&query).await.unwrap().counts
}

fn by(value: &str, count: usize) -> Vec<(ColumnValue, u64)> {
    vec![(value.into(), count as u64)]
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// A child, killed when dropped.
struct Process {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child_works", "--nocapture"])
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out }
    }

    fn go(&mut self) {
        writeln!(self.process.stdin.take().unwrap(), "go").unwrap();
    }

    /// The next word that it says.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the child has ended");
            if let Some(word) = line.strip_prefix("> ") {
                return word.trim().to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The local CA, all of whose orders are noted, with who made them. It can't be asked what became of one, so that an order
/// that was taken from a process in the middle would show.
#[derive(Debug)]
struct NotingCa {
    inner: Arc<dyn Issuer>,
    log: PathBuf,
}

async fn noting_ca(dir: &Path, home: &Home) -> Arc<dyn Issuer> {
    let state = Arc::new(SharedState(dir.join("ca")));
    let env = Env::new(Arc::new(certctl::SystemClock), home.secrets.clone(), state, home.hosts.clone());
    let inner = LocalCa::default().connect(env).await.unwrap();
    // The parent makes the CA, before there are children.
    let cx = Context::new(Arc::new(certctl::SystemClock));
    inner.trust_anchors(&cx).await.unwrap();
    Arc::new(NotingCa { inner, log: dir.join("ordered") })
}

#[async_trait::async_trait]
impl Issuer for NotingCa {
    fn kind(&self) -> &str {
        self.inner.kind()
    }
    fn capabilities(&self) -> IssuerCapabilities {
        IssuerCapabilities { recovery: Recovery::None, ..self.inner.capabilities() }
    }
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        let mut log = File::options().create(true).append(true).open(&self.log).unwrap();
        log.write_all(format!("{} {}\n", std::process::id(), order.attempt).as_bytes()).unwrap();
        self.inner.submit(cx, order).await
    }
    async fn recover(&self, _: &Context, _: &Order) -> Result<Option<Progress>> {
        Err(certctl::Error::unsupported("it can't be asked").with_effect(Effect::Unknown))
    }
}

/// One file for all processes, written once.
#[derive(Debug)]
struct SharedState(PathBuf);

#[async_trait::async_trait]
impl certctl::State for SharedState {
    async fn load(&self, _: &str) -> Result<Option<(certctl::Secret, u64)>> {
        Ok(std::fs::read(&self.0).ok().map(|bytes| (certctl::Secret::new(bytes), 1)))
    }
    async fn save(&self, _: &str, value: &certctl::Secret, _: Option<u64>) -> Result<u64> {
        std::fs::write(&self.0, value.expose()).unwrap();
        Ok(1)
    }
}
