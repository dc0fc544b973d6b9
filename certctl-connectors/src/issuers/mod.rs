//! Certificate authorities.

#[cfg(feature = "local-ca")]
mod local;

#[cfg(feature = "local-ca")]
pub use local::LocalCa;
