//! The integration tests of certctl-protocols, in one binary: each further one links the crypto again.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod acme;
mod fuzz;
mod jose;
