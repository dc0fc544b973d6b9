//! Certificates as a library: obtain them, deploy them with proof, renew them in time, roll back what breaks.

#[cfg(feature = "axum")]
pub mod axum;

pub use certctl_connectors::*;
pub use certctl_core::*;

/// The README's examples, compiled with the tests.
#[cfg(all(doctest, feature = "acme"))]
#[doc = include_str!("../README.md")]
struct Readme;
