//! http-01 (RFC 8555 section 8.3) on a port of our own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use certctl_core::{
    Challenge, ChallengeKind, Context, Env, Result, Solver, Violation, connectors::SolverConfig,
};
use certctl_protocols::acme::wire::check_token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

use super::listening::Listening;

/// Answers http-01 challenges on a port of its own, which is open only while there is something to answer.
///
/// The CA asks on port 80; another port is for those who pass port 80 on to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http01Listener {
    /// Where to listen; by default on all addresses, of IPv6 and IPv4.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Default for Http01Listener {
    fn default() -> Self {
        Self { address: None, port: 80 }
    }
}

#[async_trait]
impl SolverConfig for Http01Listener {
    const KIND: &'static str = "http01_listener";
    const SHARED: bool = true;

    fn check(&self) -> Vec<Violation> {
        super::listening::check_port(self.port, 80)
    }

    async fn connect(self, _: Env) -> Result<Arc<dyn Solver>> {
        Ok(Arc::new(Http01Server::new(&self)))
    }
}

/// What an [`Http01Listener`] becomes.
#[derive(Debug)]
pub struct Http01Server {
    answers: Arc<Answers>,
    listening: Mutex<Listening>,
}

impl Http01Server {
    /// With nothing to answer. A port of 0 takes a free one.
    pub fn new(listener: &Http01Listener) -> Self {
        let answers = Arc::new(Answers::default());
        let shown = answers.clone();
        let serve = Arc::new(move |stream: TcpStream| {
            let shown = shown.clone();
            Box::pin(async move {
                // A client that breaks off is its own concern.
                let _ = answer(stream, &shown).await;
            }) as _
        });
        Self { answers, listening: Mutex::new(Listening::new(listener.address, listener.port, serve)) }
    }

    /// Where it listens; none while there is nothing to answer.
    pub async fn local_addr(&self) -> Option<SocketAddr> {
        self.listening.lock().await.local_addr()
    }
}

#[async_trait]
impl Solver for Http01Server {
    fn solves(&self, challenge: &Challenge) -> bool {
        challenge.kind == ChallengeKind::Http01
    }

    async fn present(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        check_token(&challenge.token)?;
        let mut listening = self.listening.lock().await;
        listening
            .start("use the solver http01_webroot, or another port to which port 80 is passed on")
            .await
            .map_err(|e| e.with("name", &challenge.name))?;
        self.answers.add(challenge);
        Ok(())
    }

    async fn retract(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        let mut listening = self.listening.lock().await;
        if self.answers.remove(challenge) {
            listening.stop().await;
        }
        Ok(())
    }
}

/// Key authorizations by token, with the names that they are shown for.
#[derive(Debug, Default)]
struct Answers(RwLock<HashMap<String, (String, Vec<String>)>>);

impl Answers {
    fn add(&self, challenge: &Challenge) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (answer, names) = all.entry(challenge.token.clone()).or_default();
        answer.clone_from(&challenge.key_authorization);
        let name = challenge.name.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }

    /// Whether nothing is left.
    fn remove(&self, challenge: &Challenge) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = all.get_mut(&challenge.token) {
            let name = challenge.name.to_string();
            names.retain(|other| *other != name);
            if names.is_empty() {
                all.remove(&challenge.token);
            }
        }
        all.is_empty()
    }

    fn find(&self, token: &str) -> Option<String> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(token).map(|(answer, _)| answer.clone())
    }
}

/// How large a request's head may be.
const HEAD: usize = 8 << 10;
/// How much a client may send after its request, so that it gets to read the answer.
const REST: usize = 64 << 10;
/// How long it may take to close the connection.
const LINGER: Duration = Duration::from_secs(1);

/// One request, one answer.
async fn answer(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    let complete = loop {
        if head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            break true;
        }
        let room = HEAD - head.len();
        if room == 0 || (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            break false;
        }
    };
    let reply = if complete { reply(&head, answers) } else { plain("400 Bad Request", true) };
    stream.write_all(&reply).await?;
    stream.shutdown().await?;
    // Closing while something is unread would reset the connection, and the client might not see the answer.
    let rest = async {
        let (mut block, mut left) = ([0; 1024], REST);
        while left > 0 {
            match stream.read(&mut block).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(LINGER, rest).await.unwrap_or(Ok(()))
}

fn reply(head: &[u8], answers: &Answers) -> Vec<u8> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let mut parts = line.split(' ');
    let (Some(method), Some(path), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return plain("400 Bad Request", true);
    };
    if !version.starts_with("HTTP/1.") {
        return plain("400 Bad Request", true);
    }
    let with_body = method != "HEAD";
    let token =
        path.strip_prefix("/.well-known/acme-challenge/").filter(|_| matches!(method, "GET" | "HEAD"));
    match token.and_then(|token| answers.find(token)) {
        Some(answer) => response("200 OK", "application/octet-stream", &answer, with_body),
        None => plain("404 Not Found", with_body),
    }
}

fn plain(status: &str, with_body: bool) -> Vec<u8> {
    response(status, "text/plain", status, with_body)
}

fn response(status: &str, content_type: &str, body: &str, with_body: bool) -> Vec<u8> {
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\ncache-control: no-store\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
