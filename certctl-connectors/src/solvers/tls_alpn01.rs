//! tls-alpn-01 (RFC 8737) on a port of our own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use certctl_core::{
    Challenge, Context, Env, Result, Solver, TlsResolver, Violation, connectors::SolverConfig,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Mutex};
use tokio_rustls::TlsAcceptor;

use super::listening::{Listening, check_port};

/// Answers tls-alpn-01 challenges on a port of its own, which is open only while there is something to answer. A program that
/// serves TLS itself answers on its own port instead: register its [`TlsResolver`] as a solver.
///
/// The CA asks on port 443; another port is for those who pass port 443 on to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsAlpn01Listener {
    /// Where to listen; by default on all addresses, of IPv6 and IPv4.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Default for TlsAlpn01Listener {
    fn default() -> Self {
        Self { address: None, port: 443 }
    }
}

#[async_trait]
impl SolverConfig for TlsAlpn01Listener {
    const KIND: &'static str = "tls_alpn01_listener";
    const SHARED: bool = true;

    fn check(&self) -> Vec<Violation> {
        check_port(self.port, 443)
    }

    async fn connect(self, _: Env) -> Result<Arc<dyn Solver>> {
        Ok(Arc::new(TlsAlpn01Server::new(&self)))
    }
}

/// What a [`TlsAlpn01Listener`] becomes.
#[derive(Debug)]
pub struct TlsAlpn01Server {
    resolver: Arc<TlsResolver>,
    listening: Mutex<Listening>,
}

impl TlsAlpn01Server {
    /// With nothing to answer. A port of 0 takes a free one.
    pub fn new(listener: &TlsAlpn01Listener) -> Self {
        let resolver = Arc::new(TlsResolver::new());
        let acceptor = TlsAcceptor::from(Arc::new(resolver.challenge_config()));
        let serve = Arc::new(move |stream: TcpStream| {
            let acceptor = acceptor.clone();
            Box::pin(async move {
                // The handshake is all that the CA wants to see.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.shutdown().await;
                }
            }) as _
        });
        Self { resolver, listening: Mutex::new(Listening::new(listener.address, listener.port, serve)) }
    }

    /// Where it listens; none while there is nothing to answer.
    pub async fn local_addr(&self) -> Option<SocketAddr> {
        self.listening.lock().await.local_addr()
    }
}

#[async_trait]
impl Solver for TlsAlpn01Server {
    fn solves(&self, challenge: &Challenge) -> bool {
        self.resolver.solves(challenge)
    }

    async fn present(&self, cx: &Context, challenge: &Challenge) -> Result<()> {
        let mut listening = self.listening.lock().await;
        listening
            .start("use another challenge, or another port to which port 443 is passed on")
            .await
            .map_err(|e| e.with("name", &challenge.name))?;
        let shown = self.resolver.present(cx, challenge).await;
        if !self.resolver.shows_challenges() {
            listening.stop().await;
        }
        shown
    }

    async fn retract(&self, cx: &Context, challenge: &Challenge) -> Result<()> {
        let mut listening = self.listening.lock().await;
        self.resolver.retract(cx, challenge).await?;
        if !self.resolver.shows_challenges() {
            listening.stop().await;
        }
        Ok(())
    }
}
