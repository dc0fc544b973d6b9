//! Who shows the answers to ACME challenges: implementations of [`Solver`](certctl_core::Solver).

#[cfg(feature = "dns")]
mod dns_script;
#[cfg(feature = "acme")]
mod http01;
#[cfg(feature = "acme")]
mod listening;
#[cfg(feature = "dns")]
mod rfc2136;
#[cfg(feature = "acme")]
mod tls_alpn01;
#[cfg(feature = "acme")]
mod webroot;

#[cfg(feature = "dns")]
pub use dns_script::DnsScript;
#[cfg(feature = "acme")]
pub use http01::{Http01Listener, Http01Server};
#[cfg(feature = "dns")]
pub use rfc2136::{Rfc2136, TsigHash};
#[cfg(feature = "acme")]
pub use tls_alpn01::{TlsAlpn01Listener, TlsAlpn01Server};
#[cfg(feature = "acme")]
pub use webroot::Http01Webroot;
