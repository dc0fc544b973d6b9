//! The lifecycle as an embedder sees it, on real servers, in one binary.

// clippy.toml exempts test functions, but not the helpers beside them. Tests start servers and children of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub
)]

#[cfg(all(feature = "acme", feature = "dns"))]
mod acme;
mod agents;
#[cfg(feature = "axum")]
mod axum_server;
#[cfg(all(feature = "acme", feature = "axum", feature = "dns"))]
mod axum_tls;
mod batch;
mod chosen_solver;
mod clock;
mod demo;
#[cfg(feature = "dns")]
mod dns;
mod failures;
mod faults;
mod input;
mod issuers;
mod jobs;
mod json_worker;
mod kill;
mod mending;
mod nginx;
mod on_demand;
mod orders;
mod peers;
mod processes;
mod races;
mod readme;
mod renewal;
mod revoke;
mod rig;
mod served;
mod server;
mod stored;
#[cfg(feature = "axum")]
mod tls_client;
mod world;
