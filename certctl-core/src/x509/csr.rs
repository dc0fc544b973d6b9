//! Certification requests (PKCS#10).

use std::{fmt, sync::Arc};

use rustls_pki_types::pem::SectionKind;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{ParsedExtension, X509Extension},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::FromDer,
};

use super::{
    Fingerprint, PublicKey, SignatureAlgorithm, SubjectAltName, certificate, pem, template, text_serde,
};
use crate::{Error, Result, Signer, Violation};

/// A certification request (PKCS#10, RFC 2986) whose signature was checked and whose key is strong enough. PEM in JSON.
/// Cheap to clone.
#[derive(Clone)]
pub struct Csr(Arc<Inner>);

struct Inner {
    der: Vec<u8>,
    public_key: PublicKey,
    common_name: Option<String>,
    names: Vec<SubjectAltName>,
}

impl Csr {
    /// The largest request that is read, in octets.
    pub const MAX_LEN: usize = 64 * 1024;
    /// The most names that a request has.
    pub const MAX_NAMES: usize = 1000;

    /// Makes a request for these names, signed by the key that it is for. The subject has the common name alone, or
    /// nothing.
    ///
    /// # Errors
    /// `Invalid` with every name that is wrong (`/names/2`, `/common_name`); what the signer answers, if it fails.
    pub async fn create(
        signer: &dyn Signer,
        common_name: Option<&str>,
        names: &[SubjectAltName],
    ) -> Result<Self> {
        let mut violations = SubjectAltName::check_all(names, "/names");
        violations.extend(common_name.and_then(|name| template::check_common_name(name, "/common_name")));
        if !violations.is_empty() {
            return Err(Error::invalid(violations));
        }
        let info = template::request_info(&template::params(common_name, names)?, signer)?;
        // Reading it back checks the signature: a key module can be set up with another key than it says.
        Self::from_der(&template::sign(&info, signer).await?)
    }

    /// Reads DER or PEM, whichever it is.
    ///
    /// # Errors
    /// As for [`Csr::from_der`] and [`Csr::from_pem`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        pem::check_size(bytes, Self::MAX_LEN, WHAT)?;
        // DER begins with a SEQUENCE, whose octet is also the digit zero; but no key or signature is ASCII throughout.
        if bytes.first() == Some(&0x30) && !bytes.is_ascii() {
            Self::from_der(bytes)
        } else {
            Self::from_pem(bytes)
        }
    }

    /// Reads the first PEM block `CERTIFICATE REQUEST` (or `NEW CERTIFICATE REQUEST`).
    ///
    /// # Errors
    /// `Invalid` if there is none, it is larger than [`Csr::MAX_LEN`], or as for [`Csr::from_der`].
    pub fn from_pem(text: &[u8]) -> Result<Self> {
        pem::check_size(text, Self::MAX_LEN, WHAT)?;
        // keytool and IIS write the label with NEW, which RFC 7468 section 7 has readers accept.
        let text = String::from_utf8_lossy(text)
            .replace(" NEW CERTIFICATE REQUEST-----", " CERTIFICATE REQUEST-----");
        let blocks = pem::read(text.as_bytes(), usize::MAX, WHAT)?;
        match blocks.iter().find(|(kind, _)| *kind == SectionKind::Csr) {
            Some((_, der)) => Self::from_der(der),
            None => Err(malformed("there is no certification request")),
        }
    }

    /// Reads DER. Extensions that are not known are tolerated, and not granted.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong: larger than [`Csr::MAX_LEN`], malformed, a weak key (`/public_key`), a
    /// signature that does not verify (`/signature`), a malformed name (`/names/2`).
    pub fn from_der(der: &[u8]) -> Result<Self> {
        pem::check_size(der, Self::MAX_LEN, WHAT)?;
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return Err(malformed("something follows the certification request")),
            Err(_) => return Err(malformed("the certification request is malformed")),
        };
        let info = &request.certification_request_info;
        let mut violations = Vec::new();

        let public_key =
            match PublicKey::from_parsed(&info.subject_pki).map_err(|error| error.below("/public_key")) {
                Ok(key) => Some(key),
                Err(error) => {
                    violations.extend_from_slice(error.violations());
                    None
                }
            };
        if let Some(key) = &public_key {
            violations.extend(check_signature(&request, key));
        }
        let names = match requested_names(&request) {
            Ok(names) => names,
            Err(wrong) => {
                violations.extend(wrong);
                Vec::new()
            }
        };
        let common_name = certificate::common_name(&info.subject);
        if common_name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
            violations.push(Violation::new(
                "/common_name",
                "the common name has control characters",
                "make the request anew without them",
            ));
        }
        match public_key {
            Some(public_key) if violations.is_empty() => {
                Ok(Self(Arc::new(Inner { der: der.to_vec(), public_key, common_name, names })))
            }
            _ => Err(Error::invalid(violations)),
        }
    }

    /// The request in DER.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The request in PEM.
    pub fn to_pem(&self) -> String {
        pem::write("CERTIFICATE REQUEST", &self.0.der)
    }

    /// The key that it asks a certificate for.
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// The subject's common name, where it has one.
    pub fn common_name(&self) -> Option<&str> {
        self.0.common_name.as_deref()
    }

    /// The names of its subject alternative name extension, in their order, each once.
    pub fn names(&self) -> &[SubjectAltName] {
        &self.0.names
    }

    /// The SHA-256 of its DER.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.der)
    }
}

impl PartialEq for Csr {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}
impl Eq for Csr {}

impl fmt::Debug for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csr")
            .field("common_name", &self.0.common_name)
            .field("names", &self.0.names)
            .field("public_key", &self.0.public_key)
            .finish()
    }
}

text_serde!(Csr, "Csr", "A certification request (PKCS#10) in PEM", Csr::to_pem, |text| Csr::from_pem(
    text.as_bytes()
));

const WHAT: &str = "certification request";
/// Microsoft's own attribute for extensions, from before RFC 2985 (szOID_CERT_EXTENSIONS is 1.3.6.1.4.1.311.2.1.14).
const MICROSOFT_EXTENSIONS: &[u8] = b"\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0e";

fn malformed(message: &str) -> Error {
    Error::invalid_field("", message, "give one PKCS#10 request (RFC 2986), in PEM or DER")
}

fn check_signature(request: &X509CertificationRequest<'_>, key: &PublicKey) -> Vec<Violation> {
    let Some(algorithm) = SignatureAlgorithm::from_identifier(&request.signature_algorithm) else {
        let oid = request.signature_algorithm.algorithm.to_id_string();
        return vec![Violation::new(
            "/signature",
            format!("the signature algorithm {oid} is not supported"),
            "sign the request with SHA-256, SHA-384 or SHA-512, or with Ed25519",
        )];
    };
    let tbs = request.certification_request_info.raw;
    match key.verify(algorithm, tbs, &request.signature_value.data) {
        Ok(()) => Vec::new(),
        Err(error) => error.violations().to_vec(),
    }
}

/// The names that are asked for. A type of name that can't be granted is refused, not dropped.
fn requested_names(request: &X509CertificationRequest<'_>) -> Result<Vec<SubjectAltName>, Vec<Violation>> {
    let wrong = |message: &str, remedy: &str| Err(vec![Violation::new("/names", message, remedy)]);
    let attributes = request.certification_request_info.attributes();
    if attributes.iter().any(|attribute| attribute.oid.as_bytes() == MICROSOFT_EXTENSIONS) {
        return wrong(
            "the request has its extensions in Microsoft's old attribute",
            "put them into the extensionRequest attribute (RFC 2985 section 5.4.2)",
        );
    }
    let extensions: Vec<&X509Extension<'_>> = attributes
        .iter()
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .filter(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)
        .collect();
    let names = match extensions.as_slice() {
        [] => return Ok(Vec::new()),
        [one] => match one.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) if !san.general_names.is_empty() => {
                &san.general_names
            }
            _ => return wrong("the subject alternative names are malformed", "make the request anew"),
        },
        _ => {
            return wrong(
                "the request has its names twice",
                "ask for one subject alternative name extension",
            );
        }
    };
    if names.len() > Csr::MAX_NAMES {
        let remedy = format!("ask for at most {} names in one request", Csr::MAX_NAMES);
        return wrong(&format!("the request has {} names", names.len()), &remedy);
    }
    let mut out = Vec::new();
    let mut violations = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let pointer = format!("/names/{index}");
        match SubjectAltName::from_general_name(name) {
            Some(Ok(name)) if out.contains(&name) => {}
            Some(Ok(name)) => out.push(name),
            Some(Err(error)) => violations.extend_from_slice(error.below(&pointer).violations()),
            None => violations.push(Violation::new(
                pointer,
                "a name is of a type that is not supported",
                "ask for DNS names, IP addresses, email addresses and URIs only",
            )),
        }
    }
    if violations.is_empty() { Ok(out) } else { Err(violations) }
}
