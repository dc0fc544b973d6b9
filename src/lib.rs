//! Certificates as a library: obtain them, deploy them with proof, renew them in time, roll back what breaks.

pub use certctl_connectors::{ISSUERS, TARGETS, connectors as all_connectors};
pub use certctl_core::*;

/// Certificate authorities.
pub mod issuers {
    pub use certctl_connectors::issuers::*;
}
/// Servers that are given certificates.
pub mod targets {
    pub use certctl_connectors::targets::*;
}
/// Where files, commands and sockets are.
#[cfg(feature = "local-host")]
pub mod hosts {
    pub use certctl_connectors::hosts::*;
}
/// Where private keys live.
#[cfg(feature = "local-host")]
pub mod keystores {
    pub use certctl_connectors::keys::*;
}
