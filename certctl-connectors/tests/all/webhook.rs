//! The webhook, with a server that answers as a script says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use certctl_connectors::notifiers::Webhook;
use certctl_core::{
    Clock, Context, Effect, Env, ErrorKind, Notification, Notifier, Retry, Secret, SecretRef, Severity,
    connectors::{NotifierConfig, read_config},
    testkit::{clock::TestClock, notifier::conformance},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What the server was sent: its head, and its body.
#[derive(Clone, Debug)]
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

#[derive(Clone, Debug, Default)]
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    /// What is answered next; 204 after that. Nothing at all: the connection breaks.
    answers: Arc<Mutex<VecDeque<&'static str>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook/t0ken", listener.local_addr().unwrap());
        let server = Self { url, ..Self::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut all = Vec::new();
                let request = loop {
                    if let Some(request) = whole(&all) {
                        break request;
                    }
                    let mut piece = [0; 4096];
                    match stream.read(&mut piece).await {
                        Ok(length @ 1..) => all.extend_from_slice(&piece[..length]),
                        _ => panic!("the request is cut off"),
                    }
                };
                serving.requests.lock().unwrap().push(request);
                let answer = serving.answers.lock().unwrap().pop_front().unwrap_or("204 No Content");
                if !answer.is_empty() {
                    let answer =
                        format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        });
        server
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn answer(&self, answer: &'static str) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn notifier(&self, secret: Option<&str>) -> Arc<dyn Notifier> {
        let secret = secret.map(|secret| SecretRef::from(Secret::new(secret)));
        Webhook { url: self.url.clone(), secret, ca_file: None }.connect(Env::in_memory()).unwrap()
    }
}

fn whole(all: &[u8]) -> Option<Request> {
    let end = all.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let request = Request { head, body: all[end + 4..].to_vec() };
    let length: usize = request.header("content-length").unwrap().parse().unwrap();
    (request.body.len() >= length).then_some(request)
}

fn context() -> Context {
    Context::new(Arc::new(TestClock::default()))
}

fn notification() -> Notification {
    Notification::new(TestClock::default().now(), Severity::Warning, "web.test: 14 days left", "Renew it.")
}

#[tokio::test]
async fn it_conforms() {
    let server = Server::start().await;
    let delivered = || {
        let text = |request: &Request| {
            let told: Notification = serde_json::from_slice(&request.body).unwrap();
            format!("{}\n{}", told.subject, told.body)
        };
        server.requests().iter().map(text).collect()
    };
    conformance(&*server.notifier(None), &context(), &delivered).await;
}

#[tokio::test]
async fn a_request_proves_where_it_comes_from() {
    let server = Server::start().await;
    let told = notification();
    server.notifier(Some("s3cret")).notify(&context(), &told).await.unwrap();
    server.notifier(None).notify(&context(), &told).await.unwrap();
    let [signed, plain] = &server.requests()[..] else { panic!("two requests") };
    assert!(signed.head.starts_with("POST /hook/t0ken HTTP/1.1\r\n"), "{}", signed.head);
    assert_eq!(signed.header("content-type"), Some("application/json"));
    assert_eq!(signed.header("certctl-delivery"), Some(told.id.as_str()));
    assert_eq!(serde_json::from_slice::<Notification>(&signed.body).unwrap(), told);
    assert_eq!(plain.header("certctl-signature"), None);

    // As a receiver checks it: over the time and the body, so that neither can be changed.
    let header = signed.header("certctl-signature").unwrap();
    let (time, code) = header.split_once(",v1=").unwrap();
    let seconds = time.strip_prefix("t=").unwrap();
    assert_eq!(seconds, TestClock::default().now().as_secs().to_string());
    let code: Vec<u8> =
        (0..code.len()).step_by(2).map(|at| u8::from_str_radix(&code[at..at + 2], 16).unwrap()).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
    let message = [seconds.as_bytes(), b".", &signed.body].concat();
    hmac::verify(&key, &message, &code).unwrap();
    let all = format!("{}{}", signed.head, String::from_utf8_lossy(&signed.body));
    assert!(!all.contains("s3cret"));
}

#[tokio::test]
async fn an_answer_says_whether_to_try_again() {
    let server = Server::start().await;
    let now = TestClock::default().now();
    let minute = Retry::After(now + Duration::from_secs(60));
    for (answer, kind, retry, effect) in [
        ("400 Bad Request", ErrorKind::Invalid, Retry::Never, Effect::None),
        ("401 Unauthorized", ErrorKind::Denied, Retry::Never, Effect::None),
        ("404 Not Found", ErrorKind::Invalid, Retry::Never, Effect::None),
        ("307 Temporary Redirect\r\nLocation: /elsewhere", ErrorKind::Invalid, Retry::Never, Effect::None),
        ("429 Too Many Requests\r\nRetry-After: 60", ErrorKind::RateLimited, minute, Effect::None),
        ("429 Too Many Requests", ErrorKind::RateLimited, Retry::Backoff, Effect::None),
        ("503 Service Unavailable\r\nRetry-After: 60", ErrorKind::Unavailable, minute, Effect::Unknown),
        ("500 Internal Server Error", ErrorKind::Unavailable, Retry::Backoff, Effect::Unknown),
        ("", ErrorKind::Unavailable, Retry::Backoff, Effect::Unknown),
    ] {
        server.answer(answer);
        let before = server.requests().len();
        let error = server.notifier(Some("s3cret")).notify(&context(), &notification()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry(), error.effect()),
            (kind, retry, effect),
            "{answer}: {error:?}"
        );
        assert_eq!(server.requests().len(), before + 1, "it follows nothing, and tries nothing twice");
        // A path may be as good as a password.
        assert!(!format!("{error:?} {error}").contains("t0ken"), "{error:?}");
    }
    // Nobody listens: nothing has gone out.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    let nobody = Webhook { url, ..Webhook::default() }.connect(Env::in_memory()).unwrap();
    let error = nobody.notify(&context(), &notification()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
}

#[test]
fn an_address_is_https_or_here() {
    let connectors = certctl_connectors::connectors();
    let kind = connectors.notifier("Webhook").unwrap();
    for good in
        ["https://hooks.example.com/x", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/"]
    {
        kind.check(&json!({ "url": good })).unwrap();
    }
    for bad in [
        "",
        "hooks.example.com",
        "http://hooks.example.com/",
        "http://127.0.0.1.example.com/",
        "http://localhost.example.com/",
        "ftp://localhost/",
        "file:///etc/passwd",
        "https://user:secret@example.com/",
    ] {
        let error = kind.check(&json!({ "url": bad })).unwrap_err();
        assert_eq!(error.violations()[0].pointer, "/url", "{bad}");
        assert!(!error.to_string().contains("secret@"), "{error}");
    }
    let unknown = read_config::<Webhook>(&json!({ "url": "https://x.test", "secrets": "x" })).unwrap_err();
    assert_eq!(unknown.violations()[0].pointer, "/secrets");
    // A secret in clear is never written back.
    let config = Webhook { secret: Some(SecretRef::env("HOOK")), ..Webhook::default() };
    let written: Value = serde_json::to_value(&config).unwrap();
    assert_eq!(written["secret"], json!({ "env": "HOOK" }));
}
