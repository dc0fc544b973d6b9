//! Issuers, targets, stores, hosts and key stores for certctl.

#[cfg(feature = "local-host")]
pub mod hosts;
#[cfg(feature = "sqlite")]
pub mod stores;
