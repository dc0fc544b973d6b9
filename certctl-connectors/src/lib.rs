//! connectors

#[cfg(feature = "sqlite")]
pub mod stores;
