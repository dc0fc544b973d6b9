//! A server with TLS that answers as it is told, for each path on its own.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
};

use certctl_cli::Environment;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::shell::environment;

/// What the server does when it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Json(u16, Value),
    Pem(&'static str),
    /// Closes the connection without a word.
    HangUp,
    /// Never says anything.
    Silence,
}

/// Runs in threads of its own, so that the program under test may block the test's.
pub(crate) struct Scripted {
    pub(crate) url: String,
    pub(crate) ca: tempfile::NamedTempFile,
    script: Arc<Mutex<Script>>,
    runtime: Option<Runtime>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        // A test that is asynchronous itself may not wait for the threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Default)]
struct Script {
    /// For `METHOD path`, without `/api/v1` and the query: the answers in turn, the last one for ever.
    answers: HashMap<String, Vec<Answer>>,
    asked: Vec<Request>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `METHOD path?query`, without `/api/v1`.
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Scripted {
    pub(crate) fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(made.cert.pem().as_bytes()).unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let url = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
        let shared = script.clone();
        runtime.spawn(async move {
            let tcp = TcpListener::from_std(tcp).unwrap();
            loop {
                let (stream, _) = tcp.accept().await.unwrap();
                let (acceptor, script) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Some(request) = read_request(&mut stream).await else { return };
                    let answer = script.lock().unwrap().answer(request);
                    let (status, kind, body) = match answer {
                        Answer::Json(status, body) if status < 400 => (status, "application/json", body.to_string()),
                        Answer::Json(status, body) => (status, "application/problem+json", body.to_string()),
                        Answer::Pem(pem) => (200, "application/pem-certificate-chain", pem.to_owned()),
                        Answer::HangUp => return,
                        Answer::Silence => std::future::pending().await,
                    };
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { url, ca, script, runtime: Some(runtime) }
    }

    /// Answers `METHOD path` so, in turn.
    pub(crate) fn on(self, what: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.script.lock().unwrap().answers.insert(what.to_owned(), answers.into_iter().collect());
        self
    }

    /// Answers `METHOD path` with this, always.
    pub(crate) fn says(self, what: &str, body: Value) -> Self {
        self.on(what, [Answer::Json(200, body)])
    }

    /// What an operator's shell has.
    pub(crate) fn environment(&self) -> Environment {
        environment(&[
            (Environment::SERVER_URL, &self.url),
            (Environment::CA_FILE, self.ca.path().to_str().unwrap()),
            (Environment::API_KEY, "certctl_1_secret"),
        ])
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.script.lock().unwrap().asked.clone()
    }

    /// The body of the one request with this beginning.
    pub(crate) fn body_of(&self, what: &str) -> Value {
        let asked = self.asked();
        let found: Vec<_> = asked.iter().filter(|request| request.line.starts_with(what)).collect();
        assert_eq!(found.len(), 1, "{what}: {asked:?}");
        found[0].body.clone()
    }
}

impl Script {
    fn answer(&mut self, request: Request) -> Answer {
        let path = request.line.split('?').next().unwrap().to_owned();
        let before = self.asked.iter().filter(|known| known.line.split('?').next() == Some(&path)).count();
        self.asked.push(request);
        match self.answers.get(&path) {
            Some(answers) => answers[before.min(answers.len() - 1)].clone(),
            None => problem(404, "not_found", &format!("nobody has scripted {path}")),
        }
    }
}

/// A refusal of this kind.
pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let body = json!({ "title": "t", "status": status, "detail": detail, "kind": kind, "retry": "never" });
    Answer::Json(status, body)
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Request> {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.ok()?;
        if n == 0 {
            return None;
        }
        read.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            let line = head.lines().next()?.strip_suffix(" HTTP/1.1")?.replacen("/api/v1", "", 1);
            let body = serde_json::from_str(body).unwrap_or_default();
            return Some(Request { line, head: head.to_owned(), body });
        }
    }
}
