//! dns-01 by dynamic update (RFC 2136), the whole life: BIND holds the zones, and is whom Pebble asks.

use certctl::{
    ChallengeKind, Engine, Lifetime, Retry, SecretRef, SolverSpec,
    issuers::{Acme, acme::Seconds},
    records::JobState,
    solvers::Rfc2136,
};

use super::{World, actor, assert_active, newest, settle, spec};
use crate::{
    peers::{Bind, KNOTD, NAMED, Zone, bind::KEY, has, knot::Secondary},
    rig::open,
    world::eventually,
};

const NAME: &str = "_acme-challenge.web.test";

/// The zones are at `bind`; the CA asks `resolver`.
async fn world(resolver: std::net::SocketAddr) -> Option<World> {
    World::new(|options| options.dns = Some(resolver)).await
}

fn acme(world: &World, bind: &Bind) -> Acme {
    let secret = world.dir.path().join("tsig");
    std::fs::write(&secret, KEY.secret).unwrap();
    let provider = Rfc2136 {
        server: bind.addr().to_string(),
        tsig_key_name: KEY.name.to_owned(),
        tsig_secret: SecretRef::file(secret.to_str().unwrap()),
        ..Rfc2136::default()
    };
    Acme {
        challenge_type: ChallengeKind::Dns01,
        dns_provider: Some(SolverSpec::of(&provider).unwrap()),
        dns_resolvers: vec![bind.addr()],
        dns_name_servers: vec![bind.addr()],
        ..world.acme()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apex_and_its_wildcard() {
    if !has(&[NAMED]) {
        return;
    }
    let bind = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let Some(world) = world(bind.addr()).await else { return };
    let engine = world.engine(acme(&world, &bind)).await;
    let certificate = engine.ensure(&actor(), spec("web.test").dns("*.web.test")).await.unwrap();
    assert_active(&certificate);
    assert_eq!(newest(&engine, &certificate).await.chain.leaf().names().len(), 2);
    settle(&engine).await;
    assert!(bind.records(NAME, "TXT").await.is_empty(), "both values are taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_into_another_zone() {
    if !has(&[NAMED]) {
        return;
    }
    let records = "_acme-challenge.www CNAME www-web.acme.test.";
    let zones = [Zone { name: "web.test", records }, Zone::new("acme.test")];
    let bind = Bind::start_resolver(&zones, &KEY).await;
    let Some(world) = world(bind.addr()).await else { return };
    let engine = world.engine(acme(&world, &bind)).await;
    let certificate = engine.ensure(&actor(), spec("www.web.test")).await.unwrap();
    assert_active(&certificate);
    settle(&engine).await;
    let serial = |zone: &'static str| bind.records(zone, "SOA");
    // Added and removed there, and nothing here.
    assert!(serial("web.test").await[0].contains(" 1 604800 "), "{:?}", serial("web.test").await);
    assert!(serial("acme.test").await[0].contains(" 3 604800 "), "{:?}", serial("acme.test").await);
}

/// Two name servers, of which the second lags.
async fn pair() -> Option<(Bind, Secondary)> {
    if !has(&[NAMED, KNOTD]) {
        return None;
    }
    Some(Bind::start_pair(&[Zone::new("web.test")], &KEY).await)
}

fn told(world: &World) -> bool {
    world.pebble.printed().contains("POST /chalZ/")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_told_once_the_last_name_server_shows_the_record() {
    let Some((first, second)) = pair().await else { return };
    // The CA asks the one that lags: told too early, it would find nothing.
    let Some(world) = world(second.addr()).await else { return };
    let both = vec![first.addr(), second.addr()];
    let acme = Acme { dns_name_servers: both, dns_propagation_wait: minute(), ..acme(&world, &first) };
    let engine = world.engine(acme).await;
    let ensuring = {
        let engine: Engine = engine.clone();
        tokio::spawn(async move { engine.ensure(&actor(), spec("web.test")).await.unwrap() })
    };
    // It was looked for once at least, and waits.
    eventually(&engine, "a wait for the name server", async || {
        let Ok(certificate) = engine.certificate("web").await else { return false };
        let jobs = engine.jobs(&certificate.id).await.unwrap();
        let shown = jobs.iter().any(|job| &*job.kind == "present" && job.state == JobState::Done);
        shown && jobs.iter().any(|job| &*job.kind == "issue" && job.state == JobState::Ready)
    })
    .await;
    assert!(!told(&world), "{}", world.pebble.printed());
    second.catch_up(&first).await;
    let certificate = ensuring.await.unwrap();
    assert_active(&certificate);
    assert!(told(&world));
    assert_eq!(world.pebble.printed().matches("Added order ").count(), 1, "at the first try");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_lagging_name_server_ends_the_try_and_is_named() {
    let Some((first, second)) = pair().await else { return };
    let Some(world) = world(first.addr()).await else { return };
    let acme = Acme {
        dns_name_servers: vec![first.addr(), second.addr()],
        dns_propagation_wait: Seconds(Lifetime::secs(1)),
        dns_propagation_strict: true,
        ..acme(&world, &first)
    };
    let engine = world.engine(acme).await;
    let certificate = engine.ensure(&actor(), spec("web.test")).await.unwrap();
    let job = open(&engine, &certificate, "issue").await;
    let error = job.last_error.as_ref().unwrap();
    assert!(error.message.contains(&format!("{} does not yet", second.addr())), "{error:?}");
    assert_eq!((error.retry, job.state), (Retry::Backoff, JobState::Ready), "{job:#?}");
    assert!(!told(&world));
    assert!(first.records(NAME, "TXT").await.is_empty(), "it is taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn otherwise_the_ca_is_told_after_a_while_all_the_same() {
    let Some((first, second)) = pair().await else { return };
    let Some(world) = world(first.addr()).await else { return };
    let acme = Acme {
        dns_name_servers: vec![first.addr(), second.addr()],
        dns_propagation_wait: Seconds(Lifetime::secs(1)),
        ..acme(&world, &first)
    };
    let engine = world.engine(acme).await;
    assert_active(&engine.ensure(&actor(), spec("web.test")).await.unwrap());
    assert!(second.records(NAME, "TXT").await.is_empty(), "it never caught up");
}

fn minute() -> Seconds {
    Seconds(Lifetime::secs(60))
}
