//! What a CA says that means it well: limits, pauses, things for a person to do, credentials, and when to ask again.

use std::time::Duration;

use certctl::{
    Clock, ErrorKind, ErrorReport, KeyAlgorithm, Retry, Secret, Timestamp,
    records::{JobState, Version},
    store::Stored,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::{
    actor,
    hostile::Life,
    newest,
    server::{Answer, Manners, Resource, Rule, Twist},
};

const ALWAYS: std::ops::Range<usize> = 0..usize::MAX;

fn context<'a>(error: &'a ErrorReport, key: &str) -> Option<&'a str> {
    error.context.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

/// The first order is refused like this.
fn refused(answer: Answer) -> Vec<Rule> {
    vec![(Resource::NewOrder, 0..1, Twist::Instead(answer))]
}

/// As Let's Encrypt's server writes it, with a token that is longer than what is shown of a sentence.
fn unpause() -> (String, String) {
    let link = format!("https://portal.ca.test/sfe/v1/unpause?jwt=eyJ0.{}.c2ln", "A".repeat(900));
    let sentence =
        "Your account is temporarily prevented from requesting certificates for a.test and possibly others.";
    (format!("{sentence} Please visit: {link}"), link)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_waited_for_and_its_sentence_kept() {
    let sentence =
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s";
    let more = "https://ca.test/docs/rate-limits/#exact-set";
    let detail = format!("{sentence}, retry after 2027-01-15 18:30:00 UTC: see {more}.");
    let told: Timestamp = "2027-01-15T18:30:00Z".parse().unwrap();
    let header: Timestamp = "2027-01-15T13:00:00Z".parse().unwrap();
    for (answer, due, link) in [
        (Answer::problem(429, "rateLimited", &detail), told, Some(more)),
        // The header is what a program is told by.
        (Answer::problem(429, "rateLimited", &detail).with("retry-after", "3600"), header, Some(more)),
        (Answer::problem(429, "rateLimited", sentence).with("retry-after", "3600"), header, None),
        (
            Answer::problem(429, "rateLimited", sentence)
                .with("retry-after", "Fri, 15 Jan 2027 13:00:00 GMT")
                .with("link", "<https://ca.test/limits>;rel=\"help\""),
            header,
            Some("https://ca.test/limits"),
        ),
        // It does not say when: an hour.
        (Answer::problem(429, "rateLimited", sentence), header, None),
    ] {
        let life = Life::with(refused(answer)).await;
        let error = life.fails(sentence).await;
        assert_eq!((error.kind, error.retry), (ErrorKind::RateLimited, Retry::After(due)), "{error:#?}");
        assert_eq!(context(&error, "link"), link, "{error:#?}");
        let job = life.job().await;
        assert_eq!((job.state, job.due), (JobState::Ready, Some(due)), "{job:#?}");
        life.clock.set(due - Duration::from_secs(1));
        let job = life.step().await;
        assert_eq!((job.due, life.server.count(Resource::NewOrder)), (Some(due), 1), "it is left alone");
        life.clock.set(due);
        life.succeeds().await;
        assert_eq!((life.server.count(Resource::NewOrder), life.server.orders()), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_account_is_a_persons_to_release() {
    let (detail, link) = unpause();
    // What is general is in a header, and leads nowhere.
    let answer = Answer::problem(429, "rateLimited", &detail)
        .with("link", "<https://ca.test/docs/rate-limits>;rel=\"help\"");
    let life = Life::with(refused(answer)).await;
    let error = life.asks_for_attention().await;
    assert_eq!((error.kind, error.retry), (ErrorKind::RateLimited, Retry::Never));
    assert_eq!(context(&error, "link"), Some(&*link));
    assert!(error.message.contains("temporarily prevented from requesting certificates for a.test"));
    assert!(error.message.ends_with("end the pause, at the link that it gives"), "{error:#?}");
    assert_eq!((life.server.count(Resource::NewOrder), life.server.orders()), (1, 0), "once is enough");
    let certificate = life.certificate().await;
    assert_eq!(context(certificate.reason.as_ref().unwrap(), "link"), Some(&*link), "where people look");
    // Somebody has been there.
    drop(life.engine.retry(&actor(), &life.job().await.id).await.unwrap());
    life.succeeds().await;
    assert_eq!(life.server.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_and_an_authorization_that_fail_have_the_link_as_well() {
    let (detail, link) = unpause();
    let problem = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": detail });
    let of_order = problem.clone();
    let order = Twist::after(move |answer| {
        answer.edit(|order| {
            order["status"] = "invalid".into();
            order["error"] = of_order.clone();
        });
    });
    let authorization = Twist::after(move |answer| {
        answer.edit(|authorization| {
            authorization["status"] = "invalid".into();
            authorization["challenges"][0]["error"] = problem.clone();
        });
    });
    for rule in [(Resource::Order, ALWAYS, order), (Resource::Authorization, ALWAYS, authorization)] {
        let resource = rule.0;
        let life = Life::with(vec![rule]).await;
        let error = life.asks_for_attention().await;
        assert_eq!(context(&error, "link"), Some(&*link), "{resource:?}: {error:#?}");
        assert_eq!(error.retry, Retry::Never, "{resource:?}");
        assert_eq!(life.server.orders(), 1, "{resource:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_whole_or_not_there() {
    let link = |length: usize| format!("https://ca.test/{}", "x".repeat(length - "https://ca.test/".len()));
    let (longest, longer) = (link(2_048), link(2_049));
    for (detail, wanted) in [
        (format!("Please visit: {longest}"), Some(longest.as_str())),
        (format!("Please visit: {longer}"), None),
        ("See <https://ca.test/a>, or https://ca.test/b.".to_owned(), Some("https://ca.test/a")),
        ("(see https://ca.test/a?b=c#d).".to_owned(), Some("https://ca.test/a?b=c#d")),
        ("(see https://ca.test/a_(b)).".to_owned(), Some("https://ca.test/a_(b)")),
        ("https://ca.test/a\u{202e}b".to_owned(), Some("https://ca.test/a")),
        ("https://ca.test@evil.test/a".to_owned(), None),
        ("http://ca.test/ and javascript:alert(1)".to_owned(), None),
        ("https://".to_owned(), None),
        ("nowhere".to_owned(), None),
    ] {
        let life = Life::with(refused(Answer::problem(403, "unauthorized", &detail))).await;
        let error = life.fails("").await;
        assert_eq!(context(&error, "link"), wanted, "{detail:.100}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_has_to_do_has_its_link() {
    let terms = "https://ca.test/terms-of-2027";
    let problem = |instance: Value| {
        let kind = "urn:ietf:params:acme:error:userActionRequired";
        let detail = "Terms of service have changed, see https://ca.test/news";
        let body = json!({ "type": kind, "detail": detail, "status": 403, "instance": instance });
        Answer::new(403, "application/problem+json", body.to_string())
            .with("link", "<https://ca.test/old-terms>;rel=\"terms-of-service\"")
    };
    for (instance, link) in [
        (json!(terms), terms),
        // What is no link for people does not hide the one that is.
        (json!("urn:uuid:d9e35127"), "https://ca.test/news"),
        (json!("javascript:alert(1)"), "https://ca.test/news"),
        (json!(format!("https://ca.test/{}", "x".repeat(9_000))), "https://ca.test/news"),
        (Value::Null, "https://ca.test/news"),
    ] {
        let life = Life::with(refused(problem(instance))).await;
        let error = life.asks_for_attention().await;
        assert_eq!((error.kind, error.retry), (ErrorKind::Precondition, Retry::Never), "{error:#?}");
        assert_eq!(context(&error, "link"), Some(link));
        assert!(error.message.contains("Terms of service have changed"), "{error:#?}");
        let certificate = life.certificate().await;
        assert_eq!(context(certificate.reason.as_ref().unwrap(), "link"), Some(link));
        drop(life.engine.retry(&actor(), &life.job().await.id).await.unwrap());
        life.succeeds().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_address_is_enough_where_the_ca_gives_credentials_for_it() {
    let manners = Manners {
        eab: Some(("kid-1".to_owned(), Secret::new("a key that the CA knows"))),
        hmac_text: "YSBrZXkgdGhhdCB0aGUgQ0Ega25vd3M",
        ..Manners::default()
    };
    let life = Life::new(manners, |acme| {
        acme.eab_credentials_url = Some(acme.directory_url.replace("/directory", "/credentials"));
    })
    .await;
    // The server checks the binding.
    life.succeeds().await;
    assert_eq!((life.server.count(Resource::Credentials), life.server.count(Resource::NewAccount)), (1, 1));
    life.renew().await;
    assert_eq!(life.server.count(Resource::Credentials), 1, "an account is bound once");
}

/// A server that is no Pebble takes keys of this kind (RFC 8037).
#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_an_ed25519_key() {
    let life = Life::new(Manners::default(), |acme| acme.account_key_algorithm = KeyAlgorithm::Ed25519).await;
    life.succeeds().await;
    // All that was signed verifies with somebody else's reading of the key and of the signature.
    let made = parts(&life.server.seen(Resource::NewAccount)[0].body);
    let jwk = &made.header["jwk"];
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&json!("OKP"), &json!("Ed25519")));
    let key = base64url(jwk["x"].as_str().unwrap());
    let algorithm = aws_lc_rs::default_provider().signature_verification_algorithms;
    let ed25519 = algorithm
        .all
        .iter()
        .find(|known| known.signature_alg_id() == tokio_rustls::rustls::pki_types::alg_id::ED25519);
    let mut signed = 0;
    for resource in [Resource::NewAccount, Resource::NewOrder, Resource::Challenge, Resource::Finalize] {
        for seen in life.server.seen(resource) {
            let parts = parts(&seen.body);
            assert_eq!(parts.header["alg"], "EdDSA", "{resource:?}");
            let verified = ed25519.unwrap().verify_signature(&key, parts.input.as_bytes(), &parts.signature);
            verified.unwrap_or_else(|_| panic!("{resource:?}: {}", parts.header));
            signed += 1;
        }
    }
    assert_eq!(signed, 5);
}

struct Parts {
    header: Value,
    input: String,
    signature: Vec<u8>,
}

/// RFC 7515 section 7.2.2.
fn parts(body: &[u8]) -> Parts {
    let jws: Value = serde_json::from_slice(body).unwrap();
    let text = |member: &str| jws[member].as_str().unwrap();
    Parts {
        header: serde_json::from_slice(&base64url(text("protected"))).unwrap(),
        input: format!("{}.{}", text("protected"), text("payload")),
        signature: base64url(text("signature")),
    }
}

fn base64url(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.chars().map(|c| ALPHABET.find(c).unwrap() as u32).collect::<Vec<_>>();
    let octets = bits.chunks(4).flat_map(|four| {
        let all = four.iter().fold(0, |all, six| all << 6 | six) << (6 * (4 - four.len()));
        all.to_be_bytes()[1..four.len()].to_vec()
    });
    octets.collect()
}

impl Life {
    /// The newest.
    async fn version(&self) -> Stored<Version> {
        let certificate = self.certificate().await;
        newest(&self.engine, &certificate).await
    }

    /// Another certificate, to the end.
    async fn renew(&self) -> Stored<Version> {
        drop(self.engine.renew(&actor(), "web").await.unwrap());
        for _ in 0..1_000 {
            self.step().await;
            let jobs = self.jobs().await;
            if jobs.iter().filter(|job| &*job.kind == "issue").all(|job| job.state == JobState::Done) {
                return self.version().await;
            }
            let due = jobs.iter().filter(|job| !job.state.is_finished()).filter_map(|job| job.due).min();
            self.clock.set(due.unwrap_or_else(|| panic!("{jobs:#?}")).max(self.clock.now()));
        }
        panic!("it goes on and on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_says_what_it_replaces_and_a_refusal_costs_no_order() {
    let life = Life::with(Vec::new()).await;
    life.succeeds().await;
    let first = life.version().await;
    let second = life.renew().await;
    let id = |version: &Version| {
        let id = certctl_protocols::acme::wire::CertificateId::of(version.chain.leaf()).unwrap();
        Some(id.as_str().to_owned())
    };
    assert_eq!(life.server.replaced(), [None, id(&first)]);
    life.renew().await;
    assert_eq!(life.server.replaced(), [None, id(&first), id(&second)]);
    assert_eq!((life.server.count(Resource::NewOrder), life.server.wrong()), (3, Vec::new()));

    let refusals = [
        Answer::problem(409, "alreadyReplaced", "another order replaces it"),
        Answer::problem(400, "malformed", "the certificate is not known"),
        Answer::problem(403, "unauthorized", "it is another account's"),
        Answer::problem(500, "serverInternal", "could not find an order for the given certificate"),
    ];
    for refusal in refusals {
        // The first order is the first certificate's.
        let life = Life::with(vec![(Resource::NewOrder, 1..2, Twist::Instead(refusal))]).await;
        life.succeeds().await;
        let first = life.version().await;
        assert_ne!(life.renew().await.id, first.id);
        assert_eq!(life.server.replaced(), [None, None], "one order for each certificate");
        assert_eq!((life.server.count(Resource::NewOrder), life.server.wrong()), (3, Vec::new()));
    }

    // One that fails after it has made the order is asked for it, and makes no other.
    let fails =
        Twist::after(|answer| *answer = Answer::problem(500, "serverInternal", "something went wrong"));
    let life = Life::with(vec![(Resource::NewOrder, 1..2, fails)]).await;
    life.succeeds().await;
    let first = life.version().await;
    assert_ne!(life.renew().await.id, first.id);
    assert_eq!(life.server.replaced(), [None, id(&first)]);
    assert_eq!((life.server.count(Resource::NewOrder), life.server.wrong()), (2, Vec::new()));

    // A server that leaves it out of its answer has made the order all the same.
    let silent = |resource: Resource| {
        let twist = Twist::after(|answer| {
            answer.edit(|order| drop(order.as_object_mut().unwrap().remove("replaces")));
        });
        (resource, ALWAYS, twist)
    };
    let life = Life::with([Resource::NewOrder, Resource::Order, Resource::Finalize].map(silent).into()).await;
    life.succeeds().await;
    let first = life.version().await;
    assert_ne!(life.renew().await.id, first.id);
    assert_eq!(life.server.replaced(), [None, id(&first)]);
    assert_eq!((life.server.count(Resource::NewOrder), life.server.wrong()), (2, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_is_asked_again_when_it_says() {
    const MADE: usize = 4;
    for (after, span) in [("90", 90), ("3600", 3_600), ("Fri, 15 Jan 2027 15:00:00 GMT", 3 * 3_600)] {
        // It is still being made, for a while.
        let processing = move || {
            Twist::after(move |answer: &mut Answer| {
                answer.edit(|order| {
                    if order["status"] == "valid" {
                        order["status"] = "processing".into();
                        order.as_object_mut().unwrap().remove("certificate");
                    }
                });
                answer.set("retry-after", after);
            })
        };
        let life = Life::with(vec![
            (Resource::Finalize, ALWAYS, processing()),
            (Resource::Order, 0..MADE, processing()),
        ])
        .await;
        let begin = life.clock.now();
        life.succeeds().await;
        let finalized = life.server.seen(Resource::Finalize)[0].at;
        let asked: Vec<Timestamp> = life
            .server
            .seen(Resource::Order)
            .iter()
            .map(|seen| seen.at)
            .filter(|at| *at > finalized)
            .collect();
        let span = Duration::from_secs(span);
        let first = asked[0];
        if after.ends_with("GMT") {
            assert_eq!(first, begin + span, "{after}");
        } else {
            assert_eq!(first.since(finalized), span, "{after}");
            let gaps: Vec<Duration> = asked.windows(2).map(|two| two[1].since(two[0])).collect();
            assert!(!gaps.is_empty() && gaps.iter().all(|gap| *gap == span), "{after}: {gaps:?}");
        }
    }
}
