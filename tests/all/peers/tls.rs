//! The servers' own certificates, and clients that trust nobody else.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use certctl::{
    CertificateAuthority, Chain, Clock, ExtendedKeyUsage, KeyAlgorithm, LeafRequest, Lifetime, PrivateKey,
    SubjectAltName, SystemClock,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer},
};

/// Files in a directory: a CA, and a pair for `localhost` and `127.0.0.1` that it signed.
#[derive(Debug)]
pub struct ServerFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl ServerFiles {
    pub async fn create(dir: &Path) -> Self {
        let now = SystemClock.now();
        let signer = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap());
        let ca = CertificateAuthority::create_root(signer, "HTTPS Root", now, Lifetime::days(30), [1; 20]);
        let ca = ca.await.unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let request = LeafRequest {
            public_key: key.public_key().clone(),
            names: vec![SubjectAltName::dns("localhost").unwrap(), SubjectAltName::ip(Ipv4Addr::LOCALHOST)],
            common_name: None,
            not_before: now,
            not_after: now + Lifetime::days(29).as_duration(),
            serial_seed: [2; 20],
            usages: vec![ExtendedKeyUsage::ServerAuth],
        };
        let chain = ca.sign(&request).await.unwrap();
        let files = Self {
            ca: dir.join("https-ca.pem"),
            cert: dir.join("https.pem"),
            key: dir.join("https-key.pem"),
        };
        std::fs::write(&files.ca, ca.chain().to_pem()).unwrap();
        std::fs::write(&files.cert, chain.to_pem()).unwrap();
        std::fs::write(&files.key, key.to_pem().expose()).unwrap();
        files
    }

    /// A client that trusts this CA and nobody else.
    pub fn client(&self) -> TlsConnector {
        client(&self.ca)
    }
}

/// A client that trusts the CAs in this file and nobody else.
pub fn client(ca: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for root in Chain::from_pem(&std::fs::read(ca).unwrap()).unwrap().certificates() {
        roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
