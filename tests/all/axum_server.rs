//! An axum server with certificates of its own: TLS over the resolver, and http-01 from any process on the store.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use axum::{Router, routing::get};
use certctl::{
    Challenge, ChallengeKind, Context, Engine, Error, ErrorKind, Recovery, TlsResolver,
    axum::TlsListener,
    records::{CertificateStatus, ChallengeToken},
    store::Record,
    testkit::issuer::{Script, ScriptedIssuer},
    tls::{OnDemand, OnDemandLimits},
    worker::{Journal, MemoryJournal, Work, WorkReport, Worker},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    rig::{Rig, actor, spec},
    tls_client::{certificate, connect},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// Gone with the test.
struct Serving(SocketAddr, JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn serve(make: impl FnOnce(TcpListener) -> TlsListener) -> Serving {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let app = Router::new().route("/", get(|| async { "hello" }));
    let listener = make(tcp);
    Serving(at, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

async fn request(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    path: &str,
) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read =
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    read.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_certificate_is_swapped_while_it_serves() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let resolver = Arc::new(TlsResolver::new());
    let server = serve(|tcp| TlsListener::new(tcp, &resolver)).await;
    let (early, stand_in) = connect(server.0, "web.test", &["http/1.1"]).await.unwrap();
    engine.ensure(&actor(), spec()).await.unwrap();
    resolver.install("web", &engine.bundle(&actor(), "web").await.unwrap()).unwrap();
    let (stream, shown) = connect(server.0, "web.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(Some(shown.fingerprint()), resolver.current("web"));
    assert_ne!(shown, stand_in);
    assert!(request(stream, "/").await.ends_with("hello"));
    assert!(request(early, "/").await.ends_with("hello"), "connections that were there before go on");
    let (stream, _) = connect(server.0, "web.test", &[]).await.unwrap();
    assert!(request(stream, "/").await.ends_with("hello"), "clients without ALPN are served");
}

#[tokio::test]
async fn the_ca_is_answered_and_never_served() {
    let resolver = Arc::new(TlsResolver::new());
    // Whatever the configuration says.
    for own in [false, true] {
        let server = serve(|tcp| {
            let listener = TlsListener::new(tcp, &resolver);
            if own { listener.config(resolver.server_config()) } else { listener }
        })
        .await;
        resolver.show_challenge(&"web.test".parse().unwrap(), "a.b").unwrap();
        let (mut stream, shown) = connect(server.0, "web.test", &["acme-tls/1"]).await.unwrap();
        assert_eq!(shown.names(), ["web.test".parse().unwrap()]);
        // It says nothing, and answers nothing.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"");
        resolver.hide_challenge(&"web.test".parse().unwrap(), "a.b");
        assert!(connect(server.0, "web.test", &["acme-tls/1"]).await.is_err());
        assert!(certificate(server.0, "web.test").await.is_ok());
    }
}

#[tokio::test]
async fn clients_that_do_not_get_on_are_no_concern_of_the_others() {
    let server = serve(|tcp| TlsListener::new(tcp, &Arc::new(TlsResolver::new()))).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(server.0).await.unwrap();
        match number % 4 {
            0 => {}
            1 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            2 => stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap(),
            _ => continue,
        }
        held.push(stream);
    }
    for _ in 0..3 {
        let (stream, _) = connect(server.0, "web.test", &["http/1.1"]).await.unwrap();
        assert!(request(stream, "/").await.ends_with("hello"));
    }
}

#[tokio::test]
async fn a_name_gets_its_certificate_at_the_first_handshake() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let engine = rig.engine().await;
    let resolver = Arc::new(TlsResolver::new());
    let on_demand =
        OnDemand::new(&engine, &resolver, "ca", OnDemandLimits::default(), async |name: String| {
            Ok::<_, Error>(name.ends_with(".web.test"))
        });
    let server = serve(|tcp| TlsListener::new(tcp, &resolver).on_demand(on_demand)).await;
    let mut clients = tokio::task::JoinSet::new();
    let at = server.0;
    for number in 0..20 {
        clients.spawn(async move {
            let name = format!("n{}.web.test", number % 2);
            let (stream, shown) = connect(at, &name, &["http/1.1"]).await.unwrap();
            assert_eq!(shown.names(), [name.parse().unwrap()]);
            assert!(request(stream, "/").await.ends_with("hello"));
        });
    }
    clients.join_all().await;
    assert_eq!(rig.ca.issued().len(), 2);
    let refused = connect(at, "other.test", &["http/1.1"]).await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "refused in TLS: {refused}");
    assert!(certificate(at, "n0.web.test").await.is_ok());
}

// ---- http-01 from the store --------------------------------------------------------------------------------------------------

/// Asks the other process on the store as soon as a challenge is shown, as a CA would.
#[derive(Debug)]
struct Watching {
    local: Arc<dyn Worker>,
    replica: SocketAddr,
    ca: Arc<ScriptedIssuer>,
    seen: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Worker for Watching {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> certctl::Result<WorkReport> {
        let shown = if let Work::Present(challenge) = &work { Some(challenge.clone()) } else { None };
        let report = self.local.execute(cx, work, journal).await?;
        if let Some(challenge) = shown {
            let answer = ask(self.replica, &challenge.token).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.contains("content-type: application/octet-stream"), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{}", challenge.key_authorization)), "{answer}");
            let mut seen = self.seen.lock().unwrap();
            seen.push(challenge.token);
            self.ca.set_presented(seen.len() == 2);
        }
        Ok(report)
    }
}

#[tokio::test]
async fn any_process_on_the_store_answers_the_ca() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    rig.ca.script(Script::Challenge);
    let replica = rig.engine().await;
    let server = serve_http01(&replica).await;
    let watching = Arc::new(OnceLock::new());
    let (seen, ca, at) = (watching.clone(), rig.ca.clone(), server.0);
    let orders = rig.builder().answers_http01().worker(move |local| {
        let local: Arc<dyn Worker> = Arc::new(local);
        seen.get_or_init(|| Arc::new(Watching { local, replica: at, ca, seen: Mutex::default() })).clone()
    });
    let orders = orders.build().await.unwrap();
    let certificate = orders.ensure(&actor(), spec().dns("www.web.test")).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active, "{:?}", certificate.reason);
    let seen = watching.get().unwrap().seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    for token in seen {
        assert!(ask(server.0, &token).await.starts_with("HTTP/1.1 404"), "it is taken away afterwards");
    }
}

#[tokio::test]
async fn answers_that_nobody_took_away_end_by_themselves() {
    let rig = Rig::new(Recovery::Idempotent, false).await;
    let watching = Arc::new(OnceLock::new());
    let local = watching.clone();
    let engine = rig.builder().answers_http01().worker(move |worker| {
        let worker: Arc<dyn Worker> = Arc::new(worker);
        local.get_or_init(|| worker).clone()
    });
    let engine = engine.build().await.unwrap();
    let worker: &Arc<dyn Worker> = watching.get().unwrap();
    let cx = Context::new(Arc::new(rig.clock.clone()));
    let do_it = async |work| worker.execute(&cx, work, &MemoryJournal::default()).await;
    let challenge = challenge("token");
    for _ in 0..2 {
        do_it(Work::Present(challenge.clone())).await.unwrap();
        assert_eq!(engine.http01_answer("token").await.unwrap().unwrap(), "token.thumbprint");
    }
    for _ in 0..2 {
        do_it(Work::Retract(challenge.clone())).await.unwrap();
        assert_eq!(engine.http01_answer("token").await.unwrap(), None);
    }
    do_it(Work::Present(challenge.clone())).await.unwrap();
    for other in ["", "TOKEN", "tok", "token/", "../token", &"x".repeat(10_000)] {
        assert_eq!(engine.http01_answer(other).await.unwrap(), None, "{other}");
    }
    for bad in ["", "../../x", "a b", &"x".repeat(300)] {
        let refused = do_it(Work::Present(Challenge { token: bad.to_owned(), ..challenge.clone() })).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
    }

    rig.clock.advance(Duration::from_secs(8 * 86_400));
    assert_eq!(engine.http01_answer("token").await.unwrap(), None);
    let left = async || rig.store.get(ChallengeToken::KIND, &["token"]).await.unwrap().len();
    assert_eq!(left().await, 1);
    let running = crate::world::Running::start(&engine);
    crate::world::eventually(&engine, "the end of an old answer", async || left().await == 0).await;
    running.stop().await;
}

fn challenge(token: &str) -> Challenge {
    Challenge {
        kind: ChallengeKind::Http01,
        name: "web.test".parse().unwrap(),
        token: token.to_owned(),
        key_authorization: format!("{token}.thumbprint"),
        txt: None,
        solver: None,
    }
}

async fn serve_http01(engine: &Engine) -> Serving {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let app = Router::new().route("/", get(|| async { "hello" })).merge(certctl::axum::http01(engine));
    Serving(at, tokio::spawn(async move { axum::serve(tcp, app).await.unwrap() }))
}

async fn ask(at: SocketAddr, token: &str) -> String {
    let stream = TcpStream::connect(at).await.unwrap();
    request(stream, &format!("/.well-known/acme-challenge/{token}")).await
}
