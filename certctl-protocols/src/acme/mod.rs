//! ACME (RFC 8555).

pub mod wire;
