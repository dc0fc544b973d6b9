//! Tells a service manager how things are (sd_notify(3)).

use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says it, if somebody wants to hear it. A service manager that does not is no reason to stop.
pub(crate) fn tell(state: &str) {
    // The one variable that the service manager sets for this.
    #[allow(clippy::disallowed_methods)]
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return };
    let sent =
        address(&path).and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!("the service manager can't be told {state}: {error}");
    }
}

fn address(path: &str) -> std::io::Result<SocketAddr> {
    match path.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(path),
    }
}
