//! Who shows the answers to challenges: over real sockets, and to clients that mean no good.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use certctl_connectors::solvers::{
    Http01Listener, Http01Server, Http01Webroot, TlsAlpn01Listener, TlsAlpn01Server,
};
use certctl_core::{
    Challenge, ChallengeKind, Context, Engine, Env, Error, ErrorKind, Home, Retry, Solver, SolverSpec,
    SystemClock,
    connectors::SolverConfig,
    testkit::host::{MemoryHost, OneHost},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_secs(20);

// ---- http-01 on a port of its own ------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_is_served_as_the_ca_asks_for_it() {
    let server = http_server();
    let challenge = http("web.test", "tok-en_1");
    server.present(&cx(), &challenge).await.unwrap();
    let at = server.local_addr().await.unwrap();
    let answer = ask(at, "GET /.well-known/acme-challenge/tok-en_1 HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\ntok-en_1.thumbprint"), "{answer}");
    let head = ask(at, "HEAD /.well-known/acme-challenge/tok-en_1 HTTP/1.1\r\nHost: web.test\r\n\r\n").await;
    assert_eq!(head, answer.strip_suffix("tok-en_1.thumbprint").unwrap());
    let old = ask(at, "GET /.well-known/acme-challenge/tok-en_1 HTTP/1.0\r\n\r\n").await;
    assert_eq!(old, answer);
}

#[tokio::test]
async fn nothing_else_is_served() {
    let server = http_server();
    server.present(&cx(), &http("web.test", "token")).await.unwrap();
    let at = server.local_addr().await.unwrap();
    for request in [
        "GET / HTTP/1.1",
        "GET /.well-known/acme-challenge/ HTTP/1.1",
        "GET /.well-known/acme-challenge/other HTTP/1.1",
        "GET /.well-known/acme-challenge/TOKEN HTTP/1.1",
        "GET /.well-known/acme-challenge/token/ HTTP/1.1",
        "GET /.well-known/acme-challenge/../acme-challenge/token HTTP/1.1",
        "GET /etc/passwd HTTP/1.1",
        "POST /.well-known/acme-challenge/token HTTP/1.1",
        "DELETE /.well-known/acme-challenge/token HTTP/1.1",
    ] {
        let answer = ask(at, &format!("{request}\r\nHost: web.test\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{request}: {answer}");
        assert!(!answer.contains("thumbprint"));
    }
    for request in ["GET /.well-known/acme-challenge/token", "GET  / HTTP/1.1", "\0\0\0", "GET / SPDY/3", ""]
    {
        let answer = ask(at, &format!("{request}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{request}: {answer}");
    }
    // Larger than any head, and one that never ends but is shut.
    let answer = ask(at, &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000))).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let answer = ask(at, "GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost:").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
}

#[tokio::test]
async fn only_the_first_request_of_a_connection_is_answered() {
    let server = http_server();
    server.present(&cx(), &http("web.test", "token")).await.unwrap();
    let request = "GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: web.test\r\n\r\n";
    let answer = ask(server.local_addr().await.unwrap(), &request.repeat(50)).await;
    assert_eq!(answer.matches("thumbprint").count(), 1);
    assert!(answer.contains("\r\nconnection: close\r\n"));
}

#[tokio::test]
async fn it_listens_only_while_there_is_something_to_answer() {
    let server = http_server();
    assert_eq!(server.local_addr().await, None);
    let (first, second) = (http("web.test", "one"), http("www.test", "two"));
    for one in [&first, &second, &second] {
        server.present(&cx(), one).await.unwrap();
    }
    let at = server.local_addr().await.unwrap();
    let get = async |token: &str| {
        ask(at, &format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\n\r\n")).await
    };
    assert!(get("one").await.contains("one.thumbprint") && get("two").await.contains("two.thumbprint"));
    server.retract(&cx(), &second).await.unwrap();
    server.retract(&cx(), &http("never.test", "shown")).await.unwrap();
    assert!(get("two").await.starts_with("HTTP/1.1 404"));
    assert!(get("one").await.contains("one.thumbprint"));
    server.retract(&cx(), &first).await.unwrap();
    assert_eq!(server.local_addr().await, None);
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
    TcpListener::bind(at).await.expect("the port is free as soon as that returns");
    server.retract(&cx(), &first).await.expect("twice is fine");

    server.present(&cx(), &first).await.expect("and it can begin again");
    assert!(server.local_addr().await.is_some());
}

#[tokio::test]
async fn a_token_for_two_names_stays_until_both_are_gone() {
    let server = http_server();
    let (first, second) = (http("web.test", "token"), http("www.test", "token"));
    server.present(&cx(), &first).await.unwrap();
    server.present(&cx(), &second).await.unwrap();
    let at = server.local_addr().await.unwrap();
    server.retract(&cx(), &first).await.unwrap();
    let answer = ask(at, "GET /.well-known/acme-challenge/token HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("token.thumbprint"));
}

#[tokio::test]
async fn clients_that_hold_connections_do_not_keep_the_ca_out() {
    let server = http_server();
    server.present(&cx(), &http("web.test", "token")).await.unwrap();
    let at = server.local_addr().await.unwrap();
    let mut held = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // Some say nothing, some begin, some never end.
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /.well-known/acme").await.unwrap(),
            _ => stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap(),
        }
        held.push(stream);
    }
    let answer = ask(at, "GET /.well-known/acme-challenge/token HTTP/1.1\r\n\r\n").await;
    assert!(answer.ends_with("token.thumbprint"));
    // Those who came first had to go.
    let mut rest = Vec::new();
    let gone = tokio::time::timeout(DEADLINE, held[0].read_to_end(&mut rest)).await;
    assert!(gone.is_ok() && rest.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_go_on_is_let_go() {
    let server = http_server();
    server.present(&cx(), &http("web.test", "token")).await.unwrap();
    let mut stream = TcpStream::connect(server.local_addr().await.unwrap()).await.unwrap();
    stream.write_all(b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it ends in time").unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn requests_at_the_same_time_are_all_answered() {
    let server = Arc::new(http_server());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..64 {
        let server = server.clone();
        tasks.spawn(async move {
            let challenge = http("web.test", &format!("t{number}"));
            server.present(&cx(), &challenge).await.unwrap();
            let at = server.local_addr().await.unwrap();
            let token = &challenge.token;
            let answer = ask(at, &format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\n\r\n")).await;
            assert!(answer.ends_with(&challenge.key_authorization), "{answer}");
            server
        });
    }
    tasks.join_all().await;
    for number in 0..64 {
        server.retract(&cx(), &http("web.test", &format!("t{number}"))).await.unwrap();
    }
    assert_eq!(server.local_addr().await, None);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_what_helps() {
    let taken = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let server = Http01Server::new(&Http01Listener { address: Some(LOOPBACK), port });
    let refused = server.present(&cx(), &http("web.test", "token")).await.unwrap_err();
    assert_taken(&refused, port);
    assert!(refused.message().contains("http01_webroot"), "{refused}");
    let server = TlsAlpn01Server::new(&TlsAlpn01Listener { address: Some(LOOPBACK), port });
    assert_taken(&server.present(&cx(), &tls("web.test", "token")).await.unwrap_err(), port);
    drop(taken);
    server.present(&cx(), &tls("web.test", "token")).await.expect("it is free now");
}

#[tokio::test]
async fn a_token_with_other_characters_is_refused() {
    let server = http_server();
    for token in ["", "../../etc/passwd", "a/b", "a b", "a\r\nX: y", &"x".repeat(300)] {
        let refused = server.present(&cx(), &http("web.test", token)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{token}");
    }
    assert_eq!(server.local_addr().await, None);
}

#[tokio::test]
async fn all_addresses_are_the_default() {
    let server = Http01Server::new(&Http01Listener { port: 0, ..Http01Listener::default() });
    server.present(&cx(), &http("web.test", "token")).await.unwrap();
    let at = server.local_addr().await.unwrap();
    assert!(at.ip().is_unspecified());
    let answer =
        ask((LOOPBACK, at.port()).into(), "GET /.well-known/acme-challenge/token HTTP/1.1\r\n\r\n").await;
    assert!(answer.ends_with("token.thumbprint"));
}

// ---- http-01 as files --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn answers_are_files_below_the_document_root() {
    let host = MemoryHost::default();
    host.put_dir("/srv/www");
    let webroot = webroot(&host, "/srv/www").await.unwrap();
    let challenge = http("web.test", "tok-en_1");
    let path = "/srv/www/.well-known/acme-challenge/tok-en_1";
    for _ in 0..2 {
        webroot.present(&cx(), &challenge).await.unwrap();
        assert_eq!(host.content(path).unwrap(), b"tok-en_1.thumbprint");
    }
    let mode = async |path: &str| {
        use certctl_core::host::Host;
        host.stat(&path.parse().unwrap()).await.unwrap().unwrap().mode
    };
    assert_eq!(mode(path).await, 0o644);
    assert_eq!(mode("/srv/www/.well-known").await, 0o755);
    assert_eq!(mode("/srv/www/.well-known/acme-challenge").await, 0o755);
    webroot.present(&cx(), &http("www.test", "two")).await.unwrap();
    for _ in 0..2 {
        webroot.retract(&cx(), &challenge).await.unwrap();
        assert_eq!(host.files(), ["/srv/www/.well-known/acme-challenge/two"]);
    }
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_document_root() {
    let host = MemoryHost::default();
    host.put_dir("/srv/www");
    host.put_dir("/etc");
    let before = host.files();
    let solver = webroot(&host, "/srv/www").await.unwrap();
    for token in ["../../../../etc/cron", "a/b", "..", ".", "", "a\0b", "a%2fb"] {
        for refused in [
            solver.present(&cx(), &http("web.test", token)).await,
            solver.retract(&cx(), &http("web.test", token)).await,
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{token}");
        }
    }
    assert_eq!(host.files(), before);

    let solver = webroot(&host, "/srv/other").await.unwrap();
    let refused = solver.present(&cx(), &http("web.test", "token")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert!(refused.message().contains("/srv/other"), "{refused}");
    assert_eq!(host.files(), before);
}

// ---- tls-alpn-01 on a port of its own ---------------------------------------------------------------------------------------

#[tokio::test]
async fn the_ca_is_shown_the_challenge_and_nobody_else_anything() {
    let server = TlsAlpn01Server::new(&TlsAlpn01Listener { address: Some(LOOPBACK), port: 0 });
    let (first, second) = (tls("web.test", "one"), tls("192.0.2.7", "two"));
    server.present(&cx(), &first).await.unwrap();
    server.present(&cx(), &second).await.unwrap();
    let at = server.local_addr().await.unwrap();
    for (asked, key_authorization) in
        [("web.test", "one.thumbprint"), ("7.2.0.192.in-addr.arpa", "two.thumbprint")]
    {
        let shown = client::certificate(at, asked, &["acme-tls/1"]).await.unwrap();
        assert!(client::has_digest_of(&shown, key_authorization));
    }
    for (asked, protocols) in [
        ("other.test", &["acme-tls/1"][..]),
        ("web.test", &[]),
        ("web.test", &["h2"]),
        ("web.test", &["acme-tls/1", "h2"]),
    ] {
        assert!(client::certificate(at, asked, protocols).await.is_err(), "{asked} {protocols:?}");
    }
    server.retract(&cx(), &first).await.unwrap();
    assert!(client::certificate(at, "web.test", &["acme-tls/1"]).await.is_err());
    server.retract(&cx(), &second).await.unwrap();
    assert_eq!(server.local_addr().await, None);
    TcpListener::bind(at).await.expect("the port is free");
}

// ---- configuration ------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn configurations_are_checked_and_built() {
    let connectors = certctl_connectors::connectors();
    for (kind, config) in [
        ("http01_listener", serde_json::json!({})),
        ("http01_listener", serde_json::json!({ "address": "127.0.0.1", "port": 8080 })),
        ("tls_alpn01_listener", serde_json::json!({ "port": 8443 })),
        ("tls_alpn01_listener", serde_json::json!({ "address": "::1" })),
    ] {
        connectors.solver(kind).unwrap().connect(&config, Env::in_memory()).await.unwrap();
    }
    connectors.solver("http01_webroot").unwrap().check(&serde_json::json!({ "path": "/srv/www" })).unwrap();
    for (kind, config, pointer) in [
        ("http01_listener", serde_json::json!({ "port": 0 }), "/port"),
        ("http01_listener", serde_json::json!({ "port": 70000 }), "/port"),
        ("http01_listener", serde_json::json!({ "address": "web.test" }), "/address"),
        ("http01_webroot", serde_json::json!({}), "/path"),
        ("http01_webroot", serde_json::json!({ "path": "www" }), "/path"),
        ("http01_webroot", serde_json::json!({ "path": "/srv/../etc" }), "/path"),
        ("tls_alpn01_listener", serde_json::json!({ "port": 0 }), "/port"),
    ] {
        let refused = connectors.solver(kind).unwrap().check(&config).unwrap_err();
        let pointers: Vec<_> = refused.violations().iter().map(|wrong| wrong.pointer.as_str()).collect();
        assert_eq!(pointers, [pointer], "{config}");
    }
    assert_eq!(SolverSpec::of(&Http01Listener::default()).unwrap().config["port"], 80);
    assert_eq!(SolverSpec::of(&TlsAlpn01Listener::default()).unwrap().config["port"], 443);
}

#[tokio::test]
async fn two_issuers_share_a_port() {
    let home = Home { connectors: certctl_connectors::connectors(), ..Home::in_memory() };
    let engine = Engine::builder(home).build().await.unwrap();
    let of = async |owner: &str, port| {
        let spec = SolverSpec::of(&Http01Listener { address: Some(LOOPBACK), port }).unwrap();
        engine.catalog().solver(&SolverSpec { owner: Some(owner.into()), ..spec }).await.unwrap()
    };
    let first = of("iss-acme-prod", 8080).await;
    assert!(Arc::ptr_eq(&first, &of("iss-acme-staging", 8080).await));
    assert!(!Arc::ptr_eq(&first, &of("iss-acme-prod", 8081).await));
    // It may be showing answers: many others don't displace it.
    for port in 9_000..9_200 {
        of("iss-other", port).await;
    }
    assert!(Arc::ptr_eq(&first, &of("iss-acme-prod", 8080).await));
}

#[track_caller]
fn assert_taken(refused: &Error, port: u16) {
    assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Precondition, Retry::Backoff));
    assert_eq!(refused.context_value("address"), Some("127.0.0.1"));
    assert_eq!(refused.context_value("port"), Some(&*port.to_string()));
    for part in ["127.0.0.1", &port.to_string(), "another program listens there", "another port"] {
        assert!(refused.message().contains(part), "{part}: {refused}");
    }
}

fn http_server() -> Http01Server {
    Http01Server::new(&Http01Listener { address: Some(LOOPBACK), port: 0 })
}

async fn webroot(host: &MemoryHost, path: &str) -> certctl_core::Result<Arc<dyn Solver>> {
    let mut env = Env::in_memory();
    env.hosts = Arc::new(OneHost(Arc::new(host.clone())));
    Http01Webroot { path: path.to_owned(), host: None }.connect(env).await
}

fn http(name: &str, token: &str) -> Challenge {
    challenge(ChallengeKind::Http01, name, token)
}

fn tls(name: &str, token: &str) -> Challenge {
    challenge(ChallengeKind::TlsAlpn01, name, token)
}

fn challenge(kind: ChallengeKind, name: &str, token: &str) -> Challenge {
    Challenge {
        kind,
        name: name.parse().unwrap(),
        token: token.to_owned(),
        key_authorization: format!("{token}.thumbprint"),
        txt: None,
        solver: None,
    }
}

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

/// What comes back for these bytes, until the server closes.
async fn ask(at: SocketAddr, request: &str) -> String {
    let asking = async {
        let (mut read, mut write) = TcpStream::connect(at).await.unwrap().into_split();
        write.write_all(request.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    tokio::time::timeout(DEADLINE, asking).await.expect("it answers in time")
}

mod client {
    use std::net::SocketAddr;

    use certctl_core::testkit::tls::connect;
    use tokio::net::TcpStream;

    /// What is shown to a client that asks for this name and offers these protocols.
    pub(super) async fn certificate(
        at: SocketAddr,
        name: &str,
        protocols: &[&str],
    ) -> std::io::Result<Vec<u8>> {
        let (_, mut shown) = connect(TcpStream::connect(at).await?, name, protocols).await?;
        Ok(shown.remove(0))
    }

    /// Whether the octets that RFC 8737 section 3 wants are in it.
    pub(super) fn has_digest_of(certificate: &[u8], key_authorization: &str) -> bool {
        let digest = certctl_protocols::acme::wire::tls_alpn01_digest(key_authorization);
        // The OID, critical, and an OCTET STRING in an OCTET STRING.
        let mut wanted = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x01\x1f\x01\x01\xff\x04\x22\x04\x20".to_vec();
        wanted.extend(digest);
        certificate.windows(wanted.len()).any(|part| part == wanted)
    }
}
