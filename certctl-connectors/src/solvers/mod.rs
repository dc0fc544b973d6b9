//! Who shows the answers to ACME challenges: implementations of [`Solver`](certctl_core::Solver).

mod http01;
mod listening;
mod tls_alpn01;
mod webroot;

pub use http01::{Http01Listener, Http01Server};
pub use tls_alpn01::{TlsAlpn01Listener, TlsAlpn01Server};
pub use webroot::Http01Webroot;
