//! Orders (RFC 8555 sections 7.1.3 and 7.4).

use certctl_core::{Csr, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    CertificateId, Identifier, Problem,
    text::{lenient, or_default, text_enum},
};

/// The request that makes an order (RFC 8555 section 7.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewOrder {
    /// What to certify.
    pub identifiers: Vec<Identifier>,
    /// From when the certificate shall be valid. Few servers take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until when the certificate shall be valid. Few servers take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// A profile of the directory (draft-ietf-acme-profiles section 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The certificate that this one replaces (RFC 9773 section 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CertificateId>,
}

/// An order (RFC 8555 section 7.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// How far it is.
    pub status: OrderStatus,
    /// Until when the server keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What it certifies.
    pub identifiers: Vec<Identifier>,
    /// From when the certificate shall be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Until when the certificate shall be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The URLs of the authorizations that it needs.
    #[serde(default, deserialize_with = "or_default")]
    pub authorizations: Vec<String>,
    /// Where the request for the certificate is sent to.
    pub finalize: String,
    /// Where the certificate is, once it is issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The certificate that this one replaces (RFC 9773 section 5), as the server writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// The profile (draft-ietf-acme-profiles section 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

text_enum! {
    /// How far an order is (RFC 8555 section 7.1.6).
    OrderStatus, prefix "", other "One that is not known here.",
    /// Authorizations are missing.
    Pending = "pending",
    /// It waits for the request to finalize it.
    Ready = "ready",
    /// The certificate is being issued.
    Processing = "processing",
    /// The certificate is issued.
    Valid = "valid",
    /// It failed, or expired.
    Invalid = "invalid",
}

/// The request that finalizes an order (RFC 8555 section 7.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalize {
    /// The certification request in DER.
    #[serde(with = "crate::base64url")]
    pub csr: Vec<u8>,
}

impl Finalize {
    /// With this request.
    pub fn new(csr: &Csr) -> Self {
        Self { csr: csr.der().to_vec() }
    }
}
