//! Servers that use certificates: implementations of [`Target`](certctl_core::Target).

#[cfg(any(feature = "files", feature = "nginx"))]
mod described;
#[cfg(feature = "files")]
mod files;
#[cfg(feature = "nginx")]
mod nginx;
#[cfg(feature = "rustls")]
mod rustls;

#[cfg(feature = "files")]
pub use files::Files;
#[cfg(feature = "nginx")]
pub use nginx::Nginx;
#[cfg(feature = "rustls")]
pub use rustls::{ResolverTarget, resolver_target};
