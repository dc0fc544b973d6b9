//! Starts: the first one, the next ones, and what is kept between them.

use std::os::unix::fs::PermissionsExt;

use certctl_core::{Actor, ErrorKind, IssuerSpec, Role, Secret, records::CertificateStatus};
use serde_json::json;

use crate::running::{Running, config};

#[tokio::test]
async fn the_first_start_leaves_what_an_operator_needs() {
    let server = Running::start().await;
    for (name, mode) in
        [("admin.key", 0o600), ("master.key", 0o600), ("ca.pem", 0o644), ("certctl.db", 0o600)]
    {
        let found = std::fs::metadata(server.file(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    assert!(server.read("admin.key").starts_with("certctl_"));
    let version = server.client().version().await.unwrap();
    assert_eq!(version.name, "certctl-server");
    assert!(server.client().ready().await.is_ok());

    let own = server.client().certificate("certctl-server").await.unwrap();
    assert_eq!(own.status, CertificateStatus::Active);
    assert_eq!(own.issuer.id, "iss-local");
    let names: Vec<String> = own.names.iter().map(ToString::to_string).collect();
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let server = Running::start().await;
    let made = server.certificate("web").await.certificate.id.clone();
    let before = server.client().certificate("web").await.unwrap();
    let own = server.client().certificate("certctl-server").await.unwrap();
    let (key, ca) = (server.read("admin.key"), server.read("ca.pem"));
    let audited = server.client().audit(&Default::default()).all().await.unwrap().len();
    let directory = server.stop().await;

    let server = Running::start_in(directory).await;
    assert_eq!((server.read("admin.key"), server.read("ca.pem")), (key, ca));
    let after = server.client().certificate("web").await.unwrap();
    assert_eq!(after.id, made);
    assert_eq!(after.versions, before.versions);
    assert_eq!(after.status, CertificateStatus::Active);
    let own_after = server.client().certificate("certctl-server").await.unwrap();
    assert_eq!(own_after.versions, own.versions, "its own certificate is not issued anew");
    assert!(server.client().audit(&Default::default()).all().await.unwrap().len() >= audited);
    server.stop().await;
}

#[tokio::test]
async fn names_can_be_added_while_it_runs() {
    let server = Running::start().await;
    let mut changed = config(server.directory.path());
    changed.server_names = vec!["certctl.test".into(), "192.0.2.7".into()];
    server.handle.reload(&changed).await.unwrap();
    let own = server.client().certificate("certctl-server").await.unwrap();
    let names: Vec<String> = own.names.iter().map(ToString::to_string).collect();
    assert!(
        names.contains(&"certctl.test".to_owned()) && names.contains(&"192.0.2.7".to_owned()),
        "{names:?}"
    );
    assert_eq!(own.versions.len(), 2, "and it was issued for them");
    assert_eq!(own.status, CertificateStatus::Active);
    server.stop().await;
}

#[tokio::test]
async fn an_issuer_of_the_settings_is_theirs_until_somebody_edits_it() {
    let acme = |email: &str| IssuerSpec {
        id: Some("iss-acme-prod".into()),
        ..IssuerSpec::new(
            "acme-prod",
            "acme",
            json!({ "directory_url": "https://ca.test/directory", "email": email, "terms_of_service_agreed": true }),
        )
    };
    let email = async |server: &Running| {
        let issuer = server.client().issuer("acme-prod").await.unwrap();
        issuer.config.unwrap()["email"].as_str().unwrap().to_owned()
    };
    let with = |spec: IssuerSpec| {
        move |mut config: certctl_server::Config| {
            config.issuers = vec![spec];
            config
        }
    };
    let server = Running::start_with(tempfile::tempdir().unwrap(), with(acme("a@x.test"))).await;
    assert_eq!(email(&server).await, "a@x.test");
    let directory = server.stop().await;
    // Other settings, and nobody has touched the record.
    let server = Running::start_with(directory, with(acme("b@x.test"))).await;
    assert_eq!(email(&server).await, "b@x.test");
    let mut spec = server.client().issuer("acme-prod").await.unwrap().spec();
    spec.config["email"] = json!("c@x.test");
    server.client().put_issuer("acme-prod", &spec).await.unwrap();
    let directory = server.stop().await;
    let server = Running::start_with(directory, with(acme("d@x.test"))).await;
    assert_eq!(email(&server).await, "c@x.test", "what was edited counts");
    server.client().delete_issuer("acme-prod", None).await.unwrap();
    let directory = server.stop().await;
    let server = Running::start_with(directory, with(acme("e@x.test"))).await;
    assert_eq!(
        server.client().issuer("acme-prod").await.unwrap_err().kind(),
        ErrorKind::NotFound,
        "and so does that"
    );
    server.stop().await;
}

#[tokio::test]
async fn an_administrators_key_that_was_never_written_down_is_made_anew() {
    let server = Running::start().await;
    let lost = server.read("admin.key");
    std::fs::remove_file(server.file("admin.key")).unwrap();
    let directory = server.stop().await;

    let server = Running::start_in(directory).await;
    assert_ne!(server.read("admin.key"), lost);
    let error = server.client_as(Secret::new(lost.trim())).version().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(server.client().version().await.is_ok());
    // Whoever has used it, has it: the file may go.
    std::fs::remove_file(server.file("admin.key")).unwrap();
    let directory = server.stop().await;
    let server = Running::start_in(directory).await;
    assert!(!server.file("admin.key").exists());
    assert_eq!(server.engine.ensure_api_key("admin", Role::Admin).await.unwrap(), None);
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.listen = taken.local_addr().unwrap();
    let error = certctl_server::Server::builder(config).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert!(!directory.path().join("certctl.db").exists(), "and nothing was begun");
}

#[tokio::test]
async fn what_waits_is_answered_when_the_server_stops() {
    let server = Running::start().await;
    server.certificate("web").await;
    let job = server.client().jobs(&Default::default()).all().await.unwrap().remove(0);
    let known = server.client().job(job.id.as_str()).await.unwrap();
    let client = server.client();
    let request = certctl_client::types::JobWatchRequest { after: known.progress, wait: Some(60) };
    let waiting = tokio::spawn(async move { client.watch_job(job.id.as_str(), request).await });
    // So that the request is on its way, or there: both have to be answered or refused soon.
    server.engine.certificate("web").await.unwrap();
    let engine = server.engine.clone();
    server.stop().await;
    let _ = waiting.await.unwrap();
    // The engine is whole, and belongs to the test.
    assert!(engine.read::<certctl_core::records::Certificate>(&Actor::process(), "web").await.is_ok());
}
