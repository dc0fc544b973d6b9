//! TLS: what a server shows ([`handshake`]), and what a server of this process shows ([`TlsResolver`]).

mod challenge;
mod listener;
mod probe;
mod resolver;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use listener::TlsListener;
pub use probe::{KeyType, Presented, TlsVersion, handshake, server_names};
pub use resolver::TlsResolver;

pub use crate::engine::{OnDemand, OnDemandLimits};

/// Named explicitly everywhere: a program that has installed another default provider must not change what happens here.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
