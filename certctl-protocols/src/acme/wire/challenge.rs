//! Challenges, and the answers to them (RFC 8555 sections 7.1.5 and 8, RFC 8737).

use aws_lc_rs::digest;
use certctl_core::{Error, PublicKey, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Problem,
    text::{lenient, or_default, text_enum},
};
use crate::{base64url, jose::Jwk};

/// A way to show control of an identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The method.
    #[serde(rename = "type")]
    pub kind: ChallengeType,
    /// Where to say that the answer is in its place.
    pub url: String,
    /// How far it is.
    pub status: ChallengeStatus,
    /// When it was met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validated: Option<Timestamp>,
    /// Why it was not met.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The server's part of the answer: see [`check_token`]. dns-persist-01 has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The CA's names, one of which the record of a dns-persist-01 challenge has to have.
    #[serde(
        rename = "issuer-domain-names",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub issuer_domain_names: Vec<String>,
    /// The account's URL, as the record of a dns-persist-01 challenge has to have it.
    #[serde(rename = "accounturi", skip_serializing_if = "Option::is_none")]
    pub account_uri: Option<String>,
}

text_enum! {
    /// The method of a challenge.
    ChallengeType, prefix "", other "One that is not known here.",
    /// A file on the web server (RFC 8555 section 8.3).
    Http01 = "http-01",
    /// A TXT record (RFC 8555 section 8.4).
    Dns01 = "dns-01",
    /// A certificate in the TLS handshake (RFC 8737).
    TlsAlpn01 = "tls-alpn-01",
    /// A TXT record at a name of the account's own (draft-ietf-acme-dns-account-label).
    DnsAccount01 = "dns-account-01",
    /// A TXT record that stays (draft-ietf-acme-dns-persist).
    DnsPersist01 = "dns-persist-01",
}

text_enum! {
    /// How far a challenge is (RFC 8555 section 7.1.6).
    ChallengeStatus, prefix "", other "One that is not known here.",
    /// It waits for the client.
    Pending = "pending",
    /// The server is looking.
    Processing = "processing",
    /// It was met.
    Valid = "valid",
    /// It was not.
    Invalid = "invalid",
}

/// Checks a challenge's token, which becomes part of a path, a file's name and a DNS record: 1 to 256 characters of the
/// base64url alphabet, as RFC 8555 sections 8.3 and 8.4 want it.
///
/// # Errors
/// `Invalid` for anything else.
pub fn check_token(token: &str) -> Result<()> {
    if (1..=256).contains(&token.len()) && base64url::is_alphabet(token) {
        return Ok(());
    }
    let message = format!("the challenge's token {:?} is not one", crate::shown::shown(token, 80));
    let remedy = "a token has 1 to 256 letters, digits, - and _ (RFC 8555 section 8.3)";
    Err(Error::invalid_field("/token", message, remedy))
}

/// The key authorization: the token with the account key's thumbprint (RFC 8555 section 8.1).
///
/// # Errors
/// `Invalid` for a token that [`check_token`] refuses; `Unsupported` for a kind of key that JOSE doesn't know.
pub fn key_authorization(token: &str, key: &PublicKey) -> Result<String> {
    check_token(token)?;
    Ok(format!("{token}.{}", Jwk::from_public_key(key)?.thumbprint()))
}

/// The TXT record's content for dns-01: the key authorization's SHA-256 in base64url (RFC 8555 section 8.4).
pub fn dns01_value(key_authorization: &str) -> String {
    base64url::encode(tls_alpn01_digest(key_authorization))
}

/// The content of the certificate's `acmeIdentifier` extension for tls-alpn-01, without its DER header: the key
/// authorization's SHA-256 (RFC 8737 section 3).
pub fn tls_alpn01_digest(key_authorization: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, key_authorization.as_bytes()).as_ref());
    out
}
