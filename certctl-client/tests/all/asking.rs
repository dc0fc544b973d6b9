//! What goes out: URLs, credentials, bodies; and what is asked again.

use certctl_client::{
    Client,
    types::{CertificateFilter, ConnectorFamily, JobWatchRequest},
};
use certctl_core::{
    CertificateSpec, Effect, ErrorKind, IssuerSpec, Retry, Secret, Timestamp, records::CertificateStatus,
};
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};

fn ok() -> Answer {
    Answer::json(200, json!({ "status": "ok" }))
}

fn busy(retry: Value) -> Answer {
    let problem =
        json!({ "title": "t", "status": 503, "detail": "busy", "kind": "unavailable", "retry": retry });
    Answer::problem(503, problem)
}

#[tokio::test]
async fn names_and_filters_are_parts_of_the_url() {
    let server = Scripted::start(vec![Answer::json(200, json!({ "data": [], "next_cursor": null }))]).await;
    let client = server.client();
    let filter = CertificateFilter {
        status: Some(CertificateStatus::Attention),
        name: Some("a&b".into()),
        expires_before: Some(Timestamp::from_secs(1_800_000_000)),
        ..CertificateFilter::default()
    };
    let _ = client.certificates(&filter).all().await.unwrap();
    let _ = client.certificate("über/weg?#").await;
    let _ = client.connector(ConnectorFamily::Target, "nginx").await;
    let _ = client.watch_job("job-1", JobWatchRequest { after: 7, wait: Some(5) }).await;
    let asked: Vec<String> =
        server.asked().iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    assert_eq!(
        asked,
        [
            "GET /api/v1/certificates?expires_before=2027-01-15T08%3A00%3A00Z&name=a%26b&status=attention HTTP/1.1",
            "GET /api/v1/certificates/%C3%BCber%2Fweg%3F%23 HTTP/1.1",
            "GET /api/v1/connectors/target/nginx HTTP/1.1",
            "GET /api/v1/jobs/job-1/watch?after=7&wait=5 HTTP/1.1",
        ]
    );
    // An URL can't say these.
    for name in ["", ".", ".."] {
        assert_eq!(client.certificate(name).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_credential_and_a_revision_go_along() {
    let server = Scripted::start(vec![Answer::Say(204, String::new(), String::new())]).await;
    let client = server.client();
    client.delete_issuer("a", Some(7)).await.unwrap();
    client.with_token(Secret::new("session\n")).delete_issuer("a", None).await.unwrap();
    let _ = client.put_issuer("a", &IssuerSpec::new("a", "local", json!({})).expect_version(0)).await;
    let asked = server.asked();
    assert!(asked[0].contains("authorization: Bearer certctl_1_secret\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("if-match: \"7\"\r\n"), "{}", asked[0]);
    assert!(asked[1].contains("authorization: Bearer session\r\n"), "{}", asked[1]);
    assert!(!asked[1].contains("if-match"), "{}", asked[1]);
    assert!(asked[2].contains("if-none-match: *\r\n"), "{}", asked[2]);
    assert!(!format!("{client:?}").contains("secret"), "{client:?}");

    let error = client.with_token(Secret::new("a\nb")).health().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn what_passes_is_asked_again_and_only_so_often() {
    let server = Scripted::start(vec![busy(json!("backoff")), Answer::HangUp, ok()]).await;
    assert!(server.client().health().await.is_ok());
    assert_eq!(server.asked().len(), 3);

    let server = Scripted::start(vec![busy(json!("backoff"))]).await;
    assert_eq!(server.client().health().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(server.asked().len(), 4);
    let server = Scripted::start(vec![busy(json!("backoff"))]).await;
    assert!(server.builder().tries(1).build().unwrap().health().await.is_err());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn what_does_not_pass_is_not_asked_again() {
    let far = Timestamp::from_secs(4_000_000_000);
    for answer in [busy(json!("never")), busy(json!({ "after": far }))] {
        let server = Scripted::start(vec![answer, ok()]).await;
        let error = server.client().health().await.unwrap_err();
        assert_ne!(error.retry(), Retry::Backoff);
        assert_eq!(server.asked().len(), 1);
    }
    // The time that was told is near: here it is over.
    let server = Scripted::start(vec![busy(json!({ "after": "2020-01-01T00:00:00Z" })), ok()]).await;
    assert!(server.client().health().await.is_ok());
    // Somebody was faster: that is for the caller to look at.
    let conflict =
        json!({ "title": "t", "status": 409, "detail": "d", "kind": "conflict", "retry": "backoff" });
    let server = Scripted::start(vec![Answer::problem(409, conflict), ok()]).await;
    assert_eq!(server.client().health().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let started = json!({ "status": "ok" });
    let server = Scripted::start(vec![Answer::HangUp, Answer::json(201, started.clone())]).await;
    let error = server.client().create_certificate(&CertificateSpec::new("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
    assert_eq!(server.asked().len(), 1);
    // The server says that nothing happened.
    let server = Scripted::start(vec![busy(json!("backoff")), Answer::json(201, started)]).await;
    let error = server.client().create_certificate(&CertificateSpec::new("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadResponse, "the second answer was read");
    assert_eq!(server.asked().len(), 2);
    // A second renewal joins the first.
    let server = Scripted::start(vec![Answer::HangUp]).await;
    assert!(server.client().renew("a", &Default::default()).await.is_err());
    assert_eq!(server.asked().len(), 4);
    // The second deletion would find nothing.
    let server = Scripted::start(vec![Answer::HangUp]).await;
    assert!(server.client().delete_issuer("a", None).await.is_err());
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let port = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().port()
    };
    let client = Client::builder(format!("https://127.0.0.1:{port}")).tries(1).build().unwrap();
    let error = client.create_certificate(&CertificateSpec::new("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error:?}");
    assert!(error.message().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    for url in [
        "",
        "localhost:8443",
        "http://localhost",
        "https://",
        "https://a?b=c",
        "https://u:hush@a/",
        "ftp://a",
    ] {
        let error = Client::builder(url).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert_eq!(error.violations()[0].pointer, "/server_url");
        assert!(!format!("{error:?}").contains("hush"));
    }
    let client = Client::builder("https://a.test:1/below/").build().unwrap();
    assert_eq!(client.url(), "https://a.test:1/below");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let builder = Client::builder("https://a.test").ca_file(&file);
    assert_eq!(builder.clone().build().unwrap_err().kind(), ErrorKind::Precondition);
    std::fs::write(&file, "no certificate").unwrap();
    assert_eq!(builder.build().unwrap_err().violations()[0].pointer, "/ca_file");
}
