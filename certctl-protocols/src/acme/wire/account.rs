//! Accounts (RFC 8555 sections 7.1.2 and 7.3).

use serde::{Deserialize, Serialize};

use super::text::{is_false, or_default, text_enum};
use crate::jose::{Jwk, Jws};

/// The request that makes an account, or finds it by its key (RFC 8555 section 7.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewAccount {
    /// URLs to reach the owner at, such as `mailto:admin@example.org`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// Whether the owner agrees to the terms of service.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub terms_of_service_agreed: bool,
    /// Whether to find only, and to make none (RFC 8555 section 7.3.1).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub only_return_existing: bool,
    /// The binding to an account that the owner has with the CA (RFC 8555 section 7.3.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_account_binding: Option<Jws>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Whether it may be used.
    pub status: AccountStatus,
    /// URLs to reach the owner at. Some servers keep them for themselves.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// Whether the owner agreed to the terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service_agreed: Option<bool>,
    /// The URL of its orders. RFC 8555 wants it; many servers don't have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<String>,
}

text_enum! {
    /// Whether an account may be used (RFC 8555 section 7.1.6).
    AccountStatus, prefix "", other "One that is not known here.",
    /// It may.
    Valid = "valid",
    /// Its owner ended it.
    Deactivated = "deactivated",
    /// The server ended it.
    Revoked = "revoked",
}

/// A change to an account (RFC 8555 sections 7.3.2 and 7.3.6); what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountUpdate {
    /// URLs to reach the owner at; an empty list removes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<Vec<String>>,
    /// Whether the owner agrees to the terms of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service_agreed: Option<bool>,
    /// [`AccountStatus::Deactivated`] ends the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<AccountStatus>,
}

/// What the new key signs to take an account over (RFC 8555 section 7.3.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChange {
    /// The account's URL.
    pub account: String,
    /// The key that it has so far.
    pub old_key: Jwk,
}

/// An account's orders (RFC 8555 section 7.1.2.1); a `Link` header with `rel="next"` leads to more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersList {
    /// Their URLs.
    #[serde(default, deserialize_with = "or_default")]
    pub orders: Vec<String>,
}
