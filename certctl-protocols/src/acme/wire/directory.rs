//! The directory (RFC 8555 section 7.1.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::{is_false, or_default};

/// Where everything is. All are URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Gives nonces.
    pub new_nonce: String,
    /// Makes accounts, and finds them.
    pub new_account: String,
    /// Makes orders.
    pub new_order: String,
    /// Makes authorizations without an order, where the server does that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_authz: Option<String>,
    /// Revokes. RFC 8555 wants it; some private CAs do without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoke_cert: Option<String>,
    /// Changes an account's key. RFC 8555 wants it; some private CAs do without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_change: Option<String>,
    /// The base of renewal information's URLs (RFC 9773 section 4.1), where the server has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal_info: Option<String>,
    /// What the server says of itself.
    #[serde(default, deserialize_with = "or_default")]
    pub meta: DirectoryMeta,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryMeta {
    /// The URL of the terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    /// The URL of a page about the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// The names that the CA recognises in CAA records (RFC 8659).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub caa_identities: Vec<String>,
    /// Whether an account has to be bound to an external one (RFC 8555 section 7.3.4).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub external_account_required: bool,
    /// Names and descriptions of the profiles (draft-ietf-acme-profiles section 3).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, String>,
}
