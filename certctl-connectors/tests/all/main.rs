//! The integration tests of certctl-connectors, in one binary.

// Helpers of tests, which the exemption in clippy.toml does not reach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod local_host;
