//! `kill -9` at every boundary of an order and of a change of keys: before and after each request to the CA, and before and
//! after each commit. The next start ends with one certificate in place; what the CA has seen is counted by a proxy in front
//! of it.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use certctl::{
    CertificateSpec, Context, Engine, Home, IntoHome, KeyAlgorithm, SystemClock, issuers::Acme,
    records::CertificateStatus, stores::SqliteStore, targets::Files,
};
use tokio::task::JoinSet;

use super::{World, actor, settle};
use crate::{
    kill::{Fuse, Fused},
    peers::{
        proxy::{Exchange, Proxy},
        tls::ServerFiles,
    },
    server::assert_whole,
};

const DIR: &str = "CERTCTL_TEST_ACME_KILL_DIR";
const LIFE: &str = "CERTCTL_TEST_ACME_KILL_LIFE";
/// Which commit's boundary kills; 0 none.
const AT: &str = "CERTCTL_TEST_ACME_KILL_AT";

/// How many children live at the same time; most of what they do is waiting for the CA.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_around_any_request_of_an_order_is_mended_by_the_next_start() {
    sweep(Life::Order, Boundary::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_around_any_commit_of_an_order_is_mended_by_the_next_start() {
    sweep(Life::Order, Boundary::Commit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_around_any_request_of_a_change_of_keys_leaves_an_account_that_works() {
    sweep(Life::KeyChange, Boundary::Request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_around_any_commit_of_a_change_of_keys_leaves_an_account_that_works() {
    sweep(Life::KeyChange, Boundary::Commit).await;
}

/// The process that is killed, or the one after it; nothing by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_lives() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = PathBuf::from(dir);
    let engine = engine(&dir, std::env::var(AT).unwrap().parse().unwrap()).await;
    match std::env::var(LIFE).unwrap().as_str() {
        "order" => order(&engine, &dir).await,
        "key change" => change_keys(&engine).await,
        // The account signs, and the CA knows its key.
        "account" => println!("account {}", describe(&engine).await),
        other => panic!("{other}"),
    }
}

async fn order(engine: &Engine, dir: &Path) {
    let mut certificate = engine.ensure(&actor(), spec(dir)).await.unwrap();
    if certificate.status != CertificateStatus::Active {
        // The CA looked while nobody was there to answer. The next try is the engine's own in a while; this is now.
        let job = crate::rig::open(engine, &certificate, "issue").await;
        let Some(error) = &job.last_error else { panic!("{:#?}", engine.jobs(&certificate.id).await) };
        assert!(error.message.contains("http-01") && error.retry == certctl::Retry::Backoff, "{job:#?}");
        certificate = engine.retry(&actor(), &job.id).await.unwrap().step().await.unwrap();
    }
    assert_eq!(certificate.status, CertificateStatus::Active, "{:#?}", certificate.reason);
    settle(engine).await;
}

async fn change_keys(engine: &Engine) {
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let before = describe(engine).await;
    ca.account().unwrap().roll_key(&cx(), KeyAlgorithm::EcdsaP384).await.unwrap();
    assert_eq!(describe(engine).await, before, "it is the same account");
}

async fn describe(engine: &Engine) -> String {
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let account = ca.account().unwrap().describe(&cx()).await.unwrap();
    assert_eq!(account.status, "valid");
    account.url
}

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

/// What the child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Order,
    KeyChange,
}

/// Around what it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boundary {
    Request,
    Commit,
}

/// Kills a child at each boundary in turn, some at the same time, until one gets through.
async fn sweep(life: Life, boundary: Boundary) {
    let Some(world) = World::new(|options| options.nonce_reject = 0).await else { return };
    let files = ServerFiles::create(world.dir.path()).await;
    let world = Arc::new((world, files));
    let (mut at, mut through, mut unused) = (0, usize::MAX, 0);
    let mut children = JoinSet::new();
    loop {
        // Once one gets through, those with later boundaries would as well.
        while children.len() < AT_ONCE && through == usize::MAX {
            at += 1;
            let world = world.clone();
            children.spawn(async move {
                let subject = Subject::new(&world.0, &world.1, life, boundary, at).await;
                (at, subject.kill_and_start_again().await)
            });
        }
        match children.join_next().await {
            Some(Ok((at, Outcome::Through))) => through = through.min(at),
            Some(Ok((_, Outcome::Mended { unused: more }))) => unused += more,
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            None => break,
        }
    }
    eprintln!("{life:?}, {boundary:?}: {} boundaries, {unused} orders unused", through - 1);
    let least = match (life, boundary) {
        // Directory, nonce, account, order, authorization, challenge, state, request, state, certificate.
        (Life::Order, Boundary::Request) => 20,
        (Life::Order, Boundary::Commit) => 20,
        // Directory, nonce, account, reading it, the change, reading it.
        (Life::KeyChange, Boundary::Request) => 12,
        (Life::KeyChange, Boundary::Commit) => 8,
    };
    assert!(through > least, "only {through} boundaries");
}

enum Outcome {
    /// There is no such boundary.
    Through,
    Mended {
        unused: usize,
    },
}

/// One child after the other in a directory of their own, with a name, an address and a proxy of their own.
struct Subject {
    life: Life,
    boundary: Boundary,
    at: usize,
    dir: tempfile::TempDir,
    proxy: Proxy,
}

impl Subject {
    async fn new(world: &World, files: &ServerFiles, life: Life, boundary: Boundary, at: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let requests = if boundary == Boundary::Request { at } else { 0 };
        let proxy = Proxy::start(world.pebble.addr().port(), world.pebble.client(), files, requests).await;
        // All listen where the CA looks: on the same port of different addresses of this machine.
        let address = [127, 0, 77, u8::try_from(at).unwrap()];
        let name = format!("n{at}.example.com.");
        world.dns.add_a(&name, &std::net::Ipv4Addr::from(address).to_string()).await;
        let acme = Acme {
            directory_url: proxy.url("/dir"),
            ca_file: Some(files.ca.to_str().unwrap().parse().unwrap()),
            http_address: Some(address.into()),
            ..world.acme()
        };
        std::fs::write(dir.path().join("acme.json"), serde_json::to_vec(&acme).unwrap()).unwrap();
        std::fs::write(dir.path().join("name"), name.trim_end_matches('.')).unwrap();
        Self { life, boundary, at, dir, proxy }
    }

    async fn kill_and_start_again(self) -> Outcome {
        let (first, next) = match self.life {
            Life::Order => ("order", "order"),
            Life::KeyChange => ("key change", "account"),
        };
        let killed = self.child(first, if self.boundary == Boundary::Commit { self.at } else { 0 }).await;
        let signal = std::os::unix::process::ExitStatusExt::signal(&killed);
        assert!(killed.success() || signal == Some(9), "{self:?} ended by itself: {killed}\n{}", self.log());
        let before = self.proxy.seen();
        self.proxy.disarm();
        let started = self.child(next, 0).await;
        assert!(started.success(), "the start after the kill at {self:?}: {started}\n{}", self.log());
        let unused = self.check(&before).await;
        if killed.success() { Outcome::Through } else { Outcome::Mended { unused } }
    }

    /// Until it ends, or the proxy says that it is to be killed.
    async fn child(&self, life: &str, at: usize) -> ExitStatus {
        let log = self.dir.path().join("child.log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acme::kill::child_lives", "--nocapture"])
            .env(DIR, self.dir.path())
            .env(LIFE, life)
            .env(AT, at.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        tokio::select! {
            ended = child.wait() => ended.unwrap(),
            () = self.proxy.burnt() => {
                child.start_kill().unwrap();
                child.wait().await.unwrap()
            }
        }
    }

    /// How many orders came to nothing.
    async fn check(&self, before: &[Exchange]) -> usize {
        let log = self.log();
        let seen = self.proxy.seen();
        // An account is made once, however often it is asked for.
        let accounts = locations(&seen, "/sign-me-up", 201);
        assert_eq!(accounts.len(), 1, "{self:?}: {seen:#?}\n{log}");
        if self.life == Life::KeyChange {
            let url = log.lines().filter_map(|line| line.split_once("account ")).next_back();
            assert_eq!(url.map(|(_, url)| url), Some(accounts[0].as_str()), "{self:?}\n{log}");
            return 0;
        }
        // Nor is anything issued twice.
        let finalized =
            seen.iter().filter(|one| one.path.starts_with("/finalize-order/") && one.status == 200);
        assert_eq!(finalized.count(), 1, "{self:?}: {seen:#?}\n{log}");
        let unused = locations(&seen, "/order-plz", 201).len() - 1;
        // An order is lost where the CA looks for the answer of a process that is gone, and nowhere else.
        let looked = before.last().is_some_and(|last| last.path.starts_with("/chalZ/"));
        assert!(unused <= usize::from(looked), "{self:?}: {before:#?} and in the end {seen:#?}\n{log}");
        self.check_deployed().await;
        unused
    }

    async fn check_deployed(&self) {
        let engine = engine(self.dir.path(), 0).await;
        let certificate = engine.certificate("web").await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active, "{self:?}: {:?}", certificate.reason);
        assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 1, "{self:?}");
        let at_rest =
            assert_whole(&self.dir.path().join("tls/web.crt"), &self.dir.path().join("tls/web.key"));
        assert_eq!(Some(at_rest.leaf().serial()), certificate.serial.as_ref(), "{self:?}");
        let left = std::fs::read_dir(self.dir.path().join("tls")).unwrap().count();
        assert_eq!(left, 2, "{self:?}: something lies about");
        for job in engine.jobs(&certificate.id).await.unwrap() {
            assert!(job.state.is_finished(), "{self:?}: {job:?}");
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("child.log")).unwrap_or_default()
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {}", self.life, self.boundary, self.at)
    }
}

/// What the CA has made at this path.
fn locations(seen: &[Exchange], path: &str, status: u16) -> Vec<String> {
    let made = seen.iter().filter(|one| one.path == path && one.status == status);
    made.filter_map(|one| one.location.clone()).collect()
}

/// The engine of the child, which is gone at this boundary of its commits.
async fn engine(dir: &Path, at: usize) -> Engine {
    std::fs::create_dir_all(dir.join("tls")).unwrap();
    let home = SqliteStore::open(dir.join("state/certs.db")).await.unwrap().into_home().unwrap();
    let home = Home { store: Arc::new(Fused { inner: home.store, fuse: Fuse::new(at) }), ..home };
    let acme: Acme = serde_json::from_slice(&std::fs::read(dir.join("acme.json")).unwrap()).unwrap();
    let path = |name: &str| dir.join("tls").join(name).to_str().unwrap().to_owned();
    let files = Files { cert_path: path("web.crt"), key_path: path("web.key"), ..Default::default() };
    Engine::builder(home).issuer("ca", acme).target("web", files).build().await.unwrap()
}

fn spec(dir: &Path) -> CertificateSpec {
    super::spec(&std::fs::read_to_string(dir.join("name")).unwrap())
}
