//! Renewal information, replacement, revocation.

use std::sync::Arc;

use certctl::{Context, Revocation, RevocationReason, SystemClock, issuers::Acme};

use super::{World, actor, assert_active, newest, spec};

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_asked_when_to_renew() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let version = newest(&engine, &certificate).await;
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let window = ca.renewal_window(&cx(), &version.chain).await.unwrap().expect("Pebble has an opinion");
    assert!(window.start < window.end && window.end < version.not_after, "{window:?}");
    assert!(window.ask_again > version.created);

    // As in a mass revocation.
    let answer = r#"{"suggestedWindow":{"start":"2020-01-01T00:00:00Z","end":"2020-01-02T00:00:00Z"},"explanationURL":"https://ca.test/why"}"#;
    world.pebble.set_renewal_info(version.chain.leaf(), answer).await;
    let window = ca.renewal_window(&cx(), &version.chain).await.unwrap().unwrap();
    assert_eq!(window.end.to_string(), "2020-01-02T00:00:00Z");
    assert_eq!(window.explanation.as_deref(), Some("https://ca.test/why"));
    // Nonsense is no window.
    let answer = r#"{"suggestedWindow":{"start":"2020-01-03T00:00:00Z","end":"2020-01-02T00:00:00Z"}}"#;
    world.pebble.set_renewal_info(version.chain.leaf(), answer).await;
    ca.renewal_window(&cx(), &version.chain).await.unwrap_err();

    let silent = Acme { ari_enabled: false, ..world.acme() };
    let engine = world.builder(world.acme()).await.issuer("silent", silent).build().await.unwrap();
    let ca = engine.issuer(&actor(), "silent").await.unwrap();
    assert!(!ca.capabilities().renewal_info);
    assert_eq!(ca.renewal_window(&cx(), &version.chain).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_replaces_its_predecessor_and_a_refusal_costs_no_order() {
    let Some(world) = World::new(|options| options.nonce_reject = 0).await else { return };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let first = newest(&engine, &certificate).await;
    assert_active(&engine.renew(&actor(), "web").await.unwrap().step().await.unwrap());
    let times = |what: &str| world.pebble.printed().matches(what).count();
    assert_eq!((times("POST /order-plz"), times("Added order")), (2, 2));

    // Another program of the same account has replaced it already: Pebble refuses a second replacement.
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let order = certctl::Order {
        replaces: Some(first.chain.clone()),
        ..certctl::Order::from_csr(
            csr("www.example.com").await,
            certctl::records::Profile::default(),
            first.created,
        )
    };
    let progress = ca.submit(&cx(), &order).await.unwrap();
    assert!(matches!(progress, certctl::Progress::Waiting { .. }), "{progress:?}");
    assert_eq!((times("POST /order-plz"), times("Added order")), (4, 3), "refused once, and then made");
}

async fn csr(name: &str) -> certctl::Csr {
    let key = certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap();
    certctl::Csr::create(&key, None, &[certctl::SubjectAltName::dns(name).unwrap()]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_revoked_by_the_account_or_by_their_own_key() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let version = newest(&engine, &certificate).await;
    let revocation =
        Revocation { chain: version.chain.clone(), reason: RevocationReason::Superseded, key: None };
    ca.revoke(&cx(), &revocation).await.unwrap();
    let status = world.pebble.status(&version.serial).await.unwrap();
    assert_eq!(
        (status["Status"].as_str(), status["Reason"].as_u64()),
        (Some("Revoked"), Some(4)),
        "{status}"
    );
    // Once more is fine.
    ca.revoke(&cx(), &revocation).await.unwrap();

    // Another account can't, unless it has the certificate's key.
    let other = world.builder(world.acme()).await.issuer("other", world.acme()).build().await.unwrap();
    let other = other.issuer(&actor(), "other").await.unwrap();
    let certificate = engine.renew(&actor(), "web").await.unwrap().step().await.unwrap();
    let version = newest(&engine, &certificate).await;
    let mut revocation =
        Revocation { chain: version.chain.clone(), reason: RevocationReason::KeyCompromise, key: None };
    other.revoke(&cx(), &revocation).await.unwrap_err();
    let key = std::fs::read(world.dir.path().join("web.key")).unwrap();
    revocation.key = Some(Arc::new(certctl::PrivateKey::from_pem(&certctl::Secret::new(key)).unwrap()));
    other.revoke(&cx(), &revocation).await.unwrap();
    let status = world.pebble.status(&version.serial).await.unwrap();
    assert_eq!(
        (status["Status"].as_str(), status["Reason"].as_u64()),
        (Some("Revoked"), Some(1)),
        "{status}"
    );
}
