//! Orders, authorizations and challenges that make no sense, or no end.

use certctl::{ChallengeKind, Clock, ErrorKind, Lifetime, Retry, records::JobState};
use serde_json::{Value, json};

use super::{ALWAYS, HOUR, Life, Trap, always, edit, instead};
use crate::acme::server::{Answer, Manners, Resource, Rule, Twist};

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_elsewhere() {
    let trap = Trap::set().await;
    let https = trap.url("https");
    let long = format!("{https}/{}", "a".repeat(3_000));
    for (url, sentence) in [
        (https.as_str(), "on another host, 127.0.0.1"),
        (&trap.url("http"), "no plain https URL"),
        ("https://user:secret@localhost/x", "no plain https URL"),
        ("https://:secret@localhost/x", "no plain https URL"),
        ("file:///etc/passwd", "no plain https URL"),
        ("https://localhost/x#y", "no plain https URL"),
        ("https://localhost/a\nb", "no plain https URL"),
        ("https://localhost/\u{1b}[31m", "no plain https URL"),
        (&long, "no plain https URL"),
        ("", "no plain https URL"),
    ] {
        let edits: [(Resource, fn(&mut Value, &str)); 5] = [
            (Resource::NewOrder, |order, url| order["finalize"] = url.into()),
            (Resource::NewOrder, |order, url| order["authorizations"][1] = url.into()),
            (Resource::Authorization, |authorization, url| {
                authorization["challenges"][0]["url"] = url.into();
            }),
            (Resource::Order, |order, url| {
                if order["certificate"].is_string() {
                    order["certificate"] = url.into();
                }
            }),
            (Resource::Finalize, |order, url| order["certificate"] = url.into()),
        ];
        for (resource, change) in edits {
            let url = url.to_owned();
            let mut rules = always(resource, edit(move |json| change(json, &url)));
            if resource == Resource::Order {
                // Or the certificate would come with the answer to finalize.
                let processing = edit(|order| {
                    order["status"] = "processing".into();
                    order.as_object_mut().unwrap().remove("certificate");
                });
                rules.push((Resource::Finalize, ALWAYS, processing));
            }
            Life::with(rules).await.fails(sentence).await;
        }
    }
    for resource in [Resource::NewAccount, Resource::NewOrder] {
        for (location, sentence) in [
            (trap.url("https"), "on another host, 127.0.0.1"),
            (trap.url("http"), "no https URL"),
            (format!("//127.0.0.1:{}/x", trap.port), "on another host, 127.0.0.1"),
            ("https://user:secret@localhost/x".to_owned(), "no https URL"),
        ] {
            let twist = Twist::after(move |answer| {
                if answer.status < 300 {
                    answer.set("location", location.clone());
                }
            });
            Life::with(always(resource, twist)).await.fails(sentence).await;
        }
        let twist = Twist::after(|answer| answer.remove("location"));
        Life::with(always(resource, twist)).await.fails("does not say where the").await;
    }
    for name in ["newNonce", "newAccount", "newOrder"] {
        for url in [trap.url("http"), "https://user@localhost/".into(), "/relative".into()] {
            let twist = edit(move |directory| directory[name] = url.clone().into());
            Life::with(always(Resource::Directory, twist)).await.fails("no plain https URL").await;
        }
    }
    trap.assert_untouched();
}

fn short(acme: &mut certctl::issuers::Acme) {
    acme.order_timeout = Lifetime::secs(600);
}

fn with_status(order: &mut Value, status: &str) {
    order["status"] = status.into();
    order.as_object_mut().unwrap().remove("certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_stays_pending() {
    let rules = always(Resource::Order, edit(|order| with_status(order, "pending")));
    let life = Life::new(Manners { rules, ..Manners::default() }, short).await;
    let begin = life.clock.now();
    let error = life.fails("has not looked at the challenges within").await;
    let took = life.clock.now().since(begin);
    assert!(took > HOUR / 6 && took < HOUR, "{took:?}");
    assert_eq!((error.kind, error.retry), (ErrorKind::Unavailable, Retry::Backoff));
    // Other orders come to the same, and then somebody has to look.
    let error = life.asks_for_attention().await;
    assert!(error.message.contains("has not looked"), "{error:#?}");
    assert_eq!(life.server.orders(), 8);
    assert!(life.server.requests() < 2_000, "{}", life.server.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_stays_ready() {
    // Whatever it is sent.
    let answer = json!({ "status": "ready", "identifiers": [], "finalize": "x" });
    let rules = vec![
        (Resource::Order, ALWAYS, edit(|order| with_status(order, "ready"))),
        (Resource::Finalize, ALWAYS, instead(Answer::json(200, &answer))),
    ];
    let life = Life::new(Manners { rules, ..Manners::default() }, short).await;
    life.fails("takes the request and does nothing with it within").await;
    assert!(life.server.count(Resource::Finalize) < 120, "{}", life.server.count(Resource::Finalize));
}

/// What is valid is still being made, for ever.
fn processing(after: Option<&'static str>) -> Vec<Rule> {
    let twist = || {
        Twist::after(move |answer: &mut Answer| {
            if answer.status >= 300 {
                return;
            }
            answer.edit(|order| {
                if order["status"] == "valid" {
                    with_status(order, "processing");
                }
            });
            if let Some(after) = after {
                answer.set("retry-after", after);
            }
        })
    };
    vec![(Resource::Order, ALWAYS, twist()), (Resource::Finalize, ALWAYS, twist())]
}

async fn processes_for_ever(after: Option<&'static str>) {
    let life = Life::with(processing(after)).await;
    let begin = life.clock.now();
    life.fails("has not made the certificate within").await;
    let took = life.clock.now().since(begin);
    assert!(took >= 72 * HOUR && took < 100 * HOUR, "{after:?}: {took:?}");
    assert!(life.server.requests() < 1_000, "{after:?}: {}", life.server.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_stays_in_the_making() {
    for after in [None, Some("Thu, 01 Jan 1970 00:00:00 GMT")] {
        processes_for_ever(after).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_stays_in_the_making_whenever_it_is_asked_for() {
    for after in [Some("1"), Some("999999999")] {
        processes_for_ever(after).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_nobody_knows() {
    let odd = || edit(|json| json["status"] = format!("\u{1b}[2J{}", "odd".repeat(90_000)).into());
    let life = Life::with(always(Resource::Order, odd())).await;
    life.fails("which is no status").await;
    life.asks_for_attention().await;
    assert!(life.server.requests() < 100);
    Life::with(always(Resource::Authorization, odd())).await.fails("and the CA does not say why").await;
    Life::with(always(Resource::NewAccount, odd())).await.fails("the ACME account is").await;
    for status in ["invalid", "expired", "revoked", "deactivated"] {
        let twist = edit(move |json| json["status"] = status.into());
        Life::with(always(Resource::Authorization, twist)).await.fails(status).await;
    }
    for error in [json!(null), json!("no"), json!({ "detail": "\u{1b}[31mno\r\n" })] {
        let twist = edit(move |order| {
            order["status"] = "invalid".into();
            order["error"] = error.clone();
        });
        Life::with(always(Resource::Order, twist)).await.fails("order").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizations_that_were_not_asked_for() {
    for (kind, value) in [
        ("dns", "victim.test"),
        ("dns", "a.test.victim.test"),
        ("dns", "test"),
        ("dns", "$(touch /tmp/x)"),
        ("dns", "../../a.test"),
        ("dns", "a.test\r\n"),
        ("dns", ""),
        ("ip", "127.0.0.1"),
        ("email", "a@a.test"),
    ] {
        let twist = edit(move |json| json["identifier"] = json!({ "type": kind, "value": value }));
        let life = Life::with(always(Resource::Authorization, twist)).await;
        life.fails("which was not asked for").await;
        assert_eq!(life.server.count(Resource::Challenge), 0);
    }
    let twist = edit(|order| {
        let one = order["authorizations"][0].clone();
        order["authorizations"] = vec![one; 10_000].into();
    });
    Life::with(always(Resource::NewOrder, twist)).await.fails("10000 authorizations for an order").await;
    let twist = edit(|order| {
        let one = order["authorizations"][0].clone();
        order["authorizations"] = vec![one; 1_000].into();
    });
    let life = Life::with(always(Resource::NewOrder, twist)).await;
    life.fails("1000 authorizations for an order of 2 names").await;
    assert_eq!(life.server.count(Resource::Authorization), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_that_nobody_can_meet() {
    for (challenges, sentence) in [
        (json!([]), "does not offer http-01"),
        (json!(null), "does not offer http-01"),
        (
            json!([{ "type": "http-02\u{1b}[31m", "url": "https://localhost/", "status": "pending" }]),
            "does not offer http-01",
        ),
        (json!([{ "type": "http-01", "status": "pending" }]), "is not the authorization"),
        (json!("none"), "is not the authorization"),
    ] {
        let twist = edit(move |json| json["challenges"] = challenges.clone());
        let life = Life::with(always(Resource::Authorization, twist)).await;
        life.fails(sentence).await;
        assert_eq!(life.server.count(Resource::Challenge), 0);
    }
}

/// A token becomes part of a path, of a file's name, of a record, and of a program's environment.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_lead_elsewhere() {
    let long = "a".repeat(257);
    let endless = "a".repeat(1 << 20);
    for token in [
        "",
        ".",
        "..",
        "../../../etc/cron.d/owned",
        "/etc/cron.d/owned",
        "a/b",
        "a\\b",
        "%2e%2e%2fowned",
        "a\u{0}b",
        "a\r\nb",
        "a b",
        "a;b",
        "$(id)",
        "`id`",
        "-\u{1b}[2J",
        "t\u{f6}ken",
        "\u{202e}nekot",
        "a=",
        &long,
        &endless,
    ] {
        let sentence = if token.len() > 1_000 { "more than 512 KiB" } else { "challenge can't be used" };
        let manners = || Manners { token: token.to_owned(), ..Manners::default() };
        let life = Life::new(manners(), |_| {}).await;
        let error = life.fails(sentence).await;
        assert_eq!(life.server.count(Resource::Challenge), 0, "{token:?}");
        if token.len() <= 1_000 {
            assert_eq!((error.kind, error.retry), (ErrorKind::BadResponse, Retry::Never), "{token:?}");
            assert_eq!(life.step().await.state, JobState::Attention);
        }

        // The same where programs would be run.
        let mut manners = manners();
        manners.rules =
            always(Resource::Authorization, edit(|json| json["challenges"][0]["type"] = "dns-01".into()));
        let life = Life::new(manners, |acme| {
            acme.challenge_type = ChallengeKind::Dns01;
            acme.webroot = None;
            acme.dns_present_script = Some("/usr/local/bin/present".to_owned().into());
        });
        life.await.fails(sentence).await;
    }
    let missing = edit(|json| drop(json["challenges"][0].as_object_mut().unwrap().remove("token")));
    Life::with(always(Resource::Authorization, missing)).await.fails("challenge can't be used").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_ca_has_forgotten_is_made_again() {
    for resource in [Resource::Order, Resource::Authorization] {
        let gone = instead(Answer::problem(404, "malformed", "order not found"));
        let life = Life::with(vec![(resource, 0..1, gone)]).await;
        life.fails("does not have the order any more").await;
        life.succeeds().await;
        assert_eq!(life.server.orders(), 2);
    }
    // So is an account.
    for resource in [Resource::NewOrder, Resource::Order, Resource::Authorization] {
        let gone = instead(Answer::problem(400, "accountDoesNotExist", "who are you?"));
        let life = Life::with(vec![(resource, 0..1, gone)]).await;
        life.fails("the account is registered again").await;
        life.succeeds().await;
        assert_eq!(life.server.count(Resource::NewAccount), 2);
    }
}
