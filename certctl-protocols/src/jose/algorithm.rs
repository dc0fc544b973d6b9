//! Signature algorithms, and the two forms of an ECDSA signature.

use std::fmt;

use certctl_core::{Error, KeyKind, PublicKey, Result, SignatureAlgorithm};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::der;
use crate::shown::shown;

/// How a JWS is signed (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256: for external account binding alone (RFC 8555 section 7.3.4).
    Hs256,
}

impl Algorithm {
    const ALL: [Self; 6] = [Self::Rs256, Self::Es256, Self::Es384, Self::Es512, Self::EdDsa, Self::Hs256];

    /// What a key signs with: each kind of key has one algorithm, so that a message can't choose another.
    ///
    /// # Errors
    /// `Unsupported` for a kind of key that JOSE has no algorithm for.
    pub fn for_key(key: &PublicKey) -> Result<Self> {
        Ok(match key.kind() {
            KeyKind::Rsa { .. } => Self::Rs256,
            KeyKind::EcdsaP256 => Self::Es256,
            KeyKind::EcdsaP384 => Self::Es384,
            KeyKind::EcdsaP521 => Self::Es512,
            KeyKind::Ed25519 => Self::EdDsa,
            other => {
                return Err(Error::unsupported(format!("JOSE has no algorithm for a key of kind {other}")));
            }
        })
    }

    /// Its name in JOSE.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
        }
    }

    /// Core's name of it; `None` for HMAC.
    pub(crate) const fn signature_algorithm(self) -> Option<SignatureAlgorithm> {
        Some(match self {
            Self::Rs256 => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Es256 => SignatureAlgorithm::EcdsaSha256,
            Self::Es384 => SignatureAlgorithm::EcdsaSha384,
            Self::Es512 => SignatureAlgorithm::EcdsaSha512,
            Self::EdDsa => SignatureAlgorithm::Ed25519,
            Self::Hs256 => return None,
        })
    }

    /// From a signer's form to JOSE's: ECDSA's is `r || s`, each as long as the curve's order (RFC 7518 section 3.4).
    pub(crate) fn jose_form(self, signature: Vec<u8>) -> Option<Vec<u8>> {
        let Some(len) = self.coordinate_len() else { return Some(signature) };
        let (r, s) = der::read_two_integers(&signature)?;
        let mut out = vec![0; 2 * len];
        for (number, end) in [(r, len), (s, 2 * len)] {
            if number.len() > len {
                return None;
            }
            out[end - number.len()..end].copy_from_slice(number);
        }
        Some(out)
    }

    /// From JOSE's form to ASN.1's; `None` if an ECDSA signature has the wrong length.
    pub(crate) fn asn1_form(self, signature: &[u8]) -> Option<Vec<u8>> {
        let Some(len) = self.coordinate_len() else { return Some(signature.to_vec()) };
        if signature.len() != 2 * len {
            return None;
        }
        let (r, s) = signature.split_at(len);
        Some(der::two_integers(r, s))
    }

    const fn coordinate_len(self) -> Option<usize> {
        match self {
            Self::Es256 => Some(32),
            Self::Es384 => Some(48),
            Self::Es512 => Some(66),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Not derived: that would read an object {"ES256": null} as well.
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            serde::de::Error::custom(format!("the algorithm {} is none of {known}", shown(&name, 40)))
        })
    }
}
