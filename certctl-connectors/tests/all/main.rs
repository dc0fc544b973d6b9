//! The integration tests of certctl-connectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "sqlite")]
mod sqlite;
