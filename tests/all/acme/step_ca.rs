//! step-ca's ACME: a server by others than Pebble's authors, without renewal information and profiles.

use std::sync::Arc;

use certctl::{
    CertificateSpec, ChallengeKind, Context, Lifetime, Order, Progress, Revocation, RevocationReason, Secret,
    SubjectAltName, SystemClock, issuers::Acme, records::Profile,
};

use super::{actor, assert_active, builder_in, newest, settle, spec};
use crate::{
    peers::{self, Challtestsrv, StepCa, StepCaOptions},
    rig::open,
};

/// A step-ca with its DNS, and a program that keeps its things in a directory.
struct Rig {
    _dns: Challtestsrv,
    ca: StepCa,
    dir: tempfile::TempDir,
    http_port: u16,
    tls_port: u16,
}

impl Rig {
    /// None where a peer is absent.
    async fn new() -> Option<Self> {
        if !peers::has(&[peers::STEP_CA, peers::CHALLTESTSRV]) {
            return None;
        }
        let dns = Challtestsrv::start().await;
        let options = StepCaOptions::new(&dns);
        let (http_port, tls_port) = (options.http_port, options.tls_port);
        let ca = StepCa::start(options).await;
        Some(Self { _dns: dns, ca, dir: tempfile::tempdir().unwrap(), http_port, tls_port })
    }

    fn acme(&self) -> Acme {
        Acme {
            directory_url: self.ca.directory_url(),
            ca_file: Some(self.ca.ca_file().to_str().unwrap().parse().unwrap()),
            email: Some("admin@example.com".to_owned()),
            http_address: Some([127, 0, 0, 1].into()),
            http_port: self.http_port,
            tls_address: Some([127, 0, 0, 1].into()),
            tls_port: self.tls_port,
            ..Acme::default()
        }
    }

    async fn engine(&self, acme: Acme) -> certctl::Engine {
        builder_in(self.dir.path(), acme).await.build().await.unwrap()
    }
}

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn http_01_and_a_renewal() {
    let Some(rig) = Rig::new().await else { return };
    let engine = rig.engine(rig.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com").dns("example.com")).await.unwrap();
    assert_active(&certificate);
    let first = newest(&engine, &certificate).await;
    assert_eq!(first.chain.leaf().names().len(), 2);
    let top = first.chain.certificates().last().unwrap().issuer_common_name();
    assert_eq!((first.chain.certificates().len(), top), (2, rig.ca.root().subject_common_name()));
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    assert_eq!(ca.renewal_window(&cx(), &first.chain).await.unwrap(), None, "it has no opinion");
    settle(&engine).await;

    let certificate = engine.renew(&actor(), "web").await.unwrap().step().await.unwrap();
    assert_active(&certificate);
    assert_ne!(newest(&engine, &certificate).await.serial, first.serial);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01_for_a_name_and_an_address() {
    let Some(rig) = Rig::new().await else { return };
    let acme = Acme { challenge_type: ChallengeKind::TlsAlpn01, ..rig.acme() };
    let engine = rig.engine(acme).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com").ip("127.0.0.1")).await.unwrap();
    assert_active(&certificate);
    let names = newest(&engine, &certificate).await.chain.leaf().names().to_vec();
    assert!(names.contains(&SubjectAltName::ip([127, 0, 0, 1])) && names.len() == 2, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_is_asked_for_and_one_that_is_too_long_refused() {
    let Some(rig) = Rig::new().await else { return };
    let engine = rig.engine(rig.acme()).await;
    let hour = spec("www.example.com").lifetime(Lifetime::hours(1));
    let certificate = engine.ensure(&actor(), hour).await.unwrap();
    assert_active(&certificate);
    let version = newest(&engine, &certificate).await;
    let left = version.not_after.since(version.created).as_secs();
    assert!((3_500..=3_600).contains(&left), "{left}");

    let years = CertificateSpec::new("years").dns("www.example.com").issuer("ca");
    let certificate = engine.ensure(&actor(), years.lifetime(Lifetime::days(1_000))).await.unwrap();
    let job = open(&engine, &certificate, "issue").await;
    let error = job.last_error.as_ref().unwrap();
    assert!(error.message.contains("the CA"), "{error:?}");
    assert!(engine.versions(&certificate.id).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_revoked_and_that_twice_is_fine() {
    let Some(rig) = Rig::new().await else { return };
    let engine = rig.engine(rig.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let version = newest(&engine, &certificate).await;
    assert!(!rig.ca.is_revoked(&version.serial).await);
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let revocation =
        Revocation { chain: version.chain.clone(), reason: RevocationReason::Superseded, key: None };
    ca.revoke(&cx(), &revocation).await.unwrap();
    assert!(rig.ca.is_revoked(&version.serial).await);
    ca.revoke(&cx(), &revocation).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_found_again() {
    let Some(rig) = Rig::new().await else { return };
    let describe = async |engine: &certctl::Engine, name: &str| {
        let ca = engine.issuer(&actor(), name).await.unwrap();
        ca.account().unwrap().describe(&cx()).await.unwrap()
    };
    let engine = rig.engine(rig.acme()).await;
    let made = describe(&engine, "ca").await;
    assert_eq!(made.status, "valid");
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let exported = ca.account().unwrap().export(&cx()).await.unwrap();
    drop((engine, ca));

    // By another program on the same store.
    let engine = rig.engine(rig.acme()).await;
    assert_eq!(describe(&engine, "ca").await, made);

    // And by who has nothing but its key.
    let exported: serde_json::Value = serde_json::from_slice(exported.expose()).unwrap();
    let key = Secret::new(exported["key"].as_str().unwrap());
    let moved = builder_in(rig.dir.path(), rig.acme()).await.issuer("moved", rig.acme());
    let engine = moved.build().await.unwrap();
    let ca = engine.issuer(&actor(), "moved").await.unwrap();
    ca.account().unwrap().import(&key).await.unwrap();
    assert_eq!(describe(&engine, "moved").await.url, made.url);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_was_lost_is_found_again() {
    let Some(rig) = Rig::new().await else { return };
    let engine = rig.engine(rig.acme()).await;
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let key = certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap();
    let names = [SubjectAltName::dns("www.example.com").unwrap()];
    let csr = certctl::Csr::create(&key, None, &names).await.unwrap();
    let order = Order::from_csr(csr, Profile::default(), cx().clock.now());
    assert!(ca.recover(&cx(), &order).await.unwrap().is_none(), "nothing was ordered");
    let Progress::Waiting { handle, .. } = ca.submit(&cx(), &order).await.unwrap() else { panic!() };
    let found = ca.recover(&cx(), &order).await.unwrap();
    let Some(Progress::Waiting { handle: again, .. }) = found else { panic!("{found:?}") };
    assert_eq!(again.state["order"], handle.state["order"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_refused() {
    let Some(rig) = Rig::new().await else { return };
    let engine = rig.engine(Acme { profile: Some("shortlived".to_owned()), ..rig.acme() }).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains("no profiles"), "{reason:?}");
}
