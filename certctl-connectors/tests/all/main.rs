//! The integration tests of certctl-connectors, in one binary: each further one links the crypto again.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[cfg(feature = "local-host")]
mod disk_keys;
#[cfg(feature = "dns")]
mod dns;
#[cfg(all(feature = "dns", feature = "local-host"))]
mod dns_script;
#[cfg(feature = "acme")]
mod environment;
#[cfg(feature = "local-ca")]
mod local_ca;
#[cfg(feature = "local-host")]
mod local_host;
#[cfg(feature = "rustls")]
mod rustls_target;
#[cfg(feature = "acme")]
mod solvers;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(all(feature = "local-host", feature = "nginx", feature = "files"))]
mod targets;
#[cfg(feature = "webhook")]
mod webhook;
