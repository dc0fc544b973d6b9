//! The agent's tests.
#![allow(
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    missing_debug_implementations
)]

mod engine;
mod fake;
mod hostile;
mod life;
mod policy;
mod served;
mod settings;
