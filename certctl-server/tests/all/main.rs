//! The server, in this process, over real TLS on a free port.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod agents;
mod lists;
mod openapi;
mod refusals;
mod revisions;
mod running;
mod settings;
mod start;
