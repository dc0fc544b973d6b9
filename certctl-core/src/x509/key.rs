//! Public keys, and the algorithms of keys and signatures.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use rcgen::PublicKeyData;
use rustls_pki_types::pem::SectionKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::{
    oid_registry::{self, Oid},
    prelude::FromDer,
    public_key::PublicKey as ParsedKey,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use super::{Fingerprint, pem, shown, text_serde};
use crate::{Error, ErrorKind, Result};

/// What kind of key to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    #[default]
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    /// ECDSA on P-384.
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
    /// ECDSA on P-521; browsers don't accept it.
    #[serde(rename = "ECDSA-P521")]
    EcdsaP521,
    /// RSA with 2048 bits.
    #[serde(rename = "RSA-2048")]
    Rsa2048,
    /// RSA with 3072 bits.
    #[serde(rename = "RSA-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "RSA-4096")]
    Rsa4096,
    /// Ed25519; browsers don't accept it.
    Ed25519,
}

impl KeyAlgorithm {
    /// Every algorithm, in the order of the enum.
    pub const ALL: [Self; 7] = [
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::Ed25519,
    ];

    /// The kind that its keys are of.
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::EcdsaP256 => KeyKind::EcdsaP256,
            Self::EcdsaP384 => KeyKind::EcdsaP384,
            Self::EcdsaP521 => KeyKind::EcdsaP521,
            Self::Rsa2048 => KeyKind::Rsa { bits: 2048 },
            Self::Rsa3072 => KeyKind::Rsa { bits: 3072 },
            Self::Rsa4096 => KeyKind::Rsa { bits: 4096 },
            Self::Ed25519 => KeyKind::Ed25519,
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::EcdsaP384 => "ECDSA-P384",
            Self::EcdsaP521 => "ECDSA-P521",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
            Self::Ed25519 => "Ed25519",
        })
    }
}

impl FromStr for KeyAlgorithm {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.to_string().eq_ignore_ascii_case(text));
        known.ok_or_else(|| {
            let names = Self::ALL.map(|algorithm| algorithm.to_string()).join(", ");
            Error::invalid_field(
                "",
                format!("{} is not a key algorithm", shown(text)),
                format!("use one of {names}"),
            )
        })
    }
}

/// How something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-256 (RFC 5758 section 3.2).
    EcdsaSha256,
    /// ECDSA with SHA-384 (RFC 5758 section 3.2).
    EcdsaSha384,
    /// ECDSA with SHA-512 (RFC 5758 section 3.2).
    EcdsaSha512,
    /// RSA PKCS#1 v1.5 with SHA-256 (RFC 4055 section 5).
    RsaPkcs1Sha256,
    /// RSA PKCS#1 v1.5 with SHA-384 (RFC 4055 section 5).
    RsaPkcs1Sha384,
    /// RSA PKCS#1 v1.5 with SHA-512 (RFC 4055 section 5).
    RsaPkcs1Sha512,
    /// Ed25519 (RFC 8410).
    Ed25519,
}

impl SignatureAlgorithm {
    const ALL: [Self; 7] = [
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::EcdsaSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::Ed25519,
    ];

    /// The `AlgorithmIdentifier` in DER (RFC 5280 section 4.1.1.2).
    pub const fn der(self) -> &'static [u8] {
        match self {
            Self::EcdsaSha256 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            Self::EcdsaSha384 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            Self::EcdsaSha512 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04",
            Self::RsaPkcs1Sha256 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
            Self::RsaPkcs1Sha384 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00",
            Self::RsaPkcs1Sha512 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00",
            Self::Ed25519 => b"\x30\x05\x06\x03\x2b\x65\x70",
        }
    }

    /// From a parsed identifier; `None` for what is not supported, SHA-1 and RSA-PSS among it.
    pub(crate) fn from_identifier(identifier: &AlgorithmIdentifier<'_>) -> Option<Self> {
        let oid = identifier.algorithm.as_bytes();
        // Two octets of SEQUENCE, two of OBJECT IDENTIFIER, then the identifier itself.
        Self::ALL.into_iter().find(|known| known.der().get(4..4 + usize::from(known.der()[3])) == Some(oid))
    }
}

/// What kind of key a public key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// RSA with a modulus of this many bits.
    Rsa {
        /// The modulus' length in bits.
        bits: usize,
    },
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// The signature algorithm that keys of this kind use by default.
    pub const fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => SignatureAlgorithm::EcdsaSha256,
            Self::EcdsaP384 => SignatureAlgorithm::EcdsaSha384,
            Self::EcdsaP521 => SignatureAlgorithm::EcdsaSha512,
            Self::Rsa { .. } => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }

    fn verification(self, algorithm: SignatureAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
        use SignatureAlgorithm as S;
        Some(match (self, algorithm) {
            (Self::EcdsaP256, S::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Self::EcdsaP256, S::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Self::EcdsaP256, S::EcdsaSha512) => &signature::ECDSA_P256_SHA512_ASN1,
            (Self::EcdsaP384, S::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Self::EcdsaP384, S::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Self::EcdsaP384, S::EcdsaSha512) => &signature::ECDSA_P384_SHA512_ASN1,
            (Self::EcdsaP521, S::EcdsaSha256) => &signature::ECDSA_P521_SHA256_ASN1,
            (Self::EcdsaP521, S::EcdsaSha384) => &signature::ECDSA_P521_SHA384_ASN1,
            (Self::EcdsaP521, S::EcdsaSha512) => &signature::ECDSA_P521_SHA512_ASN1,
            (Self::Rsa { .. }, S::RsaPkcs1Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa { .. }, S::RsaPkcs1Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa { .. }, S::RsaPkcs1Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::Ed25519, S::Ed25519) => &signature::ED25519,
            _ => return None,
        })
    }

    /// rcgen's name for a key of this kind that signs with `algorithm`.
    pub(crate) fn rcgen(self, algorithm: SignatureAlgorithm) -> Option<&'static rcgen::SignatureAlgorithm> {
        use SignatureAlgorithm as S;
        Some(match (self, algorithm) {
            (Self::EcdsaP256, S::EcdsaSha256) => &rcgen::PKCS_ECDSA_P256_SHA256,
            (Self::EcdsaP384, S::EcdsaSha384) => &rcgen::PKCS_ECDSA_P384_SHA384,
            (Self::EcdsaP521, S::EcdsaSha256) => &rcgen::PKCS_ECDSA_P521_SHA256,
            (Self::EcdsaP521, S::EcdsaSha384) => &rcgen::PKCS_ECDSA_P521_SHA384,
            (Self::EcdsaP521, S::EcdsaSha512) => &rcgen::PKCS_ECDSA_P521_SHA512,
            (Self::Rsa { .. }, S::RsaPkcs1Sha256) => &rcgen::PKCS_RSA_SHA256,
            (Self::Rsa { .. }, S::RsaPkcs1Sha384) => &rcgen::PKCS_RSA_SHA384,
            (Self::Rsa { .. }, S::RsaPkcs1Sha512) => &rcgen::PKCS_RSA_SHA512,
            (Self::Ed25519, S::Ed25519) => &rcgen::PKCS_ED25519,
            _ => return None,
        })
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA-P256"),
            Self::EcdsaP384 => f.write_str("ECDSA-P384"),
            Self::EcdsaP521 => f.write_str("ECDSA-P521"),
            Self::Rsa { bits } => write!(f, "RSA-{bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A public key that is strong enough to be certified: RSA of 2048 to 8192 bits with exponent 65537, P-256, P-384, P-521 or
/// Ed25519. PEM in JSON. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    kind: KeyKind,
    spki: Vec<u8>,
    /// The content of the BIT STRING.
    bits: Vec<u8>,
    /// For the kind's default signature algorithm.
    parsed: ParsedPublicKey,
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// `Invalid` if it is malformed, of an unknown kind, or weak.
    pub fn from_spki_der(der: &[u8]) -> Result<Self> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], spki)) => Self::from_parsed(&spki),
            _ => Err(Error::invalid_field(
                "",
                "the public key is malformed",
                "give a SubjectPublicKeyInfo in DER",
            )),
        }
    }

    /// Reads a PEM block `PUBLIC KEY`.
    ///
    /// # Errors
    /// `Invalid` if there is none, or as for [`PublicKey::from_spki_der`].
    pub fn from_pem(text: &[u8]) -> Result<Self> {
        let blocks = pem::read(text, 64 * 1024, "public key")?;
        match blocks.iter().find(|(kind, _)| *kind == SectionKind::PublicKey) {
            Some((_, der)) => Self::from_spki_der(der),
            None => Err(Error::invalid_field("", "there is no public key", "give a PEM block PUBLIC KEY")),
        }
    }

    /// The key as a PEM block `PUBLIC KEY`.
    pub fn to_pem(&self) -> String {
        pem::write("PUBLIC KEY", &self.0.spki)
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.0.kind
    }

    /// The `SubjectPublicKeyInfo` in DER, in its canonical form.
    pub fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    /// The SHA-256 of the `SubjectPublicKeyInfo`.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.spki)
    }

    /// Checks a signature; ECDSA's is the ASN.1 form.
    ///
    /// # Errors
    /// `Invalid` if the signature is not this key's, or the algorithm is not for this kind of key.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<()> {
        let Some(verification) = self.0.kind.verification(algorithm) else {
            return Err(Error::invalid_field(
                "/signature",
                format!("a key of kind {} makes no signatures of kind {algorithm:?}", self.0.kind),
                "sign with the algorithm that belongs to the key",
            ));
        };
        let verified = if algorithm == self.0.kind.signature_algorithm() {
            self.0.parsed.verify_sig(message, signature).is_ok()
        } else {
            ParsedPublicKey::new(verification, &self.0.bits)
                .is_ok_and(|parsed| parsed.verify_sig(message, signature).is_ok())
        };
        if verified {
            return Ok(());
        }
        Err(Error::invalid_field(
            "/signature",
            "the signature does not verify",
            "sign it with the key that it names",
        ))
    }

    pub(crate) fn from_parsed(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self> {
        let bits = spki.subject_public_key.data.as_ref();
        if spki.subject_public_key.unused_bits != 0 {
            return Err(Error::invalid_field("", "the public key is not whole octets", "make a new key"));
        }
        let kind = kind_of(spki)?;
        Self::from_bits(kind, bits).ok_or_else(|| {
            let remedy = "make a new key; a point on a curve must be uncompressed (RFC 5480 section 2.2)";
            Error::invalid_field("", format!("the {kind} public key is malformed"), remedy)
        })
    }

    /// From the content of the BIT STRING; `None` if aws-lc-rs refuses it.
    pub(crate) fn from_bits(kind: KeyKind, bits: &[u8]) -> Option<Self> {
        let parsed = ParsedPublicKey::new(kind.verification(kind.signature_algorithm())?, bits).ok()?;
        let spki = Raw { kind, bits }.subject_public_key_info();
        Some(Self(Arc::new(Inner { kind, spki, bits: bits.to_vec(), parsed })))
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        Raw { kind: self.0.kind, bits: &self.0.bits }.algorithm()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}
impl Eq for PublicKey {}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.spki.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.0.kind, self.fingerprint())
    }
}

text_serde!(PublicKey, "PublicKey", "A public key in PEM", PublicKey::to_pem, |text| PublicKey::from_pem(
    text.as_bytes()
));

/// What rcgen needs to write a `SubjectPublicKeyInfo`.
struct Raw<'a> {
    kind: KeyKind,
    bits: &'a [u8],
}

impl PublicKeyData for Raw<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        // Every kind has its default; the fallback keeps this free of a panic.
        self.kind.rcgen(self.kind.signature_algorithm()).unwrap_or(&rcgen::PKCS_ED25519)
    }
}

fn kind_of(spki: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind> {
    let bits = spki.subject_public_key.data.as_ref();
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == oid_registry::OID_PKCS1_RSAENCRYPTION {
        return rsa_kind(spki);
    }
    if *algorithm == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let (kind, len) = match &curve {
            Some(oid) if *oid == oid_registry::OID_EC_P256 => (KeyKind::EcdsaP256, 65),
            Some(oid) if *oid == oid_registry::OID_NIST_EC_P384 => (KeyKind::EcdsaP384, 97),
            Some(oid) if *oid == oid_registry::OID_NIST_EC_P521 => (KeyKind::EcdsaP521, 133),
            _ => return Err(unknown_kind("the key's curve", curve.as_ref())),
        };
        // Compressed and hybrid points are allowed by nobody who reads certificates.
        if bits.len() != len || bits.first() != Some(&4) {
            return Err(Error::invalid_field(
                "",
                format!("the {kind} public key is not an uncompressed point"),
                "write the point uncompressed (RFC 5480 section 2.2)",
            ));
        }
        return Ok(kind);
    }
    if *algorithm == oid_registry::OID_SIG_ED25519 && bits.len() == 32 {
        return Ok(KeyKind::Ed25519);
    }
    Err(unknown_kind("the key's algorithm", Some(algorithm)))
}

fn rsa_kind(spki: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind> {
    let weak = |message: String, remedy: &str| Err(Error::invalid_field("", message, remedy));
    let Ok(ParsedKey::RSA(key)) = spki.parsed() else {
        return weak("the RSA public key is malformed".into(), "make a new key");
    };
    let modulus: &[u8] = match key.modulus {
        [0, rest @ ..] => rest,
        all => all,
    };
    let bits = match modulus.first() {
        Some(first) => modulus.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    };
    if bits < 2048 {
        return weak(
            format!("the RSA key has {bits} bits, which is weak"),
            "make an RSA key of 2048 bits or more",
        );
    }
    if bits > 8192 {
        return weak(format!("the RSA key has {bits} bits"), "make an RSA key of at most 8192 bits");
    }
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return weak("the RSA key's modulus is even".into(), "make a new key");
    }
    match key.try_exponent() {
        Ok(65537) => Ok(KeyKind::Rsa { bits }),
        _ => weak("the RSA key's exponent is not 65537".into(), "make a new key with the exponent 65537"),
    }
}

fn unknown_kind(what: &str, oid: Option<&Oid<'_>>) -> Error {
    let oid = oid.map_or_else(|| "(none named)".to_owned(), Oid::to_id_string);
    let known = KeyAlgorithm::ALL.map(|algorithm| algorithm.to_string()).join(", ");
    Error::invalid_field("", format!("{what} {oid} is not supported"), format!("use one of {known}"))
}

/// `Unsupported`: a signer that can't sign like this.
pub(crate) fn cannot_sign(kind: KeyKind, algorithm: SignatureAlgorithm) -> Error {
    Error::new(ErrorKind::Unsupported, format!("a key of kind {kind} can't sign with {algorithm:?} here"))
}
