//! Accounts: kept, bound, told, rolled, exported, ended.

use certctl::{
    AccountInfo, ErrorKind, KeyAlgorithm, Secret, SecretRef,
    issuers::Acme,
    records::AuditEvent,
    store::{Direction, Query, StoreExt},
};

use super::{World, actor, assert_active, spec};
use crate::peers::PebbleOptions;

async fn info(engine: &certctl::Engine, issuer: &str) -> AccountInfo {
    engine.account(&actor(), issuer).await.unwrap()
}

/// What the audit trail says of accounts, the oldest first.
async fn told(engine: &certctl::Engine) -> Vec<String> {
    let (events, _) = engine
        .store()
        .list::<AuditEvent>(Query::of::<AuditEvent>().order("at", Direction::Ascending).limit(500))
        .await
        .unwrap();
    let text = serde_json::to_string(&events.iter().map(|event| &**event).collect::<Vec<_>>()).unwrap();
    assert!(!text.contains("-----BEGIN"), "{text}");
    let actions = events.iter().map(|event| event.action.to_string());
    actions.filter(|action| action.starts_with("account.")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_made_once_and_found_again() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let (one, other) = tokio::join!(info(&engine, "ca"), info(&engine, "ca"));
    assert_eq!(one, other);
    assert_eq!(
        (one.status.as_str(), one.contact.as_slice()),
        ("valid", &["mailto:admin@example.com".to_owned()][..])
    );
    drop(engine);

    // Another program, on the same store.
    let engine = world.engine(Acme { email: Some("other@example.com".to_owned()), ..world.acme() }).await;
    let again = info(&engine, "ca").await;
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
        let before = info(&engine, &name).await;
        assert_eq!(before.key.kind(), algorithm.kind());
        engine.roll_account_key(&actor(), &name, KeyAlgorithm::EcdsaP256).await.unwrap();
        let after = info(&engine, &name).await;
        assert_eq!(after.url, before.url, "it is the same account");
        assert_eq!(after.key.kind(), KeyAlgorithm::EcdsaP256.kind());
    }
    // What is kept is what the CA knows.
    let engine = world.engine(world.acme()).await;
    engine.roll_account_key(&actor(), "ca", KeyAlgorithm::EcdsaP384).await.unwrap();
    drop(engine);
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_moves_with_its_export() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = info(&engine, "ca").await.url;
    let exported = engine.export_account(&actor(), "ca").await.unwrap();
    assert!(exported.expose_str().unwrap().contains("PRIVATE KEY"));
    assert_eq!(told(&engine).await, ["account.export_requested", "account.exported"]);
    // Keys are not everybody's to take.
    let operator = certctl::Actor::new("olga", certctl::Role::Operator);
    let refused = engine.export_account(&operator, "ca").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);

    let engine = world.builder(world.acme()).await.issuer("moved", world.acme()).build().await.unwrap();
    engine.import_account(&actor(), "moved", exported.clone()).await.unwrap();
    assert_eq!(info(&engine, "moved").await.url, before);
    // Not over an account that is there.
    let refused = engine.import_account(&actor(), "moved", exported.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Precondition, "{refused:?}");
    // Nor one of another CA, nor what is none at all.
    let stranger = Acme { directory_url: "https://acme.test/dir".to_owned(), ca_file: None, ..world.acme() };
    let engine = world.builder(world.acme()).await.issuer("stranger", stranger).build().await.unwrap();
    let refused = engine.import_account(&actor(), "stranger", exported).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = engine.import_account(&actor(), "stranger", Secret::new("hunter2")).await.unwrap_err();
    assert!(!format!("{refused:?}").contains("hunter2"), "{refused:?}");
    let told = told(&engine).await;
    assert_eq!(told.iter().filter(|action| *action == "account.imported").count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|action| *action == "account.failed").count(), 3, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_key_finds_its_account() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = info(&engine, "ca").await.url;
    let exported = engine.export_account(&actor(), "ca").await.unwrap();
    let exported: serde_json::Value = serde_json::from_slice(exported.expose()).unwrap();
    let key = Secret::new(exported["key"].as_str().unwrap());
    let engine = world.builder(world.acme()).await.issuer("moved", world.acme()).build().await.unwrap();
    engine.import_account(&actor(), "moved", key).await.unwrap();
    assert_eq!(info(&engine, "moved").await.url, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_ended_says_so() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    info(&engine, "ca").await;
    engine.deactivate_account(&actor(), "ca").await.unwrap();
    assert_eq!(told(&engine).await, ["account.deactivation_requested", "account.deactivated"]);
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains("was ended"), "{reason:?}");
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
        let refused = engine.account(&actor(), &name).await.unwrap_err();
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

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_account_notices_that_its_key_was_changed() {
    let Some(world) = World::new(|_| {}).await else { return };
    let (one, other) = (world.engine(world.acme()).await, world.engine(world.acme()).await);
    assert_eq!(
        one.account(&actor(), "ca").await.unwrap().url,
        other.account(&actor(), "ca").await.unwrap().url
    );
    one.roll_account_key(&actor(), "ca", KeyAlgorithm::EcdsaP384).await.unwrap();
    // It signed with the old key until now.
    assert_active(&other.ensure(&actor(), spec("www.example.com")).await.unwrap());
    let info = other.account(&actor(), "ca").await.unwrap();
    assert_eq!(info.key.kind(), KeyAlgorithm::EcdsaP384.kind());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_ca_refuses_changes_nothing() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = engine.account(&actor(), "ca").await.unwrap();
    // Pebble knows RS256, ES256, ES384 and ES512.
    let refused = engine.roll_account_key(&actor(), "ca", KeyAlgorithm::Ed25519).await.unwrap_err();
    assert!(refused.to_string().contains("key"), "{refused:?}");
    let after = engine.account(&actor(), "ca").await.unwrap();
    assert_eq!(after, before);
    drop(engine);
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_key_that_the_ca_refuses_is_replaced_by_the_one_that_is_configured_next() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(Acme { account_key_algorithm: KeyAlgorithm::Ed25519, ..world.acme() }).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    assert!(certificate.reason.is_some(), "{certificate:?}");
    drop(engine);
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.renew(&actor(), "web").await.unwrap().step().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_account_was_ended_another_one_is_begun_with_a_new_key() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let before = engine.account(&actor(), "ca").await.unwrap().url;
    engine.deactivate_account(&actor(), "ca").await.unwrap();
    let key = certctl::PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    engine.import_account(&actor(), "ca", key.to_pem()).await.unwrap();
    assert_ne!(engine.account(&actor(), "ca").await.unwrap().url, before);
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}
