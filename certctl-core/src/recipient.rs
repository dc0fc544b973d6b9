//! Secrets for somebody else: sealed to a public key that only the receiver's private key opens (HPKE, RFC 9180).

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use zeroize::Zeroizing;

use crate::{
    Error, ErrorKind, Result, Sealed, SealedAt, Secret,
    secret::{SealedFor, aad},
    x509::text_serde,
};

/// The length of both halves of an X25519 key, and of what a sender encapsulates (RFC 9180 section 7.1).
const KEY_LEN: usize = 32;
/// Separates these secrets from whatever else the same key may once open.
const INFO: &[u8] = b"certctl sealed secret v1";

/// The public key of somebody who receives secrets: X25519, for DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM
/// (RFC 9180). 32 octets in base64 in JSON.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient([u8; KEY_LEN]);

impl Recipient {
    /// Reads the base64 text.
    ///
    /// # Errors
    /// `Invalid` if it is not the base64 of 32 octets.
    pub fn parse(text: &str) -> Result<Self> {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            Error::invalid_field("", "this is no X25519 public key", "give the base64 of its 32 octets")
        })
    }

    /// The key in base64.
    pub fn to_text(&self) -> String {
        BASE64.encode(self.0)
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Seals a value for the field `at`, so that this recipient alone opens it, and only as that field.
    ///
    /// # Errors
    /// `Invalid` if the public key is none that a secret can be agreed with.
    pub fn seal(&self, at: &SealedAt<'_>, value: &Secret) -> Result<Sealed> {
        let key = HpkePublicKey(self.0.to_vec());
        let (encapsulated, ciphertext) = SUITE.seal(INFO, &aad(at), value.expose(), &key).map_err(|_| {
            Error::invalid_field("", "nothing can be sealed to this public key", "make a new key pair")
        })?;
        Ok(Sealed::from_parts(SealedFor::Recipient, &[&encapsulated.0, &ciphertext]))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.to_text())
    }
}

text_serde!(
    Recipient,
    "Recipient",
    "An X25519 public key: 32 octets in base64",
    Recipient::to_text,
    Recipient::parse
);

/// The private half of a [`Recipient`]. Wipes itself, prints as `***`, and can't be serialised.
#[derive(Clone)]
pub struct RecipientKey {
    key: Zeroizing<[u8; KEY_LEN]>,
    recipient: Recipient,
}

impl RecipientKey {
    /// A new key.
    ///
    /// # Errors
    /// `Internal` if the machine has no randomness.
    pub fn generate() -> Result<Self> {
        let failed = || Error::internal("making an X25519 key failed");
        let (_, key) = SUITE.generate_key_pair().map_err(|_| failed())?;
        Self::from_bytes(key.secret_bytes()).map_err(|_| failed())
    }

    /// Reads what [`RecipientKey::to_secret`] wrote; blanks around it do not matter.
    ///
    /// # Errors
    /// `Invalid` if it is not the base64 of 32 octets.
    pub fn from_secret(text: &Secret) -> Result<Self> {
        let bytes =
            BASE64.decode(text.expose().trim_ascii()).map(Zeroizing::new).map_err(|_| unreadable())?;
        Self::from_bytes(&bytes)
    }

    /// The key in base64, for a file that nobody else reads.
    pub fn to_secret(&self) -> Secret {
        Secret::new(BASE64.encode(self.key.as_slice()))
    }

    /// The public half.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Opens what was sealed to this key for the field `at`.
    ///
    /// # Errors
    /// `Precondition` if it was sealed to another key, for another field, or not to a recipient at all.
    pub fn open(&self, at: &SealedAt<'_>, sealed: &Sealed) -> Result<Secret> {
        let bad = |why: &str| {
            let SealedAt { table, id, field } = at;
            let message = format!("{table} {id}: the sealed field {field} does not open: {why}");
            Error::new(ErrorKind::Precondition, message)
        };
        let (form, body) = sealed.parts().ok_or_else(|| bad("it is damaged"))?;
        if form != SealedFor::Recipient {
            return Err(bad("it is sealed for its store, and not for the one who shall use it"));
        }
        let (encapsulated, ciphertext) =
            body.split_at_checked(KEY_LEN).ok_or_else(|| bad("it is damaged"))?;
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        let key = HpkePrivateKey::from(self.key.to_vec());
        let opened = SUITE.open(&encapsulated, INFO, &aad(at), ciphertext, &key);
        opened.map(Secret::new).map_err(|_| bad("it is sealed to another key, or the value was moved"))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let key: [u8; KEY_LEN] = bytes.try_into().map_err(|_| unreadable())?;
        let key = Zeroizing::new(key);
        let pair = PrivateKey::from_private_key(&X25519, key.as_slice()).map_err(|_| unreadable())?;
        let public = pair.compute_public_key().map_err(|_| unreadable())?;
        let recipient = Recipient(public.as_ref().try_into().map_err(|_| unreadable())?);
        Ok(Self { key, recipient })
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientKey(*** of {:?})", self.recipient)
    }
}

fn unreadable() -> Error {
    Error::invalid_field("", "this is no X25519 private key", "give the base64 of its 32 octets")
}
