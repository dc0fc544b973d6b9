//! Authorizations (RFC 8555 section 7.1.4).

use certctl_core::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Challenge, Identifier,
    text::{is_false, or_default, text_enum},
};

/// That an account may have certificates for an identifier, or how it can show so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// What it is for; of a wildcard, the name below it.
    pub identifier: Identifier,
    /// How far it is.
    pub status: AuthorizationStatus,
    /// Until when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// One of these has to be met; of a valid one, those that were.
    #[serde(default, deserialize_with = "or_default")]
    pub challenges: Vec<Challenge>,
    /// Whether it is for the wildcard of the identifier.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub wildcard: bool,
}

text_enum! {
    /// How far an authorization is (RFC 8555 section 7.1.6).
    AuthorizationStatus, prefix "", other "One that is not known here.",
    /// A challenge has to be met.
    Pending = "pending",
    /// It holds.
    Valid = "valid",
    /// A challenge failed.
    Invalid = "invalid",
    /// The account gave it up.
    Deactivated = "deactivated",
    /// It is too old.
    Expired = "expired",
    /// The server took it back.
    Revoked = "revoked",
}
