//! What becomes of answers: values, and errors that say what the server's said.

use certctl_client::{
    Client,
    types::{AuditFilter, NamedFilter, Problem, Token},
};
use certctl_core::{
    Effect, Error, ErrorKind, IssuerSpec, Retry, Role, Secret, Timestamp, Violation, engine::ApiKeySpec,
};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};

fn issuer(name: &str) -> Value {
    json!({ "id": format!("iss-{name}"), "name": name, "kind": "local", "config": {}, "revision": 3, "later": 1 })
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let server = Scripted::start(vec![
        Answer::json(200, json!({ "data": [issuer("a"), issuer("b")], "next_cursor": "over there/+" })),
        Answer::json(200, json!({ "data": [issuer("c")], "next_cursor": null })),
    ])
    .await;
    let filter = NamedFilter { limit: Some(2), ..NamedFilter::default() };
    let all: Vec<_> = server.client().issuers(&filter).into_stream().try_collect().await.unwrap();
    let names: Vec<_> = all.iter().map(|issuer| issuer.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let asked = server.asked();
    assert!(asked[0].starts_with("GET /api/v1/issuers?limit=2 "), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /api/v1/issuers?cursor=over+there%2F%2B&limit=2 "), "{}", asked[1]);
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn a_page_that_failed_is_asked_for_again() {
    let server = Scripted::start(vec![
        Answer::json(200, json!({ "data": [], "next_cursor": "1" })),
        Answer::problem(403, problem(ErrorKind::Denied)),
        Answer::json(200, json!({ "data": [], "next_cursor": null })),
    ])
    .await;
    let mut pages = server.client().audit(&AuditFilter::default());
    assert!(pages.next().await.unwrap().is_some());
    assert_eq!(pages.next().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(pages.next().await.unwrap().is_some());
    assert!(pages.next().await.unwrap().is_none(), "the end stays the end");
    assert!(server.asked()[2].contains("cursor=1"));
}

fn problem(kind: ErrorKind) -> Value {
    json!({ "title": "t", "status": 400, "detail": "d", "kind": kind, "retry": "never" })
}

#[tokio::test]
async fn a_problem_is_the_error_that_the_server_had() {
    let violation = Violation::new("/config/cert_path", "there is no such field", "remove it");
    let at = Timestamp::from_secs(4_000_000_000);
    let error = Error::invalid(vec![violation.clone()])
        .with("expected", 3)
        .with_retry(Retry::After(at))
        .with_effect(Effect::Unknown);
    let sent = Problem::new(&error, 400, "Bad Request");
    let server = Scripted::start(vec![Answer::problem(400, serde_json::to_value(&sent).unwrap())]).await;
    let got = server.client().create_issuer(&IssuerSpec::default()).await.unwrap_err();
    assert_eq!(got.kind(), ErrorKind::Invalid);
    assert_eq!(got.message(), error.message());
    assert_eq!(got.violations(), [violation]);
    assert_eq!(got.retry(), Retry::After(at));
    assert_eq!(got.effect(), Effect::Unknown);
    assert_eq!(got.context_value("expected"), Some("3"));
}

#[tokio::test]
async fn what_is_no_certctl_server_is_told_from_one() {
    let page = "<html>not here</html>".to_owned();
    for (status, kind) in [
        (200, ErrorKind::BadResponse),
        (302, ErrorKind::BadResponse),
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::Denied),
        (404, ErrorKind::BadResponse),
        (500, ErrorKind::BadResponse),
        (502, ErrorKind::Unavailable),
    ] {
        let server = Scripted::start(vec![Answer::Say(
            status,
            "content-type: text/html\r\nlocation: https://elsewhere.test/\r\n".into(),
            page.clone(),
        )])
        .await;
        let client = server.builder().tries(1).build().unwrap();
        let error = client.issuer("a").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(!error.message().contains("<html>"), "foreign text is not repeated: {error}");
        assert_eq!(server.asked().len(), 1, "nothing is followed");
    }
}

#[tokio::test]
async fn a_credential_in_an_answer_is_in_no_error_and_in_no_debug() {
    let server =
        Scripted::start(vec![Answer::json(201, json!({ "key": "certctl_2_hush", "api_key": "wrong" }))])
            .await;
    let request = ApiKeySpec::new("ci", Role::Viewer);
    let error = server.client().create_api_key(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadResponse);
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    let token = Token::from(Secret::new("certctl_2_hush"));
    assert_eq!(format!("{token:?}"), "***");
    assert_eq!(token.into_secret().expose(), b"certctl_2_hush");
}

#[tokio::test]
async fn only_the_given_ca_is_trusted() {
    let server = Scripted::start(vec![Answer::json(200, json!({ "status": "ok" }))]).await;
    let other = Scripted::start(vec![Answer::HangUp]).await;
    assert!(server.client().health().await.is_ok());

    let error = Client::builder(&server.url).ca_pem(&other.ca).build().unwrap().health().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.retry(), Retry::Never, "trying again does not help: {error}");
    assert_eq!(error.context_value("reason"), Some("trust"), "{error:?}");
    // The same by another name than the certificate's.
    let by_address = server.url.replace("localhost", "127.0.0.1");
    let error = Client::builder(by_address).ca_pem(&server.ca).build().unwrap().health().await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("trust"), "{error:?}");
    assert_eq!(server.asked().len(), 1);
}
