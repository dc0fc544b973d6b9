//! Programs that get their own certificates from a real CA while they serve: the example `axum_tls`, http-01 answered by
//! another process on the store, and certificates on demand.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use certctl::{
    Engine, Error, ErrorKind, Fingerprint, TlsResolver, X509Certificate,
    axum::TlsListener,
    issuers::Acme,
    records::CertificateStatus,
    stores::SqliteStore,
    tls::{OnDemand, OnDemandLimits},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::{
    acme::{World, actor, spec},
    tls_client::{certificate, connect},
    world::{Running, eventually},
};

const DEADLINE: Duration = Duration::from_secs(120);

/// The example's process; killed when dropped.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    at: SocketAddr,
}

impl Program {
    async fn start(world: &World, data: &Path) -> Self {
        // Examples are built beside the tests.
        let dir = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
        let mut child = Command::new(dir.join("axum_tls"))
            .env("CERTCTL_DOMAIN", "web.test")
            .env("CERTCTL_LISTEN", format!("127.0.0.1:{}", world.tls_port))
            .env("CERTCTL_DATA_DIR", data)
            .env("CERTCTL_ACME_DIRECTORY_URL", world.pebble.directory_url())
            .env("CERTCTL_ACME_CA_FILE", world.pebble.ca_file())
            .env("CERTCTL_ACME_EMAIL", "admin@example.com")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example axum_tls is built: cargo build --all-features --examples");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut program = Self { child, lines, at: ([127, 0, 0, 1], world.tls_port).into() };
        program.line("listening on").await;
        program
    }

    /// The next line that has this in it.
    async fn line(&mut self, part: &str) -> String {
        let reading = async {
            let mut seen = Vec::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(part) {
                    return line;
                }
                seen.push(line);
            }
            panic!("no line has {part:?} in it: {seen:#?}");
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("{part:?} does not come"))
    }

    /// Ctrl-C.
    async fn interrupt(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
        self.line("stopped").await;
        assert!(self.child.wait().await.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_gets_and_renews_its_own_certificate_without_a_failed_request() {
    let Some(world) = World::new(|_| ()).await else { return };
    let data = world.dir.path().join("data");
    let mut program = Program::start(&world, &data).await;
    let stand_in = certificate(program.at, "web.test").await.unwrap();
    assert_eq!(stand_in.subject_common_name(), Some("certctl stand-in"));
    program.line("certificate.renewed").await;
    let first = certificate(program.at, "web.test").await.unwrap();
    assert_eq!(first.names(), ["web.test".parse().unwrap()]);

    let root = world.pebble.root(0).await;
    let load = Load::begin(program.at, &root);
    load.until(50).await;
    // Somebody else on the same store asks for the renewal; the program carries it out.
    let other =
        Engine::builder(SqliteStore::open(data.join("certs.db")).await.unwrap()).build().await.unwrap();
    drop(other.renew(&actor(), "web").await.unwrap());
    program.line("certificate.renewed").await;
    let second = certificate(program.at, "web.test").await.unwrap();
    assert_ne!(second, first);
    load.until(load.count() + 50).await;
    let seen = load.end().await;
    assert_eq!(seen, [first.fingerprint(), second.fingerprint()], "each was served, and nothing else");
    program.interrupt().await;

    // The next start orders nothing.
    let program = Program::start(&world, &data).await;
    let served = async {
        loop {
            let shown = certificate(program.at, "web.test").await.unwrap();
            if shown.fingerprint() == second.fingerprint() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, served).await.expect("the same certificate is served again");
    let certificate = other.certificate("web").await.unwrap();
    assert_eq!(other.versions(&certificate.id).await.unwrap().len(), 2);
    program.interrupt().await;
}

/// Clients that ask over and over, each time on a fresh connection, and trust the CA alone.
struct Load {
    tasks: JoinSet<Vec<Fingerprint>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Load {
    fn begin(at: SocketAddr, root: &X509Certificate) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let (stop, count, tls) = (stop.clone(), count.clone(), trusting(root));
            tasks.spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (answer, shown) = hello(at, &tls).await.expect("no request fails");
                    assert!(
                        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello from certctl\n")
                    );
                    if seen.last() != Some(&shown) {
                        seen.push(shown);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                seen
            });
        }
        Self { tasks, stop, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    async fn until(&self, count: usize) {
        let counting = async {
            while self.count() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, counting).await.expect("requests go on");
    }

    /// What was served, in that order, to those who saw most.
    async fn end(self) -> Vec<Fingerprint> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().max_by_key(Vec::len).unwrap()
    }
}

async fn hello(at: SocketAddr, tls: &TlsConnector) -> std::io::Result<(String, Fingerprint)> {
    let stream = TcpStream::connect(at).await?;
    let mut stream = tls.connect(ServerName::try_from("web.test").unwrap(), stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok((answer, X509Certificate::from_der(&leaf).map_err(std::io::Error::other)?.fingerprint()))
}

fn trusting(root: &X509Certificate) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn the_ca_is_answered_by_a_process_that_did_not_order() {
    let Some(world) = World::new(|_| ()).await else { return };
    let store = async || SqliteStore::open(world.dir.path().join("certs.db")).await.unwrap();
    let replica = Engine::builder(store().await).build().await.unwrap();
    let port = TcpListener::bind(("127.0.0.1", world.http_port)).await.unwrap();
    let app: Router = certctl::axum::http01(&replica);
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(port, app).await });

    let acme = Acme { http_address: None, ..world.acme() };
    let engine = world.builder(acme).await.answers_http01().build().await.unwrap();
    let running = Running::start(&engine);
    drop(engine.want(&actor(), spec("web.test").dns("www.web.test")).await.unwrap());
    let active = async || engine.certificate("web").await.unwrap().status == CertificateStatus::Active;
    eventually(&engine, "the certificate", active).await;
    running.stop().await;
}

#[tokio::test]
async fn names_get_their_certificates_at_the_first_handshake() {
    let Some(world) = World::new(|_| ()).await else { return };
    let resolver = Arc::new(TlsResolver::new());
    let store = SqliteStore::open(world.dir.path().join("certs.db")).await.unwrap();
    let acme = Acme { tls_address: None, ..world.tls_alpn() };
    let engine = Engine::builder(store).issuer("ca", acme).solver(resolver.clone()).build().await.unwrap();
    let running = Running::start(&engine);
    let limits = OnDemandLimits { per_hour: 2, deadline: DEADLINE, ..OnDemandLimits::default() };
    let on_demand = OnDemand::new(&engine, &resolver, "ca", limits, async |name: String| {
        Ok::<_, Error>(name.ends_with(".shop.test"))
    });
    let port = TcpListener::bind(("127.0.0.1", world.tls_port)).await.unwrap();
    let at = port.local_addr().unwrap();
    let listener = TlsListener::new(port, &resolver).on_demand(on_demand.clone());
    let app = Router::new().route("/", get(|| async { "hello from certctl\n" }));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await });

    assert!(connect(at, "other.test", &["http/1.1"]).await.is_err());
    let mut clients = JoinSet::new();
    for number in 0..12 {
        clients.spawn(async move {
            let name = format!("n{}.shop.test", number % 2);
            let (_, shown) = connect(at, &name, &["http/1.1"]).await.unwrap();
            assert_eq!(shown.names(), [name.parse().unwrap()]);
            shown.fingerprint()
        });
    }
    let mut seen = clients.join_all().await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2, "one certificate a name");
    assert!(connect(at, "n2.shop.test", &["http/1.1"]).await.is_err());
    let limited = on_demand.prepare(Some("n2.shop.test")).await.unwrap_err();
    assert_eq!(limited.kind(), ErrorKind::RateLimited);
    assert_eq!(on_demand.prepare(Some("other.test")).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(certificate(at, "n0.shop.test").await.is_ok(), "what is there serves");
    running.stop().await;
}
