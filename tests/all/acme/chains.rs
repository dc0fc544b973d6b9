//! Alternate chains and profiles.

use certctl::issuers::Acme;

use super::{World, actor, assert_active, is_signed_through, newest, spec};
use crate::peers::{Binary, PebbleOptions};

#[tokio::test(flavor = "multi_thread")]
async fn the_preferred_chain_is_chosen_by_its_issuers_name() {
    let alternates = |options: &mut PebbleOptions| {
        options.alternate_roots = 2;
        options.chain_length = 2;
    };
    let Some(world) = World::new(alternates).await else { return };
    let mut names = Vec::new();
    for number in 0..3 {
        names.push(world.pebble.root(number).await);
    }
    for (number, root) in names.iter().enumerate() {
        let name = format!("ca{number}");
        let preferred = root.subject_common_name().unwrap().to_owned();
        let acme = Acme { preferred_chain: Some(preferred), ..world.acme() };
        let engine = world.builder(world.acme()).await.issuer(&name, acme).build().await.unwrap();
        let spec = certctl::CertificateSpec::new(&name).dns("www.example.com").issuer(&name);
        let certificate = engine.ensure(&actor(), spec).await.unwrap();
        assert_active(&certificate);
        let version = newest(&engine, &certificate).await;
        assert!(is_signed_through(&version, root), "{:?}", version.chain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_preferred_chain_the_default_is_taken() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine =
        world.engine(Acme { preferred_chain: Some("DST Root CA X3".to_owned()), ..world.acme() }).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_makes_a_short_lived_certificate() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(Acme { profile: Some("shortlived".to_owned()), ..world.acme() }).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    assert_active(&certificate);
    let version = newest(&engine, &certificate).await;
    let lifetime = version.not_after.since(version.not_before).as_secs();
    assert!((518_000..=518_400).contains(&lifetime), "six days: {lifetime}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_profile_is_refused_with_those_that_there_are() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(Acme { profile: Some("nosuch".to_owned()), ..world.acme() }).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    for part in ["nosuch", "default", "shortlived"] {
        assert!(reason.message.contains(part), "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_has_neither_profiles_nor_renewal_information() {
    if !crate::peers::has(&[crate::peers::OLD_PEBBLE]) {
        return;
    }
    let Some(world) = World::new(|options| options.binary = Binary::Old).await else { return };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    assert_active(&certificate);
    let version = newest(&engine, &certificate).await;
    let cx = certctl::Context::new(std::sync::Arc::new(certctl::SystemClock));
    let ca = engine.issuer(&actor(), "ca").await.unwrap();
    assert_eq!(ca.renewal_window(&cx, &version.chain).await.unwrap(), None);
    assert_active(&engine.renew(&actor(), "web").await.unwrap().step().await.unwrap());

    let profiled = Acme { profile: Some("shortlived".to_owned()), ..world.acme() };
    let engine = world.builder(world.acme()).await.issuer("profiled", profiled).build().await.unwrap();
    let spec = certctl::CertificateSpec::new("profiled").dns("www.example.com").issuer("profiled");
    let certificate = engine.ensure(&actor(), spec).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains("no profiles"), "{reason:?}");
}
