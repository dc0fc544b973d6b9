//! What ACME sends: the resources of RFC 8555 section 7.1, requests, problems and headers, with identifiers of RFC 8738,
//! tls-alpn-01 of RFC 8737, renewal information of RFC 9773, and profiles.
//!
//! Reading is lenient where the other side may know more than this does: members that are not known are passed over, and
//! a status, a challenge or an identifier of an unknown type is kept as `Other`. How long a body may be is the
//! transport's to say, before it is parsed.

mod account;
mod authorization;
mod certificate;
mod challenge;
mod directory;
pub mod headers;
mod identifier;
mod order;
mod problem;
mod text;

pub use account::{Account, AccountStatus, AccountUpdate, KeyChange, NewAccount, OrdersList};
pub use authorization::{Authorization, AuthorizationStatus};
pub use certificate::{CertificateId, RenewalInfo, Revocation, SuggestedWindow};
pub use challenge::{
    Challenge, ChallengeStatus, ChallengeType, check_token, dns01_value, key_authorization, tls_alpn01_digest,
};
pub use directory::{Directory, DirectoryMeta};
pub use identifier::Identifier;
pub use order::{Finalize, NewOrder, Order, OrderStatus};
pub use problem::{Problem, ProblemType};
