//! step-ca: a second ACME server, by others than Pebble's authors.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use certctl::{
    CertificateAuthority, Clock, KeyAlgorithm, Lifetime, PrivateKey, SerialNumber, SystemClock,
    X509Certificate,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::{
    Challtestsrv, STEP_CA, free_port, http,
    process::{PortTaken, Process, on_free_ports},
    tls,
};

/// How step-ca behaves.
#[derive(Clone, Debug)]
pub struct StepCaOptions {
    /// Its resolver.
    pub dns: SocketAddr,
    /// Where HTTP-01 is validated.
    pub http_port: u16,
    /// Where TLS-ALPN-01 is validated.
    pub tls_port: u16,
    /// How long certificates are valid, in hours, where the order doesn't say.
    pub hours: u32,
}

impl StepCaOptions {
    pub fn new(dns: &Challtestsrv) -> Self {
        Self { dns: dns.addr(), http_port: free_port(), tls_port: free_port(), hours: 24 }
    }
}

/// A running step-ca with one ACME provisioner. What it knows is in a directory that is gone with it.
#[derive(Debug)]
pub struct StepCa {
    process: Process,
    dir: TempDir,
    root: X509Certificate,
    ca_file: PathBuf,
    port: u16,
}

impl StepCa {
    pub async fn start(options: StepCaOptions) -> Self {
        on_free_ports("step-ca", async || Self::try_start(&options).await).await
    }

    async fn try_start(options: &StepCaOptions) -> Result<Self, PortTaken> {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let root = write_authorities(dir.path()).await;
        let (config, password) = (dir.path().join("ca.json"), dir.path().join("password"));
        std::fs::write(&config, configuration(dir.path(), port, options.hours).to_string()).unwrap();
        // The key is in clear, but without a file it would ask the terminal.
        std::fs::write(&password, "").unwrap();
        let mut process = Process::start(&STEP_CA.path(), &dir.path().join("log"), |command| {
            command.arg(&config).arg("--password-file").arg(&password).arg("--insecure");
            command.arg("--resolver").arg(options.dns.to_string());
            command.arg("--acme-http-port").arg(options.http_port.to_string());
            command.arg("--acme-tls-port").arg(options.tls_port.to_string());
            // It looks for further configuration here.
            command.env("STEPPATH", dir.path());
        });
        let ca_file = dir.path().join("root.pem");
        let tls = tls::client(&ca_file);
        process.until(async || http::request(port, Some(&tls), "GET", "/health", "").await.is_ok()).await?;
        Ok(Self { process, dir, root, ca_file, port })
    }

    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}{DIRECTORY}", self.port)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The PEM of its root, which its HTTPS certificate and those that it issues end in.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// A directory that lives as long as it does.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> &X509Certificate {
        &self.root
    }

    /// A client that trusts its root and nobody else's.
    pub fn client(&self) -> TlsConnector {
        tls::client(&self.ca_file)
    }

    pub async fn directory(&self) -> Value {
        serde_json::from_str(&self.ask(DIRECTORY).await.ok()).unwrap()
    }

    /// Whether this certificate is on its revocation list.
    pub async fn is_revoked(&self, serial: &SerialNumber) -> bool {
        let list = self.ask("/crl").await;
        assert_eq!(list.status, 200, "{list:?}");
        // A serial number is a positive INTEGER in DER (RFC 5280 section 5.1).
        let positive = if serial.octets()[0] < 0x80 { &[][..] } else { &[0] };
        let content = [positive, serial.octets()].concat();
        let der = [vec![2, u8::try_from(content.len()).unwrap()], content].concat();
        list.bytes.windows(der.len()).any(|window| window == der)
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    async fn ask(&self, path: &str) -> http::Answer {
        http::request(self.port, Some(&self.client()), "GET", path, "").await.unwrap()
    }
}

const DIRECTORY: &str = "/acme/acme/directory";

/// A root and an issuing CA; the root's key is thrown away.
async fn write_authorities(dir: &Path) -> X509Certificate {
    let now = SystemClock.now();
    let key = || PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let root =
        CertificateAuthority::create_root(Arc::new(key()), "Step Root", now, Lifetime::days(3650), [1; 20]);
    let root = root.await.unwrap();
    let issuing_key = key();
    let issuing = CertificateAuthority::create_issuing(
        &root,
        Arc::new(issuing_key.clone()),
        "Step Issuing",
        now,
        Lifetime::days(1000),
        [2; 20],
    );
    let issuing = issuing.await.unwrap();
    std::fs::write(dir.join("root.pem"), root.certificate().to_pem()).unwrap();
    std::fs::write(dir.join("issuing.pem"), issuing.certificate().to_pem()).unwrap();
    std::fs::write(dir.join("issuing-key.pem"), issuing_key.to_pem().expose()).unwrap();
    root.certificate().clone()
}

fn configuration(dir: &Path, port: u16, hours: u32) -> Value {
    json!({
        "root": dir.join("root.pem"),
        "crt": dir.join("issuing.pem"),
        "key": dir.join("issuing-key.pem"),
        "address": format!("127.0.0.1:{port}"),
        "dnsNames": ["localhost", "127.0.0.1"],
        "logger": { "format": "text" },
        "db": { "type": "badgerv2", "dataSource": dir.join("db") },
        "crl": { "enabled": true, "generateOnRevoke": true, "cacheDuration": "24h" },
        "authority": { "provisioners": [{
            "type": "ACME",
            "name": "acme",
            "claims": {
                "minTLSCertDuration": "5m",
                "maxTLSCertDuration": "2400h",
                "defaultTLSCertDuration": format!("{hours}h"),
            },
        }] },
    })
}
