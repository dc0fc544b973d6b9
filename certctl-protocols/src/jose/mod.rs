//! JSON web keys (RFC 7517) and signatures (RFC 7515), as far as ACME has them: public keys, and the flattened
//! serialisation with its header in the protected part.

mod algorithm;
mod der;
mod header;
mod jwk;
mod jws;

pub use algorithm::Algorithm;
pub use header::{Header, HeaderKey};
pub use jwk::Jwk;
pub use jws::Jws;
