//! Every resource, answered in every wrong way.

use certctl::{Clock, ErrorKind, Retry};
use serde_json::json;

use super::{ALWAYS, HOUR, Life, Trap, always, instead};
use crate::acme::server::{Answer, Resource, Twist, Way};

/// Resources whose answers have JSON in them that is needed.
const JSON: [Resource; 5] =
    [Resource::Directory, Resource::NewAccount, Resource::NewOrder, Resource::Order, Resource::Authorization];
const SIGNED: [Resource; 7] = [
    Resource::NewAccount,
    Resource::NewOrder,
    Resource::Authorization,
    Resource::Challenge,
    Resource::Order,
    Resource::Finalize,
    Resource::Certificate,
];
const ALL: [Resource; 9] = [
    Resource::Directory,
    Resource::NewNonce,
    Resource::NewAccount,
    Resource::NewOrder,
    Resource::Authorization,
    Resource::Challenge,
    Resource::Order,
    Resource::Finalize,
    Resource::Certificate,
];

/// The resource, misbehaving from the beginning until the job has failed once.
async fn fails(resource: Resource, twist: Twist, sentence: &str) -> (Life, certctl::ErrorReport) {
    let life = Life::with(always(resource, twist)).await;
    let error = life.fails(sentence).await;
    assert!(life.server.requests() < 60, "{resource:?}, {sentence}: {} requests", life.server.requests());
    (life, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json() {
    for resource in JSON.into_iter().chain([Resource::Finalize]) {
        let bodies: [(&str, &str, &str); 6] = [
            ("application/json", "<html><h1>Welcome</h1></html>", "is not the"),
            ("application/json", "{\"status\":\"val", "is not the"),
            ("application/json", "[]", "is not the"),
            ("application/json", "\u{0}\u{1}", "is not the"),
            ("text/html; charset=utf-8", "<html><h1>Captive portal</h1></html>", "\"text/html"),
            ("text/plain", "{}", "\"text/plain\""),
        ];
        for (content_type, body, sentence) in bodies {
            let twist = Twist::after(move |answer| {
                answer.set("content-type", content_type);
                answer.body = body.into();
            });
            fails(resource, twist, sentence).await;
        }
        let twist = Twist::after(|answer| answer.remove("content-type"));
        fails(resource, twist, "no content type").await;
        let twist = Twist::after(|answer| answer.body = "[".repeat(400_000).into());
        fails(resource, twist, "is not the").await;
        // A parser that quotes what it does not like.
        let twist = Twist::after(|answer| {
            answer.body = json!({ "status": 5, "newNonce": [], "identifier": "\u{1b}[2J".repeat(20_000) })
                .to_string()
                .into();
        });
        fails(resource, twist, "is not the").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_certificate() {
    for (content_type, body, sentence) in [
        ("application/json", "{}", "instead of the certificate"),
        ("text/html", "<html></html>", "instead of the certificate"),
        ("application/pem-certificate-chain", "", "can't be read"),
        ("application/pem-certificate-chain", "<html></html>", "can't be read"),
        (
            "application/pem-certificate-chain",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "can't be read",
        ),
        ("application/pem-certificate-chain", "-----BEGIN CERTIFICATE-----\nMIIB", "can't be read"),
    ] {
        let answer = Answer::new(200, content_type, body);
        fails(Resource::Certificate, instead(answer), sentence).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_end() {
    const MIB: usize = 1 << 20;
    for resource in SIGNED.into_iter().chain([Resource::Directory]) {
        for way in [Way::Times(1_000), Way::Endless] {
            let twist = Twist::after(move |answer| {
                answer.body = vec![b' '; 100 << 10];
                answer.way = way;
            });
            let (life, _) = fails(resource, twist, "more than 512 KiB").await;
            // What the sockets hold is on its way when the client hangs up.
            let tries = life.server.count(resource);
            assert!(life.server.taken() < 12 * MIB * tries, "{} octets", life.server.taken());
        }
        let twist = Twist::after(|answer| answer.way = Way::CutHalf);
        if resource != Resource::Challenge {
            fails(resource, twist, "the connection broke").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let trap = Trap::set().await;
    for resource in ALL {
        for (status, scheme) in [(301, "https"), (302, "http"), (307, "https"), (308, "http")] {
            let answer = Answer::new(status, "text/html", "").with("location", trap.url(scheme));
            fails(resource, instead(answer), "redirects to \"http").await;
        }
    }
    trap.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end() {
    for resource in ALL {
        let mut cut = Answer::new(200, "text/plain", "");
        cut.way = Way::Cut;
        let (_, error) = fails(resource, instead(cut), "can't be reached").await;
        assert_eq!((error.kind, error.retry), (ErrorKind::Unavailable, Retry::Backoff), "{resource:?}");
        let (_, error) =
            fails(resource, Twist::after(|answer| answer.way = Way::Cut), "can't be reached").await;
        assert_eq!(error.retry, Retry::Backoff, "{resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_kept_within_reason() {
    for resource in ALL {
        for (status, kind) in [(429, "rateLimited"), (503, "serverInternal")] {
            // The clock of the tests begins at 2027-01-15T12:00:00Z, and goes on only where somebody waits.
            for (told, least, most) in [
                ("7200", 2 * HOUR, 2 * HOUR),
                ("Fri, 15 Jan 2027 15:00:00 GMT", 3 * HOUR - HOUR / 60, 3 * HOUR),
                ("Sat, 15 Jan 2028 12:00:00 GMT", 160 * HOUR, 168 * HOUR),
                ("9999999999999999999", 160 * HOUR, 168 * HOUR),
            ] {
                let answer = Answer::problem(status, kind, "slowly").with("retry-after", told);
                // A HEAD has no body.
                let sentence = if resource == Resource::NewNonce { "ACME server" } else { "slowly" };
                let (life, error) = fails(resource, instead(answer), sentence).await;
                let Retry::After(at) = error.retry else { panic!("{error:#?}") };
                let wait = at.since(life.clock.now());
                assert!(least <= wait && wait <= most, "{resource:?}, {told}: {wait:?}");
            }
        }
        let (_, error) = fails(resource, instead(Answer::new(502, "text/html", "<h1>")), "ACME server").await;
        assert_eq!((error.kind, error.retry), (ErrorKind::Unavailable, Retry::Backoff), "{resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_that_says_when_in_its_sentence() {
    let detail = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry \
                  after 2027-01-16 06:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/";
    let answer = Answer::problem(429, "rateLimited", detail);
    let (_, error) = fails(Resource::NewOrder, instead(answer), "exact set of identifiers").await;
    assert_eq!(error.retry, Retry::After("2027-01-16T06:00:00Z".parse().unwrap()));
    let answer = Answer::problem(429, "rateLimited", "slow down, retry after 9999-99-99 99:99:99 UTC");
    let (life, error) = fails(Resource::NewOrder, instead(answer), "slow down").await;
    assert_eq!(error.retry, Retry::After(life.clock.now() + HOUR), "an hour, where it makes no sense");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_to_be_asked_at_once_is_given_time() {
    let answer = Answer::problem(503, "serverInternal", "busy").with("retry-after", "0");
    let life = Life::with(always(Resource::NewOrder, instead(answer))).await;
    let begin = life.clock.now();
    life.asks_for_attention().await;
    assert!(life.clock.now().since(begin) > HOUR / 3, "{:?}", life.clock.now().since(begin));
    assert!(life.server.count(Resource::NewOrder) < 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_never_good() {
    for resource in SIGNED {
        let refusal = Answer::problem(400, "badNonce", "no");
        let (life, error) = fails(resource, instead(refusal), "of its own nonces in a row").await;
        assert_eq!((error.kind, error.retry), (ErrorKind::Unavailable, Retry::Backoff));
        assert!(life.server.count(resource) <= 20, "{}", life.server.count(resource));
    }
    // And in the end somebody looks.
    let refusal = Answer::problem(400, "badNonce", "no");
    let life = Life::with(always(Resource::NewOrder, instead(refusal))).await;
    life.asks_for_attention().await;
    assert_eq!((life.server.orders(), life.server.count(Resource::NewOrder)), (0, 80));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_none() {
    let long = "n".repeat(10_000);
    for nonce in ["", " ", "a b", "a+b/c=", "n\u{f6}n", "\"x\"", &long] {
        let nonce = nonce.to_owned();
        // Passed over where another one can be had.
        let rules = SIGNED.map(|resource| {
            let nonce = nonce.clone();
            (resource, ALWAYS, Twist::after(move |answer| answer.set("replay-nonce", nonce.clone())))
        });
        Life::with(rules.into()).await.succeeds().await;
        let twist = Twist::after(move |answer| answer.set("replay-nonce", nonce.clone()));
        fails(Resource::NewNonce, twist, "gives no nonce where it should").await;
    }
    let rules =
        SIGNED.map(|resource| (resource, ALWAYS, Twist::after(|answer| answer.remove("replay-nonce"))));
    Life::with(rules.into()).await.succeeds().await;
    let missing = Twist::after(|answer| answer.remove("replay-nonce"));
    fails(Resource::NewNonce, missing, "gives no nonce where it should").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_fit_to_be_read() {
    let escapes = "\u{1b}]0;owned\u{7}\u{1b}[31mred\r\nSet-Cookie: a=b\u{202e}\u{0}";
    let nested = (0..50).fold(
        json!({ "detail": "innermost" }),
        |inner, n| json!({ "type": format!("t{n}"), "detail": "level", "subproblems": [inner] }),
    );
    let many: Vec<_> = (0..5_000)
        .map(|n| json!({ "detail": escapes, "identifier": { "type": "dns", "value": format!("n{n}.test\n") } }))
        .collect();
    let long = "x".repeat(400 << 10);
    for problem in [
        json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": escapes, "instance": escapes }),
        json!({ "type": long, "detail": long, "title": long, "instance": escapes }).clone(),
        json!({ "type": escapes, "title": escapes, "status": "403" }),
        json!({ "type": "urn:ietf:params:acme:error:compound", "subproblems": many }),
        json!({ "detail": "outermost", "subproblems": [nested] }),
        json!({ "type": 5, "detail": ["a"], "subproblems": "none" }),
        json!(null),
        json!([]),
    ] {
        let mut text = problem.to_string();
        text.truncate(500 << 10);
        for resource in SIGNED {
            let answer = Answer::new(403, "application/problem+json", text.clone())
                .with("link", format!("<https://ca.test/{}>;rel=\"help\"", "a".repeat(9_000)));
            fails(resource, instead(answer), "").await;
        }
    }
    let answer = Answer::new(400, "application/problem+json", vec![b'"'; 1 << 20]);
    fails(Resource::NewOrder, instead(answer), "more than 512 KiB").await;
}

/// The deadline is for the whole request, not for each byte. Time is skipped here once it has begun to drip.
#[tokio::test]
async fn slow_drips() {
    for resource in [Resource::Directory, Resource::NewOrder, Resource::Certificate] {
        for way in [Way::Drip, Way::DripHead] {
            let life = Life::with(always(resource, Twist::after(move |answer| answer.way = way))).await;
            let step = life.step();
            tokio::pin!(step);
            tokio::select! {
                biased;
                () = life.server.dripping() => {}
                job = &mut step => panic!("{job:#?}"),
            }
            let before = life.server.taken();
            tokio::time::pause();
            step.await;
            tokio::time::resume();
            let drops = life.server.taken() - before;
            assert!((4..=8).contains(&drops), "{resource:?}: 30 seconds of drops: {drops}");
            life.fails("takes too long").await;
        }
    }
}
