//! Pebble: an ACME server that gives clients a hard time on purpose.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use certctl::{SerialNumber, X509Certificate};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::{
    Challtestsrv, OLD_PEBBLE, PEBBLE, free_port, http,
    process::{PortTaken, Process, on_free_ports},
    tls::ServerFiles,
};

/// Which Pebble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// The newest, with profiles and renewal information.
    New,
    /// Debian's 2.4, with neither.
    Old,
}

/// How Pebble behaves.
#[derive(Clone, Debug)]
pub struct PebbleOptions {
    pub binary: Binary,
    /// Its resolver; the system's if there is none.
    pub dns: Option<SocketAddr>,
    /// Where HTTP-01 is validated.
    pub http_port: u16,
    /// Where TLS-ALPN-01 is validated.
    pub tls_port: u16,
    /// How many of a hundred good nonces are refused.
    pub nonce_reject: u8,
    /// How many of a hundred orders find an authorization that is valid already.
    pub authz_reuse: u8,
    /// Whether validation succeeds without looking.
    pub always_valid: bool,
    /// Whether validation begins at once instead of some seconds later.
    pub no_sleep: bool,
    /// How many intermediates are between root and leaf.
    pub chain_length: u8,
    /// How many further chains are offered.
    pub alternate_roots: u8,
    /// Key identifier and key (base64url) for accounts, which are refused without.
    pub eab: Option<(String, String)>,
    /// Names and lifetimes in seconds.
    pub profiles: Vec<(&'static str, u64)>,
    /// Seconds to wait that authorizations and orders ask for.
    pub retry_after: (u32, u32),
    /// Names that are never issued for.
    pub blocked: Vec<&'static str>,
}

impl PebbleOptions {
    /// The newest Pebble, which resolves names with `dns`, refuses one nonce in four, reuses no authorization, and asks to
    /// wait for one second.
    pub fn new(dns: &Challtestsrv) -> Self {
        Self { dns: Some(dns.addr()), ..Self::default() }
    }
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self {
            binary: Binary::New,
            dns: None,
            http_port: free_port(),
            tls_port: free_port(),
            nonce_reject: 25,
            authz_reuse: 0,
            always_valid: false,
            no_sleep: true,
            chain_length: 1,
            alternate_roots: 0,
            eab: None,
            profiles: vec![("default", 7_776_000), ("shortlived", 518_400)],
            retry_after: (1, 1),
            blocked: vec!["blocked.test"],
        }
    }
}

/// A running Pebble. All that it knows is in memory, and gone with it.
#[derive(Debug)]
pub struct Pebble {
    process: Process,
    dir: TempDir,
    files: ServerFiles,
    port: u16,
    management: u16,
}

impl Pebble {
    pub async fn start(options: PebbleOptions) -> Self {
        on_free_ports("pebble", async || Self::try_start(&options).await).await
    }

    async fn try_start(options: &PebbleOptions) -> Result<Self, PortTaken> {
        let dir = tempfile::tempdir().unwrap();
        let files = ServerFiles::create(dir.path()).await;
        let (port, management) = (free_port(), free_port());
        let config = dir.path().join("pebble.json");
        std::fs::write(&config, options.config(&files, port, management).to_string()).unwrap();
        let program = match options.binary {
            Binary::New => PEBBLE,
            Binary::Old => OLD_PEBBLE,
        };
        let mut process = Process::start(&program.path(), &dir.path().join("log"), |command| {
            command.arg("-config").arg(&config);
            if let Some(dns) = options.dns {
                command.arg("-dnsserver").arg(dns.to_string());
            }
            command.envs(options.environment());
        });
        let tls = files.client();
        // Both know the certificate that only this one has.
        let ready = async || {
            let directory = http::request(port, Some(&tls), "GET", "/dir", "").await;
            let root = http::request(management, Some(&tls), "GET", "/roots/0", "").await;
            directory.is_ok() && root.is_ok()
        };
        process.until(ready).await?;
        Ok(Self { process, dir, files, port, management })
    }

    pub fn directory_url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The PEM of the CA that signed its HTTPS certificate; not one that it issues from.
    pub fn ca_file(&self) -> &Path {
        &self.files.ca
    }

    /// A directory that lives as long as it does.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client that trusts its HTTPS certificate and nobody else's.
    pub fn client(&self) -> TlsConnector {
        self.files.client()
    }

    pub async fn directory(&self) -> Value {
        let answer = http::request(self.port, Some(&self.client()), "GET", "/dir", "").await.unwrap().ok();
        serde_json::from_str(&answer).unwrap()
    }

    /// The root that its certificates end in: 0, or the number of an alternate one.
    pub async fn root(&self, number: u8) -> X509Certificate {
        certificate(&self.manage("GET", &format!("/roots/{number}"), "").await.ok())
    }

    /// The intermediate under that root which signs certificates.
    pub async fn intermediate(&self, number: u8) -> X509Certificate {
        certificate(&self.manage("GET", &format!("/intermediates/{number}"), "").await.ok())
    }

    /// From now on it answers exactly this, be it JSON or not, when asked when to renew this certificate (RFC 9773).
    pub async fn set_renewal_info(&self, certificate: &X509Certificate, answer: &str) {
        let body = json!({ "certificate": certificate.to_pem(), "ariResponse": answer });
        self.manage("POST", "/set-renewal-info/", &body.to_string()).await.ok();
    }

    /// `Valid` or `Revoked` as `Status`, and then `Reason` and `RevokedAt`; `None` for what it did not issue.
    pub async fn status(&self, serial: &SerialNumber) -> Option<Value> {
        let path = format!("/cert-status-by-serial/{}", hex(serial));
        let answer = self.manage("GET", &path, "").await;
        (answer.status != 404).then(|| serde_json::from_str(&answer.ok()).unwrap())
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    async fn manage(&self, method: &str, path: &str, body: &str) -> http::Answer {
        http::request(self.management, Some(&self.client()), method, path, body).await.unwrap()
    }
}

impl PebbleOptions {
    fn config(&self, files: &ServerFiles, port: u16, management: u16) -> Value {
        let profile = |(name, secs): &(&str, u64)| {
            (
                (*name).to_owned(),
                json!({ "description": format!("The profile {name}"), "validityPeriod": secs }),
            )
        };
        let (authz, order) = self.retry_after;
        json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": files.cert,
            "privateKey": files.key,
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.eab.is_some(),
            "externalAccountMACKeys": self.eab.iter().cloned().collect::<BTreeMap<_, _>>(),
            "domainBlocklist": self.blocked,
            "retryAfter": { "authz": authz, "order": order },
            "keyAlgorithm": "ecdsa",
            "profiles": self.profiles.iter().map(profile).collect::<BTreeMap<_, _>>(),
        } })
    }

    fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("PEBBLE_WFE_NONCEREJECT", self.nonce_reject.to_string()),
            ("PEBBLE_AUTHZREUSE", self.authz_reuse.to_string()),
            ("PEBBLE_VA_NOSLEEP", u8::from(self.no_sleep).to_string()),
            ("PEBBLE_VA_ALWAYS_VALID", u8::from(self.always_valid).to_string()),
            ("PEBBLE_CHAIN_LENGTH", self.chain_length.to_string()),
            ("PEBBLE_ALTERNATE_ROOTS", self.alternate_roots.to_string()),
        ]
    }
}

fn certificate(pem: &str) -> X509Certificate {
    certctl::Chain::from_pem(pem.as_bytes()).unwrap().leaf().clone()
}

fn hex(serial: &SerialNumber) -> String {
    serial.octets().iter().map(|octet| format!("{octet:02x}")).collect()
}
