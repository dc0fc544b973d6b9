//! Traits, records and the lifecycle engine of certctl.

mod actor;
mod ca;
mod clock;
mod error;
pub mod host;
mod id;
mod keys;
mod random;
pub mod records;
mod secret;
mod signer;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;
mod x509;

pub use actor::{Actor, Permission, Role};
pub use ca::{CertificateAuthority, ExtendedKeyUsage, LeafRequest};
pub use clock::{Clock, SystemClock};
pub use error::{Effect, Error, ErrorKind, ErrorReport, Result, Retry, Violation};
pub use id::{Id, Identified, check_name};
pub use keys::{Key, Keys, MemoryKeys};
pub use secret::{Sealed, SealedAt, SealedOnly, Sealer, Secret, SecretRef, Secrets};
pub use signer::Signer;
pub use time::{Lifetime, Timestamp};
pub use x509::{
    Bundle, Chain, Csr, Fingerprint, KeyAlgorithm, KeyKind, PrivateKey, PublicKey, SerialNumber,
    SignatureAlgorithm, SubjectAltName, X509Certificate,
};
