//! What is said about issued certificates: revocation (RFC 8555 section 7.6) and renewal information (RFC 9773).

use std::{fmt, str::FromStr};

use certctl_core::{Error, Result, RevocationReason, Timestamp, X509Certificate};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::base64url;

/// The request to revoke (RFC 8555 section 7.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The certificate in DER.
    #[serde(with = "crate::base64url")]
    pub certificate: Vec<u8>,
    /// The `CRLReason`'s number (RFC 5280 section 5.3.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
}

impl Revocation {
    /// Of this certificate. An unspecified reason is left out, as RFC 5280 section 5.3.1 wants it.
    pub fn new(certificate: &X509Certificate, reason: RevocationReason) -> Self {
        let reason = match reason {
            RevocationReason::Unspecified => None,
            other => Some(other.code()),
        };
        Self { certificate: certificate.der().to_vec(), reason }
    }
}

/// When the CA wants a certificate renewed (RFC 9773 section 4.2); `Retry-After` says when to ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalInfo {
    /// Between these two.
    pub suggested_window: SuggestedWindow,
    /// The URL of a page that says why.
    #[serde(rename = "explanationURL", skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
}

/// The window of a [`RenewalInfo`]. A server may send an end that is not after the start; RFC 9773 section 4.2 says that
/// such a window is to be taken as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuggestedWindow {
    /// Not before.
    pub start: Timestamp,
    /// Not after.
    pub end: Timestamp,
}

/// The name of a certificate in renewal information and `replaces` (RFC 9773 section 4.1): the authority key identifier
/// and the serial number, each in base64url, with a dot between.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CertificateId(String);

impl CertificateId {
    /// The longest that is read, in characters.
    pub const MAX_LEN: usize = 256;

    /// The certificate's.
    ///
    /// # Errors
    /// `Invalid` if the certificate has no authority key identifier: its CA then has no renewal information either.
    pub fn of(certificate: &X509Certificate) -> Result<Self> {
        let key_id = certificate.authority_key_id().filter(|id| !id.is_empty()).ok_or_else(|| {
            let remedy = "use a certificate of a CA that has renewal information (RFC 9773)";
            Error::invalid_field("", "the certificate has no authority key identifier", remedy)
        })?;
        let serial = certificate.serial().octets();
        // The content octets of the DER: a sign bit that is set gets a zero octet before it.
        let zero: &[u8] = if serial.first().is_some_and(|first| first & 0x80 != 0) { &[0] } else { &[] };
        let serial = [zero, serial].concat();
        Ok(Self(format!("{}.{}", base64url::encode(key_id), base64url::encode(serial))))
    }

    /// As it is sent; of the base64url alphabet and one dot, so that it can be part of a URL as it is.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The authority key identifier.
    pub fn authority_key_id(&self) -> Vec<u8> {
        self.part(0)
    }

    /// The serial number: the content octets of its DER.
    pub fn serial_octets(&self) -> Vec<u8> {
        self.part(1)
    }

    fn part(&self, index: usize) -> Vec<u8> {
        self.0.split('.').nth(index).and_then(base64url::decode).unwrap_or_default()
    }
}

impl FromStr for CertificateId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let fine = text.len() <= Self::MAX_LEN
            && text.split_once('.').is_some_and(|(key_id, serial)| {
                [key_id, serial]
                    .iter()
                    .all(|part| base64url::decode(part).is_some_and(|octets| !octets.is_empty()))
            });
        if fine {
            return Ok(Self(text.to_owned()));
        }
        let message = format!("{:?} is not a certificate's identifier", crate::shown::shown(text, 80));
        let remedy =
            "write base64url of the authority key identifier, a dot, and base64url of the serial number";
        Err(Error::invalid_field("", message, format!("{remedy} (RFC 9773 section 4.1)")))
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateId({})", self.0)
    }
}

impl Serialize for CertificateId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CertificateId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
