//! Connections with TLS, for whatever is served over them.

use std::{collections::VecDeque, fmt, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    Clock, SystemClock,
    tls::{OnDemand, TlsResolver},
};

/// Connections with TLS, with the certificates of a [`TlsResolver`]: what is installed there serves from the next handshake
/// on. tls-alpn-01 is answered on the way.
///
/// Handshakes go on beside each other, each in ten seconds at most; of too many, the oldest ends. A handshake that fails is no
/// concern of the others.
pub struct TlsListener {
    tcp: TcpListener,
    handshake: Arc<Handshake>,
    tasks: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
    oldest: VecDeque<AbortHandle>,
}

#[derive(Clone)]
struct Handshake {
    config: Arc<ServerConfig>,
    challenge: Arc<ServerConfig>,
    on_demand: Option<OnDemand>,
}

/// How long a client may take for its hello, and for the rest of the handshake.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many handshakes there are at the same time.
const HANDSHAKES: usize = 1_024;

impl TlsListener {
    /// Serves these application protocols, such as `http/1.1`, on this socket.
    pub fn new(tcp: TcpListener, resolver: &Arc<TlsResolver>, protocols: &[&str]) -> Self {
        let config = Arc::new(resolver.server_config_for(protocols.iter().copied()));
        let challenge = Arc::new(resolver.challenge_config());
        let handshake = Arc::new(Handshake { config, challenge, on_demand: None });
        Self { tcp, handshake, tasks: JoinSet::new(), oldest: VecDeque::new() }
    }

    /// Another configuration, such as one that asks for client certificates. tls-alpn-01 is answered whatever it says.
    #[must_use]
    pub fn config(mut self, config: impl Into<Arc<ServerConfig>>) -> Self {
        self.change(|handshake| handshake.config = config.into());
        self
    }

    /// Obtains certificates for names that clients ask for. A client whose name gets none is refused.
    #[must_use]
    pub fn on_demand(mut self, on_demand: OnDemand) -> Self {
        self.change(|handshake| handshake.on_demand = Some(on_demand));
        self
    }

    /// The next connection whose handshake went well. Nothing is lost if the wait for it is given up.
    pub async fn accept(&mut self) -> (TlsStream<TcpStream>, SocketAddr) {
        loop {
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok(Some(accepted)) = done {
                        return accepted;
                    }
                }
                (stream, peer) = accept(&self.tcp) => self.begin(stream, peer),
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the operating system gives.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
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

impl fmt::Debug for TlsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").field("tcp", &self.tcp).field("handshakes", &self.tasks.len()).finish()
    }
}

/// The next connection. What concerns that connection alone is passed over; where the process has no more file
/// descriptors, it is waited for.
async fn accept(tcp: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match tcp.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                let its_own = matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                );
                if !its_own {
                    tracing::error!(%error, "no connection can be accepted; trying again");
                    SystemClock.pause(Duration::from_secs(1)).await;
                }
            }
        }
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
