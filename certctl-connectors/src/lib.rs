//! Issuers, targets, stores, hosts and key stores for certctl.
//!
//! Each connector is one file; [`ISSUERS`], [`TARGETS`], [`NOTIFIERS`] and [`SOLVERS`] have a row for each kind that is
//! compiled in.

#[cfg(feature = "dns")]
pub mod dns;
#[cfg(feature = "acme")]
pub mod environment;
#[cfg(feature = "sqlite")]
mod home;
#[cfg(feature = "local-host")]
pub mod hosts;
pub mod issuers;
#[cfg(feature = "local-host")]
pub mod keys;
pub mod notifiers;
#[cfg(any(feature = "acme", feature = "dns"))]
pub mod solvers;
#[cfg(feature = "sqlite")]
pub mod stores;
pub mod targets;

use certctl_core::connectors::{Connectors, IssuerKind, NotifierKind, SolverKind, Tables, TargetKind};

#[cfg(feature = "sqlite")]
pub use home::{ProcessSecrets, home_in};

/// The issuers of this crate, one row a kind.
pub static ISSUERS: &[IssuerKind] = &[
    #[cfg(feature = "acme")]
    IssuerKind::of::<issuers::Acme>(),
    #[cfg(feature = "local-ca")]
    IssuerKind::of::<issuers::LocalCa>(),
];

/// The targets of this crate, one row a kind.
pub static TARGETS: &[TargetKind] = &[
    #[cfg(feature = "files")]
    TargetKind::of::<targets::Files>(),
    #[cfg(feature = "nginx")]
    TargetKind::of::<targets::Nginx>(),
];

/// The notifiers of this crate, one row a kind.
pub static NOTIFIERS: &[NotifierKind] = &[
    #[cfg(feature = "webhook")]
    NotifierKind::of::<notifiers::Webhook>(),
];

/// The solvers of this crate, one row a kind.
pub static SOLVERS: &[SolverKind] = &[
    #[cfg(feature = "dns")]
    SolverKind::of::<solvers::DnsScript>(),
    #[cfg(feature = "acme")]
    SolverKind::of::<solvers::Http01Listener>(),
    #[cfg(feature = "acme")]
    SolverKind::of::<solvers::Http01Webroot>(),
    #[cfg(feature = "dns")]
    SolverKind::of::<solvers::Rfc2136>(),
    #[cfg(feature = "acme")]
    SolverKind::of::<solvers::TlsAlpn01Listener>(),
];

/// A table with every connector of this crate.
pub fn connectors() -> Connectors {
    Connectors::default().with(Tables {
        issuers: ISSUERS,
        targets: TARGETS,
        notifiers: NOTIFIERS,
        solvers: SOLVERS,
    })
}
