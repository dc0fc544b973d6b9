//! What is certified (RFC 8555 section 9.7.7, RFC 8738).

use std::{fmt, net::IpAddr};

use certctl_core::SubjectAltName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is certified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identifier {
    /// A DNS name; in an order it may be a wildcard, in an authorization it is without.
    Dns(String),
    /// An IP address (RFC 8738).
    Ip(IpAddr),
    /// Another type, or an address that is none.
    Other {
        /// The type.
        kind: String,
        /// The value.
        value: String,
    },
}

impl Identifier {
    /// The type, as it is sent.
    pub fn kind(&self) -> &str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
            Self::Other { kind, .. } => kind,
        }
    }

    /// The value, as it is sent.
    pub fn value(&self) -> String {
        match self {
            Self::Dns(name) => name.clone(),
            Self::Ip(address) => address.to_string(),
            Self::Other { value, .. } => value.clone(),
        }
    }

    /// The identifier of a name; `None` for email addresses and URIs, which ACME has none for.
    pub fn of(name: &SubjectAltName) -> Option<Self> {
        match name {
            SubjectAltName::Dns(name) => Some(Self::Dns(name.clone())),
            SubjectAltName::Ip(address) => Some(Self::Ip(*address)),
            _ => None,
        }
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::shown::shown(&self.value(), 260))
    }
}

impl Serialize for Identifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Members { kind: self.kind().to_owned(), value: self.value() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Members { kind, value } = Members::deserialize(deserializer)?;
        Ok(match (kind.as_str(), value.parse()) {
            ("dns", _) => Self::Dns(value),
            ("ip", Ok(address)) => Self::Ip(address),
            _ => Self::Other { kind, value },
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Members {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}
