//! A fault at each single operation of a deployment, and a kill at each: one by one, all of them.
//!
//! Once on a server in memory, for every operation there is; once on a real nginx, for those that change something.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use certctl::{
    Bundle, Chain, Engine, Error, Home, Lifetime, PrivateKey, Secret, X509Certificate,
    connectors::TargetDeclaration,
    host::{Endpoint, Host, HostPath, Io, Output},
    hosts::LocalHost,
    issuers::LocalCa,
    records::{CertificateStatus, DeploymentState, Probe},
    targets::Nginx as Config,
    testkit::host::{FaultHost, MemoryHost, OneHost, Operation, When},
    tls::TlsResolver,
};
use tokio::{io::AsyncReadExt, runtime::Runtime};
use tokio_rustls::TlsAcceptor;

use crate::{
    server::{Nginx, has_nginx, other_bundle, settled},
    world::{World, me, web},
};

/// A certificate in service on some server, behind a host that fails on demand.
struct Life {
    /// What outlives a process.
    home: Home,
    host: Arc<dyn Host>,
    fault: Arc<FaultHost>,
    config: Config,
    endpoint: Endpoint,
    /// Where the real nginx is, if it is one.
    nginx: Option<PathBuf>,
}

impl Life {
    fn new(host: Arc<dyn Host>, config: Config, endpoint: Endpoint) -> Self {
        let fault = Arc::new(FaultHost::new(host.clone()));
        let home = Home { hosts: Arc::new(OneHost(fault.clone())), ..Home::in_memory() };
        Self { home, host, fault, config, endpoint, nginx: None }
    }

    /// A new process.
    async fn engine(&self) -> Engine {
        let endpoints = Some(vec![self.endpoint.clone()]);
        let deadline = Lifetime::from(Duration::from_millis(600));
        let probe = Probe { endpoints, deadline, ..Probe::default() };
        let target = TargetDeclaration::from(self.config.clone()).probe_with(probe);
        let builder = Engine::builder(self.home.clone()).issuer("local", LocalCa::default());
        builder.target("web", target).build().await.unwrap()
    }

    /// The leaf at rest; the pair must be whole.
    async fn at_rest(&self, case: &str) -> X509Certificate {
        let read = async |path: &str| self.host.read(&path.parse().unwrap(), 1 << 20).await.unwrap();
        let chain = Chain::from_pem(read(&self.config.cert_path).await.expose()).unwrap();
        let key = PrivateKey::from_pem(&read(&self.config.key_path).await).unwrap();
        assert_eq!(chain.leaf().public_key().unwrap(), key.public_key(), "{case}: the pair is torn");
        chain.leaf().clone()
    }

    /// What is served has to be `leaf`; until an earlier, asynchronous reload has come to its end, it may be `other`.
    async fn assert_serves(&self, leaf: &X509Certificate, other: &X509Certificate, case: &str) {
        for _ in 0..2_000 {
            let served = self.served(case).await;
            if served == *leaf {
                return;
            }
            assert_eq!(served, *other, "{case}: a stranger is served");
        }
        panic!("{case}: the wrong one is served for good");
    }

    async fn served(&self, case: &str) -> X509Certificate {
        if let Some(dir) = &self.nginx {
            settled(dir).await;
        }
        let limit = Duration::from_secs(5);
        let io = self.host.connect(&self.endpoint, limit).await;
        let io = io.unwrap_or_else(|e| panic!("{case}: the server is down: {e}"));
        certctl::tls::handshake(io, Some("web.test"), None, limit).await.unwrap().leaf
    }

    async fn assert_tidy(&self, case: &str) {
        let dir = HostPath::parse(&self.config.cert_path).unwrap().parent();
        let names: Vec<_> = self.host.list(&dir).await.unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names.len(), 2, "{case}: something is left behind: {names:?}");
    }

    /// Nothing stands in the way any more: the newest version is in service, and proved.
    async fn assert_mended(&self, engine: &Engine, case: &str) -> X509Certificate {
        let certificate = engine.ensure(&me(), web()).await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Active, "{case}: {:#?}", certificate.reason);
        let deployment = crate::world::deployment(engine, &certificate).await;
        assert_eq!(deployment.state, DeploymentState::Proved, "{case}: {:?}", deployment.warnings);
        let at_rest = self.at_rest(case).await;
        assert_eq!(Some(at_rest.serial()), certificate.serial.as_ref(), "{case}");
        assert_eq!(self.served(case).await, at_rest, "{case}");
        self.assert_tidy(case).await;
        at_rest
    }

    /// Renews with one fault at a time, at each operation that counts. `refused`: the new pair fails without it as well.
    async fn fail_everywhere(&self, counts: fn(&Operation) -> bool, refused: bool) -> usize {
        let engine = self.engine().await;
        if !refused {
            self.assert_mended(&engine, "the first version").await;
        }
        let mut failed = 0;
        for number in 1.. {
            for when in [When::Before, When::After] {
                let old = self.at_rest("before").await;
                self.fault.reset();
                let (at, hit) = nth(number, counts);
                self.fault.fail_if(at, when, FaultHost::disk_full());
                let renewed = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
                self.fault.reset();
                let Some(operation) = hit.get() else { return failed };
                let case = format!("{number}: {operation} fails ({when:?})");

                let deployment = crate::world::deployment(&engine, &renewed).await;
                let at_rest = self.at_rest(&case).await;
                self.assert_tidy(&case).await;
                let versions = engine.versions(&renewed.id).await.unwrap();
                let newest = versions.iter().find(|v| Some(&v.serial) == renewed.serial.as_ref()).unwrap();
                let other = if at_rest == old { newest.chain.leaf() } else { &old };
                self.assert_serves(&at_rest, other, &case).await;
                match deployment.state {
                    // A connection that fails is made anew, and so on.
                    DeploymentState::Proved if !refused => {
                        assert_eq!(renewed.status, CertificateStatus::Active, "{case}");
                        assert_eq!(Some(at_rest.serial()), renewed.serial.as_ref(), "{case}");
                    }
                    DeploymentState::Failed => {
                        failed += 1;
                        assert_eq!(renewed.status, CertificateStatus::Partial, "{case}");
                        assert_eq!(at_rest, old, "{case}: what was there is back");
                        let error = deployment.error.clone().unwrap();
                        let has = |key: &str| error.context.iter().any(|(name, _)| name == key);
                        assert!(
                            has("step") && (has("file") || has("command") || has("endpoint")),
                            "{case}: {error:?}"
                        );
                        let jobs = engine.jobs(&renewed.id).await.unwrap();
                        let open: Vec<_> = jobs.iter().filter(|job| !job.state.is_finished()).collect();
                        assert_eq!(open.len(), 1, "{case}");
                        assert_eq!(open[0].last_error.as_ref(), Some(&error), "{case}");
                    }
                    other => panic!("{case}: {other:?}: {:#?} {:?}", deployment.error, deployment.warnings),
                }
                if !refused {
                    let new = self.assert_mended(&engine, &case).await;
                    assert_eq!(Some(new.serial()), renewed.serial.as_ref(), "{case}: nothing else is issued");
                }
            }
        }
        failed
    }
}

/// Picks the one operation with this number among those that count, and says which it was.
fn nth(
    number: usize,
    counts: fn(&Operation) -> bool,
) -> (impl Fn(&Operation) -> bool + Send + 'static, Arc<OnceLock<Operation>>) {
    let hit = Arc::new(OnceLock::new());
    let (seen, found) = (AtomicUsize::new(0), hit.clone());
    let at = move |operation: &Operation| {
        let is_it = counts(operation) && seen.fetch_add(1, Ordering::Relaxed) + 1 == number;
        is_it && found.set(operation.clone()).is_ok()
    };
    (at, hit)
}

/// Renews, and kills the process at each operation that counts; the next process finishes what was begun.
fn kill_everywhere(life: &Life, counts: fn(&Operation) -> bool) -> usize {
    let outer = Runtime::new().unwrap();
    outer.block_on(async { life.assert_mended(&life.engine().await, "the first version").await });
    let mut killed = 0;
    for number in 1.. {
        for when in [When::Before, When::After] {
            let old = outer.block_on(life.at_rest("before"));
            life.fault.reset();
            let (at, hit) = nth(number, counts);
            life.fault.halt_if(at, when);
            // All that belongs to the process dies with its runtime: tasks, connections, the seat at the store.
            let process = Runtime::new().unwrap();
            process.block_on(async {
                let engine = life.engine().await;
                let watch = engine.renew(&me(), "web").await.unwrap();
                tokio::select! {
                    () = life.fault.ended() => {}
                    done = watch.step() => drop(done.unwrap()),
                }
            });
            process.shutdown_timeout(Duration::from_secs(10));
            life.fault.reset();
            let Some(operation) = hit.get() else { return killed };
            let case = format!("{number}: killed at {operation} ({when:?})");
            killed += 1;
            outer.block_on(async {
                let served = life.served(&case).await;
                let engine = life.engine().await;
                let new = life.assert_mended(&engine, &case).await;
                assert!(served == old || served == new, "{case}: a stranger is served");
                assert_ne!(new, old, "{case}: the renewal is finished");
                let certificate = engine.certificate("web").await.unwrap();
                assert_eq!(
                    crate::world::version_count(&engine, &certificate).await,
                    killed + 1,
                    "{case}: one version for each renewal"
                );
            });
        }
    }
    killed
}

fn each(_: &Operation) -> bool {
    true
}

/// What changes something, or takes long.
fn acts(operation: &Operation) -> bool {
    !matches!(operation.name, "stat" | "real_path" | "read" | "list" | "connect")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_single_fault_leaves_the_old_or_the_new() {
    let failed = Sim::new().await.life().fail_everywhere(each, false).await;
    assert!(failed >= 40, "{failed}");
}

/// The fault comes to a deployment that fails anyway, in the way forward or in the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_single_fault_on_the_way_back_leaves_the_old() {
    let sim = Sim::new().await;
    let life = sim.life();
    // Until the last one is found out, the probe's deadline passes each time.
    let all: [(_, fn(&Operation) -> bool, _); 3] =
        [(Broken::Check, each, 60), (Broken::Reload, each, 60), (Broken::SilentReload, acts, 20)];
    for (broken, counts, least) in all {
        sim.state().broken = None;
        life.assert_mended(&life.engine().await, "before").await;
        sim.state().broken = Some(broken);
        let failed = life.fail_everywhere(counts, true).await;
        assert!(failed >= least, "{broken:?}: {failed}");
    }
}

#[test]
fn a_kill_at_each_operation_is_mended() {
    let sim = Runtime::new().unwrap().block_on(Sim::new());
    let killed = kill_everywhere(&sim.life(), each);
    assert!(killed >= 60, "{killed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_single_fault_on_nginx_leaves_the_old_or_the_new() {
    if !has_nginx() {
        return;
    }
    let (_world, nginx) = started().await;
    let failed = on_nginx(&nginx).fail_everywhere(acts, false).await;
    assert!(failed >= 14, "{failed}");
}

#[test]
fn a_kill_at_each_operation_on_nginx_is_mended() {
    if !has_nginx() {
        return;
    }
    let (_world, nginx) = Runtime::new().unwrap().block_on(started());
    let killed = kill_everywhere(&on_nginx(&nginx), acts);
    assert!(killed >= 20, "{killed}");
}

async fn started() -> (World, Nginx) {
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    nginx.put_old_pair("web").await;
    nginx.start();
    (world, nginx)
}

fn on_nginx(nginx: &Nginx) -> Life {
    let life = Life::new(Arc::new(LocalHost), nginx.config("web"), nginx.endpoint().parse().unwrap());
    Life { nginx: Some(nginx.dir.clone()), ..life }
}

/// A server that reads its files at each reload, and keeps what it has if they don't fit together.
#[derive(Clone)]
struct Sim {
    host: MemoryHost,
    state: Arc<Mutex<SimState>>,
}

struct SimState {
    resolver: Arc<TlsResolver>,
    /// What lets every other pair fail than the one that is served.
    broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Broken {
    Check,
    Reload,
    SilentReload,
}

impl Sim {
    async fn new() -> Self {
        let old = other_bundle("web").await;
        let host = MemoryHost::default();
        host.put("/tls/web.crt", old.chain.to_pem());
        host.put("/tls/web.key", old.key.to_pem().expose());
        host.set_owner("/tls/web.key", 0o600, 0, 0);
        let state = SimState { resolver: Arc::default(), broken: None };
        let sim = Self { host, state: Arc::new(Mutex::new(state)) };
        sim.command("reload");
        let this = sim.clone();
        sim.host.on_run(move |_, command| {
            let failed = this.command(&command.argv[0]);
            let text = failed.clone().unwrap_or_default();
            Some(Ok(Output { code: Some(i32::from(failed.is_some())), text }))
        });
        let this = sim.clone();
        sim.host.on_connect(move |_| {
            let resolver = this.state().resolver.clone();
            async move {
                let (client, server) = tokio::io::duplex(64 << 10);
                tokio::spawn(async move {
                    let acceptor = TlsAcceptor::from(Arc::new(resolver.server_config()));
                    if let Ok(mut stream) = acceptor.accept(server).await {
                        let _ = stream.read(&mut [0]).await;
                    }
                });
                Ok::<Box<dyn Io>, Error>(Box::new(client))
            }
        });
        sim
    }

    fn life(&self) -> Life {
        let config = Config {
            cert_path: "/tls/web.crt".into(),
            key_path: "/tls/web.key".into(),
            validate_command: "check".into(),
            reload_command: "reload".into(),
            ..Config::default()
        };
        Life::new(Arc::new(self.host.clone()), config, "127.0.0.1:443".parse().unwrap())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, SimState> {
        self.state.lock().unwrap()
    }

    /// Why it fails, if it does.
    fn command(&self, name: &str) -> Option<String> {
        let state = self.state();
        let Some(bundle) = self.bundle() else { return Some("the key does not match".into()) };
        let other =
            state.resolver.current("web").is_some_and(|current| current != bundle.chain.leaf().fingerprint());
        match (name, state.broken.filter(|_| other)) {
            ("check", Some(Broken::Check)) | ("reload", Some(Broken::Reload)) => Some("not this one".into()),
            ("reload", Some(Broken::SilentReload)) | ("check", _) => None,
            ("reload", _) => state.resolver.install("web", &bundle).err().map(|e| e.to_string()),
            _ => Some(format!("{name}: no such command")),
        }
    }

    /// What its files say; none if they are not a pair.
    fn bundle(&self) -> Option<Bundle> {
        let chain = Chain::from_pem(&self.host.content("/tls/web.crt")?).ok()?;
        let key = PrivateKey::from_pem(&Secret::new(self.host.content("/tls/web.key")?)).ok()?;
        (chain.leaf().public_key().ok()? == key.public_key()).then_some(Bundle { chain, key })
    }
}
