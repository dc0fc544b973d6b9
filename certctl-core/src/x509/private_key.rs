//! Private keys in memory.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _},
};
use rustls_pki_types::pem::SectionKind;

use super::{KeyAlgorithm, KeyKind, PublicKey, SignatureAlgorithm, key::cannot_sign, pem};
use crate::{Error, Result, Secret, Signer};

/// A private key in memory. It wipes itself, prints as `***` and can't be serialised. Cheap to clone.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    pair: Pair,
    public: PublicKey,
    /// What the pair is made of, as it is written to files.
    pkcs8: Secret,
}

/// aws-lc wipes these when they are freed.
enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
    Ed25519(Ed25519KeyPair),
}

impl PrivateKey {
    /// A new key. RSA takes a tenth of a second to several seconds: not something for an async task's thread.
    ///
    /// # Errors
    /// `Internal` if the machine has no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self> {
        let failed = |_| Error::internal(format!("making a key of kind {algorithm} failed"));
        let ecdsa = |curve| EcdsaKeyPair::generate(curve).map(Pair::Ecdsa).map_err(failed);
        let rsa = |size| rsa::KeyPair::generate(size).map(Pair::Rsa).map_err(failed);
        Self::new(match algorithm {
            KeyAlgorithm::EcdsaP256 => ecdsa(P256)?,
            KeyAlgorithm::EcdsaP384 => ecdsa(P384)?,
            KeyAlgorithm::EcdsaP521 => ecdsa(P521)?,
            KeyAlgorithm::Rsa2048 => rsa(rsa::KeySize::Rsa2048)?,
            KeyAlgorithm::Rsa3072 => rsa(rsa::KeySize::Rsa3072)?,
            KeyAlgorithm::Rsa4096 => rsa(rsa::KeySize::Rsa4096)?,
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519).map_err(failed)?,
        })
    }

    /// Reads the first private key of a PEM text: PKCS#8 (RFC 5958), SEC1 (RFC 5915) or PKCS#1 (RFC 8017).
    ///
    /// # Errors
    /// `Invalid` if there is none, or it is encrypted, malformed, weak or of an unknown kind.
    pub fn from_pem(text: &Secret) -> Result<Self> {
        pem::check_size(text.expose(), MAX_PEM, "private key")?;
        let encrypted = |block: &str| contains(text.expose(), block.as_bytes());
        if encrypted("BEGIN ENCRYPTED PRIVATE KEY") || encrypted("Proc-Type: 4,ENCRYPTED") {
            let remedy = "decrypt it first, for example with openssl pkey -in key.pem -out plain.pem";
            return Err(Error::invalid_field("", "the private key is encrypted", remedy));
        }
        for (kind, der) in pem::read(text.expose(), MAX_PEM, "private key")? {
            let der = Secret::new(der);
            let pair = match kind {
                SectionKind::PrivateKey => from_pkcs8(der.expose()),
                SectionKind::EcPrivateKey => from_sec1(der.expose()),
                SectionKind::RsaPrivateKey => rsa::KeyPair::from_der(der.expose()).ok().map(Pair::Rsa),
                _ => continue,
            };
            let known = KeyAlgorithm::ALL.map(|algorithm| algorithm.to_string()).join(", ");
            let pair = pair.ok_or_else(|| {
                let message = "the private key is malformed, weak or of a kind that is not supported";
                Error::invalid_field("", message, format!("give a key of one of the kinds {known}"))
            })?;
            return Self::new(pair);
        }
        let remedy = "give a PEM block PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY";
        Err(Error::invalid_field("", "there is no private key", remedy))
    }

    /// The key in PEM, as PKCS#8 (`PRIVATE KEY`).
    pub fn to_pem(&self) -> Secret {
        pem::write_secret("PRIVATE KEY", self.0.pkcs8.expose())
    }

    /// The key in DER, as PKCS#8 version 1.
    pub fn to_pkcs8_der(&self) -> Secret {
        self.0.pkcs8.clone()
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public
    }

    /// Signs; ECDSA's signature is the ASN.1 form.
    ///
    /// # Errors
    /// `Unsupported` if this key can't sign with that algorithm: ECDSA keys sign with their curve's hash only.
    pub fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        use SignatureAlgorithm as S;
        let failed = |_| Error::internal("signing failed");
        let kind = self.0.public.kind();
        match (&self.0.pair, algorithm) {
            (Pair::Ecdsa(pair), _) if algorithm == kind.signature_algorithm() => {
                Ok(pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec())
            }
            (Pair::Rsa(pair), S::RsaPkcs1Sha256 | S::RsaPkcs1Sha384 | S::RsaPkcs1Sha512) => {
                let encoding: &'static dyn signature::RsaEncoding = match algorithm {
                    S::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    S::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
                    _ => &signature::RSA_PKCS1_SHA512,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut out).map_err(failed)?;
                Ok(out)
            }
            (Pair::Ed25519(pair), S::Ed25519) => {
                Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec())
            }
            _ => Err(cannot_sign(kind, algorithm)),
        }
    }

    fn new(pair: Pair) -> Result<Self> {
        let failed = |_| Error::internal("encoding a private key failed");
        let (kind, bits, pkcs8) = match &pair {
            Pair::Ecdsa(pair) => {
                let bits = pair.public_key().as_ref();
                let kind = match bits.len() {
                    65 => KeyKind::EcdsaP256,
                    97 => KeyKind::EcdsaP384,
                    _ => KeyKind::EcdsaP521,
                };
                (kind, bits, Secret::new(pair.to_pkcs8v1().map_err(failed)?.as_ref()))
            }
            Pair::Rsa(pair) => {
                let kind = KeyKind::Rsa { bits: pair.public_modulus_len() * 8 };
                (kind, pair.public_key().as_ref(), Secret::new(pair.as_der().map_err(failed)?.as_ref()))
            }
            Pair::Ed25519(pair) => (
                KeyKind::Ed25519,
                pair.public_key().as_ref(),
                Secret::new(pair.to_pkcs8v1().map_err(failed)?.as_ref()),
            ),
        };
        let public = PublicKey::from_bits(kind, bits)
            .ok_or_else(|| Error::internal("a key pair has no public key"))?;
        // The rules for public keys hold for private ones: the exponent of an RSA key, above all.
        let public = PublicKey::from_spki_der(public.spki_der())?;
        Ok(Self(Arc::new(Inner { public, pkcs8, pair })))
    }
}

#[async_trait]
impl Signer for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.0.public
    }

    async fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>> {
        Self::sign(self, algorithm, message)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(*** of {:?})", self.0.public)
    }
}

/// In octets; an RSA key of 8192 bits has about 6 KiB.
const MAX_PEM: usize = 64 * 1024;

static P256: &EcdsaSigningAlgorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
static P384: &EcdsaSigningAlgorithm = &signature::ECDSA_P384_SHA384_ASN1_SIGNING;
static P521: &EcdsaSigningAlgorithm = &signature::ECDSA_P521_SHA512_ASN1_SIGNING;

fn from_pkcs8(der: &[u8]) -> Option<Pair> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
        return Some(Pair::Ed25519(pair));
    }
    if let Ok(pair) = rsa::KeyPair::from_pkcs8(der) {
        return Some(Pair::Rsa(pair));
    }
    [P256, P384, P521]
        .into_iter()
        .find_map(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok())
        .map(Pair::Ecdsa)
}

fn from_sec1(der: &[u8]) -> Option<Pair> {
    [P256, P384, P521]
        .into_iter()
        .find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok())
        .map(Pair::Ecdsa)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
