//! Traits, records and the lifecycle engine of certctl.

mod account;
mod actor;
mod ca;
mod catalog;
mod clock;
mod command;
pub mod connectors;
mod context;
pub mod engine;
mod env;
mod error;
pub mod files;
mod home;
pub mod host;
mod id;
mod issuer;
mod keys;
mod notifier;
mod random;
mod recipient;
pub mod records;
mod revocation;
mod secret;
mod signer;
mod solver;
mod state;
pub mod store;
pub mod target;
#[cfg(feature = "testkit")]
pub mod testkit;
mod time;
pub mod tls;
pub mod worker;
mod x509;

pub use account::{Account, AccountInfo};
pub use actor::{Actor, Permission, Role};
pub use ca::{CertificateAuthority, ExtendedKeyUsage, LeafRequest};
pub use catalog::Catalog;
pub use clock::{Clock, SystemClock};
pub use command::CommandLine;
pub use context::Context;
pub use engine::{
    ApiKeySpec, CertificateSpec, Engine, EngineBuilder, HostSpec, IssuerSpec, ProfileSpec, Readable,
    TargetSpec,
};
pub use env::{Env, NoHosts, State};
pub use error::{Effect, Error, ErrorKind, ErrorReport, Result, Retry, Violation};
pub use files::OnHost;
pub use home::{Home, IntoHome};
pub use id::{Id, Identified, check_name};
pub use issuer::{
    Challenge, ChallengeKind, Handle, Issuer, IssuerCapabilities, Order, Progress, Recovery, RenewalWindow,
    TxtRecord, issue,
};
pub use keys::{Key, Keys, MemoryKeys};
pub use notifier::{Notification, Notifier, NotifierCapabilities, Severity};
pub use random::bytes as random_bytes;
pub use recipient::{Recipient, RecipientKey};
pub use revocation::{Revocation, RevocationReason};
pub use secret::{Sealed, SealedAt, SealedOnly, Sealer, Secret, SecretRef, Secrets};
pub use signer::Signer;
pub use solver::{DnsProvider, DnsSolver, Solver, SolverSpec};
pub use target::{FileTarget, Target, WriteMode};
pub use time::{Lifetime, Timestamp};
pub use tls::TlsResolver;
pub use worker::{LocalWorker, Worker};
pub use x509::{
    Bundle, Chain, Csr, Fingerprint, KeyAlgorithm, KeyKind, PrivateKey, PublicKey, SerialNumber,
    SignatureAlgorithm, SubjectAltName, X509Certificate,
};

/// Traits whose methods read as if they were the connectors' own.
pub mod prelude {
    pub use crate::{
        connectors::{IssuerConfig, NotifierConfig, SolverConfig, TargetConfig, TargetConfigExt},
        store::StoreExt,
    };
}
