//! What is revoked, and why.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Chain, Error, Result, Signer};

/// What is revoked, and why.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// The certificate with its chain.
    pub chain: Chain,
    /// Why.
    pub reason: RevocationReason,
    /// The certificate's own key, for a CA that takes its word instead of the account's (RFC 8555 section 7.6).
    pub key: Option<Arc<dyn Signer>>,
}

/// Why a certificate is revoked (RFC 5280 section 5.3.1).
///
/// Read as RFC 5280 writes it (`keyCompromise`, `cACompromise`), with underscores (`key_compromise`), or in capitals
/// (`KEY_COMPROMISE`); written with underscores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    /// It is not said.
    #[default]
    Unspecified,
    /// Somebody else has, or may have, the certificate's key.
    KeyCompromise,
    /// Somebody else has, or may have, the CA's key.
    CaCompromise,
    /// What the certificate says of its subject is no longer true.
    AffiliationChanged,
    /// Another certificate has taken its place.
    Superseded,
    /// It is not needed any more.
    CessationOfOperation,
    /// For the time being.
    CertificateHold,
    /// No longer on hold; for delta CRLs alone.
    RemoveFromCrl,
    /// The subject has lost a right that the certificate asserts.
    PrivilegeWithdrawn,
    /// Somebody else has, or may have, the key of the attribute authority.
    AaCompromise,
}

impl RevocationReason {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 10] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::RemoveFromCrl,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The number of CRLReason (RFC 5280 section 5.3.1).
    pub const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::CaCompromise => 2,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::CertificateHold => 6,
            Self::RemoveFromCrl => 8,
            Self::PrivilegeWithdrawn => 9,
            Self::AaCompromise => 10,
        }
    }

    /// As RFC 5280 writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::CertificateHold => "certificateHold",
            Self::RemoveFromCrl => "removeFromCRL",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
            Self::AaCompromise => "aACompromise",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RevocationReason {
    type Err = Error;

    /// # Errors
    /// `Invalid` for another word, with those that there are.
    fn from_str(text: &str) -> Result<Self> {
        // The spellings differ in capitals and underscores alone.
        let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
        let wanted = plain(text);
        Self::ALL.into_iter().find(|reason| plain(reason.as_str()) == wanted).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|reason| reason.as_str()).collect();
            let shown: String = text.chars().take(40).collect();
            Error::invalid_field(
                "",
                format!("{shown:?} is no reason to revoke a certificate"),
                format!("use one of {}, or the same as key_compromise or KEY_COMPROMISE", known.join(", ")),
            )
        })
    }
}

impl<'de> Deserialize<'de> for RevocationReason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for RevocationReason {
    fn schema_name() -> Cow<'static, str> {
        "RevocationReason".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<String> = Self::ALL
            .iter()
            .filter_map(|reason| serde_json::to_value(reason).ok()?.as_str().map(str::to_owned))
            .collect();
        schemars::json_schema!({
            "type": "string",
            "description": "Why a certificate is revoked (RFC 5280 section 5.3.1); read in the RFC's spelling as well",
            "enum": names,
        })
    }
}
