//! Certificates, as they are read.

use std::{fmt, sync::Arc};

use x509_parser::{
    certificate::X509Certificate as Parsed,
    extensions::ParsedExtension,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::{Fingerprint, PublicKey, SerialNumber, SignatureAlgorithm, SubjectAltName, pem};
use crate::{Error, Result, Timestamp};

/// A certificate (RFC 5280), parsed once. Reading it says nothing about trust. Cheap to clone.
#[derive(Clone)]
pub struct X509Certificate(Arc<Inner>);

struct Inner {
    der: Vec<u8>,
    tbs: Vec<u8>,
    serial: SerialNumber,
    not_before: Timestamp,
    not_after: Timestamp,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    subject_common_name: Option<String>,
    issuer_common_name: Option<String>,
    names: Vec<SubjectAltName>,
    other_names: usize,
    /// A certificate can be looked at although its key is one that we would not certify.
    public_key: Result<PublicKey>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    is_ca: bool,
    path_length: Option<u32>,
    signs_certificates: bool,
    signature_algorithm: Option<SignatureAlgorithm>,
    signature: Vec<u8>,
    fingerprint: Fingerprint,
}

impl X509Certificate {
    /// The largest certificate that is read, in octets.
    pub const MAX_LEN: usize = 64 * 1024;

    /// Reads DER.
    ///
    /// # Errors
    /// `Invalid` if it is larger than [`X509Certificate::MAX_LEN`], malformed, or its serial number is negative or longer
    /// than 20 octets.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        pem::check_size(der, Self::MAX_LEN, "certificate")?;
        let parsed = match Parsed::from_der(der) {
            Ok(([], parsed)) => parsed,
            Ok(_) => return Err(malformed("something follows the certificate")),
            Err(_) => return Err(malformed("the certificate is malformed")),
        };
        let raw_serial = parsed.raw_serial();
        if raw_serial.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(malformed("the certificate's serial number is negative"));
        }
        let mut inner = Inner {
            der: der.to_vec(),
            tbs: parsed.tbs_certificate.as_ref().to_vec(),
            serial: SerialNumber::from_octets(raw_serial)?,
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            subject_common_name: common_name(parsed.subject()),
            issuer_common_name: common_name(parsed.issuer()),
            names: Vec::new(),
            other_names: 0,
            public_key: PublicKey::from_parsed(parsed.public_key()),
            subject_key_id: None,
            authority_key_id: None,
            is_ca: false,
            path_length: None,
            // Without the extension the key may be used for everything (RFC 5280 section 4.2.1.3).
            signs_certificates: true,
            signature_algorithm: SignatureAlgorithm::from_identifier(&parsed.signature_algorithm),
            signature: parsed.signature_value.data.to_vec(),
            fingerprint: Fingerprint::of(der),
        };
        // RFC 5280 section 4.1.1.2; where the two differ, one of them was not signed.
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(malformed("the certificate names two different signature algorithms"));
        }
        for extension in parsed.extensions() {
            inner.read(extension.parsed_extension());
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The certificate in PEM.
    pub fn to_pem(&self) -> String {
        pem::write("CERTIFICATE", &self.0.der)
    }

    /// The part that is signed, in DER (`TBSCertificate`, RFC 5280 section 4.1.1.1).
    pub fn tbs_der(&self) -> &[u8] {
        &self.0.tbs
    }

    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        &self.0.serial
    }

    /// From when it is valid.
    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }

    /// Until when it is valid, this second included.
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// The subject's common name, where it has one.
    pub fn subject_common_name(&self) -> Option<&str> {
        self.0.subject_common_name.as_deref()
    }

    /// The issuer's common name, if it has one.
    pub fn issuer_common_name(&self) -> Option<&str> {
        self.0.issuer_common_name.as_deref()
    }

    /// The names it is for that can be expressed as a [`SubjectAltName`].
    pub fn names(&self) -> &[SubjectAltName] {
        &self.0.names
    }

    /// How many more names it has: other types (otherName, directoryName), and malformed ones.
    pub fn other_names(&self) -> usize {
        self.0.other_names
    }

    /// The issuer's name in DER.
    pub fn issuer_der(&self) -> &[u8] {
        &self.0.issuer_der
    }

    /// The subject's name in DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.0.subject_der
    }

    /// The SHA-256 of its DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// The certified key.
    ///
    /// # Errors
    /// `Invalid` if the key is weak or of a kind that is not supported.
    pub fn public_key(&self) -> Result<&PublicKey> {
        self.0.public_key.as_ref().map_err(Clone::clone)
    }

    /// The authority key identifier (RFC 5280 section 4.2.1.1).
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.authority_key_id.as_deref()
    }

    /// The subject key identifier (RFC 5280 section 4.2.1.2).
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.subject_key_id.as_deref()
    }

    /// Whether it is a CA's: basic constraints say so (RFC 5280 section 4.2.1.9).
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }

    /// How many CA certificates may follow below this CA's, where that is limited.
    pub fn path_length(&self) -> Option<u32> {
        self.0.path_length
    }

    /// Whether its key usage allows signing certificates, or it says nothing of key usage.
    pub fn signs_certificates(&self) -> bool {
        self.0.signs_certificates
    }

    /// Whether subject and issuer are the same.
    pub fn is_self_issued(&self) -> bool {
        self.0.subject_der == self.0.issuer_der
    }

    /// How it is signed; `None` for an algorithm that is not supported.
    pub fn signature_algorithm(&self) -> Option<SignatureAlgorithm> {
        self.0.signature_algorithm
    }

    /// Checks that `issuer` is named as the issuer, is a CA, and made the signature. Dates are not looked at.
    ///
    /// # Errors
    /// `Invalid` saying which of them is not so.
    pub fn verify_signed_by(&self, issuer: &Self) -> Result<()> {
        let wrong = |message: &str, remedy: &str| Err(Error::invalid_field("", message, remedy));
        if self.0.issuer_der != issuer.0.subject_der {
            return wrong(
                "the certificate names another issuer than the one after it",
                "give the chain in order, leaf first, each followed by its issuer",
            );
        }
        if !issuer.is_ca() || !issuer.signs_certificates() {
            return wrong(
                "the issuer's certificate is not a CA's",
                "give the certificate of the CA that signed it",
            );
        }
        let Some(algorithm) = self.0.signature_algorithm else {
            return wrong(
                "the certificate is signed with an algorithm that is not supported",
                "use a CA that signs with SHA-256 or better (RSA PKCS#1, ECDSA) or Ed25519",
            );
        };
        issuer.public_key()?.verify(algorithm, &self.0.tbs, &self.0.signature).map_err(|_| {
            Error::invalid_field(
                "",
                "the certificate's signature is not its issuer's",
                "give the certificate of the CA that signed it",
            )
        })
    }
}

impl Inner {
    /// An extension that can't be read, or is not known, is passed over: this is a reader, not a validator.
    fn read(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectAlternativeName(san) => {
                for name in &san.general_names {
                    match SubjectAltName::from_general_name(name) {
                        Some(Ok(name)) => self.names.push(name),
                        _ => self.other_names += 1,
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_ca = constraints.ca;
                self.path_length = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => self.signs_certificates = usage.key_cert_sign(),
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
}

impl PartialEq for X509Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}
impl Eq for X509Certificate {}

impl fmt::Debug for X509Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Certificate")
            .field("serial", &self.0.serial)
            .field("subject_common_name", &self.0.subject_common_name)
            .field("names", &self.0.names)
            .field("not_before", &self.0.not_before)
            .field("not_after", &self.0.not_after)
            .field("is_ca", &self.0.is_ca)
            .field("fingerprint", &self.0.fingerprint)
            .finish()
    }
}

/// The last common name: the most specific one.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().last().map(text)
}

fn text(value: &AttributeTypeAndValue<'_>) -> String {
    const BMP_STRING: u32 = 30;
    match value.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) if value.attr_value().tag().0 == BMP_STRING => {
            let units = value.as_slice().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        Err(_) => String::from_utf8_lossy(value.as_slice()).into_owned(),
    }
}

fn malformed(message: &str) -> Error {
    Error::invalid_field("", message, "give one X.509 certificate in DER (RFC 5280)")
}
