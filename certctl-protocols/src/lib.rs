//! The protocols by which certificates are obtained, as values: bytes in, bytes out. Nothing here reads a clock, opens a
//! connection or waits, so that a client and a server share it.
//!
//! - [`jose`]: JSON web keys and signatures (RFC 7515, 7517, 7518, 7638, 8037), as far as ACME has them.
//! - [`acme::wire`]: what ACME sends (RFC 8555, 8737, 8738, 9773).

pub mod acme;
mod base64url;
pub mod jose;
mod object;
mod shown;
