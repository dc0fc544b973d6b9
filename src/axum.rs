//! An axum server with certificates of its own: [`TlsListener`] serves TLS with a [`TlsResolver`], and [`http01`]
//! answers the CA on port 80.

use std::{collections::VecDeque, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use ::axum::{
    Router,
    extract::Path,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use certctl_core::{Engine, TlsResolver, tls::OnDemand};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{LazyConfigAcceptor, rustls, server::TlsStream};

/// Answers http-01 (RFC 8555 section 8.3) at `/.well-known/acme-challenge/{token}`: to be merged into what a program serves on
/// port 80. The answers are in the store, so that any process on the same store gives them; the engine that orders is
/// built with [`EngineBuilder::answers_http01`](certctl_core::EngineBuilder::answers_http01).
pub fn http01<S: Clone + Send + Sync + 'static>(engine: &Engine) -> Router<S> {
    let engine = engine.clone();
    let answer = move |Path(token): Path<String>| {
        let engine = engine.clone();
        async move {
            match engine.http01_answer(&token).await {
                Ok(Some(answer)) => (StatusCode::OK, ANSWER, answer).into_response(),
                Ok(None) => StatusCode::NOT_FOUND.into_response(),
                Err(error) => {
                    tracing::error!(%error, "the answer to a challenge could not be looked up");
                    StatusCode::SERVICE_UNAVAILABLE.into_response()
                }
            }
        }
    };
    Router::new().route("/.well-known/acme-challenge/{token}", get(answer))
}

const ANSWER: [(HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "no-store")];

/// Connections with TLS for `axum::serve`, with the certificates of a [`TlsResolver`]: what is installed there
/// serves from the next handshake on. tls-alpn-01 is answered on the way.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use certctl::TlsResolver;
/// # async fn serve(resolver: Arc<TlsResolver>, app: axum::Router) -> std::io::Result<()> {
/// let port = tokio::net::TcpListener::bind("[::]:443").await?;
/// axum::serve(certctl::axum::TlsListener::new(port, &resolver), app).await
/// # }
/// ```
///
/// Handshakes go on beside each other, each in ten seconds at most; of too many, the oldest ends. A handshake that fails is no
/// concern of the others.
#[derive(Debug)]
pub struct TlsListener {
    tcp: TcpListener,
    handshake: Arc<Handshake>,
    tasks: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    oldest: VecDeque<AbortHandle>,
}

#[derive(Clone, Debug)]
struct Handshake {
    config: Arc<rustls::ServerConfig>,
    challenge: Arc<rustls::ServerConfig>,
    on_demand: Option<OnDemand>,
}

/// How long a client may take for its hello, and for the rest of the handshake.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many handshakes there are at the same time.
const HANDSHAKES: usize = 1_024;

impl TlsListener {
    /// Serves HTTP/1.1 on this socket.
    pub fn new(tcp: TcpListener, resolver: &Arc<TlsResolver>) -> Self {
        let config = Arc::new(resolver.server_config_for(["http/1.1"]));
        let challenge = Arc::new(resolver.challenge_config());
        let handshake = Arc::new(Handshake { config, challenge, on_demand: None });
        Self { tcp, handshake, tasks: JoinSet::new(), oldest: VecDeque::new() }
    }

    /// Another configuration, such as one that asks for client certificates, or
    /// [`TlsResolver::server_config_for`]`(["h2", "http/1.1"])` where axum has its feature `http2`. tls-alpn-01 is answered
    /// whatever it says.
    #[must_use]
    pub fn config(mut self, config: impl Into<Arc<rustls::ServerConfig>>) -> Self {
        self.change(|handshake| handshake.config = config.into());
        self
    }

    /// Obtains certificates for names that clients ask for. A client whose name gets none is refused.
    #[must_use]
    pub fn on_demand(mut self, on_demand: OnDemand) -> Self {
        self.change(|handshake| handshake.on_demand = Some(on_demand));
        self
    }

    fn change(&mut self, change: impl FnOnce(&mut Handshake)) {
        let mut handshake = (*self.handshake).clone();
        change(&mut handshake);
        self.handshake = Arc::new(handshake);
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.oldest.retain(|handshake| !handshake.is_finished());
        if self.oldest.len() >= HANDSHAKES
            && let Some(handshake) = self.oldest.pop_front()
        {
            handshake.abort();
        }
        let handshake = self.handshake.clone();
        self.oldest.push_back(self.tasks.spawn(async move {
            match handshake.run(stream).await {
                Ok(stream) => stream.map(|stream| (stream, peer)),
                Err(error) => {
                    tracing::debug!(%peer, %error, "a handshake failed");
                    None
                }
            }
        }));
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
                // Logs what goes wrong, and waits a little where that helps.
                (stream, peer) = Listener::accept(&mut self.tcp) => self.begin(stream, peer),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

impl Handshake {
    /// None if it was a CA's, which is over with the handshake.
    async fn run(&self, stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let _ = stream.set_nodelay(true);
        let started = timely(LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream)).await?;
        let hello = started.client_hello();
        if TlsResolver::asks_for_challenge(&hello) {
            let mut stream = timely(started.into_stream(self.challenge.clone())).await?;
            timely(stream.shutdown()).await?;
            return Ok(None);
        }
        if let Some(on_demand) = &self.on_demand {
            let name = hello.server_name().map(str::to_owned);
            if let Err(error) = on_demand.prepare(name.as_deref()).await {
                // Knows no such client, and says so in TLS.
                let refused = timely(started.into_stream(self.challenge.clone())).await;
                return refused.and(Err(io::Error::other(error)));
            }
        }
        timely(started.into_stream(self.config.clone())).await.map(Some)
    }
}

async fn timely<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
