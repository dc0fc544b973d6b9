//! `kill -9` at every boundary of a life: in a child process, before and after each commit, lease, host operation, key and
//! request to the CA. What is left is finished by the next process, by itself.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use certctl::{
    Context, Engine, Env, Home, Id, IntoHome, Issuer, IssuerCapabilities, Key, KeyAlgorithm, Keys, Order,
    PrivateKey, Progress, PublicKey, Result, Revocation, Signer,
    connectors::IssuerConfig,
    engine::RevokeOptions,
    hosts::LocalHost,
    issuers::LocalCa,
    records::CertificateStatus,
    store::{Change, Kind, LeaseRequest, Leased, Page, Query, Row, Seat, Store},
    stores::SqliteStore,
    targets::Files,
    testkit::host::{FaultHost, OneHost, When},
};

use crate::{
    server::assert_whole,
    world::{World, me, web},
};

const DIR: &str = "CERTCTL_TEST_KILL_DIR";
const AT: &str = "CERTCTL_TEST_KILL_AT";
const RENEW: &str = "CERTCTL_TEST_KILL_RENEW";
const REVOKE: &str = "CERTCTL_TEST_KILL_REVOKE";

#[test]
fn a_kill_around_any_commit_or_lease_is_mended_by_the_next_start() {
    kill_everywhere("store");
}

#[test]
fn a_kill_around_any_host_operation_is_mended_by_the_next_start() {
    kill_everywhere("host");
}

#[test]
fn a_kill_around_any_request_to_the_ca_is_mended_by_the_next_start() {
    kill_everywhere("ca");
}

#[test]
fn a_kill_around_any_use_of_a_key_is_mended_by_the_next_start() {
    kill_everywhere("keys");
}

/// Issue, deploy and renew, killed at each boundary in turn; then one more start, which has to end in a certificate that is
/// in place, with every certificate that the CA has ever signed on record.
fn kill_everywhere(what: &str) {
    for at in 1.. {
        let world = World::new();
        let killed = child(world.dir.path(), &format!("{what}:{at}"), &[RENEW]);
        let alive = killed.success();
        assert!(
            alive || std::os::unix::process::ExitStatusExt::signal(&killed) == Some(9),
            "the child at {what}:{at} ended by itself: {killed}"
        );
        let next = child(world.dir.path(), "none", &[]);
        assert!(next.success(), "the start after a kill at {what}:{at}: {next}");
        check(&world, &format!("{what}:{at}"));
        if alive {
            // It got through: every boundary had its turn.
            assert!(at > 2, "only {at} boundaries of {what}");
            break;
        }
    }
}

#[test]
fn a_kill_around_any_step_of_a_revocation_is_mended_by_the_next_start() {
    for what in ["store", "ca"] {
        for at in 1.. {
            let world = World::new();
            assert!(child(world.dir.path(), "none", &[]).success());
            let killed = child(world.dir.path(), &format!("{what}:{at}"), &[REVOKE]);
            let next = child(world.dir.path(), "none", &[REVOKE]);
            let log = std::fs::read_to_string(world.path("child.log")).unwrap_or_default();
            assert!(next.success(), "the start after a kill at {what}:{at}: {next}\n{log}");
            // The CA was asked once, or once more where nobody could know that it had answered.
            let asked = lines(&world.path("revoked.log"));
            assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 1, "{what}:{at}: {asked:?}");
            assert!(asked.len() <= 2, "{what}:{at}: {asked:?}");
            assert_eq!(lines(&world.path("signed.log")).len(), 1, "{what}:{at}: nothing is issued");
            if killed.success() {
                assert!(at > 1, "only {at} boundaries of {what}");
                break;
            }
        }
    }
}

/// The process that is killed, or the one after it; nothing by itself.
#[tokio::test]
async fn child_lives() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = PathBuf::from(dir);
    let engine = engine(&dir, &std::env::var(AT).unwrap()).await;
    if std::env::var_os(REVOKE).is_some() {
        let serial = engine.certificate("web").await.unwrap().serial.clone().unwrap().to_string();
        let revoked = engine.revoke(&me(), &serial, RevokeOptions::default()).await.unwrap();
        let certificate = revoked.step().await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Revoked, "{:?}", certificate.reason);
        for job in engine.jobs(&certificate.id).await.unwrap() {
            assert!(job.state.is_finished(), "{job:?}");
        }
        let version = engine.versions(&certificate.id).await.unwrap().remove(0);
        assert!(version.revocation.unwrap().done.is_some());
        return;
    }
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    if std::env::var_os(RENEW).is_some() {
        let certificate = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    }
}

fn child(dir: &Path, at: &str, what: &[&str]) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::child_lives", "--nocapture"]).env(DIR, dir).env(AT, at);
    command.envs(what.iter().map(|what| (what, "1")));
    let log = std::fs::File::options().create(true).append(true).open(dir.join("child.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).status().unwrap()
}

fn check(world: &World, at: &str) {
    let log = std::fs::read_to_string(world.path("child.log")).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = engine(world.dir.path(), "none").await;
        let certificate = engine.certificate("web").await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active, "{at}: {:?}\n{log}", certificate.reason);
        // Neither lost nor issued twice: what the CA signed is what is recorded.
        let signed: BTreeSet<String> = lines(&world.path("signed.log")).into_iter().collect();
        let versions = engine.versions(&certificate.id).await.unwrap();
        let recorded: BTreeSet<String> = versions.iter().map(|version| version.serial.to_string()).collect();
        assert_eq!(recorded.len(), versions.len(), "{at}");
        assert_eq!(signed, recorded, "{at}\n{log}");
        // The newest is in place, whole, and nothing lies about.
        let at_rest = assert_whole(&world.path("tls/web.crt"), &world.path("tls/web.key"));
        assert_eq!(Some(at_rest.leaf().serial()), certificate.serial.as_ref(), "{at}");
        let left: Vec<_> =
            std::fs::read_dir(world.path("tls")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{at}: {left:?}");
        for job in engine.jobs(&certificate.id).await.unwrap() {
            assert!(job.state.is_finished(), "{at}: {job:?}");
        }
        // Only the newest version's key is left.
        let live: Vec<_> = versions.iter().filter(|version| !version.key_forgotten).collect();
        assert_eq!(live.len(), 1, "{at}");
        let keys = std::fs::read_dir(world.path("state/keys")).unwrap();
        let keys = keys
            .filter(|key| key.as_ref().unwrap().file_name().to_string_lossy().starts_with("key-"))
            .count();
        assert!(keys >= 1, "{at}");
        // Once more, and nothing is touched.
        let before = std::fs::metadata(world.path("tls/web.crt")).unwrap();
        engine.ensure(&me(), web()).await.unwrap();
        let after = std::fs::metadata(world.path("tls/web.crt")).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::ino(&before),
            std::os::unix::fs::MetadataExt::ino(&after),
            "{at}"
        );
    });
}

async fn engine(dir: &Path, at: &str) -> Engine {
    std::fs::create_dir_all(dir.join("tls")).unwrap();
    let (what, nth) = at.split_once(':').unwrap_or((at, "0"));
    let nth: usize = nth.parse().unwrap();
    let fuse = |name: &str| Fuse::new(if name == what { nth } else { 0 });
    let home = SqliteStore::open(dir.join("state/certs.db")).await.unwrap().into_home().unwrap();
    let env = Env::new(
        Arc::new(certctl::SystemClock),
        home.secrets.clone(),
        Arc::new(FileState(dir.join("ca.json"))),
        home.hosts.clone(),
    );
    let ca: Arc<dyn Issuer> = Arc::new(LoggedCa {
        inner: LocalCa::default().connect(env).await.unwrap(),
        log: dir.join("signed.log"),
        revoked: dir.join("revoked.log"),
        fuse: fuse("ca"),
    });
    let host = Arc::new(FaultHost::new(Arc::new(LocalHost)));
    if what == "host" {
        host.on_kill(die);
        // Two boundaries for each operation.
        host.kill_nth(nth.div_ceil(2), if nth % 2 == 1 { When::Before } else { When::After });
    }
    let home = Home {
        store: Arc::new(Fused { inner: home.store, fuse: fuse("store") }),
        keys: Arc::new(Fused { inner: home.keys, fuse: fuse("keys") }),
        hosts: Arc::new(OneHost(host)),
        ..home
    };
    let path = |name: &str| dir.join("tls").join(name).to_str().unwrap().to_owned();
    let files = Files { cert_path: path("web.crt"), key_path: path("web.key"), ..Default::default() };
    Engine::builder(home).issuer("local", ca).target("web", files).build().await.unwrap()
}

/// Burns down by one at each boundary; at the end the process is gone.
#[derive(Debug)]
pub struct Fuse {
    left: AtomicUsize,
}

impl Fuse {
    /// For so many boundaries; 0 never burns.
    pub fn new(boundaries: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(boundaries) })
    }

    fn burn(&self) {
        // 0 never burns.
        let burnt = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if burnt == Ok(1) {
            die();
        }
    }
}

fn die() {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    loop {
        std::thread::park();
    }
}

/// Something whose calls are boundaries.
#[derive(Debug)]
pub struct Fused<T: ?Sized> {
    pub fuse: Arc<Fuse>,
    pub inner: Arc<T>,
}

impl<T: ?Sized> Fused<T> {
    async fn around<R>(&self, call: impl Future<Output = R>) -> R {
        self.fuse.burn();
        let result = call.await;
        self.fuse.burn();
        result
    }
}

#[async_trait]
impl Store for Fused<dyn Store> {
    async fn open(&self, kinds: &[&'static Kind]) -> Result<()> {
        self.inner.open(kinds).await
    }
    async fn get(&self, kind: &'static Kind, ids: &[&str]) -> Result<Vec<Row>> {
        self.inner.get(kind, ids).await
    }
    async fn query(&self, query: &Query) -> Result<Page> {
        self.inner.query(query).await
    }
    async fn commit(&self, change: Change) -> Result<Vec<u64>> {
        self.around(self.inner.commit(change)).await
    }
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Leased>> {
        self.around(self.inner.lease(request)).await
    }
    async fn seat(&self) -> Result<Seat> {
        self.inner.seat().await
    }
}

#[async_trait]
impl Keys for Fused<dyn Keys> {
    async fn create(&self, id: &Id<Key>, algorithm: KeyAlgorithm) -> Result<PublicKey> {
        self.around(self.inner.create(id, algorithm)).await
    }
    async fn signer(&self, id: &Id<Key>) -> Result<Arc<dyn Signer>> {
        self.around(self.inner.signer(id)).await
    }
    async fn export(&self, id: &Id<Key>) -> Result<PrivateKey> {
        self.around(self.inner.export(id)).await
    }
    async fn forget(&self, id: &Id<Key>) -> Result<()> {
        self.around(self.inner.forget(id)).await
    }
}

/// The local CA, which notes every certificate that it signs before anybody hears of it.
#[derive(Debug)]
struct LoggedCa {
    inner: Arc<dyn Issuer>,
    log: PathBuf,
    revoked: PathBuf,
    fuse: Arc<Fuse>,
}

impl LoggedCa {
    async fn signed(&self, progress: Result<Progress>) -> Result<Progress> {
        if let Ok(Progress::Issued { chain }) = &progress {
            let mut log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
            writeln!(log, "{}", chain.leaf().serial()).unwrap();
        }
        self.fuse.burn();
        progress
    }
}

#[async_trait]
impl Issuer for LoggedCa {
    fn kind(&self) -> &str {
        self.inner.kind()
    }
    fn capabilities(&self) -> IssuerCapabilities {
        IssuerCapabilities { revoke: true, ..self.inner.capabilities() }
    }
    async fn revoke(&self, _: &Context, revocation: &Revocation) -> Result<()> {
        self.fuse.burn();
        let mut log = std::fs::File::options().create(true).append(true).open(&self.revoked).unwrap();
        writeln!(log, "{}", revocation.chain.leaf().serial()).unwrap();
        self.fuse.burn();
        Ok(())
    }
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        self.fuse.burn();
        self.signed(self.inner.submit(cx, order).await).await
    }
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        match self.inner.recover(cx, order).await? {
            Some(progress) => self.signed(Ok(progress)).await.map(Some),
            None => Ok(None),
        }
    }
    async fn trust_anchors(&self, cx: &Context) -> Result<Vec<certctl::X509Certificate>> {
        self.inner.trust_anchors(cx).await
    }
}

/// The CA's state in a file of its own, so that it is no boundary of the engine's.
#[derive(Debug)]
struct FileState(PathBuf);

#[async_trait]
impl certctl::State for FileState {
    async fn load(&self, _: &str) -> Result<Option<(certctl::Secret, u64)>> {
        Ok(std::fs::read(&self.0).ok().map(|bytes| (certctl::Secret::new(bytes), 1)))
    }
    async fn save(&self, _: &str, value: &certctl::Secret, _: Option<u64>) -> Result<u64> {
        std::fs::write(&self.0, value.expose()).unwrap();
        Ok(1)
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
