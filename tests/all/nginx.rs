//! Life on a real nginx.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use certctl::{
    CertificateSpec, Engine, SerialNumber, X509Certificate,
    connectors::{TargetConfigExt, TargetDeclaration},
    records::{AuditEvent, CertificateStatus, DeploymentState, Probe},
    store::{Query, StoreExt, Test},
    targets::Nginx as Config,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::{
    failures::probe,
    server::{Nginx, assert_whole, free_port, has_nginx, other_bundle, served},
    world::{World, assert_active, assert_proved, deployment, me, version_count, web},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ensure_issues_deploys_and_proves() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let old = nginx.served("web").await.unwrap();
    let engine = engine(&world, &nginx, nginx.config("web")).await;

    let certificate = engine.ensure(&me(), web()).await.unwrap();

    assert_active(&certificate);
    let deployment = deployment(&engine, &certificate).await;
    assert_proved(&deployment);
    let served = nginx.served("web").await.unwrap();
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());
    assert_ne!(served.leaf().serial(), old.leaf().serial());
    let at_rest = assert_whole(&nginx.cert("web"), &nginx.key("web"));
    assert_eq!(at_rest.certificates().len(), 2, "leaf and issuing CA");
    assert_eq!(nginx.listing(), ["web.crt", "web.key"], "nothing is left beside the pair");
    let changed = deployment.changed.as_ref().unwrap();
    assert_eq!(changed.old, Some(old.leaf().fingerprint()));
    assert_eq!(changed.new, Some(served.leaf().fingerprint()));
    assert!(deployment.duration_ms.is_some());
    assert_eq!(deployment.address.as_deref(), nginx.cert("web").to_str());

    // The same again touches nothing, and says so.
    let before = facts(&nginx);
    let again = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&again);
    assert_eq!(again.serial, certificate.serial);
    assert_eq!(facts(&nginx), before);
    assert_eq!(version_count(&engine, &again).await, 1);
    let deployment = crate::world::deployment(&engine, &again).await;
    assert_eq!(deployment.state, DeploymentState::Proved);
    assert!(deployment.changed.as_ref().unwrap().changes.is_empty(), "{:?}", deployment.changed);
    assert_eq!(count(&engine, "deployment.unchanged").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_during_a_renewal_is_served_by_the_old_or_the_new() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    let old = engine.ensure(&me(), web()).await.unwrap().serial.clone().unwrap();
    let client = Client::new(&engine, &nginx).await;
    assert_eq!(client.request().await, old);

    let over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicUsize::new(0));
    let (first, begun) = tokio::sync::oneshot::channel();
    let mut first = Some(first);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (client, over, count, first) = (client.clone(), over.clone(), count.clone(), first.take());
        clients.spawn(async move {
            let mut seen = vec![client.request().await];
            if let Some(first) = first {
                first.send(()).unwrap();
            }
            // Not before the renewal has ended, and once more afterwards.
            while !over.load(Ordering::Acquire) || count.load(Ordering::Relaxed) < 400 {
                seen.push(client.request().await);
                count.fetch_add(1, Ordering::Relaxed);
            }
            seen.push(client.request().await);
            seen
        });
    }
    begun.await.unwrap();
    let renewed = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
    over.store(true, Ordering::Release);
    assert_active(&renewed);
    let new = renewed.serial.clone().unwrap();
    assert_ne!(new, old);

    let mut requests = 0;
    while let Some(seen) = clients.join_next().await {
        let seen = seen.expect("each request is answered");
        requests += seen.len();
        assert!(seen.iter().all(|serial| *serial == old || *serial == new), "{seen:?}");
        assert_eq!(seen.last(), Some(&new), "after its proof the new one is served for good");
    }
    assert!(requests >= 400, "{requests}");
    assert_proved(&*deployment(&engine, &renewed).await);
    assert_eq!(version_count(&engine, &renewed).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pair_is_mended() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    type Damage = fn(&Nginx);
    let damages: [(&str, Damage); 3] = [
        ("both", |nginx| {
            fs::remove_file(nginx.cert("web")).unwrap();
            fs::remove_file(nginx.key("web")).unwrap();
        }),
        ("certificate", |nginx| fs::remove_file(nginx.cert("web")).unwrap()),
        ("key", |nginx| fs::remove_file(nginx.key("web")).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&nginx);
        let again = engine.ensure(&me(), web()).await.unwrap();
        assert_active(&again);
        assert_eq!(again.serial, certificate.serial, "{what}: nothing is issued for that");
        assert_proved(&*deployment(&engine, &again).await);
        assert_whole(&nginx.cert("web"), &nginx.key("web"));
        assert_eq!(fs::metadata(nginx.key("web")).unwrap().mode() & 0o777, 0o600, "{what}");
        assert_eq!(nginx.listing(), ["web.crt", "web.key"], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_pair_is_mended() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let stranger = other_bundle("web").await;
    // Torn before the first deployment, and after it: the key is of another certificate, or none at all.
    fs::write(nginx.key("web"), stranger.key.to_pem().expose()).unwrap();
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    assert_whole(&nginx.cert("web"), &nginx.key("web"));
    for torn in [stranger.key.to_pem().expose(), b"-----BEGIN PRIVATE KEY-----\n", b""] {
        fs::write(nginx.key("web"), torn).unwrap();
        let again = engine.ensure(&me(), web()).await.unwrap();
        assert_active(&again);
        assert_proved(&*deployment(&engine, &again).await);
        let at_rest = assert_whole(&nginx.cert("web"), &nginx.key("web"));
        assert_eq!(Some(at_rest.leaf().serial()), certificate.serial.as_ref());
        assert_eq!(nginx.served("web").await.unwrap().leaf(), at_rest.leaf());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_start_without_its_pair_is_started() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    let config = Config { start_command: Some(nginx.command("").as_str().into()), ..nginx.config("web") };
    let engine = engine(&world, &nginx, config).await;
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    assert_proved(&*deployment(&engine, &certificate).await);
    let served = nginx.served("web").await.expect("nginx is up");
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());
}

/// Without a `start_command` the pair is put in place all the same, and a warning says that nobody serves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_gets_its_pair_without_proof() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    let waiting = deployment(&engine, &certificate).await;
    assert_eq!(waiting.state, DeploymentState::Unproved);
    let warnings = waiting.warnings.join("; ");
    assert!(warnings.contains(&format!("nobody answered at {}", nginx.endpoint())), "{warnings}");
    assert!(warnings.contains("did not reload"), "{warnings}");
    assert_whole(&nginx.cert("web"), &nginx.key("web"));
    assert_eq!(nginx.listing(), ["web.crt", "web.key"]);

    nginx.start();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_proved(&*deployment(&engine, &certificate).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_at_rest_and_old_in_service_is_reloaded() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let old = nginx.served("web").await.unwrap();
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    engine.ensure(&me(), web()).await.unwrap();
    // The server goes back to the old pair behind our back: at rest is what was issued.
    let [cert, key] = [nginx.cert("web"), nginx.key("web")].map(|path| fs::read(path).unwrap());
    let stranger = other_bundle("web").await;
    fs::write(nginx.cert("web"), stranger.chain.to_pem()).unwrap();
    fs::write(nginx.key("web"), stranger.key.to_pem().expose()).unwrap();
    nginx.reload_until("web", stranger.chain.leaf()).await;
    fs::write(nginx.cert("web"), cert).unwrap();
    fs::write(nginx.key("web"), key).unwrap();
    let inode = fs::metadata(nginx.cert("web")).unwrap().ino();

    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    assert_proved(&*deployment(&engine, &certificate).await);
    assert_eq!(count(&engine, "deployment.reloaded").await, 1);
    assert_eq!(fs::metadata(nginx.cert("web")).unwrap().ino(), inode, "nothing is written");
    let served = nginx.served("web").await.unwrap();
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());
    assert_ne!(served.leaf(), old.leaf());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_is_probed_with_a_label_made_up() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["other"]);
    let (cert, key) = (nginx.cert("web"), nginx.key("web"));
    let wildcard = format!(
        "server {{ listen {}  ssl; server_name *.web.test; ssl_certificate {}; ssl_certificate_key {}; }}",
        nginx.endpoint(),
        cert.display(),
        key.display()
    );
    nginx.configure(&["other"], &wildcard);
    nginx.put_old_pair("other").await;
    nginx.put_old_pair("web").await;
    nginx.start();
    let engine = engine(&world, &nginx, nginx.config("web")).await;
    let spec = CertificateSpec::new("web").dns("*.web.test").issuer("local").target("web");
    let certificate = engine.ensure(&me(), spec).await.unwrap();
    assert_active(&certificate);
    let deployment = deployment(&engine, &certificate).await;
    assert_proved(&deployment);
    let proof = deployment.proof.as_ref().unwrap();
    let [asked] = &proof.endpoints[..] else { panic!("{proof:?}") };
    let name = asked.server_name.as_deref().unwrap();
    assert!(name.ends_with(".web.test") && !name.contains('*') && name.len() > ".web.test".len(), "{name}");
    // nginx answers any other name with the first server's certificate.
    let served = served(&nginx.endpoint(), "any.web.test").await.unwrap();
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());
    assert_ne!(nginx.served("other").await.unwrap().leaf(), served.leaf());
}

/// A load balancer that still shows its own: a warning, never a rollback.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_elsewhere_never_rolls_back() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    let balancer = Nginx::new(&world.path("balancer"), &["web"]);
    balancer.put_old_pair("web").await;
    balancer.start();
    let closed = format!("127.0.0.1:{}", free_port());
    let elsewhere = [balancer.endpoint(), closed.clone()].map(|e| e.parse().unwrap()).to_vec();
    let asked = Probe { elsewhere, ..probe(&nginx) };
    let engine =
        world.builder().await.target("web", TargetDeclaration::from(nginx.config("web")).probe_with(asked));
    let engine = engine.build().await.unwrap();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    let deployment = deployment(&engine, &certificate).await;
    assert_eq!(deployment.state, DeploymentState::Unproved, "{:?}", deployment.error);
    assert_eq!(deployment.warnings.len(), 2, "{:?}", deployment.warnings);
    for endpoint in [&balancer.endpoint(), &closed] {
        let warned = |warning: &String| warning.contains(endpoint) && warning.contains("elsewhere");
        assert!(deployment.warnings.iter().any(warned), "{:?}", deployment.warnings);
    }
    let served = nginx.served("web").await.unwrap();
    assert_eq!(Some(served.leaf().serial()), certificate.serial.as_ref());

    // Once it shows the new one, all is proved.
    fs::copy(nginx.cert("web"), balancer.cert("web")).unwrap();
    fs::copy(nginx.key("web"), balancer.key("web")).unwrap();
    balancer.reload_until("web", served.leaf()).await;
    let asked = Probe { elsewhere: vec![balancer.endpoint().parse().unwrap()], ..probe(&nginx) };
    drop(engine);
    let engine =
        world.builder().await.target("web", TargetDeclaration::from(nginx.config("web")).probe_with(asked));
    let engine = engine.build().await.unwrap();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_proved(&*crate::world::deployment(&engine, &certificate).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_everything_and_touches_nothing() {
    if !has_nginx() {
        return;
    }
    let (world, nginx) = started().await;
    // Owned by somebody else, and wider open than a key may be.
    let owner = if is_root() { (1234, 4321) } else { (own(&nginx).0, own(&nginx).1) };
    std::os::unix::fs::chown(nginx.key("web"), Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(nginx.key("web"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let old = nginx.served("web").await.unwrap();
    let ran = nginx.dir.join("ran");
    let log = |rest: &str| format!("echo {rest} >> {}; exec {}", ran.display(), nginx.command(rest));
    let fails = nginx.script("fails", &format!("echo fails >> {}; exit 1", ran.display()));
    let validate = nginx.script("validate", &log("-t"));
    let config = |validate: &str| Config {
        chain_path: Some(nginx.tls().join("chain.pem").to_str().unwrap().to_owned()),
        validate_command: validate.into(),
        reload_command: nginx.script("reload", &log("-s reload")).as_str().into(),
        ..nginx.config("web")
    };
    // A version that can't be deployed yet, so that there is something to plan for.
    let engine = engine(&world, &nginx, config(&fails)).await;
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Partial);
    drop(engine);
    fs::remove_file(&ran).unwrap();
    let engine = self::engine(&world, &nginx, config(&validate)).await;
    let before = facts(&nginx);

    let plans = engine.plan(&me(), "web").await.unwrap();

    assert_eq!(facts(&nginx), before, "nothing is touched");
    assert!(!ran.exists(), "no command is run");
    let [plan] = &plans[..] else { panic!("{plans:?}") };
    assert_eq!(&*plan.target, "web");
    let plan = &plan.plan;
    assert_eq!(plan.old, Some(old.leaf().fingerprint()));
    let versions = engine.versions(&certificate.id).await.unwrap();
    assert_eq!(plan.new, Some(versions[0].fingerprint));
    assert_eq!(plan.commands, ["validate", "reload"].map(|name| nginx.dir.join(name).display().to_string()));
    let [cert, chain, key] = &plan.changes[..] else { panic!("{plan:#?}") };
    let (uid, gid) = own(&nginx);
    assert_eq!((cert.what.as_str(), cert.action.as_str()), (nginx.cert("web").to_str().unwrap(), "replace"));
    assert_eq!(cert.owner.as_deref(), Some(&*format!("{uid}:{gid}")));
    assert_eq!((cert.mode_before.as_deref(), cert.mode.as_deref()), (Some("0644"), Some("0644")));
    assert_eq!((chain.action.as_str(), chain.mode_before.as_deref()), ("create", None));
    assert_eq!(key.owner.as_deref(), Some(&*format!("{}:{}", owner.0, owner.1)));
    assert_eq!((key.mode_before.as_deref(), key.mode.as_deref()), (Some("0644"), Some("0600")));
    assert!(key.note.is_some(), "that it is closed is said");

    // What was planned is what is done.
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    let done = deployment(&engine, &certificate).await;
    assert_eq!(done.changed.as_ref(), Some(plan));
    let facts = fs::metadata(nginx.key("web")).unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o777), (owner.0, owner.1, 0o600));
    let commands = fs::read_to_string(&ran).unwrap();
    assert_eq!(commands.lines().collect::<Vec<_>>(), ["-t", "-t", "-s reload"], "before, after, reload");
    let plans = engine.plan(&me(), "web").await.unwrap();
    assert!(plans[0].plan.changes.is_empty() && plans[0].plan.commands.is_empty(), "{plans:?}");
}

/// A directory, and an nginx with somebody else's pair in it.
async fn started() -> (World, Nginx) {
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    nginx.put_old_pair("web").await;
    nginx.start();
    (world, nginx)
}

async fn engine(world: &World, nginx: &Nginx, config: Config) -> Engine {
    let target = config.probe([nginx.endpoint()]);
    world.builder().await.target("web", target).build().await.unwrap()
}

/// How often the audit trail says this.
async fn count(engine: &Engine, action: &str) -> usize {
    let query = Query::of::<AuditEvent>().filter("action", Test::Equal, action).limit(1000);
    engine.store().list::<AuditEvent>(query).await.unwrap().0.len()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0)
}

fn own(nginx: &Nginx) -> (u32, u32) {
    let facts = fs::metadata(&nginx.dir).unwrap();
    (facts.uid(), facts.gid())
}

/// Everything about the directory with the pair that a write would change.
fn facts(nginx: &Nginx) -> Vec<(String, u64, i64, i64, u32, u32, Vec<u8>)> {
    let mut all = Vec::new();
    for name in nginx.listing().into_iter().chain([".".to_owned()]) {
        let path = nginx.tls().join(&name);
        let facts = fs::metadata(&path).unwrap();
        let content = if facts.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        all.push((name, facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.mode(), facts.uid(), content));
    }
    all
}

/// A client that trusts one CA and nobody else, and checks names and dates as browsers do.
#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    endpoint: String,
}

impl Client {
    async fn new(engine: &Engine, nginx: &Nginx) -> Self {
        Self::trusting(&engine.trust_anchors("local").await.unwrap(), nginx)
    }

    pub fn trusting(anchors: &[X509Certificate], nginx: &Nginx) -> Self {
        let mut roots = RootCertStore::empty();
        for anchor in anchors {
            roots.add(CertificateDer::from(anchor.der().to_vec())).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)), endpoint: nginx.endpoint() }
    }

    /// One request over a connection of its own: the serial of the certificate that it was answered over.
    pub async fn request(&self) -> SerialNumber {
        let tcp = TcpStream::connect(&self.endpoint).await.expect("somebody listens");
        let name = ServerName::try_from("web.test").unwrap();
        let mut stream = self.tls.connect(name, tcp).await.expect("the handshake succeeds");
        let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let request = b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("the request is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the answer comes whole");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello from web\n"), "{answer}");
        X509Certificate::from_der(&leaf).unwrap().serial().clone()
    }
}
