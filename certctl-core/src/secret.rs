//! Secrets: bytes that wipe themselves, references to where they are, and the sealer for those that are stored.

use std::{fmt, fmt::Debug};

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Error, Result, random};

/// Bytes that are wiped when dropped, print as `***`, and can't be serialised.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes; whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text.
    ///
    /// # Errors
    /// `Invalid` if they are not UTF-8.
    pub fn expose_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.0)
            .map_err(|_| Error::invalid_field("", "the secret is not text", "store it as UTF-8"))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}
impl Eq for Secret {}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is: what a configuration holds instead of the secret.
///
/// In JSON: `{"env": "VAULT_TOKEN"}`, `{"file": "/run/secrets/token"}`, or the value itself as a string, which is sealed on
/// the way into the store and stands there as `{"sealed": "..."}`. A value in clear is never written.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// An environment variable of the process that does the work.
    Env(String),
    /// A file on the machine that does the work; one trailing newline is cut off.
    File(String),
    /// The value itself, sealed by a [`Sealer`].
    Sealed(Sealed),
    /// The value itself, in the memory of this process.
    Value(Secret),
}

impl SecretRef {
    /// An environment variable of the process that does the work.
    pub fn env(name: impl Into<String>) -> Self {
        Self::Env(name.into())
    }

    /// A file on the machine that does the work.
    pub fn file(path: impl Into<String>) -> Self {
        Self::File(path.into())
    }
}

impl From<Secret> for SecretRef {
    fn from(value: Secret) -> Self {
        Self::Value(value)
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Written {
    Env(String),
    File(String),
    Sealed(Sealed),
}

impl Serialize for SecretRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Env(name) => Written::Env(name.clone()),
            Self::File(path) => Written::File(path.clone()),
            Self::Sealed(sealed) => Written::Sealed(sealed.clone()),
            Self::Value(_) => return Err(serde::ser::Error::custom("a secret in clear is never written")),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // By hand: what serde says about an untagged enum helps nobody, and must not repeat the value.
        let written = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(value) => return Ok(Self::Value(Secret::new(value))),
            other => serde_json::from_value::<Written>(other),
        };
        match written {
            Ok(Written::Env(name)) => Ok(Self::Env(name)),
            Ok(Written::File(path)) => Ok(Self::File(path)),
            Ok(Written::Sealed(sealed)) => Ok(Self::Sealed(sealed)),
            Err(_) => Err(serde::de::Error::custom(
                "/: this is no secret; write {\"env\": NAME}, {\"file\": PATH}, or the secret itself as a string",
            )),
        }
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        SECRET_SCHEMA.into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = |name: &str| {
            schemars::json_schema!({
                "type": "object",
                "properties": { name: { "type": "string" } },
                "required": [name],
                "additionalProperties": false,
            })
        };
        schemars::json_schema!({
            "description": "Where a secret is, or the secret itself, which is sealed before it is stored",
            "anyOf": [
                { "type": "string", "writeOnly": true, "format": "password" },
                one("env"), one("file"), one("sealed"),
            ],
        })
    }
}

/// The name of the schema by which secrets in configurations are found.
pub(crate) const SECRET_SCHEMA: &str = "SecretRef";

impl Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Sealed(_) => f.write_str("sealed ***"),
            Self::Value(_) => f.write_str("***"),
        }
    }
}

/// Resolves a [`SecretRef`] where the work is done.
#[async_trait]
pub trait Secrets: Send + Sync + Debug {
    /// The secret itself. `at` says which field of which record holds the reference: sealed values are bound to it.
    ///
    /// # Errors
    /// `Precondition` if the variable or the file is not there, or a sealed value belongs elsewhere. The error names the
    /// reference, never the value.
    async fn resolve(&self, at: &SealedAt<'_>, reference: &SecretRef) -> Result<Secret>;
}

/// [`Secrets`] for a program that has none: sealed values, and nothing of the environment.
#[derive(Debug)]
pub struct SealedOnly(pub std::sync::Arc<Sealer>);

#[async_trait]
impl Secrets for SealedOnly {
    async fn resolve(&self, at: &SealedAt<'_>, reference: &SecretRef) -> Result<Secret> {
        match reference {
            SecretRef::Sealed(sealed) => self.0.open(at, sealed),
            SecretRef::Value(secret) => Ok(secret.clone()),
            SecretRef::Env(_) | SecretRef::File(_) => Err(Error::new(
                crate::ErrorKind::Precondition,
                format!("this program resolves no references, and {reference:?} is one"),
            )),
        }
    }
}

/// Which field of which record a sealed value belongs to; moved elsewhere it does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedAt<'a> {
    /// The record's table.
    pub table: &'a str,
    /// The record's id.
    pub id: &'a str,
    /// The field's name.
    pub field: &'a str,
}

/// A sealed value, in base64. Its first octet says for whom: 1 for a [`Sealer`] (then nonce and AES-256-GCM ciphertext), 2 for a
/// [`Recipient`](crate::Recipient) (then the encapsulated key and the ciphertext of RFC 9180).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sealed(String);

/// Whose key opens a [`Sealed`] value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealedFor {
    /// The store's.
    Store = 1,
    /// That of somebody who receives it.
    Recipient = 2,
}

impl Sealed {
    /// Whether it is sealed to somebody's public key, and not with a [`Sealer`].
    pub fn is_for_recipient(&self) -> bool {
        self.parts().is_some_and(|(form, _)| form == SealedFor::Recipient)
    }

    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn from_parts(form: SealedFor, parts: &[&[u8]]) -> Self {
        let mut whole = vec![form as u8];
        whole.extend(parts.iter().copied().flatten());
        Self(BASE64.encode(whole))
    }

    /// None if it is damaged, or of a form that this program does not know.
    pub(crate) fn parts(&self) -> Option<(SealedFor, Vec<u8>)> {
        let mut whole = BASE64.decode(&self.0).ok()?;
        let form = match whole.first()? {
            1 => SealedFor::Store,
            2 => SealedFor::Recipient,
            _ => return None,
        };
        whole.remove(0);
        Some((form, whole))
    }
}

impl Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Seals values with AES-256-GCM, bound to the field they are stored in.
pub struct Sealer {
    key: LessSafeKey,
    /// Derived from the same secret, for what needs no secrecy but must come from here.
    mac: hmac::Key,
}

impl Sealer {
    /// The length of the key in bytes.
    pub const KEY_LEN: usize = 32;

    /// From a 32-byte key.
    ///
    /// # Errors
    /// `Invalid` if the key has another length.
    pub fn new(key: &Secret) -> Result<Self> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let derived = Secret::new(hmac::sign(&secret, b"certctl authentication codes v1").as_ref());
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| {
            Error::invalid_field("", "the sealing key has the wrong length", "give 32 random bytes")
        })?;
        let mac = hmac::Key::new(hmac::HMAC_SHA256, derived.expose());
        Ok(Self { key: LessSafeKey::new(key), mac })
    }

    /// A key that lives as long as the process: for programs whose store lives as long.
    pub fn ephemeral() -> Self {
        // The length is right by construction.
        #[allow(clippy::expect_used)]
        Self::new(&Self::generate_key()).expect("the key has 32 bytes")
    }

    /// A new random key for [`Sealer::new`].
    pub fn generate_key() -> Secret {
        Secret::new(random::bytes::<{ Self::KEY_LEN }>())
    }

    /// Seals a value for the field `at`.
    ///
    /// # Errors
    /// `Internal` if the cipher fails.
    pub fn seal(&self, at: &SealedAt<'_>, value: &Secret) -> Result<Sealed> {
        let nonce = random::bytes::<12>();
        let mut out = value.expose().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad(at)), &mut out)
            .map_err(|_| Error::internal("sealing failed"))?;
        Ok(Sealed::from_parts(SealedFor::Store, &[&nonce, &out]))
    }

    /// Opens what was sealed for the field `at`.
    ///
    /// # Errors
    /// `Precondition` if it was sealed with another key or for another field.
    pub fn open(&self, at: &SealedAt<'_>, sealed: &Sealed) -> Result<Secret> {
        let bad = || {
            Error::new(
                crate::ErrorKind::Precondition,
                format!(
                    "{} {}: the sealed field {} does not open: the sealing key is another one, or the value was moved",
                    at.table, at.id, at.field
                ),
            )
        };
        let (form, rest) = sealed.parts().ok_or_else(bad)?;
        let (nonce, body) = rest.split_at_checked(12).ok_or_else(bad)?;
        if form != SealedFor::Store {
            return Err(bad());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad())?;
        let mut body = body.to_vec();
        let len = self.key.open_in_place(nonce, Aad::from(aad(at)), &mut body).map_err(|_| bad())?.len();
        body.truncate(len);
        Ok(Secret::new(body))
    }

    /// A code (HMAC-SHA256) that whoever has this key can check, so that what is handed out need not be stored.
    pub(crate) fn authenticate(&self, purpose: &str, message: &[u8]) -> [u8; 32] {
        let mut code = [0; 32];
        code.copy_from_slice(hmac::sign(&self.mac, &labelled(purpose, message)).as_ref());
        code
    }

    /// Whether the code is of this key, in constant time.
    pub(crate) fn is_authentic(&self, purpose: &str, message: &[u8], code: &[u8]) -> bool {
        hmac::verify(&self.mac, &labelled(purpose, message), code).is_ok()
    }
}

/// No two purposes share a message.
fn labelled(purpose: &str, message: &[u8]) -> Vec<u8> {
    [&(purpose.len() as u64).to_be_bytes(), purpose.as_bytes(), message].concat()
}

impl Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

/// What binds a sealed value to its field.
pub(crate) fn aad(at: &SealedAt<'_>) -> Vec<u8> {
    // Lengths first: no two places share an encoding.
    let mut out = Vec::new();
    for part in [at.table, at.id, at.field] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}
