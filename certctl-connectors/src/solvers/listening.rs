//! A listener that is there only while something is shown on it.

use std::{
    collections::VecDeque,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    sync::Arc,
    time::Duration,
};

use certctl_core::{Error, ErrorKind, Result, Retry, Violation};
use futures_util::future::BoxFuture;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
};

/// How many connections there are at the same time; a further one ends the oldest, so that nobody who holds many keeps the
/// CA out.
const CONNECTIONS: usize = 128;
/// How long a connection may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is done with a connection.
pub(super) type Serve = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where to listen, and what to do with a connection.
pub(super) struct Listening {
    address: Option<IpAddr>,
    port: u16,
    serve: Serve,
    running: Option<Running>,
}

struct Running {
    local: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listening {
    pub(super) fn new(address: Option<IpAddr>, port: u16, serve: Serve) -> Self {
        Self { address, port, serve, running: None }
    }

    /// Where it listens now.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.local)
    }

    /// Listens, unless it does already. `remedy` says what else than another port helps.
    pub(super) async fn start(&mut self, remedy: &str) -> Result<()> {
        if self.running.as_ref().is_some_and(|running| !running.task.is_finished()) {
            return Ok(());
        }
        let listener = self.bind().await.map_err(|(at, error)| refused(at, &error, remedy))?;
        let local = listener.local_addr().map_err(|error| refused(self.first(), &error, remedy))?;
        let listener = Shut(listener);
        self.running = Some(Running { local, task: tokio::spawn(accept(listener, self.serve.clone())) });
        Ok(())
    }

    /// Ends every connection, and returns once the port is free.
    pub(super) async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.task.abort();
            // That it was aborted is what it says.
            let _ = (&mut running.task).await;
        }
    }

    fn first(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), self.port)
    }

    async fn bind(&self) -> std::result::Result<TcpListener, (SocketAddr, io::Error)> {
        let first = self.first();
        match TcpListener::bind(first).await {
            // A machine without IPv6.
            Err(error) if self.address.is_none() && !is_taken(&error) && !is_denied(&error) => {
                let second = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.port);
                TcpListener::bind(second).await.map_err(|error| (second, error))
            }
            bound => bound.map_err(|error| (first, error)),
        }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listening({}, {:?})", self.first(), self.local_addr())
    }
}

/// What is wrong with the port of a configuration.
pub(super) fn check_port(port: u16, usual: u16) -> Vec<Violation> {
    match port {
        0 => vec![Violation::new(
            "/port",
            "0 is not a port that a CA could be sent to",
            format!("leave it out for {usual}"),
        )],
        _ => Vec::new(),
    }
}

/// A listener that is shut down when it is dropped. Closing alone is not enough: a program that is being started at the same
/// time by this process holds a copy of the socket until its `exec`, and the port would listen for so long.
struct Shut(TcpListener);

impl Drop for Shut {
    fn drop(&mut self) {
        // Closing follows in any case.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

async fn accept(listener: Shut, serve: Serve) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.0.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                // Out of file descriptors, perhaps: the same again at once would only keep a processor busy.
                let _ = tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        oldest.retain(|connection| !connection.is_finished());
        if oldest.len() >= CONNECTIONS
            && let Some(connection) = oldest.pop_front()
        {
            connection.abort();
        }
        let serving = serve(stream);
        oldest.push_back(connections.spawn(async move {
            let _ = tokio::time::timeout(DEADLINE, serving).await;
        }));
    }
}

fn refused(at: SocketAddr, error: &io::Error, remedy: &str) -> Error {
    let (what, retry) = match () {
        () if is_taken(error) => ("another program listens there; stop that".to_owned(), Retry::Backoff),
        () if is_denied(error) => {
            let what = "this process may not use that port; give it CAP_NET_BIND_SERVICE (setcap, or \
                        AmbientCapabilities in its systemd unit)";
            (what.to_owned(), Retry::Never)
        }
        () => (format!("{error}; correct the address"), Retry::Never),
    };
    let message = format!("can't listen on {} port {}: {what}, or {remedy}", at.ip(), at.port());
    Error::new(ErrorKind::Precondition, message)
        .with_retry(retry)
        .with("step", "listen")
        .with("address", at.ip())
        .with("port", at.port())
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}
