//! What integrators and the project's own tests check their implementations with: a conformance suite for each trait, a
//! clock that stands still, hosts and issuers that fail on demand.
//!
//! A suite is one function that panics where the implementation breaks the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod clock;
pub mod host;
pub mod issuer;
pub mod keys;
pub mod notifier;
pub mod state;
pub mod store;
pub mod target;
pub mod tls;
pub mod worker;
