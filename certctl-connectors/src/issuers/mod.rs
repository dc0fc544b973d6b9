//! Certificate authorities.

#[cfg(feature = "acme")]
pub mod acme;
#[cfg(feature = "local-ca")]
mod local;

#[cfg(feature = "acme")]
pub use acme::Acme;
#[cfg(feature = "local-ca")]
pub use local::LocalCa;
