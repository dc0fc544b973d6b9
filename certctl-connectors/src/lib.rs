//! Issuers, targets, stores, hosts and key stores for certctl.

#[cfg(feature = "local-host")]
pub mod hosts;
pub mod issuers;
#[cfg(feature = "local-host")]
pub mod keys;
#[cfg(feature = "sqlite")]
pub mod stores;
pub mod targets;
