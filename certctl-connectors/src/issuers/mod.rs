//! Certificate authorities.

#[cfg(feature = "local-ca")]
mod local;

#[cfg(feature = "local-ca")]
pub use local::LocalCa;

use certctl_core::connectors::IssuerKind;

/// The issuers that this build has.
pub const ISSUERS: &[IssuerKind] = &[
    #[cfg(feature = "local-ca")]
    IssuerKind::of::<LocalCa>(),
];
