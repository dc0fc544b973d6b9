//! Where files, commands and sockets are: implementations of [`Host`](certctl_core::host::Host).

#[cfg(all(unix, feature = "local-host"))]
pub(crate) mod local;

#[cfg(all(unix, feature = "local-host"))]
pub use local::{LocalHost, LocalHosts};
