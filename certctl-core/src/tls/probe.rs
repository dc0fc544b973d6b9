//! One TLS handshake, to see what a server shows.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, PeerMisbehaved, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::public_key_to_spki,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::FromDer;

use super::provider;
use crate::{Chain, Error, KeyKind, Result, SubjectAltName, X509Certificate, host::Io};

/// What a server showed in a handshake.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Its certificate. The handshake's signature was made with this certificate's key.
    pub leaf: X509Certificate,
    /// What it sent after the leaf, as it came: DER, or anything else.
    pub issuers: Vec<Vec<u8>>,
    /// The version that was negotiated.
    pub version: TlsVersion,
}

impl Presented {
    /// Everything that was served, leaf first.
    ///
    /// # Errors
    /// `Invalid` if what follows the leaf does not parse.
    pub fn chain(&self) -> Result<Chain> {
        Chain::from_ders(std::iter::once(self.leaf.der()).chain(self.issuers.iter().map(Vec::as_slice)))
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "TLS 1.2",
            Self::V1_3 => "TLS 1.3",
        })
    }
}

/// The type of a certificate's key, as far as TLS chooses between certificates by it. A server that has a certificate of
/// each type shows the one that the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// P-256, P-384 or P-521.
    Ecdsa,
    /// RSA of any size.
    Rsa,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    /// The type of a key of this kind.
    pub fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Rsa { .. } => Self::Rsa,
            KeyKind::Ed25519 => Self::Ed25519,
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => Self::Ecdsa,
        }
    }

    fn signs(self, scheme: SignatureScheme) -> bool {
        use SignatureScheme as S;
        match self {
            Self::Ecdsa => matches!(
                scheme,
                S::ECDSA_NISTP256_SHA256 | S::ECDSA_NISTP384_SHA384 | S::ECDSA_NISTP521_SHA512
            ),
            Self::Rsa => matches!(
                scheme,
                S::RSA_PSS_SHA256
                    | S::RSA_PSS_SHA384
                    | S::RSA_PSS_SHA512
                    | S::RSA_PKCS1_SHA256
                    | S::RSA_PKCS1_SHA384
                    | S::RSA_PKCS1_SHA512
            ),
            Self::Ed25519 => scheme == S::ED25519,
        }
    }
}

/// Shakes hands as a TLS client (1.2 or 1.3) and gives what the server showed. Trust, names and dates are not looked at;
/// that the server holds the key of its certificate is. A server that goes on to refuse a client without a certificate
/// has shown its own by then, and that counts.
///
/// `server_name` is sent as SNI if it is a DNS name (RFC 6066 section 3); `key_type` asks a server with several
/// certificates for one of that type.
///
/// # Errors
/// `Unavailable`, saying in words what the server did instead, within `deadline`; `Invalid` for a name that is none.
pub async fn handshake(
    io: Box<dyn Io>,
    server_name: Option<&str>,
    key_type: Option<KeyType>,
    deadline: Duration,
) -> Result<Presented> {
    let name = match server_name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| {
            Error::invalid_field(
                "",
                format!("{name:?} is not a server's name"),
                "give a DNS name or an IP address",
            )
        })?,
        // For an address no SNI is sent; which one it is does not matter, since names are not looked at.
        None => ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST)),
    };
    let provider = provider();
    let witness = Arc::new(Witness {
        algorithms: provider.signature_verification_algorithms,
        key_type,
        seen: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| Error::internal("the TLS client can't be set up").with_source(e))?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();

    let attempt = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, io).await?;
        // A clean end, for the server's log; whether it arrives makes no difference here.
        stream.shutdown().await
    };
    let outcome = tokio::time::timeout(deadline, attempt).await;
    if let Some(presented) = witness.presented() {
        return presented;
    }
    let why = match outcome {
        Ok(Ok(())) => "the server showed no certificate".to_owned(),
        Ok(Err(error)) => reason(&error),
        Err(_) => format!("the server did not finish the handshake within {deadline:?}"),
    };
    Err(Error::unavailable(why).with("step", "probe"))
}

/// Which server names to ask for, to see a certificate with these names: each DNS name; for a wildcard a made-up label
/// below it; once no name at all if the certificate is for addresses, or for nothing that can be asked for.
pub fn server_names(names: &[SubjectAltName]) -> Vec<Option<String>> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    let mut unnamed = false;
    for name in names {
        match name {
            SubjectAltName::Dns(dns) => {
                let host = match dns.strip_prefix("*.") {
                    // A name of 253 octets leaves no room for a speaking label.
                    Some(parent) if parent.len() > 253 - PROBE_LABEL.len() - 1 => format!("c.{parent}"),
                    Some(parent) => format!("{PROBE_LABEL}.{parent}"),
                    None => dns.clone(),
                };
                if seen.insert(host.clone()) {
                    out.push(Some(host));
                }
            }
            SubjectAltName::Ip(_) => unnamed = true,
            SubjectAltName::Email(_) | SubjectAltName::Uri(_) => {}
        }
    }
    if unnamed || (out.is_empty() && !names.is_empty()) {
        out.push(None);
    }
    out
}

const PROBE_LABEL: &str = "certctl-probe";

/// Looks at the handshake, and refuses nothing but a signature that is not the certificate's.
#[derive(Debug)]
struct Witness {
    algorithms: WebPkiSupportedAlgorithms,
    key_type: Option<KeyType>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    certificates: Vec<Vec<u8>>,
    /// Set once the signature was checked.
    proved: Option<TlsVersion>,
}

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn presented(&self) -> Option<Result<Presented>> {
        let mut seen = self.seen();
        let version = seen.proved?;
        let mut certificates = std::mem::take(&mut seen.certificates).into_iter();
        let leaf = X509Certificate::from_der(&certificates.next()?).map_err(|e| {
            Error::unavailable("the certificate that the server shows does not parse")
                .with_source(e)
                .with("step", "probe")
        });
        Some(leaf.map(|leaf| Presented { leaf, issuers: certificates.collect(), version }))
    }

    /// Not rustls' own: that refuses certificates for what it does not know in them (version 1, a critical extension)
    /// before it looks at the signature.
    fn check_signature(
        &self,
        version: TlsVersion,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !self.supported_verify_schemes().contains(&signed.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let parsed = match x509_parser::certificate::X509Certificate::from_der(certificate) {
            Ok(([], parsed)) => parsed,
            _ => return Err(CertificateError::BadEncoding.into()),
        };
        let key = parsed.public_key();
        let bits = key.subject_public_key.data.as_ref();
        let candidates = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .map_or(&[][..], |(_, algorithms)| algorithms);
        // In TLS 1.3 a scheme fixes the curve as well (RFC 8446 section 4.2.3): the first algorithm.
        let candidates = match version {
            TlsVersion::V1_2 => candidates,
            TlsVersion::V1_3 => candidates.get(..1).unwrap_or_default(),
        };
        let valid = candidates
            .iter()
            .filter(|algorithm| public_key_to_spki(&algorithm.public_key_alg_id(), bits).as_ref() == key.raw)
            .any(|algorithm| algorithm.verify_signature(bits, message, signed.signature()).is_ok());
        if !valid {
            return Err(CertificateError::BadSignature.into());
        }
        self.seen().proved = Some(version);
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        // The message that they came in has at most 64 KiB: rustls reads no larger one.
        *self.seen() = Seen { certificates: all.map(|der| der.to_vec()).collect(), proved: None };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(TlsVersion::V1_2, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if matches!(
            dss.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        ) {
            // RFC 8446 section 4.2.3: PKCS#1 v1.5 signs certificates only.
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.check_signature(TlsVersion::V1_3, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = self.algorithms.supported_schemes().into_iter();
        all.filter(|scheme| self.key_type.is_none_or(|key_type| key_type.signs(*scheme))).collect()
    }
}

/// In words, why there was no handshake.
fn reason(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the server closed the connection during the handshake".to_owned()
            }
            _ => format!("the connection broke during the handshake: {error}"),
        };
    };
    match error {
        rustls::Error::InvalidMessage(why) => format!("the server speaks no TLS that can be read ({why:?})"),
        rustls::Error::AlertReceived(alert) => {
            format!("handshake refused: the server sent the alert {alert:?}")
        }
        rustls::Error::PeerIncompatible(why) => format!("handshake refused: {why:?}"),
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
            "the handshake is not signed with the key of the certificate that the server shows".to_owned()
        }
        rustls::Error::InvalidCertificate(_) => {
            "the certificate that the server shows does not parse".to_owned()
        }
        other => format!("handshake failed: {other}"),
    }
}
