//! Chains, and the bundle of a chain with its key.

use std::{fmt, time::Duration};

use rustls_pki_types::pem::SectionKind;

use super::{PrivateKey, PublicKey, SubjectAltName, X509Certificate, pem, shown, text_serde};
use crate::{Error, Result, Timestamp, Violation};

/// A certificate and those of its issuers, leaf first, never empty. PEM in JSON. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain(Vec<X509Certificate>);

impl Chain {
    /// The largest PEM text that is read, in octets.
    pub const MAX_PEM_LEN: usize = 1024 * 1024;
    /// The most certificates that a chain has.
    pub const MAX_CERTIFICATES: usize = 32;
    /// How far the clock of whoever made a certificate may be ahead of ours.
    pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

    /// Reads the PEM blocks `CERTIFICATE`, leaf first; other blocks and text between them are passed over.
    ///
    /// # Errors
    /// `Invalid` if it is larger than [`Chain::MAX_PEM_LEN`], broken, or as for [`Chain::from_ders`].
    pub fn from_pem(text: &[u8]) -> Result<Self> {
        let blocks = pem::read(text, Self::MAX_PEM_LEN, "certificate chain")?;
        let certificates = blocks.into_iter().filter(|(kind, _)| *kind == SectionKind::Certificate);
        Self::from_ders(certificates.map(|(_, der)| der))
    }

    /// Reads certificates in DER, leaf first.
    ///
    /// # Errors
    /// `Invalid` if there are none, more than [`Chain::MAX_CERTIFICATES`], or one is malformed (its index is the pointer).
    pub fn from_ders(ders: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Self> {
        let read = |(index, der): (usize, _)| {
            X509Certificate::from_der(AsRef::as_ref(&der)).map_err(|error| error.below(&format!("/{index}")))
        };
        let ders = ders.into_iter().take(Self::MAX_CERTIFICATES + 1);
        Self::new(ders.enumerate().map(read).collect::<Result<_>>()?)
    }

    /// From certificates, leaf first.
    ///
    /// # Errors
    /// `Invalid` if there are none, or more than [`Chain::MAX_CERTIFICATES`].
    pub fn new(certificates: Vec<X509Certificate>) -> Result<Self> {
        match certificates.len() {
            0 => Err(Error::invalid_field("", "there is no certificate", "give a PEM block CERTIFICATE")),
            len if len > Self::MAX_CERTIFICATES => Err(Error::invalid_field(
                "",
                "the chain has too many certificates",
                format!("give at most {}", Self::MAX_CERTIFICATES),
            )),
            _ => Ok(Self(certificates)),
        }
    }

    /// The whole chain in PEM, leaf first.
    pub fn to_pem(&self) -> String {
        self.0.iter().map(X509Certificate::to_pem).collect()
    }

    /// The issuers in PEM, without the leaf; empty if there are none.
    pub fn issuers_pem(&self) -> String {
        self.0[1..].iter().map(X509Certificate::to_pem).collect()
    }

    /// The certificate that the chain is for.
    pub fn leaf(&self) -> &X509Certificate {
        // Never empty, by every constructor.
        &self.0[0]
    }

    /// All certificates, leaf first.
    pub fn certificates(&self) -> &[X509Certificate] {
        &self.0
    }

    /// All certificates in DER, leaf first.
    pub fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(X509Certificate::der)
    }

    /// Checks that the chain is what was asked for: the leaf is for this key and covers every name, each certificate is
    /// signed by the next, and none is outside its dates at `now`. Trust is not looked at.
    ///
    /// A wildcard that is asked for must be in the leaf as it is.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong: `/key`, `/names/2` (of those asked for), `/chain/0` (of the chain).
    pub fn check(&self, key: &PublicKey, names: &[SubjectAltName], now: Timestamp) -> Result<()> {
        let mut violations = Vec::new();
        match self.leaf().public_key() {
            Ok(certified) if certified == key => {}
            Ok(_) => violations.push(Violation::new(
                "/key",
                "the certificate is for another key",
                "use the key that the certificate was requested with, or request a new one",
            )),
            Err(error) => violations.extend_from_slice(error.below("/key").violations()),
        }
        for (index, name) in names.iter().enumerate() {
            if !self.leaf().names().iter().any(|have| have.covers(name)) {
                violations.push(Violation::new(
                    format!("/names/{index}"),
                    format!("the certificate is not for {}", shown(&name.to_string())),
                    "request a certificate with that name, or ask for fewer names",
                ));
            }
        }
        for (index, certificate) in self.0.iter().enumerate() {
            let pointer = format!("/chain/{index}");
            violations.extend(check_dates(certificate, now, &pointer));
            if let Some(issuer) = self.0.get(index + 1)
                && let Err(error) = certificate.verify_signed_by(issuer)
            {
                violations.extend_from_slice(error.below(&pointer).violations());
            }
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::invalid(violations)) }
    }
}

impl Chain {
    /// [`Chain::check`] of what a CA answered with: nor may the leaf be a CA's, which could certify every name there is.
    ///
    /// # Errors
    /// As there, with `/chain/0` for a CA's.
    pub fn check_issued(&self, key: &PublicKey, names: &[SubjectAltName], now: Timestamp) -> Result<()> {
        self.check(key, names, now)?;
        if !self.leaf().is_ca() {
            return Ok(());
        }
        let message = "the certificate is that of a CA, and could certify every name";
        Err(Error::invalid_field("/chain/0", message, "ask the CA for a certificate of an end entity"))
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chain").field(self.leaf()).field(&format_args!("+{}", self.0.len() - 1)).finish()
    }
}

text_serde!(Chain, "Chain", "Certificates in PEM: the leaf, then each one's issuer", Chain::to_pem, |text| {
    Chain::from_pem(text.as_bytes())
});

/// A chain and the key of its leaf: what is deployed. Never serialised.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Leaf first.
    pub chain: Chain,
    /// The leaf's key.
    pub key: PrivateKey,
}

impl Bundle {
    /// [`Chain::check`] with this bundle's key.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, names: &[SubjectAltName], now: Timestamp) -> Result<()> {
        self.chain.check(self.key.public_key(), names, now)
    }
}

fn check_dates(certificate: &X509Certificate, now: Timestamp, pointer: &str) -> Option<Violation> {
    if certificate.not_after() < now.floor_secs() {
        let message = format!("the certificate expired at {}", certificate.not_after());
        return Some(Violation::new(pointer, message, "renew it"));
    }
    if certificate.not_before() > now + Chain::CLOCK_TOLERANCE {
        let message = format!("the certificate is not valid before {}", certificate.not_before());
        return Some(Violation::new(pointer, message, "wait until then, or set the clock right"));
    }
    None
}
