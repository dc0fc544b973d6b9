//! Servers that use certificates.

#[cfg(feature = "rustls")]
mod rustls;

#[cfg(feature = "rustls")]
pub use rustls::{ResolverTarget, resolver_target};
