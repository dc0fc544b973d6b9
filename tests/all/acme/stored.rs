//! An ACME issuer that somebody stores: its secrets are sealed on the way in, and every field of the seed is taken.

use certctl::{CertificateSpec, Engine, IssuerSpec, records::IssuerRecord, store::StoreExt};
use serde_json::{Value, json};

use super::{World, actor, assert_active};
use crate::peers::PebbleOptions;

const HMAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

async fn stored(engine: &Engine, name: &str) -> (Value, u64) {
    let record = engine.store().find_by::<IssuerRecord>("name", name.into()).await.unwrap().unwrap();
    (record.config.clone().unwrap(), record.version())
}

async fn in_memory() -> Engine {
    let home = certctl::Home { connectors: certctl::connectors(), ..certctl::Home::in_memory() };
    Engine::builder(home).build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_clear_are_sealed_and_open_where_they_are_needed() {
    let bound = |options: &mut PebbleOptions| options.eab = Some(("kid-1".to_owned(), HMAC.to_owned()));
    let Some(world) = World::new(bound).await else { return };
    let engine = world.engine(world.acme()).await;
    let mut config = serde_json::to_value(world.acme()).unwrap();
    config["eab_kid"] = json!("kid-1");
    config["eab_hmac"] = json!(HMAC);
    let spec = IssuerSpec::new("stored", "ACME", config);
    engine.put_issuer(&actor(), spec.clone()).await.unwrap();
    let (config, version) = stored(&engine, "stored").await;
    assert!(config["eab_hmac"]["sealed"].is_string(), "{config}");
    assert!(!config.to_string().contains(HMAC));
    // Put again, it is the same, although no two sealed values are.
    engine.put_issuer(&actor(), spec).await.unwrap();
    assert_eq!(stored(&engine, "stored").await, (config, version));

    let spec = CertificateSpec::new("bound").dns("www.example.com").issuer("stored");
    assert_active(&engine.ensure(&actor(), spec).await.unwrap());
}

#[tokio::test]
async fn every_field_of_the_seed_is_taken() {
    let engine = in_memory().await;
    let configs = [
        json!({
            "directory_url": "https://acme-staging-v02.api.letsencrypt.org/directory",
            "email": "admin@example.com",
            "http_port": 80,
        }),
        json!({
            "directory_url": "https://acme-v02.api.letsencrypt.org/directory",
            "email": "admin@example.com",
            "challenge_type": "dns-01",
            "dns_present_script": "/etc/certctl/dns/create-record.sh",
            "dns_cleanup_script": "/etc/certctl/dns/delete-record.sh",
            "dns_propagation_wait": 30,
            "profile": "tlsserver",
        }),
        json!({
            "directory_url": "https://acme-v02.api.letsencrypt.org/directory",
            "email": "admin@example.com",
            "challenge_type": "dns-persist-01",
            "dns_present_script": "/etc/certctl/dns/create-record.sh",
            "dns_persist_issuer_domain": "letsencrypt.org",
            "dns_propagation_wait": "30s",
        }),
        json!({
            "directory_url": "https://acme.zerossl.com/v2/DV90",
            "email": "admin@example.com",
            "eab_kid": "your-zerossl-eab-kid",
            "eab_hmac": { "env": "CERTCTL_ACME_EAB_HMAC" },
        }),
    ];
    for (number, config) in configs.into_iter().enumerate() {
        engine.put_issuer(&actor(), IssuerSpec::new(format!("ca{number}"), "acme", config)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_solver_in_it_is_said_with_its_place() {
    let engine = in_memory().await;
    let with = |provider: Value| {
        IssuerSpec::new("ca", "acme", json!({ "challenge_type": "dns-01", "dns_provider": provider }))
    };
    let right = json!({
        "kind": "rfc2136",
        "config": {
            "server": "127.0.0.1:5353",
            "tsig_key_name": "certctl",
            "tsig_secret": "c2VjcmV0LW9mLXRoZS16b25lLXRoYXQtaXMtbG9uZw==",
        },
    });
    engine.put_issuer(&actor(), with(right)).await.unwrap();
    let (config, _) = stored(&engine, "ca").await;
    assert!(config["dns_provider"]["config"]["tsig_secret"]["sealed"].is_string(), "{config}");

    let unknown = engine.put_issuer(&actor(), with(json!({ "kind": "route66" }))).await.unwrap_err();
    assert_eq!(unknown.violations()[0].pointer, "/config/dns_provider/kind", "{unknown:?}");
    let wrong =
        json!({ "kind": "rfc2136", "config": { "server": "127.0.0.1:5353", "tsig_secrt": "hunter2" } });
    let refused = engine.put_issuer(&actor(), with(wrong)).await.unwrap_err();
    let pointers: Vec<&str> =
        refused.violations().iter().map(|violation| violation.pointer.as_str()).collect();
    assert!(pointers.contains(&"/config/dns_provider/config/tsig_secrt"), "{pointers:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once() {
    let engine = in_memory().await;
    let config = json!({
        "directory_url": "http://user:secret@ca.test/dir",
        "email": "admin@example.com, other@example.com",
        "challenge_type": "dns-01",
        "eab_kid": "kid-1",
        "webroot_host": "host-1",
        "http_port": 0,
        "order_timeout": "1s",
        "nosuch": true,
    });
    let refused = engine.put_issuer(&actor(), IssuerSpec::new("ca", "acme", config)).await.unwrap_err();
    let pointers: Vec<&str> =
        refused.violations().iter().map(|violation| violation.pointer.as_str()).collect();
    for pointer in [
        "directory_url",
        "email",
        "dns_provider",
        "eab_hmac",
        "webroot_host",
        "http_port",
        "order_timeout",
        "nosuch",
    ] {
        let pointer = format!("/config/{pointer}");
        assert!(pointers.contains(&pointer.as_str()), "{pointer} is not among {pointers:?}");
    }
    assert!(refused.violations().iter().all(|violation| !violation.remedy.is_empty()));
}
