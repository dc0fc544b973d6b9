//! The integration tests of certctl-core, in one binary: each further one links the crypto again.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod ca;
mod clock;
mod command;
mod config;
mod files;
mod host;
mod identity;
mod issuer;
mod keys;
mod notifier;
mod openssl;
mod state;
mod store;
mod time;
mod tls;
mod tls_alpn;
mod x509;
