//! The protected header of ACME's signatures.

use certctl_core::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IgnoredAny, ser::SerializeMap};

use super::{Algorithm, Jwk};
use crate::{object, shown::shown};

/// The protected header as ACME has it (RFC 8555 section 6.2). Members that it does not list are passed over; `crit` is
/// refused, since nothing that it could name is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it is signed.
    pub alg: Algorithm,
    /// The server's nonce; external account binding and the inner part of a key change have none.
    pub nonce: Option<String>,
    /// Where it is sent to.
    pub url: String,
    /// Whose signature it is.
    pub key: HeaderKey,
}

/// Whose signature it is: a header has exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// The key itself.
    Jwk(Jwk),
    /// The account's URL, or the key identifier of an external account.
    Kid(String),
}

impl Header {
    /// The longest header that is read, in octets of JSON.
    pub const MAX_LEN: usize = 8 * 1024;

    pub(crate) fn read(json: &[u8]) -> Result<Self> {
        check_len(json)?;
        serde_json::from_slice(json).map_err(malformed)
    }
}

/// What verifying needs to know of a header.
#[derive(Deserialize)]
pub(crate) struct Essence {
    pub(crate) alg: Algorithm,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

impl Essence {
    pub(crate) fn read(json: &[u8]) -> Result<Self> {
        check_len(json)?;
        let mut reader = serde_json::Deserializer::from_slice(json);
        let essence: Self = object::deserialize(&mut reader).map_err(malformed)?;
        reader.end().map_err(malformed)?;
        if essence.crit {
            return Err(malformed(CRIT));
        }
        Ok(essence)
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("alg", &self.alg)?;
        match &self.key {
            HeaderKey::Jwk(jwk) => map.serialize_entry("jwk", jwk)?,
            HeaderKey::Kid(kid) => map.serialize_entry("kid", kid)?,
        }
        if let Some(nonce) = &self.nonce {
            map.serialize_entry("nonce", nonce)?;
        }
        map.serialize_entry("url", &self.url)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Members { alg, nonce, url, jwk, kid, crit } = object::deserialize(deserializer)?;
        if crit {
            return Err(serde::de::Error::custom(CRIT));
        }
        let key = match (jwk, kid) {
            (Some(jwk), None) => HeaderKey::Jwk(jwk),
            (None, Some(kid)) => HeaderKey::Kid(kid),
            _ => return Err(serde::de::Error::custom("exactly one of jwk and kid must be there")),
        };
        Ok(Self { alg, nonce, url, key })
    }
}

#[derive(Deserialize)]
struct Members {
    alg: Algorithm,
    nonce: Option<String>,
    url: String,
    jwk: Option<Jwk>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

const CRIT: &str = "crit names extensions, and none is understood (RFC 7515 section 4.1.11)";

/// Also `null` is there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

fn check_len(json: &[u8]) -> Result<()> {
    if json.len() > Header::MAX_LEN {
        return Err(malformed(format!("it has {} octets, more than {}", json.len(), Header::MAX_LEN)));
    }
    Ok(())
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::invalid_field(
        "/protected",
        format!("the signature's header can't be used: {}", shown(&why.to_string(), 300)),
        "write it as RFC 8555 section 6.2 says",
    )
}
