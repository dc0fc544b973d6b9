//! X.509: names, keys, requests, certificates and chains.
//!
//! Whatever comes from outside is parsed once, with a cap on its size checked first, into types that can't hold
//! nonsense. All signatures are made and checked by aws-lc-rs.

mod certificate;
mod chain;
mod csr;
pub(crate) mod der;
mod key;
mod name;
mod pem;
mod private_key;
mod serial;
pub(crate) mod template;

pub use certificate::X509Certificate;
pub use chain::{Bundle, Chain};
pub use csr::Csr;
pub use key::{KeyAlgorithm, KeyKind, PublicKey, SignatureAlgorithm};
pub use name::SubjectAltName;
pub use private_key::PrivateKey;
pub use serial::{Fingerprint, SerialNumber};

/// Serde and JSON Schema for a type that is text in JSON, by its `to_text` and `from_text`.
macro_rules! text_serde {
    ($type:ty, $name:literal, $description:literal, $to_text:expr, $from_text:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                let to_text: fn(&$type) -> String = $to_text;
                serializer.serialize_str(&to_text(self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                let from_text: fn(&str) -> crate::Result<$type> = $from_text;
                from_text(&text).map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}
pub(crate) use text_serde;

/// Foreign text in a message: escaped, and cut where it is long.
pub(crate) fn shown(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{:?} (cut)", &text[..end]),
        None => format!("{text:?}"),
    }
}
