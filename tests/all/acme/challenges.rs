//! Every kind of challenge, for every kind of name.

use std::path::PathBuf;

use certctl::{ChallengeKind, SubjectAltName, issuers::Acme};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{World, actor, assert_active, newest, settle, spec};
use crate::peers::PebbleOptions;

/// A quarter of all nonces are refused, as by default.
fn strict(options: &mut PebbleOptions) {
    options.nonce_reject = 25;
    options.authz_reuse = 0;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_01() {
    let Some(world) = World::new(strict).await else { return };
    let engine = world.engine(world.acme()).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    assert_active(&certificate);
    let version = newest(&engine, &certificate).await;
    assert_eq!(version.chain.leaf().names(), [SubjectAltName::dns("www.example.com").unwrap()]);
    assert!(version.chain.certificates().len() > 1, "the chain is whole");
    let served = std::fs::read_to_string(world.dir.path().join("web.crt")).unwrap();
    assert_eq!(served, version.chain.to_pem());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_01_in_a_webroot() {
    let Some(world) = World::new(strict).await else { return };
    let root = world.dir.path().join("htdocs");
    std::fs::create_dir(&root).unwrap();
    tokio::spawn(serve(TcpListener::bind(("127.0.0.1", world.http_port)).await.unwrap(), root.clone()));
    let acme =
        Acme { webroot: Some(root.to_str().unwrap().parse().unwrap()), http_address: None, ..world.acme() };
    let engine = world.engine(acme).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
    settle(&engine).await;
    let left = std::fs::read_dir(root.join(".well-known/acme-challenge")).unwrap().count();
    assert_eq!(left, 0, "the token is taken away");
}

/// A web server, for what is in a directory.
async fn serve(listener: TcpListener, root: PathBuf) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let root = root.clone();
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            let answer = match std::fs::read(root.join(path)) {
                Ok(body) => [
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())
                        .into_bytes(),
                    body,
                ]
                .concat(),
                Err(_) => {
                    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()
                }
            };
            let _ = stream.write_all(&answer).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_01() {
    let Some(world) = World::new(strict).await else { return };
    let engine = world.engine(world.tls_alpn()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_for_an_apex_and_its_wildcard() {
    let Some(world) = World::new(strict).await else { return };
    let engine = world.engine(world.scripted_dns()).await;
    let spec = spec("example.com").dns("*.example.com").dns("www.example.org");
    let certificate = engine.ensure(&actor(), spec).await.unwrap();
    assert_active(&certificate);
    assert_eq!(newest(&engine, &certificate).await.chain.leaf().names().len(), 3);
    settle(&engine).await;
    // Each value by itself: the apex and the wildcard share a name.
    let cleaned = std::fs::read_to_string(world.cleaned()).unwrap();
    let mut names: Vec<&str> = cleaned.lines().map(|line| line.split(' ').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["_acme-challenge.example.com", "_acme-challenge.example.com", "_acme-challenge.www.example.org"]
    );
    let mut values: Vec<&str> = cleaned.lines().collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 3, "{cleaned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_where_an_alias_leads() {
    let Some(world) = World::new(strict).await else { return };
    world.dns.set_cname("_acme-challenge.www.example.com.", "www-example-com.validation.example.net.").await;
    let engine = world.engine(world.scripted_dns()).await;
    assert_active(&engine.ensure(&actor(), spec("www.example.com")).await.unwrap());
    settle(&engine).await;
    let cleaned = std::fs::read_to_string(world.cleaned()).unwrap();
    assert!(cleaned.starts_with("www-example-com.validation.example.net "), "{cleaned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_waits_as_long_as_the_record_takes_and_then_for_the_name_servers() {
    let Some(world) = World::new(strict).await else { return };
    // Nobody shows it: what is set is another name.
    let mut acme = world.scripted_dns();
    acme.dns_present_script = Some("/bin/true".into());
    acme.dns_propagation_wait = certctl::issuers::acme::Seconds(certctl::Lifetime::secs(3));
    acme.dns_propagation_strict = true;
    let engine = world.engine(acme).await;
    let begin = certctl::Clock::now(&certctl::SystemClock);
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    let job = crate::rig::open(&engine, &certificate, "issue").await;
    let error = job.last_error.as_ref().unwrap();
    assert!(error.message.contains("_acme-challenge.www.example.com"), "{error:?}");
    assert!(error.message.contains("after 3s"), "{error:?}");
    assert!(certctl::Clock::now(&certctl::SystemClock).since(begin) >= std::time::Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_persist_01() {
    let Some(world) = World::new(strict).await else { return };
    // Where the CA's server is at another domain than the one that it issues under, that has to be said.
    let silent = Acme { challenge_type: ChallengeKind::DnsPersist01, ..world.scripted_dns() };
    let acme =
        Acme { dns_persist_issuer_domain: Some("pebble.letsencrypt.org".to_owned()), ..silent.clone() };
    let engine = world.engine(acme).await;
    let certificate = engine.ensure(&actor(), spec("www.example.com")).await.unwrap();
    assert_active(&certificate);
    settle(&engine).await;
    assert!(!world.cleaned().exists(), "the record stays");

    for domain in [None, Some("letsencrypt.org".to_owned())] {
        let acme = Acme { dns_persist_issuer_domain: domain, ..silent.clone() };
        let engine = world.builder(world.acme()).await.issuer("silent", acme).build().await.unwrap();
        let spec = certctl::CertificateSpec::new("silent").dns("other.example.com").issuer("silent");
        let certificate = engine.ensure(&actor(), spec.clone()).await.unwrap();
        let reason = certificate.reason.as_ref().unwrap();
        assert!(reason.message.contains("issuer domain"), "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses() {
    let Some(world) = World::new(strict).await else { return };
    for (name, acme) in [("over-http", world.acme()), ("over-tls", world.tls_alpn())] {
        let engine = world.engine(acme).await;
        let spec = certctl::CertificateSpec::new(name).ip("127.0.0.1").issuer("ca");
        let certificate = engine.ensure(&actor(), spec).await.unwrap();
        assert_active(&certificate);
        let version = newest(&engine, &certificate).await;
        assert_eq!(version.chain.leaf().names(), [SubjectAltName::ip([127, 0, 0, 1])]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_names_in_one_order() {
    let Some(world) = World::new(strict).await else { return };
    let engine = world.engine(world.acme()).await;
    let spec = (1..50).fold(spec("n0.example.com"), |spec, n| spec.dns(format!("n{n}.example.com")));
    let certificate = engine.ensure(&actor(), spec).await.unwrap();
    assert_active(&certificate);
    assert_eq!(newest(&engine, &certificate).await.chain.leaf().names().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_the_ca_does_not_offer_is_refused_with_those_that_it_does() {
    let Some(world) = World::new(strict).await else { return };
    let engine = world.engine(world.acme()).await;
    // A wildcard can't be proved over HTTP: nobody is asked.
    let certificate = engine.ensure(&actor(), spec("*.example.com")).await.unwrap();
    let reason = certificate.reason.as_ref().unwrap();
    assert!(reason.message.contains("*.example.com"), "{reason:?}");
}
