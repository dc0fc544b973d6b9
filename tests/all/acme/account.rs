//! Accounts: kept, bound, told, rolled, exported, ended.

use certctl::{Context, ErrorKind, Issuer, KeyAlgorithm, Secret, SecretRef, SystemClock, issuers::Acme};
use std::sync::Arc;

use super::{World, actor, assert_active, spec};
use crate::peers::PebbleOptions;

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

async fn issuer(engine: &certctl::Engine) -> Arc<dyn Issuer> {
    engine.issuer(&actor(), "ca").await.unwrap()
}

async fn url(engine: &certctl::Engine) -> String {
    issuer(engine).await.account().unwrap().describe(&cx()).await.unwrap().url
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_made_once_and_found_again() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let account = issuer(&engine).await;
    let account = account.account().unwrap();
    let context = cx();
    let (one, other) = tokio::join!(account.describe(&context), account.describe(&context));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one, other);
    assert_eq!(
        (one.status.as_str(), one.contact.as_slice()),
        ("valid", &["mailto:admin@example.com".to_owned()][..])
    );
    drop(engine);

    // Another program, on the same store.
    let engine = world.engine(Acme { email: Some("other@example.com".to_owned()), ..world.acme() }).await;
    let again = issuer(&engine).await.account().unwrap().describe(&cx()).await.unwrap();
    assert_eq!((again.url, again.key), (one.url, one.key));
    assert_eq!(again.contact, ["mailto:other@example.com"], "the CA was told the new contact");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_and_their_change() {
    let Some(world) = World::new(|_| {}).await else { return };
    for (number, algorithm) in
        [KeyAlgorithm::EcdsaP384, KeyAlgorithm::EcdsaP521, KeyAlgorithm::Rsa2048].into_iter().enumerate()
    {
        let name = format!("ca{number}");
        let acme = Acme { account_key_algorithm: algorithm, ..world.acme() };
        let engine = world.builder(world.acme()).await.issuer(&name, acme).build().await.unwrap();
        let ca = engine.issuer(&actor(), &name).await.unwrap();
        let before = ca.account().unwrap().describe(&cx()).await.unwrap();
        assert_eq!(before.key.kind(), algorithm.kind());
        ca.account().unwrap().roll_key(&cx(), KeyAlgorithm::EcdsaP256).await.unwrap();
        let after = ca.account().unwrap().describe(&cx()).await.unwrap();
        assert_eq!(after.url, before.url, "it is the same account");
        assert_eq!(after.key.kind(), KeyAlgorithm::EcdsaP256.kind());
    }
    // What is kept is what the CA knows.
    let engine = world.engine(world.acme()).await;
    issuer(&engine).await.account().unwrap().roll_key(&cx(), KeyAlgorithm::EcdsaP384).await.unwrap();
    drop(engine);
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_moves_with_its_export() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = url(&engine).await;
    let exported = issuer(&engine).await.account().unwrap().export(&cx()).await.unwrap();
    assert!(exported.expose_str().unwrap().contains("PRIVATE KEY"));

    let engine = world.builder(world.acme()).await.issuer("moved", world.acme()).build().await.unwrap();
    let moved = engine.issuer(&actor(), "moved").await.unwrap();
    moved.account().unwrap().import(&exported).await.unwrap();
    assert_eq!(moved.account().unwrap().describe(&cx()).await.unwrap().url, before);
    // Not over an account that is there.
    let refused = moved.account().unwrap().import(&exported).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused:?}");
    // Nor one of another CA, nor what is none at all.
    let stranger = Acme { directory_url: "https://acme.test/dir".to_owned(), ca_file: None, ..world.acme() };
    let engine = world.builder(world.acme()).await.issuer("stranger", stranger).build().await.unwrap();
    let stranger = engine.issuer(&actor(), "stranger").await.unwrap();
    assert_eq!(stranger.account().unwrap().import(&exported).await.unwrap_err().kind(), ErrorKind::Invalid);
    let refused = stranger.account().unwrap().import(&Secret::new("hunter2")).await.unwrap_err();
    assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_key_finds_its_account() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = url(&engine).await;
    let exported = issuer(&engine).await.account().unwrap().export(&cx()).await.unwrap();
    let exported: serde_json::Value = serde_json::from_slice(exported.expose()).unwrap();
    let key = Secret::new(exported["key"].as_str().unwrap());
    let engine = world.builder(world.acme()).await.issuer("moved", world.acme()).build().await.unwrap();
    let moved = engine.issuer(&actor(), "moved").await.unwrap();
    moved.account().unwrap().import(&key).await.unwrap();
    assert_eq!(moved.account().unwrap().describe(&cx()).await.unwrap().url, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_ended_says_so() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    url(&engine).await;
    issuer(&engine).await.account().unwrap().deactivate(&cx()).await.unwrap();
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    assert!(
        reason.message.contains("deactivated") || reason.message.contains("not in valid state"),
        "{reason:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terms_have_to_be_agreed_to() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(Acme { terms_of_service_agreed: false, ..world.acme() }).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    let terms = world.pebble.directory().await["meta"]["termsOfService"].as_str().unwrap().to_owned();
    assert!(
        reason.message.contains(&terms) && reason.message.contains("terms_of_service_agreed"),
        "{reason:?}"
    );
}

/// In base64url, as Pebble wants it.
const HMAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

#[tokio::test(flavor = "multi_thread")]
async fn external_accounts() {
    let bound = |options: &mut PebbleOptions| options.eab = Some(("kid-1".to_owned(), HMAC.to_owned()));
    let Some(world) = World::new(bound).await else { return };
    let with = |kid: Option<&str>, hmac: Option<&str>| Acme {
        eab_kid: kid.map(str::to_owned),
        eab_hmac: hmac.map(|hmac| SecretRef::Value(Secret::new(hmac))),
        ..world.acme()
    };
    let attempts: [(Acme, &str); 3] = [
        (with(None, None), "eab_kid"),
        (with(Some("kid-2"), Some(HMAC)), "the CA says"),
        (with(Some("kid-1"), Some("not base64url!")), "eab_hmac"),
    ];
    for (number, (acme, sentence)) in attempts.into_iter().enumerate() {
        let name = format!("wrong{number}");
        let engine = world.builder(world.acme()).await.issuer(&name, acme).build().await.unwrap();
        let ca = engine.issuer(&actor(), &name).await.unwrap();
        let refused = ca.account().unwrap().describe(&cx()).await.unwrap_err();
        assert!(refused.to_string().contains(sentence), "{refused:?}");
        assert!(!format!("{refused:?}").contains(HMAC));
    }
    // With the padding that some dashboards show as well.
    let engine = world.engine(with(Some("kid-1"), Some(&format!("{HMAC}\n")))).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_forgot_the_account_gets_it_again() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
    drop(engine);
    // What a staging environment does now and then.
    let World { dns, pebble, dir, http_port, tls_port } = world;
    let options = PebbleOptions { http_port, tls_port, ..PebbleOptions::new(&dns) };
    drop(pebble);
    let pebble = crate::peers::Pebble::start(options).await;
    let world = World { dns, pebble, dir, http_port, tls_port };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.renew(&actor(), "web").await.unwrap().step().await.unwrap();
    assert_active(&certificate);
    assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 2);
}
