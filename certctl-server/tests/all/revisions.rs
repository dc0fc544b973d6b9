//! ETags, and what PUT and DELETE do with If-Match and If-None-Match.

use certctl_core::{IssuerSpec, Role};
use serde_json::json;

use crate::running::Running;

#[tokio::test]
async fn a_stale_revision_changes_nothing() {
    let server = Running::start().await;
    let key = format!("Bearer {}", server.read("admin.key").trim());
    let made = server
        .ask("POST", "/api/v1/issuers", Some(json!({ "name": "x", "kind": "local", "config": {} })))
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.headers["etag"], "\"1\"");
    let location = made.headers["location"].to_str().unwrap().to_owned();
    let read = server.ask("GET", &location, None).await;
    assert_eq!(read.body, made.body);
    assert_eq!(read.headers["etag"], "\"1\"");

    let put = async |condition: (&str, &str), days: u32| {
        let body = json!({ "kind": "local", "config": { "validity_days": days } });
        let headers = [("authorization", key.as_str()), condition];
        server.ask_with("PUT", "/api/v1/issuers/x", &headers, Some(body)).await
    };
    let changed = put(("if-match", "\"1\""), 30).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(changed.headers["etag"], "\"2\"");
    let stale = put(("if-match", "\"1\""), 40).await;
    stale.assert_problem(412, None);
    assert_eq!(stale.body["context"]["version"], "2");
    put(("if-none-match", "*"), 40).await.assert_problem(412, None);
    for tag in ["1", "W/\"1\"", "\"x\"", "\"0\""] {
        put(("if-match", tag), 40).await.assert_problem(400, None);
    }
    assert_eq!(server.client().issuer("x").await.unwrap().config.unwrap()["validity_days"], 30);
    assert_eq!(put(("if-match", "*"), 50).await.status, 200);

    let delete = async |tag: &str| {
        let headers = [("authorization", key.as_str()), ("if-match", tag)];
        server.ask_with("DELETE", "/api/v1/issuers/x", &headers, None).await
    };
    delete("\"1\"").await.assert_problem(412, None);
    let gone = delete("\"3\"").await;
    assert_eq!(gone.status, 204, "{gone:?}");
    delete("\"3\"").await.assert_problem(404, None);
    put(("if-match", "*"), 50).await.assert_problem(412, None);
    let again = put(("if-none-match", "*"), 50).await;
    assert_eq!(again.status, 201, "{again:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_read_can_be_changed_and_put_back() {
    let server = Running::start().await;
    server.certificate("web").await;
    let client = server.client();
    let certificate = client.certificate("web").await.unwrap();
    let mut spec = certificate.spec().unwrap();
    // As it is: nothing to do.
    let same = client.put_certificate("web", &spec).await.unwrap();
    assert_eq!(same.certificate.revision, certificate.revision);
    assert!(same.certificate.versions.len() == 1, "{same:?}");
    spec = spec.dns("www.web.test");
    let started = client.put_certificate(certificate.id.as_str(), &spec).await.unwrap();
    server.settle(&started).await;
    let changed = client.certificate("web").await.unwrap();
    assert_eq!(changed.names.len(), 2);
    assert_eq!(changed.versions.len(), 2);
    // A name in the path is another way to say which; a new name in the body renames.
    let mut spec = changed.spec().unwrap();
    spec.name = "site".into();
    client.put_certificate("web", &spec).await.unwrap();
    assert_eq!(client.certificate("site").await.unwrap().id, changed.id);
    let error = client.certificate("web").await.unwrap_err();
    assert_eq!(error.kind(), certctl_core::ErrorKind::NotFound);

    let target = client.target("web").await.unwrap();
    let same = client.put_target("web", &target.spec()).await.unwrap();
    assert_eq!(same, target);
    server.stop().await;
}

#[tokio::test]
async fn the_path_and_the_body_mean_the_same() {
    let server = Running::start().await;
    let client = server.client();
    let spec = IssuerSpec::new("", "local", json!({}));
    // By a name that is new, by an id that is new.
    assert_eq!(client.put_issuer("by-name", &spec).await.unwrap().name, "by-name");
    let named = IssuerSpec::new("by-id", "local", json!({}));
    assert_eq!(client.put_issuer("iss-7", &named).await.unwrap().id.as_str(), "iss-7");
    let error = client.put_issuer("another", &named).await.unwrap_err();
    assert_eq!(error.violations()[0].pointer, "/name");
    let elsewhere = IssuerSpec { id: Some("iss-8".into()), ..named.clone() };
    let error = client.put_issuer("iss-7", &elsewhere).await.unwrap_err();
    assert_eq!(error.violations()[0].pointer, "/id");
    // An id that is chosen when it is made.
    let chosen =
        IssuerSpec { id: Some("iss-chosen".into()), ..IssuerSpec::new("chosen", "local", json!({})) };
    assert_eq!(client.create_issuer(&chosen).await.unwrap().id.as_str(), "iss-chosen");
    // A secret goes in and never comes out.
    let acme = json!({
        "directory_url": "https://ca.test/dir", "terms_of_service_agreed": true, "eab_kid": "k", "eab_hmac": "c2VjcmV0LXNlY3JldC1zZWNyZXQ",
    });
    let acme = client.create_issuer(&IssuerSpec::new("acme", "acme", acme)).await.unwrap();
    assert!(!format!("{acme:?}").contains("c2VjcmV0"), "{acme:?}");
    let same = client.put_issuer("acme", &acme.spec()).await.unwrap();
    assert_eq!(same.revision, acme.revision, "and what was read can be put back");
    let viewer = server.client_as(server.key(Role::Viewer).await);
    assert!(viewer.issuer("acme").await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_deleted_is_gone_and_what_it_deployed_stays() {
    let server = Running::start().await;
    server.certificate("web").await;
    let client = server.client();
    let revision = client.certificate("web").await.unwrap().revision;
    let error = client.delete_certificate("web", Some(revision + 1)).await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("version"), "{error:?}");
    client.delete_certificate("web", Some(revision)).await.unwrap();
    assert_eq!(client.certificate("web").await.unwrap_err().kind(), certctl_core::ErrorKind::NotFound);
    assert!(server.file("web").join("cert.pem").exists());
    client.delete_target("web", None).await.unwrap();
    server.stop().await;
}
