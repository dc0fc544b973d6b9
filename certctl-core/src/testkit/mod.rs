//! What integrators and the project's own tests check their implementations with.
//!
//! Each suite is one function that panics where the implementation breaks the contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod store;
