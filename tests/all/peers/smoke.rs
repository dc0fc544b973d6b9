//! The servers themselves: what the other tests take for granted.

use super::{
    Binary, Bind, CHALLTESTSRV, Challtestsrv, KNOTD, NAMED, NSUPDATE, OLD_PEBBLE, PEBBLE, Pebble,
    PebbleOptions, STEP_CA, StepCa, StepCaOptions, Zone,
    bind::{KEY, WRONG_KEY},
    dns, has, http, tls,
};

#[tokio::test]
async fn challtestsrv_answers_what_it_is_told() {
    if !has(&[CHALLTESTSRV]) {
        return;
    }
    let names = Challtestsrv::start().await;
    let a = async || dns::ask(names.addr(), "web.test", dns::A).await.unwrap();
    assert!(dns::holds(&a().await, &[0, 4, 127, 0, 0, 1]), "the default");
    names.add_a("web.test", "127.0.0.7").await;
    assert!(dns::holds(&a().await, &[0, 4, 127, 0, 0, 7]));
    names.clear_a("web.test").await;
    names.set_default_ipv4("").await;
    assert_eq!(dns::answers(&a().await), 0);

    names.add_txt("_acme-challenge.web.test", "proof").await;
    let txt = async |name: &str| dns::ask(names.addr(), name, dns::TXT).await.unwrap();
    assert!(dns::holds(&txt("_acme-challenge.web.test").await, b"\x05proof"));
    names.set_cname("_acme-challenge.alias.test", "_acme-challenge.web.test").await;
    let aliased = txt("_acme-challenge.alias.test").await;
    assert!(dns::holds(&aliased, b"\x05proof"));
    assert_eq!(dns::answers(&aliased), 2, "the alias and what it points to");
    names.clear_txt("_acme-challenge.web.test").await;
    assert_eq!(dns::answers(&txt("_acme-challenge.web.test").await), 0);

    let kinds: Vec<_> =
        names.dns_requests("web.test").await.iter().map(|r| r["Question"]["Qtype"].clone()).collect();
    assert_eq!(kinds, [dns::A, dns::A, dns::A]);
    names.clear_requests("web.test").await;
    assert!(names.dns_requests("web.test").await.is_empty());
}

#[tokio::test]
async fn pebble_serves_its_directory_to_who_trusts_its_ca() {
    if !has(&[CHALLTESTSRV, PEBBLE]) {
        return;
    }
    let names = Challtestsrv::start().await;
    let options = PebbleOptions {
        chain_length: 2,
        alternate_roots: 1,
        eab: Some((
            "kid-1".to_owned(),
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".into(),
        )),
        ..PebbleOptions::new(&names)
    };
    let pebble = Pebble::start(options).await;
    let directory = pebble.directory().await;
    let at = format!("https://localhost:{}/", pebble.addr().port());
    for resource in ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange", "renewalInfo"] {
        assert!(directory[resource].as_str().unwrap().starts_with(&at), "{directory:#}");
    }
    assert_eq!(directory["meta"]["externalAccountRequired"], true);
    let profiles = directory["meta"]["profiles"].as_object().unwrap();
    assert_eq!(profiles.keys().collect::<Vec<_>>(), ["default", "shortlived"]);

    let roots = [pebble.root(0).await, pebble.root(1).await];
    assert_ne!(roots[0], roots[1]);
    assert!(roots.iter().all(|root| root.is_self_issued()));
    assert!(pebble.intermediate(0).await.is_ca());
    assert_eq!(pebble.status(roots[0].serial()).await.unwrap()["Status"], "Valid");
    let https = certctl::Chain::from_pem(&std::fs::read(pebble.ca_file()).unwrap()).unwrap();
    assert_eq!(pebble.status(https.leaf().serial()).await, None, "it is not one of its own");

    // Somebody else's CA is not enough.
    let other = tempfile::tempdir().unwrap();
    let stranger = tls::ServerFiles::create(other.path()).await.client();
    http::request(pebble.addr().port(), Some(&stranger), "GET", "/dir", "").await.unwrap_err();
}

#[tokio::test]
async fn the_old_pebble_has_neither_profiles_nor_renewal_information() {
    if !has(&[CHALLTESTSRV, OLD_PEBBLE]) {
        return;
    }
    let names = Challtestsrv::start().await;
    let pebble = Pebble::start(PebbleOptions { binary: Binary::Old, ..PebbleOptions::new(&names) }).await;
    let directory = pebble.directory().await;
    assert!(directory["newOrder"].is_string());
    assert!(directory["renewalInfo"].is_null() && directory["meta"]["profiles"].is_null(), "{directory:#}");
}

#[tokio::test]
async fn step_ca_serves_its_directory_to_who_trusts_its_root() {
    if !has(&[CHALLTESTSRV, STEP_CA]) {
        return;
    }
    let names = Challtestsrv::start().await;
    let ca = StepCa::start(StepCaOptions::new(&names)).await;
    let directory = ca.directory().await;
    let at = ca.directory_url().replace("directory", "new-order");
    assert_eq!(directory["newOrder"], at, "{directory:#}");
    assert!(!ca.is_revoked(ca.root().serial()).await);

    let other = tempfile::tempdir().unwrap();
    let stranger = tls::ServerFiles::create(other.path()).await.client();
    http::request(ca.addr().port(), Some(&stranger), "GET", "/health", "").await.unwrap_err();
}

#[tokio::test]
async fn named_takes_updates_from_who_has_the_key() {
    if !has(&[NAMED, NSUPDATE]) {
        return;
    }
    let zones = [
        Zone { name: "web.test", records: "_acme-challenge.alias CNAME web.acme.test." },
        Zone::new("acme.test"),
    ];
    let server = Bind::start(&zones, &KEY).await;
    assert_eq!(server.records("web.test", "NS").await, ["ns1.web.test."]);
    assert_eq!(server.records("ns1.web.test", "A").await, ["127.0.0.1"]);
    let add = "update add web.acme.test 1 TXT proof";
    for key in [None, Some(&WRONG_KEY)] {
        server.update(key, add).await.unwrap_err();
    }
    assert!(server.records("web.acme.test", "TXT").await.is_empty());
    server.update(Some(&KEY), add).await.unwrap();
    assert_eq!(server.records("web.acme.test", "TXT").await, ["\"proof\""]);
    // It leaves following an alias into another zone to who asks.
    assert_eq!(server.records("_acme-challenge.alias.web.test", "TXT").await, ["web.acme.test."]);
    server.update(Some(&KEY), "update delete web.acme.test TXT").await.unwrap();
    assert!(server.records("web.acme.test", "TXT").await.is_empty());
}

#[tokio::test]
async fn a_second_name_server_lags_until_told_to_catch_up() {
    if !has(&[NAMED, NSUPDATE, KNOTD]) {
        return;
    }
    let (first, second) = Bind::start_pair(&[Zone::new("web.test")], &KEY).await;
    assert_eq!(first.addr().port(), second.addr().port());
    for server in [first.addr(), second.addr()] {
        assert_eq!(dns::dig(server, "web.test", "NS").await, ["ns1.web.test.", "ns2.web.test."]);
    }
    assert_eq!(first.records("ns2.web.test", "A").await, [second.addr().ip().to_string()]);
    first.update(Some(&KEY), "update add _acme-challenge.web.test 1 TXT proof").await.unwrap();
    assert_eq!(first.records("_acme-challenge.web.test", "TXT").await, ["\"proof\""]);
    assert!(second.records("_acme-challenge.web.test", "TXT").await.is_empty());
    second.catch_up(&first).await;
    assert_eq!(second.records("_acme-challenge.web.test", "TXT").await, ["\"proof\""]);
}

#[tokio::test]
async fn a_server_ends_with_its_rig() {
    if !has(&[CHALLTESTSRV]) {
        return;
    }
    let names = Challtestsrv::start().await;
    let addr = names.addr();
    tokio::net::TcpStream::connect(addr).await.unwrap();
    drop(names);
    tokio::net::TcpStream::connect(addr).await.unwrap_err();
}
