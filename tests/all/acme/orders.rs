//! Orders that fail, are reused, or wait.

use std::time::Duration;

use certctl::{Retry, records::JobState};

use super::{World, actor, assert_active, newest, settle, spec};
use crate::rig::open;

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_validation_says_why_and_comes_back_later() {
    let Some(world) = World::new(|options| options.nonce_reject = 0).await else { return };
    // Nobody is where the name points to.
    world.dns.add_a("www.example.com.", "127.0.0.77").await;
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let job = open(&engine, &certificate, "issue").await;
    let error = job.last_error.as_ref().unwrap();
    assert!(error.message.contains("www.example.com") && error.message.contains("http-01"), "{error:?}");
    assert_eq!((error.retry, job.state), (Retry::Backoff, JobState::Ready), "{job:#?}");
    // And not at once.
    assert!(
        job.due.unwrap().since(certctl::Clock::now(&certctl::SystemClock)) > Duration::from_secs(20),
        "{job:#?}"
    );

    world.dns.clear_a("www.example.com.").await;
    let certificate = engine.retry(&actor(), &job.id).await.unwrap().step().await.unwrap();
    assert_active(&certificate);
    assert_eq!(engine.versions(&certificate.id).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_ca_refuses_asks_for_attention() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("blocked.test")).await.unwrap();
    let job = open(&engine, &certificate, "issue").await;
    assert_eq!(job.state, JobState::Attention, "{job:#?}");
    let error = job.last_error.as_ref().unwrap();
    assert!(error.message.contains("rejectedIdentifier"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_authorizations_are_reused() {
    let Some(world) = World::new(|options| options.authz_reuse = 100).await else { return };
    let engine = world.engine(world.acme()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
    settle(&engine).await;
    let certificate = engine.renew(&actor(), "web").await.unwrap().step().await.unwrap();
    assert_active(&certificate);
    let jobs = engine.jobs(&certificate.id).await.unwrap();
    let shown = jobs.iter().filter(|job| &*job.kind == "present").count();
    assert_eq!(shown, 1, "the second order needs no challenge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_that_is_asked_for_is_had() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let spec = spec("www.example.com").lifetime(certctl::Lifetime::days(3));
    let certificate = engine.ensure(&actor(), spec).await.unwrap();
    let version = newest(&engine, &certificate).await;
    let left = version.not_after.since(version.created);
    assert!(left <= Duration::from_secs(3 * 86_400), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usages_are_the_cas_to_decide() {
    let Some(world) = World::new(|_| {}).await else { return };
    let engine = world.engine(world.acme()).await;
    let key = certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap();
    let names = [certctl::SubjectAltName::dns("www.example.com").unwrap()];
    let csr = certctl::Csr::create(&key, None, &names).await.unwrap();
    let usages = vec![certctl::ExtendedKeyUsage::ClientAuth];
    let profile = certctl::records::Profile { extended_key_usages: usages, ..Default::default() };
    let cx = certctl::Context::new(std::sync::Arc::new(certctl::SystemClock));
    let order = certctl::Order::from_csr(csr, profile, cx.clock.now());
    let refused = engine.issuer(&actor(), "ca").await.unwrap().submit(&cx, &order).await.unwrap_err();
    assert!(refused.message().contains("extended key usages"), "{refused:?}");
}
