//! What systemd wants to hear (sd_notify(3)), and the socket that it may hand over (sd_listen_fds(3)).

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use certctl_core::{Error, ErrorKind, Result};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::TcpListener;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Tells the service manager how it goes; without one it tells nobody.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    pub(crate) fn new(environment: &[(String, String)]) -> Self {
        let address = value(environment, "NOTIFY_SOCKET").and_then(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let own = |name| value(environment, name).is_none_or(|pid| pid == own_pid());
        let watchdog = value(environment, "WATCHDOG_USEC")
            .filter(|_| own("WATCHDOG_PID"))
            .and_then(|micros| micros.parse().ok())
            // Twice as often as it has to be.
            .map(|micros: u64| Duration::from_micros(micros / 2));
        Self { socket, watchdog }
    }

    /// How often to say `WATCHDOG=1`.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn say(&self, what: &str) {
        let Some((socket, address)) = &self.socket else { return };
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // RELOADING=1 needs the time, and the others ignore it.
        let micros = monotonic.tv_sec.saturating_mul(1_000_000) + monotonic.tv_nsec / 1_000;
        let text = format!("{what}\nMONOTONIC_USEC={micros}");
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

/// The socket that was handed over, if there is one.
///
/// # Errors
/// `Precondition` if several were, or it is none that can be listened on.
pub(crate) fn socket(environment: &[(String, String)]) -> Result<Option<TcpListener>> {
    let Some(count) =
        value(environment, "LISTEN_FDS").filter(|_| value(environment, "LISTEN_PID") == Some(own_pid()))
    else {
        return Ok(None);
    };
    if count != "1" {
        let message = format!("systemd hands over {count} sockets, and this program listens on one");
        return Err(Error::new(ErrorKind::Precondition, message));
    }
    let unusable = |e: std::io::Error| {
        let message = "the socket that systemd hands over can't be used: it has to be a listening TCP socket";
        Error::new(ErrorKind::Precondition, message).with_source(e)
    };
    // A copy of the descriptor, owned by whoever asked for it: the number alone would be nobody's.
    let process = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| unusable(e.into()))?;
    let copy = pidfd_getfd(&process, FIRST, PidfdGetfdFlags::empty()).map_err(|e| unusable(e.into()))?;
    let socket = std::net::TcpListener::from(copy);
    socket.local_addr().map_err(unusable)?;
    socket.set_nonblocking(true).map_err(unusable)?;
    TcpListener::from_std(socket).map(Some).map_err(unusable)
}

fn value<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn own_pid() -> &'static str {
    static PID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PID.get_or_init(|| getpid().as_raw_nonzero().to_string())
}
