//! Certificates that were not asked for.

use certctl::{Chain, Clock, ErrorKind, Retry, records::JobState};

use super::{ALWAYS, CERT, HOUR, Life, Trap, always, instead};
use crate::acme::{
    newest,
    server::{Answer, Issue, Manners, Resource, Twist},
};

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_were_not_asked_for() {
    for (issue, sentence) in [
        (Issue::OtherKey, "the certificate is for another key"),
        (Issue::OtherNames, "the certificate is not for \"a.test\""),
        (Issue::FewerNames, "the certificate is not for \"b.test\""),
        (Issue::Expired, "the certificate expired at"),
        (Issue::NotYet, "the certificate is not valid before"),
        (Issue::Ca, "the certificate is that of a CA"),
    ] {
        let life = Life::new(Manners { issue, ..Manners::default() }, |_| {}).await;
        let error = life.fails(sentence).await;
        assert_eq!((error.kind, error.retry), (ErrorKind::BadResponse, Retry::Never), "{issue:?}");
        // No other order without a person: the same would come of it.
        assert_eq!((life.step().await.state, life.server.orders()), (JobState::Attention, 1), "{issue:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_a_certificate() {
    let pem = |change: fn(&str) -> String| {
        let twist = Twist::after(move |answer| {
            answer.body = change(std::str::from_utf8(&answer.body).unwrap()).into_bytes();
        });
        always(Resource::Certificate, twist)
    };
    let life = Life::with(pem(|chain| chain.repeat(20))).await;
    life.fails("too many certificates").await;
    life.asks_for_attention().await;
    assert!(life.server.count(Resource::Certificate) <= 8 && life.server.orders() == 1);
    Life::with(pem(|chain| chain.repeat(500))).await.fails("more than 512 KiB").await;
    Life::with(pem(|chain| chain[chain.find("END CERT").unwrap() + 20..].into()))
        .await
        .fails("another key")
        .await;
    Life::with(pem(|chain| format!("{chain}{chain}"))).await.fails("/chain/").await;
    let key = |chain: &str| format!("{chain}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    Life::with(pem(key)).await.fails("there is a private key with its certificate").await;

    // What stands between the certificates goes nowhere.
    let life =
        Life::with(pem(|chain| format!("#!/bin/sh\r\n\u{1b}[2J\u{0}\n{chain}\nssl_password_file /x;\n")))
            .await;
    let certificate = life.succeeds().await;
    let deployed = life.deployed(CERT).unwrap();
    assert_eq!(deployed, newest(&life.engine, &certificate).await.chain.to_pem().into_bytes());
    assert!(!String::from_utf8(deployed).unwrap().contains("ssl_password_file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_late_costs_no_second_order() {
    let late = instead(Answer::problem(404, "malformed", "certificate not found"));
    let life = Life::with(vec![(Resource::Certificate, 0..3, late)]).await;
    life.fails("fetching the certificate").await;
    life.succeeds().await;
    assert_eq!(life.server.orders(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn alternates_without_end() {
    let trap = Trap::set().await;
    let elsewhere = format!("<{}>;rel=\"alternate\"", trap.url("https"));
    let itself = "<>;rel=\"alternate\",<#a>;rel=\"alternate\"".to_owned();
    let many = |from: usize, until: usize| {
        (from..until).map(|n| format!("<?{n}>;rel=alternate")).collect::<Vec<_>>().join(",")
    };
    for links in [
        vec![elsewhere],
        vec![itself],
        vec![many(0, 600)],
        (0..60).map(|n| many(n, n + 60)).collect(),
        vec!["<".repeat(9_000)],
    ] {
        let shown = format!("{links:.60?}");
        let twist = Twist::after(move |answer| {
            for link in &links {
                answer.headers.push(("link".to_owned(), link.clone()));
            }
        });
        let manners = Manners { rules: always(Resource::Certificate, twist), ..Manners::default() };
        let life = Life::new(manners, |acme| acme.preferred_chain = Some("Nobody's Root".to_owned())).await;
        life.succeeds().await;
        assert!(
            life.server.count(Resource::Certificate) <= 9,
            "{shown}: {}",
            life.server.count(Resource::Certificate)
        );
    }
    trap.assert_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alternate_for_another_leaf_is_not_taken() {
    // The first answer is the order's; the second, of the alternate, another certificate with the name that is preferred.
    let clock = certctl::testkit::clock::TestClock::default();
    let key =
        || std::sync::Arc::new(certctl::PrivateKey::generate(certctl::KeyAlgorithm::EcdsaP256).unwrap());
    let ca = certctl::CertificateAuthority::create_root(
        key(),
        "Preferred",
        clock.now(),
        certctl::Lifetime::days(9),
        [1; 20],
    );
    let other: Chain = ca.await.unwrap().chain().clone();
    let rules = vec![
        (
            Resource::Certificate,
            0..1,
            Twist::after(|answer| answer.set("link", "<?other>;rel=\"alternate\"")),
        ),
        (
            Resource::Certificate,
            1..9,
            instead(Answer::new(200, "application/pem-certificate-chain", other.to_pem())),
        ),
    ];
    let manners = Manners { rules, ..Manners::default() };
    let life = Life::new(manners, |acme| acme.preferred_chain = Some("Preferred".to_owned())).await;
    let certificate = life.succeeds().await;
    assert_ne!(newest(&life.engine, &certificate).await.chain, other);
    assert_eq!(life.server.count(Resource::Certificate), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_ca_is_waited_for() {
    // Minutes of processing, with and without a time to come back at.
    for after in [None, Some("15")] {
        let processing = move || {
            Twist::after(move |answer: &mut Answer| {
                answer.edit(|order| {
                    if order["status"] == "valid" {
                        order["status"] = "processing".into();
                        order.as_object_mut().unwrap().remove("certificate");
                    }
                });
                // As some CAs answer to finalize.
                answer.remove("location");
                if let Some(after) = after {
                    answer.set("retry-after", after);
                }
            })
        };
        let rules = vec![(Resource::Order, 0..20, processing()), (Resource::Finalize, ALWAYS, processing())];
        let life = Life::with(rules).await;
        let begin = life.clock.now();
        life.succeeds().await;
        let took = life.clock.now().since(begin);
        assert!(took > HOUR / 30 && took < HOUR, "{took:?}");
        assert_eq!((life.server.orders(), life.server.count(Resource::Finalize)), (1, 1));
    }
}
