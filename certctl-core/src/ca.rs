//! The CA's own signing: a root, an issuing CA under it, and end-entity certificates.

use std::{fmt, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Chain, Error, ErrorKind, KeyKind, Lifetime, PublicKey, Result, SerialNumber, Signer, SubjectAltName,
    Timestamp, Violation, X509Certificate, x509::template,
};

/// A CA that signs: its certificate, those above it, and its key, wherever that is. Cheap to clone.
#[derive(Clone)]
pub struct CertificateAuthority {
    /// The CA's own certificate first.
    chain: Chain,
    signer: Arc<dyn Signer>,
    /// What goes with each certificate that is signed.
    issuers: Vec<X509Certificate>,
}

/// A use that an end-entity certificate is good for (RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExtendedKeyUsage {
    /// TLS servers.
    ServerAuth,
    /// TLS clients.
    ClientAuth,
    /// Signing code.
    CodeSigning,
    /// Email.
    EmailProtection,
    /// Time stamps.
    TimeStamping,
    /// OCSP answers.
    OcspSigning,
}

/// An end-entity certificate that a CA shall sign. The same request gives the same to-be-signed bytes, always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeafRequest {
    /// The key to certify.
    pub public_key: PublicKey,
    /// The names it is for.
    #[serde(default)]
    pub names: Vec<SubjectAltName>,
    /// The subject's common name; without it the subject is empty.
    #[serde(default)]
    pub common_name: Option<String>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid; cut to the end of the CA's own certificate.
    pub not_after: Timestamp,
    /// What the serial number is made of: random, and never used twice.
    pub serial_seed: [u8; 20],
    /// What it is good for; nothing in particular if empty.
    #[serde(default)]
    pub usages: Vec<ExtendedKeyUsage>,
}

impl CertificateAuthority {
    /// How far before `now` the certificates of a new CA begin, for clients whose clocks are behind.
    pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

    /// A CA that exists: its certificate first, then those above it.
    ///
    /// # Errors
    /// `Precondition` if the certificate is not a CA's, or the key is not the certificate's.
    pub fn new(chain: Chain, signer: Arc<dyn Signer>) -> Result<Self> {
        let own = chain.leaf();
        if !own.is_ca() {
            return Err(precondition("the CA's certificate is not a CA's: its basic constraints lack cA"));
        }
        if !own.signs_certificates() {
            return Err(precondition(
                "the CA's certificate may not sign certificates: its key usage lacks keyCertSign",
            ));
        }
        if own.public_key()? != signer.public_key() {
            return Err(precondition("the CA's key is not the one of its certificate"));
        }
        // Clients have the root already; where there is nothing but a root, it goes along all the same.
        let (own, above) = (chain.certificates()[..1].iter(), chain.certificates()[1..].iter());
        let issuers = own.chain(above.filter(|certificate| !certificate.is_self_issued())).cloned().collect();
        Ok(Self { chain, signer, issuers })
    }

    /// A new root, signed by itself. It is valid from [`CertificateAuthority::BACKDATE`] before `now` until `lifetime` after
    /// it.
    ///
    /// # Errors
    /// `Invalid` for a common name that can't be one; what the signer answers, if it fails.
    pub async fn create_root(
        signer: Arc<dyn Signer>,
        common_name: &str,
        now: Timestamp,
        lifetime: Lifetime,
        serial_seed: [u8; 20],
    ) -> Result<Self> {
        let not_after = now + lifetime.as_duration();
        let mut params = ca_params(common_name, now, not_after, &serial_seed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let tbs = template::tbs_certificate(&params, signer.public_key(), None, None, signer.as_ref())?;
        let der = template::sign(&tbs, signer.as_ref()).await?;
        Self::new(Chain::from_ders([der])?, signer)
    }

    /// A new issuing CA under `root`, which can have no CA under itself. It is valid as long as asked, but not longer than
    /// the root.
    ///
    /// # Errors
    /// `Invalid` for a common name that can't be one, or is the root's; `Precondition` if the root has expired, or is not to
    /// have CAs under it; what the signer answers, if it fails.
    pub async fn create_issuing(
        root: &Self,
        signer: Arc<dyn Signer>,
        common_name: &str,
        now: Timestamp,
        lifetime: Lifetime,
        serial_seed: [u8; 20],
    ) -> Result<Self> {
        let above = root.certificate();
        if above.path_length() == Some(0) {
            return Err(precondition("the CA above may have no CA under it: its path length is 0"));
        }
        root.check_valid_at(now)?;
        if signer.public_key() == root.signer.public_key() {
            return Err(precondition("the CA has the key of the CA above it"));
        }
        if above.subject_common_name() == Some(common_name) {
            let remedy = "give the issuing CA a name of its own";
            return Err(Error::invalid_field(
                "/common_name",
                "the CA above has the same common name",
                remedy,
            ));
        }
        let not_after = above.not_after().min(now + lifetime.as_duration());
        let mut params = ca_params(common_name, now, not_after, &serial_seed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let tbs = root.certificate_under(params, signer.public_key())?;
        let der = template::sign(&tbs, root.signer.as_ref()).await?;
        let mut chain = vec![X509Certificate::from_der(&der)?];
        chain.extend_from_slice(root.chain.certificates());
        Self::new(Chain::new(chain)?, signer)
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &X509Certificate {
        self.chain.leaf()
    }

    /// The CA's own certificate and those above it.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The CA's key.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Checks that no certificate from the CA's own upwards has expired.
    ///
    /// # Errors
    /// `Precondition` naming the one that has.
    pub fn check_valid_at(&self, now: Timestamp) -> Result<()> {
        match self.chain.certificates().iter().find(|certificate| certificate.not_after() < now.floor_secs())
        {
            None => Ok(()),
            Some(expired) => Err(expired_error(expired)),
        }
    }

    /// Signs an end-entity certificate: the leaf, then the issuing CAs, without the root they end in.
    ///
    /// # Errors
    /// As for [`CertificateAuthority::to_be_signed`]; what the signer answers, if it fails.
    pub async fn sign(&self, request: &LeafRequest) -> Result<Chain> {
        let tbs = self.to_be_signed(request)?;
        let der = template::sign(&tbs, self.signer.as_ref()).await?;
        let mut chain = Vec::with_capacity(1 + self.issuers.len());
        chain.push(X509Certificate::from_der(&der)?);
        chain.extend_from_slice(&self.issuers);
        Chain::new(chain)
    }

    /// The `TBSCertificate` that [`CertificateAuthority::sign`] signs: the same bytes for the same request.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong with the request (`/names/2`, `/common_name`, `/public_key`, `/not_after`);
    /// `Precondition` if the CA expires before the certificate would begin.
    pub fn to_be_signed(&self, request: &LeafRequest) -> Result<Vec<u8>> {
        let violations = self.violations(request);
        if !violations.is_empty() {
            return Err(Error::invalid(violations));
        }
        // A certificate that outlives its issuer stops working earlier than it says.
        let not_after = request.not_after.min(self.certificate().not_after());
        if not_after <= request.not_before {
            return Err(expired_error(self.certificate()));
        }
        let mut params = template::params(request.common_name.as_deref(), &request.names)?;
        params.not_before = request.not_before.floor_secs().to_datetime();
        params.not_after = not_after.floor_secs().to_datetime();
        params.serial_number = Some(serial(&request.serial_seed));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Only RSA keys can be used to encrypt another key (RFC 8813 section 3).
        if matches!(request.public_key.kind(), KeyKind::Rsa { .. }) {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        for usage in &request.usages {
            params.insert_extended_key_usage(purpose(*usage));
        }
        self.certificate_under(params, &request.public_key)
    }

    fn certificate_under(&self, mut params: CertificateParams, subject: &PublicKey) -> Result<Vec<u8>> {
        let own = self.certificate();
        params.use_authority_key_identifier_extension = own.subject_key_id().is_some();
        let signer = self.signer.as_ref();
        template::tbs_certificate(&params, subject, Some(own.subject_der()), own.subject_key_id(), signer)
    }

    fn violations(&self, request: &LeafRequest) -> Vec<Violation> {
        let mut violations = SubjectAltName::check_all(&request.names, "/names");
        let common_name = request.common_name.as_deref();
        violations.extend(common_name.and_then(|name| template::check_common_name(name, "/common_name")));
        if request.names.is_empty() && common_name.is_none() {
            violations.push(Violation::new("/names", "there is no name", "give at least one name"));
        }
        if self
            .chain
            .certificates()
            .iter()
            .any(|ca| ca.public_key().is_ok_and(|key| *key == request.public_key))
        {
            violations.push(Violation::new(
                "/public_key",
                "the key is the CA's own",
                "make a key for this certificate alone",
            ));
        }
        if request.not_after.floor_secs() <= request.not_before {
            violations.push(Violation::new(
                "/not_after",
                format!("the certificate would end at {}, before it begins", request.not_after),
                "ask for a longer lifetime",
            ));
        }
        violations
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// A CA's certificate: it signs certificates and revocation lists, and nothing else.
fn ca_params(
    common_name: &str,
    now: Timestamp,
    not_after: Timestamp,
    serial_seed: &[u8; 20],
) -> Result<CertificateParams> {
    if let Some(violation) = template::check_common_name(common_name, "/common_name") {
        return Err(Error::invalid(vec![violation]));
    }
    let mut params = template::params(Some(common_name), &[])?;
    params.not_before = (now - CertificateAuthority::BACKDATE).floor_secs().to_datetime();
    params.not_after = not_after.floor_secs().to_datetime();
    params.serial_number = Some(serial(serial_seed));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn serial(seed: &[u8; 20]) -> rcgen::SerialNumber {
    rcgen::SerialNumber::from_slice(SerialNumber::from_seed(seed).octets())
}

fn purpose(usage: ExtendedKeyUsage) -> ExtendedKeyUsagePurpose {
    match usage {
        ExtendedKeyUsage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsage::CodeSigning => ExtendedKeyUsagePurpose::CodeSigning,
        ExtendedKeyUsage::EmailProtection => ExtendedKeyUsagePurpose::EmailProtection,
        ExtendedKeyUsage::TimeStamping => ExtendedKeyUsagePurpose::TimeStamping,
        ExtendedKeyUsage::OcspSigning => ExtendedKeyUsagePurpose::OcspSigning,
    }
}

fn precondition(message: &str) -> Error {
    Error::new(ErrorKind::Precondition, message)
}

fn expired_error(certificate: &X509Certificate) -> Error {
    let name = certificate.subject_common_name().unwrap_or("without a common name");
    precondition(&format!("the CA {name} expired at {}: renew it first", certificate.not_after()))
        .with("ca_fingerprint", certificate.fingerprint())
}
