//! Issuers, targets, stores, hosts and key stores for certctl.

#[cfg(feature = "sqlite")]
mod home;
#[cfg(feature = "local-host")]
pub mod hosts;
pub mod issuers;
#[cfg(feature = "local-host")]
pub mod keys;
#[cfg(feature = "sqlite")]
pub mod stores;
pub mod targets;

use certctl_core::connectors::{Connectors, IssuerKind, TargetKind};

#[cfg(feature = "sqlite")]
pub use home::ProcessSecrets;

/// The issuers of this crate, one row a kind.
pub static ISSUERS: &[IssuerKind] = &[
    #[cfg(feature = "local-ca")]
    IssuerKind::of::<issuers::LocalCa>(),
];

/// The targets of this crate, one row a kind.
pub static TARGETS: &[TargetKind] = &[];

/// A table with every connector of this crate.
pub fn connectors() -> Connectors {
    Connectors::default().with(ISSUERS, TARGETS)
}
