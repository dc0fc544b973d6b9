//! An axum server with certificates of its own: [`TlsListener`] serves TLS with a [`TlsResolver`], and [`http01`]
//! answers the CA on port 80.

use std::{io, net::SocketAddr, sync::Arc};

use ::axum::{
    Router,
    extract::Path,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use certctl_core::{
    Engine, TlsResolver,
    tls::{self, OnDemand},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{rustls, server::TlsStream};

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
pub struct TlsListener(tls::TlsListener);

impl TlsListener {
    /// Serves HTTP/1.1 on this socket.
    pub fn new(tcp: TcpListener, resolver: &Arc<TlsResolver>) -> Self {
        Self(tls::TlsListener::new(tcp, resolver, &["http/1.1"]))
    }

    /// Another configuration, such as one that asks for client certificates, or
    /// [`TlsResolver::server_config_for`]`(["h2", "http/1.1"])` where axum has its feature `http2`. tls-alpn-01 is answered
    /// whatever it says.
    #[must_use]
    pub fn config(self, config: impl Into<Arc<rustls::ServerConfig>>) -> Self {
        Self(self.0.config(config))
    }

    /// Obtains certificates for names that clients ask for. A client whose name gets none is refused.
    #[must_use]
    pub fn on_demand(self, on_demand: OnDemand) -> Self {
        Self(self.0.on_demand(on_demand))
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
