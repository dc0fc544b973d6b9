//! rcgen writes what is to be signed; a [`Signer`] signs it.
//!
//! rcgen wants a synchronous key. It gets one that keeps the bytes and answers with an empty signature; the real
//! signature is then made by whatever signer there is, and put around the same bytes.

use std::cell::RefCell;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, Issuer, KeyIdMethod, PublicKeyData, SanType, SigningKey,
    string::Ia5String,
};

use super::{PublicKey, SignatureAlgorithm, SubjectAltName, der, key::cannot_sign};
use crate::{Error, Result, Signer, Violation};

/// Parameters without rcgen's defaults: no name, and none of its dates and serial numbers survives by mistake.
pub(crate) fn params(common_name: Option<&str>, names: &[SubjectAltName]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.subject_alt_names = names.iter().map(san).collect::<Result<_>>()?;
    Ok(params)
}

/// The `CertificationRequestInfo` (RFC 2986 section 4.1) for `key`.
pub(crate) fn request_info(params: &CertificateParams, key: &dyn Signer) -> Result<Vec<u8>> {
    let capture = Capture::new(key.public_key(), key.algorithm())?;
    params.serialize_request(&capture).map_err(failed)?;
    Ok(capture.tbs.into_inner())
}

/// The `TBSCertificate` (RFC 5280 section 4.1.2) for `subject`, to be signed by `issuer_key`. The issuer's name is
/// `issuer_der`, or the subject's own for a self-signed certificate. The authority key identifier is `issuer_key_id`.
pub(crate) fn tbs_certificate(
    params: &CertificateParams,
    subject: &PublicKey,
    issuer_der: Option<&[u8]>,
    issuer_key_id: Option<&[u8]>,
    issuer_key: &dyn Signer,
) -> Result<Vec<u8>> {
    let capture = Capture::new(issuer_key.public_key(), issuer_key.algorithm())?;
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = DistinguishedName::new();
    issuer_params.key_identifier_method =
        KeyIdMethod::PreSpecified(issuer_key_id.unwrap_or_default().to_vec());
    let Some(issuer_der) = issuer_der else {
        let issuer = Issuer::from_params(params, &capture);
        params.signed_by(subject, &issuer).map_err(failed)?;
        return Ok(capture.tbs.into_inner());
    };
    let issuer = Issuer::from_params(&issuer_params, &capture);
    params.signed_by(subject, &issuer).map_err(failed)?;
    der::with_issuer(&capture.tbs.into_inner(), issuer_der)
        .ok_or_else(|| Error::internal("the issuer's name does not fit into the certificate"))
}

/// Signs, and puts the parts together.
pub(crate) async fn sign(tbs: &[u8], key: &dyn Signer) -> Result<Vec<u8>> {
    let algorithm = key.algorithm();
    let signature = key.sign(algorithm, tbs).await?;
    Ok(der::signed(tbs, algorithm, &signature))
}

/// What is wrong with a common name: it is text of 1 to 64 characters (RFC 5280 appendix A.1).
pub(crate) fn check_common_name(common_name: &str, pointer: &str) -> Option<Violation> {
    if common_name.is_empty() || common_name.chars().count() > 64 {
        return Some(Violation::new(
            pointer,
            format!("the common name has {} characters", common_name.chars().count()),
            "give 1 to 64 characters, or no common name: a longer DNS name belongs into the names alone",
        ));
    }
    let control = common_name.contains(char::is_control);
    control.then(|| Violation::new(pointer, "the common name has control characters", "remove them"))
}

/// The key that rcgen sees.
struct Capture<'a> {
    key: &'a PublicKey,
    algorithm: &'static rcgen::SignatureAlgorithm,
    tbs: RefCell<Vec<u8>>,
}

impl<'a> Capture<'a> {
    fn new(key: &'a PublicKey, algorithm: SignatureAlgorithm) -> Result<Self> {
        let rcgen = key.kind().rcgen(algorithm).ok_or_else(|| cannot_sign(key.kind(), algorithm))?;
        Ok(Self { key, algorithm: rcgen, tbs: RefCell::new(Vec::new()) })
    }
}

impl PublicKeyData for Capture<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Capture<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.tbs.borrow_mut() = message.to_vec();
        Ok(Vec::new())
    }
}

fn distinguished_name(common_name: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn san(name: &SubjectAltName) -> Result<SanType> {
    let ia5 = |text: &str| {
        Ia5String::try_from(text)
            .map_err(|_| Error::invalid_field("", format!("{text:?} is not ASCII"), "use its ASCII form"))
    };
    Ok(match name {
        SubjectAltName::Dns(text) => SanType::DnsName(ia5(text)?),
        SubjectAltName::Email(text) => SanType::Rfc822Name(ia5(text)?),
        SubjectAltName::Uri(text) => SanType::URI(ia5(text)?),
        SubjectAltName::Ip(address) => SanType::IpAddress(*address),
    })
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: rcgen::Error) -> Error {
    Error::internal(format!("writing the certificate failed: {error}"))
}
