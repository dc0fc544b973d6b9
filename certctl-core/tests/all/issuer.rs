//! The scripted issuer does what its script says, and passes the suite for issuers.

use std::{sync::Arc, time::Duration};

use certctl_core::{
    Clock, Context, Effect, ErrorKind, Issuer, IssuerCapabilities, KeyAlgorithm, Order, PrivateKey, Progress,
    Recovery, Retry,
    testkit::{
        clock::TestClock,
        issuer::{Script, ScriptedIssuer, conformance, order},
    },
};

async fn issuer(recovery: Recovery) -> (Arc<ScriptedIssuer>, TestClock, Context) {
    let clock = TestClock::default();
    let issuer = ScriptedIssuer::new(clock.now(), IssuerCapabilities::all(recovery)).await;
    let cx = Context::new(Arc::new(clock.clone()));
    (issuer, clock, cx)
}

async fn web(clock: &TestClock) -> (Order, PrivateKey) {
    order(clock, KeyAlgorithm::EcdsaP256, &["web.test", "www.web.test"], None).await
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn conforms_when_it_issues_at_once() {
    for recovery in [Recovery::Idempotent, Recovery::Searchable, Recovery::None] {
        let (issuer, clock, _) = issuer(recovery).await;
        conformance(issuer.clone(), &clock, &|_| panic!("there are no challenges")).await;
    }
}

#[tokio::test]
async fn conforms_when_it_lets_orders_wait_and_when_it_revokes() {
    let clock = TestClock::default();
    let capabilities = IssuerCapabilities { revoke: true, ..IssuerCapabilities::all(Recovery::Searchable) };
    let issuer = ScriptedIssuer::new(clock.now(), capabilities).await;
    issuer.script(Script::PendUntil(clock.now() + DAY));
    conformance(issuer.clone(), &clock, &|_| panic!("there are no challenges")).await;
    assert_eq!(issuer.revoked().len(), 1);
}

#[tokio::test]
async fn conforms_when_it_wants_challenges() {
    let (issuer, clock, _) = issuer(Recovery::Searchable).await;
    issuer.script(Script::Challenge);
    conformance(issuer.clone(), &clock, &|challenges| {
        assert!(challenges.iter().all(|challenge| challenge.key_authorization.starts_with(&challenge.token)));
        issuer.set_presented(true);
    })
    .await;
    issuer.assert_no_second_order();
}

#[tokio::test]
#[should_panic(expected = "the certificate is for another key")]
async fn the_suite_refuses_another_key() {
    refused(Script::OtherKey).await;
}

#[tokio::test]
#[should_panic(expected = "the certificate is not for")]
async fn the_suite_refuses_other_names() {
    refused(Script::OtherNames).await;
}

#[tokio::test]
#[should_panic(expected = "names another issuer than the one after it")]
async fn the_suite_refuses_a_chain_that_does_not_belong_to_the_leaf() {
    refused(Script::GarbageChain).await;
}

#[tokio::test]
#[should_panic(expected = "the certificate expired")]
async fn the_suite_refuses_an_expired_certificate() {
    refused(Script::Expired).await;
}

async fn refused(script: Script) {
    let (issuer, clock, _) = issuer(Recovery::Searchable).await;
    issuer.script(script);
    conformance(issuer, &clock, &|_| {}).await;
}

#[tokio::test]
async fn a_pending_order_is_issued_after_days() {
    let (issuer, clock, cx) = issuer(Recovery::Searchable).await;
    issuer.script(Script::PendUntil(clock.now() + DAY * 3));
    let (order, key) = web(&clock).await;
    let mut progress = issuer.submit(&cx, &order).await.unwrap();
    let mut waits = 0;
    let chain = loop {
        match progress {
            Progress::Waiting { handle, at } => {
                waits += 1;
                assert!(at > clock.now() && at <= clock.now() + DAY);
                clock.set(at);
                progress = issuer.poll(&cx, &order, handle).await.unwrap();
            }
            Progress::Issued { chain } => break chain,
            other => panic!("nothing of the sort is scripted: {other:?}"),
        }
    };
    chain.check(key.public_key(), &order.names, clock.now()).unwrap();
    let calls = issuer.calls(&order.attempt);
    assert_eq!((calls.submits, calls.polls, calls.orders, waits), (1, 12, 1, 12));
}

#[tokio::test]
async fn a_lost_answer_is_found_again() {
    for recovery in [Recovery::Idempotent, Recovery::Searchable] {
        let (issuer, clock, cx) = issuer(recovery).await;
        issuer.script_next([Script::LoseAnswer]);
        let (order, _) = web(&clock).await;
        let lost = issuer.submit(&cx, &order).await.unwrap_err();
        assert_eq!((lost.kind(), lost.effect()), (ErrorKind::Unavailable, Effect::Unknown));
        let Some(Progress::Issued { chain }) = issuer.recover(&cx, &order).await.unwrap() else {
            panic!("the order is known, and was issued");
        };
        assert_eq!(issuer.issued(), [chain]);
        issuer.assert_no_second_order();
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_for_good_can_only_be_ordered_again() {
    let (issuer, clock, cx) = issuer(Recovery::None).await;
    issuer.script_next([Script::LoseAnswer]);
    let (order, _) = web(&clock).await;
    issuer.submit(&cx, &order).await.unwrap_err();
    assert_eq!(issuer.recover(&cx, &order).await.unwrap_err().kind(), ErrorKind::Unsupported);
    issuer.submit(&cx, &order).await.unwrap();
    assert_eq!(issuer.calls(&order.attempt).orders, 2, "the second order is counted");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| issuer.assert_no_second_order()));
    assert!(caught.is_err(), "and the assertion sees it");
}

#[tokio::test]
async fn an_idempotent_issuer_knows_the_order_again() {
    let (issuer, clock, cx) = issuer(Recovery::Idempotent).await;
    let (order, _) = web(&clock).await;
    for _ in 0..3 {
        issuer.submit(&cx, &order).await.unwrap();
    }
    assert_eq!(issuer.issued().len(), 1);
    assert_eq!(issuer.calls(&order.attempt).submits, 3);
    issuer.assert_no_second_order();
}

#[tokio::test]
async fn a_lost_request_is_unknown_to_the_ca() {
    let (issuer, clock, cx) = issuer(Recovery::Searchable).await;
    issuer.script(Script::LoseRequest);
    let (order, _) = web(&clock).await;
    let lost = issuer.submit(&cx, &order).await.unwrap_err();
    assert_eq!(lost.effect(), Effect::Unknown);
    assert!(issuer.recover(&cx, &order).await.unwrap().is_none());
    assert!(matches!(issuer.submit(&cx, &order).await.unwrap(), Progress::Issued { .. }));
    issuer.assert_no_second_order();
}

#[tokio::test]
async fn refusals_say_when_to_come_back() {
    let (issuer, clock, cx) = issuer(Recovery::Searchable).await;
    let (order, _) = web(&clock).await;
    let later = clock.now() + DAY;
    issuer.script_next([Script::Reject, Script::Down]);
    issuer.script_next([Script::RateLimit(later)]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let error = issuer.submit(&cx, &order).await.unwrap_err();
        seen.push((error.kind(), error.retry(), error.effect()));
    }
    assert_eq!(
        seen,
        [
            (ErrorKind::Invalid, Retry::Never, Effect::None),
            (ErrorKind::Unavailable, Retry::Backoff, Effect::None),
            (ErrorKind::RateLimited, Retry::After(later), Effect::None),
        ]
    );
    assert_eq!(issuer.calls(&order.attempt).orders, 0);
    issuer.submit(&cx, &order).await.unwrap();
    issuer.assert_no_second_order();
}

#[test]
fn a_reason_to_revoke_reads_in_three_spellings_and_has_the_code_of_rfc_5280() {
    use certctl_core::RevocationReason;
    for (reason, code, spellings) in [
        (RevocationReason::Unspecified, 0, ["unspecified", "unspecified", "UNSPECIFIED"]),
        (RevocationReason::KeyCompromise, 1, ["keyCompromise", "key_compromise", "KEY_COMPROMISE"]),
        (RevocationReason::CaCompromise, 2, ["cACompromise", "ca_compromise", "CA_COMPROMISE"]),
        (
            RevocationReason::AffiliationChanged,
            3,
            ["affiliationChanged", "affiliation_changed", "AFFILIATION_CHANGED"],
        ),
        (RevocationReason::Superseded, 4, ["superseded", "superseded", "SUPERSEDED"]),
        (
            RevocationReason::CessationOfOperation,
            5,
            ["cessationOfOperation", "cessation_of_operation", "CESSATION_OF_OPERATION"],
        ),
        (RevocationReason::CertificateHold, 6, ["certificateHold", "certificate_hold", "CERTIFICATE_HOLD"]),
        (RevocationReason::RemoveFromCrl, 8, ["removeFromCRL", "remove_from_crl", "REMOVE_FROM_CRL"]),
        (
            RevocationReason::PrivilegeWithdrawn,
            9,
            ["privilegeWithdrawn", "privilege_withdrawn", "PRIVILEGE_WITHDRAWN"],
        ),
        (RevocationReason::AaCompromise, 10, ["aACompromise", "aa_compromise", "AA_COMPROMISE"]),
    ] {
        assert_eq!((reason.code(), reason.to_string().as_str()), (code, spellings[0]));
        for spelling in spellings {
            assert_eq!(spelling.parse::<RevocationReason>().unwrap(), reason);
            assert_eq!(serde_json::from_value::<RevocationReason>(spelling.into()).unwrap(), reason);
        }
        assert_eq!(serde_json::to_value(reason).unwrap(), spellings[1]);
    }
    assert_eq!(RevocationReason::ALL.len(), 10);
    for unknown in ["", "compromised", "1", "key compromise", "key-compromise"] {
        let error = unknown.parse::<RevocationReason>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.violations()[0].remedy.contains("keyCompromise"), "{error}");
    }
    let error = serde_json::from_str::<RevocationReason>("\"stolen\"").unwrap_err();
    assert!(error.to_string().contains("removeFromCRL"), "{error}");
}
