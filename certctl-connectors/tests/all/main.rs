//! The integration tests of certctl-connectors, in one binary: each further one links the crypto again.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod local_ca;
mod local_host;
mod rustls_target;
mod sqlite;
