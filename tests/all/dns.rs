//! Challenges in the DNS on real name servers: BIND takes the updates, Knot lags behind it, `dig` sees what they show.

use std::{sync::Arc, time::Duration};

use certctl::{
    Challenge, ChallengeKind, Clock, Context, Env, Error, ErrorKind, Retry, Secret, Solver, SubjectAltName,
    SystemClock, Timestamp, TxtRecord,
    connectors::SolverConfig,
    dns::{Lookup, Seen},
    solvers::{Rfc2136, TsigHash},
    testkit::clock::TestClock,
};

use crate::peers::{
    Bind, KNOTD, NAMED, Zone,
    bind::{KEY, TsigKey},
    has,
};

const NAME: &str = "_acme-challenge.web.test";

// ---- RFC 2136 --------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn values_of_one_name_come_and_go_one_by_one() {
    if !has(&[NAMED]) {
        return;
    }
    let server = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let solver = connect(config(&server)).await;
    let (apex, wildcard) = (challenge("web.test", NAME, "apex"), challenge("*.web.test", NAME, "wildcard"));
    assert!(solver.solves(&apex) && solver.solves(&wildcard));
    let cx = cx();
    let (first, second) = tokio::join!(solver.present(&cx, &apex), solver.present(&cx, &wildcard));
    first.unwrap();
    second.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, ["\"apex\"", "\"wildcard\""]);
    // Again is fine, and adds nothing.
    solver.present(&cx, &apex).await.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, ["\"apex\"", "\"wildcard\""]);

    solver.retract(&cx, &apex).await.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, ["\"wildcard\""]);
    // What is not there is fine.
    solver.retract(&cx, &apex).await.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, ["\"wildcard\""]);
    solver.retract(&cx, &wildcard).await.unwrap();
    assert!(server.records(NAME, "TXT").await.is_empty());
}

#[tokio::test]
async fn many_values_at_once_are_all_there_and_then_all_gone() {
    if !has(&[NAMED]) {
        return;
    }
    let server = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let solver = connect(config(&server)).await;
    let challenges: Vec<_> = (0..20).map(|n| challenge("web.test", NAME, &format!("value-{n:02}"))).collect();
    for (present, expected) in [(true, 20), (false, 0)] {
        let mut tasks = tokio::task::JoinSet::new();
        for challenge in challenges.clone() {
            let solver = solver.clone();
            tasks.spawn(async move {
                if present {
                    solver.present(&cx(), &challenge).await
                } else {
                    solver.retract(&cx(), &challenge).await
                }
            });
        }
        for outcome in tasks.join_all().await {
            outcome.unwrap();
        }
        // More than one packet has room for: the answer comes by TCP.
        assert_eq!(server.records(NAME, "TXT").await.len(), expected);
    }
}

#[tokio::test]
async fn a_value_of_others_and_a_persistent_one_stay() {
    if !has(&[NAMED]) {
        return;
    }
    let records = "_acme-challenge TXT others";
    let server = Bind::start(&[Zone { name: "web.test", records }], &KEY).await;
    let solver = connect(config(&server)).await;
    let own = challenge("web.test", NAME, "own");
    solver.present(&cx(), &own).await.unwrap();
    solver.retract(&cx(), &own).await.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, ["\"others\""]);

    let name = "_validation-persist.web.test";
    let persistent = Challenge {
        kind: ChallengeKind::DnsPersist01,
        ..challenge("web.test", name, "ca.test; accounturi=https://ca.test/1; policy=wildcard")
    };
    solver.present(&cx(), &persistent).await.unwrap();
    solver.retract(&cx(), &persistent).await.unwrap();
    let stays = "\"ca.test; accounturi=https://ca.test/1; policy=wildcard\"";
    assert_eq!(server.records(name, "TXT").await, [stays]);
}

#[tokio::test]
async fn a_long_value_and_the_time_to_live_are_as_asked_for() {
    if !has(&[NAMED]) {
        return;
    }
    let server = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let solver = connect(Rfc2136 { ttl: 17, ..config(&server) }).await;
    let value = "long;".repeat(100);
    let long = challenge("web.test", "_ACME-Challenge.Web.TEST.", &value);
    solver.present(&cx(), &long).await.unwrap();
    assert_eq!(server.records(NAME, "TXT").await, [format!("\"{}\" \"{}\"", &value[..255], &value[255..])]);
    let lookup = Lookup::new(&[server.addr()], &[server.addr()]).unwrap();
    assert!(lookup.visible(long.txt.as_ref().unwrap()).await.unwrap().complete());
    let part = TxtRecord { name: NAME.into(), value: value[..255].into() };
    assert!(!lookup.visible(&part).await.unwrap().complete());
}

#[tokio::test]
async fn every_algorithm_is_understood() {
    if !has(&[NAMED]) {
        return;
    }
    for (algorithm, hash) in [("hmac-sha384", TsigHash::HmacSha384), ("hmac-sha512", TsigHash::HmacSha512)] {
        let server = Bind::start(&[Zone::new("web.test")], &TsigKey { algorithm, ..KEY }).await;
        let solver = connect(Rfc2136 { tsig_algorithm: hash, ..config(&server) }).await;
        solver.present(&cx(), &challenge("web.test", NAME, algorithm)).await.unwrap();
        assert_eq!(server.records(NAME, "TXT").await, [format!("\"{algorithm}\"")]);
        // With the default, which this key does not have.
        let error = refusal(config(&server)).await;
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
        assert!(error.message().contains("BADKEY"), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_the_server_does_not_take_is_told_apart() {
    if !has(&[NAMED]) {
        return;
    }
    let server = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let secret = "bm90IHRoZSBrZXkgdGhhdCB0aGUgc2VydmVyIGtub3dz";
    let error =
        refusal(Rfc2136 { tsig_secret: Secret::new(secret.as_bytes()).into(), ..config(&server) }).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unauthenticated, Retry::Never), "{error:?}");
    assert!(error.message().contains("BADSIG"), "{error}");
    assert!(!format!("{error:?}").contains(secret));

    let error = refusal(Rfc2136 { tsig_key_name: "other-key".into(), ..config(&server) }).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unauthenticated, Retry::Never), "{error:?}");
    assert!(error.message().contains("no key other-key") && error.message().contains("BADKEY"), "{error}");
    assert!(server.records(NAME, "TXT").await.is_empty());
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_with_the_other_one() {
    if !has(&[NAMED]) {
        return;
    }
    let server = Bind::start(&[Zone::new("web.test")], &KEY).await;
    let solver = connect(config(&server)).await;
    let wrong = SystemClock.now() - Duration::from_secs(3_600);
    let before = SystemClock.now().floor_secs();
    let cx = Context::new(Arc::new(TestClock::at(wrong)));
    let error = solver.present(&cx, &challenge("web.test", NAME, "late")).await.unwrap_err();
    let after = SystemClock.now();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Precondition, Retry::Backoff), "{error:?}");
    assert!(error.message().contains("BADTIME"), "{error}");
    assert!(error.message().contains(&format!("here it is {}", wrong.floor_secs())), "{error}");
    let (_, there) = error.message().split_once("there it is ").unwrap();
    let there: Timestamp = there.split_once(';').unwrap().0.parse().unwrap();
    assert!((before..=after).contains(&there), "{error}");
    assert!(server.records(NAME, "TXT").await.is_empty());
}

#[tokio::test]
async fn a_zone_that_is_not_there_or_not_the_keys_is_named() {
    if !has(&[NAMED]) {
        return;
    }
    let records = "sub NS ns.elsewhere.test.";
    let server = Bind::start(&[Zone { name: "web.test", records }, Zone::new("other.test")], &KEY).await;
    let solver = connect(config(&server)).await;
    let error = solver.present(&cx(), &challenge("nowhere.test", "_acme-challenge.nowhere.test", "x")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("holds no zone") && error.message().contains("REFUSED"), "{error}");

    // What is below a delegation is somebody else's, even where the server would take it.
    let below = challenge("www.sub.web.test", "_acme-challenge.www.sub.web.test", "x");
    let error = solver.present(&cx(), &below).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("delegates sub.web.test"), "{error}");

    let error = refusal(Rfc2136 { zone: Some("other.test".into()), ..config(&server) }).await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    let error = refusal(Rfc2136 { zone: Some("test".into()), ..config(&server) }).await;
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert!(error.message().contains("NOTAUTH"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_later() {
    let solver =
        connect(Rfc2136 { server: format!("127.0.0.1:{}", crate::peers::free_port()), ..keyed() }).await;
    let error = solver.present(&cx(), &challenge("web.test", NAME, "x")).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Backoff), "{error:?}");
    assert!(error.message().contains("nobody listens"), "{error}");
}

// ---- Aliases and propagation -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_alias_leads_into_another_zone_and_the_update_goes_there() {
    if !has(&[NAMED]) {
        return;
    }
    let records = "_acme-challenge CNAME One.ACME.test.\n_acme-challenge.shop CNAME _acme-challenge";
    let zones = [Zone { name: "web.test", records }, Zone::new("acme.test")];
    let server = Bind::start(&zones, &KEY).await;
    let lookup = Lookup::new(&[server.addr()], &[server.addr()]).unwrap();
    for name in [NAME, "_ACME-challenge.shop.web.test."] {
        assert_eq!(lookup.follow(name).await.unwrap(), "one.acme.test");
    }
    assert_eq!(lookup.follow("no.alias.web.test").await.unwrap(), "no.alias.web.test");

    let solver = connect(config(&server)).await;
    let there = challenge("web.test", &lookup.follow(NAME).await.unwrap(), "delegated");
    solver.present(&cx(), &there).await.unwrap();
    assert_eq!(server.records("one.acme.test", "TXT").await, ["\"delegated\""]);
    assert!(lookup.visible(there.txt.as_ref().unwrap()).await.unwrap().complete());
    solver.retract(&cx(), &there).await.unwrap();
    assert!(server.records("one.acme.test", "TXT").await.is_empty());
}

#[tokio::test]
async fn a_record_has_come_through_once_the_last_name_server_shows_it() {
    if !has(&[NAMED, KNOTD]) {
        return;
    }
    let (first, second) = Bind::start_pair(&[Zone::new("web.test")], &KEY).await;
    let lookup = Lookup::new(&[first.addr()], &[first.addr(), second.addr()]).unwrap();
    let challenge = challenge("web.test", NAME, "proof");
    let record = challenge.txt.clone().unwrap();
    let nothing = lookup.visible(&record).await.unwrap();
    assert!(!nothing.complete());
    assert!(nothing.to_string().starts_with("0 of 2 name servers show it; "), "{nothing}");

    connect(config(&first)).await.present(&cx(), &challenge).await.unwrap();
    let half = lookup.visible(&record).await.unwrap();
    assert!(!half.complete(), "{half:?}");
    let lagging = second.addr();
    assert_eq!(half.to_string(), format!("1 of 2 name servers shows it; {lagging} does not yet"));

    second.catch_up(&first).await;
    let all = lookup.visible(&record).await.unwrap();
    assert!(all.complete(), "{all:?}");
    assert_eq!(all.to_string(), "2 of 2 name servers show it");

    // Another value under the same name is not this one.
    let other = TxtRecord { value: "proo".into(), ..record.clone() };
    assert!(!lookup.visible(&other).await.unwrap().complete());
    let port = lagging.port();
    drop(second);
    let gone = lookup.visible(&record).await.unwrap();
    assert!(!gone.complete());
    let sentence =
        format!("1 of 2 name servers shows it; 127.0.0.2:{port} is not there: nobody listens on its port");
    assert_eq!(gone.to_string(), sentence);
}

#[tokio::test]
async fn the_zone_is_found_with_its_name_servers() {
    if !has(&[NAMED]) {
        return;
    }
    let zones =
        [Zone::new("web.test"), Zone { name: "deep.web.test", records: "@ NS ns3\nns3 A 127.0.0.53" }];
    let server = Bind::start(&zones, &KEY).await;
    let lookup = Lookup::new(&[server.addr()], &[]).unwrap();
    let zone = lookup.zone("a.b.C.Web.test").await.unwrap();
    assert_eq!(zone.apex, "web.test");
    assert_eq!(zone.name_servers, [("ns1.web.test".to_owned(), vec!["127.0.0.1:53".parse().unwrap()])]);
    let deep = lookup.zone("_acme-challenge.deep.web.test").await.unwrap();
    assert_eq!(deep.apex, "deep.web.test");
    assert_eq!(deep.name_servers.len(), 2);
    assert_eq!(deep.name_servers[1], ("ns3.deep.web.test".into(), vec!["127.0.0.53:53".parse().unwrap()]));

    // Nobody answers there, on the port that the DNS is on.
    let record = TxtRecord { name: "_acme-challenge.deep.web.test".into(), value: "x".into() };
    let seen = lookup.visible(&record).await.unwrap();
    assert!(!seen.complete());
    assert!(seen.to_string().starts_with("0 of 2 name servers of deep.web.test show it; "), "{seen}");
    assert!(seen.to_string().contains("ns3.deep.web.test (127.0.0.53) "), "{seen}");
    assert!(seen.servers.iter().all(|server| server.seen != Seen::Shown));

    let error = lookup.zone("www.nowhere.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("REFUSED"), "{error}");
}

// ---- What they share -------------------------------------------------------------------------------------------------------

fn cx() -> Context {
    Context::new(Arc::new(SystemClock))
}

fn keyed() -> Rfc2136 {
    Rfc2136 {
        tsig_key_name: KEY.name.into(),
        tsig_secret: Secret::new(KEY.secret.as_bytes()).into(),
        ..Rfc2136::default()
    }
}

fn config(server: &Bind) -> Rfc2136 {
    Rfc2136 { server: server.addr().to_string(), ..keyed() }
}

async fn connect(config: Rfc2136) -> Arc<dyn Solver> {
    assert_eq!(config.check(), []);
    config.connect(Env::in_memory()).await.unwrap()
}

async fn refusal(config: Rfc2136) -> Error {
    connect(config).await.present(&cx(), &challenge("web.test", NAME, "refused")).await.unwrap_err()
}

fn challenge(domain: &str, name: &str, value: &str) -> Challenge {
    Challenge {
        kind: ChallengeKind::Dns01,
        name: SubjectAltName::Dns(domain.into()),
        token: "token".into(),
        key_authorization: "token.thumbprint".into(),
        txt: Some(TxtRecord { name: name.into(), value: value.into() }),
        solver: None,
    }
}
