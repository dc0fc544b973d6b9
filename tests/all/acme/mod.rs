//! The ACME issuer against real CAs.

mod account;
mod ca_says;
mod chains;
mod challenges;
mod hostile;
mod kill;
mod orders;
mod renewal;
mod server;
mod step_ca;
mod stored;
mod updates;

use std::path::{Path, PathBuf};

use certctl::{
    Actor, CertificateSpec, ChallengeKind, Engine, EngineBuilder, X509Certificate,
    host::HostPath,
    issuers::Acme,
    records::{Certificate, CertificateStatus, Job, Version},
    store::{ColumnValue, Query, StoreExt, Stored, Test},
    stores::SqliteStore,
    targets::Files,
};
use tempfile::TempDir;

use crate::peers::{self, Challtestsrv, Pebble, PebbleOptions, free_port};

/// A CA with its DNS, and a program that keeps its things in a directory.
pub struct World {
    pub dns: Challtestsrv,
    pub pebble: Pebble,
    pub dir: TempDir,
    /// Where the CA looks for challenges.
    pub http_port: u16,
    pub tls_port: u16,
}

impl World {
    /// None where a peer is absent.
    pub async fn new(change: impl FnOnce(&mut PebbleOptions)) -> Option<Self> {
        if !peers::has(&[peers::PEBBLE, peers::CHALLTESTSRV]) {
            return None;
        }
        let dns = Challtestsrv::start().await;
        let (http_port, tls_port) = (free_port(), free_port());
        let mut options = PebbleOptions { http_port, tls_port, ..PebbleOptions::new(&dns) };
        change(&mut options);
        let pebble = Pebble::start(options).await;
        Some(Self { dns, pebble, dir: tempfile::tempdir().unwrap(), http_port, tls_port })
    }

    /// Its configuration, for http-01.
    pub fn acme(&self) -> Acme {
        Acme {
            directory_url: self.pebble.directory_url(),
            ca_file: Some(HostPath::parse(self.pebble.ca_file().to_str().unwrap()).unwrap()),
            email: Some("admin@example.com".to_owned()),
            terms_of_service_agreed: true,
            http_address: Some([127, 0, 0, 1].into()),
            http_port: self.http_port,
            tls_address: Some([127, 0, 0, 1].into()),
            tls_port: self.tls_port,
            ..Acme::default()
        }
    }

    pub fn tls_alpn(&self) -> Acme {
        Acme { challenge_type: ChallengeKind::TlsAlpn01, ..self.acme() }
    }

    /// With records that a script writes into the CA's DNS.
    pub fn scripted_dns(&self) -> Acme {
        let script = |name: &str, body: &str| {
            let path = self.dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\nset -eu\n{body}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let management = self.dns.management();
        let present = script(
            "present",
            &format!(
                "curl -sSf -X POST -d \"{{\\\"host\\\":\\\"$CERTCTL_DNS_FQDN.\\\",\\\"value\\\":\\\"$CERTCTL_DNS_VALUE\\\"}}\" \
                 http://{management}/set-txt"
            ),
        );
        let cleanup = script(
            "cleanup",
            &format!("echo \"$CERTCTL_DNS_FQDN $CERTCTL_DNS_VALUE\" >>{}", self.cleaned().display()),
        );
        Acme {
            challenge_type: ChallengeKind::Dns01,
            dns_present_script: Some(present.into()),
            dns_cleanup_script: Some(cleanup.into()),
            dns_resolvers: vec![self.dns.addr()],
            dns_name_servers: vec![self.dns.addr()],
            ..self.acme()
        }
    }

    /// What the cleanup script was called for.
    pub fn cleaned(&self) -> PathBuf {
        self.dir.path().join("cleaned")
    }

    pub async fn builder(&self, acme: Acme) -> EngineBuilder {
        builder_in(self.dir.path(), acme).await
    }

    pub async fn engine(&self, acme: Acme) -> Engine {
        self.builder(acme).await.build().await.unwrap()
    }
}

/// A program that keeps its things in this directory.
pub async fn builder_in(dir: &Path, acme: Acme) -> EngineBuilder {
    let store = SqliteStore::open(dir.join("certs.db")).await.unwrap();
    let path = |suffix: &str| dir.join(format!("web.{suffix}")).to_str().unwrap().to_owned();
    let files = Files { cert_path: path("crt"), key_path: path("key"), ..Files::default() };
    Engine::builder(store).issuer("ca", acme).target("web", files)
}

pub fn actor() -> Actor {
    Actor::process()
}

pub fn spec(name: &str) -> CertificateSpec {
    CertificateSpec::new("web").dns(name).issuer("ca").target("web")
}

pub fn assert_active(certificate: &Certificate) {
    assert_eq!(certificate.status, CertificateStatus::Active, "{:#?}", certificate.reason);
}

/// The newest version.
pub async fn newest(engine: &Engine, certificate: &Certificate) -> Stored<Version> {
    engine.versions(&certificate.id).await.unwrap().remove(0)
}

pub fn is_signed_through(version: &Version, root: &X509Certificate) -> bool {
    version.chain.certificates().last().unwrap().issuer_common_name() == root.subject_common_name()
}

/// Steps what is left, such as taking challenges away, until nothing is.
pub async fn settle(engine: &Engine) {
    let watched = engine.clone();
    let idle = async move {
        let mut events = watched.events();
        loop {
            let open = Query::of::<Job>().filter("finished", Test::Equal, ColumnValue::Null).limit(1);
            if watched.store().list::<Job>(open).await.unwrap().0.is_empty() {
                return;
            }
            events.next().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), engine.run(idle))
        .await
        .expect("the jobs end")
        .unwrap();
}
