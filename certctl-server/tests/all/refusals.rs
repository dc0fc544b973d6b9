//! What is refused: each time with the right status, the field's place and a sentence that says what to do, and nothing half
//! written.

use certctl_core::{Actor, ErrorKind, Role, Secret, records::Certificate, store::Query};
use serde_json::{Value, json};

use crate::running::Running;

async fn count(server: &Running) -> usize {
    let all = server.engine.list::<Certificate>(&Actor::process(), Query::of::<Certificate>()).await;
    all.unwrap().0.len()
}

#[tokio::test]
async fn bad_certificates() {
    let server = Running::start().await;
    server.files_target("web").await;
    let good = json!({ "name": "x", "names": ["x.test"], "targets": ["web"] });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, pointer) in [
        (with("nmae", json!("y")), "/nmae"),
        (with("names", json!("x.test")), "/names"),
        (with("names", json!(["x..test"])), "/names/0"),
        (with("names", json!(["x.test", { "ip": "x.test" }])), "/names/1"),
        (with("names", json!([{ "dns": "192.0.2.1" }])), "/names/0"),
        (with("names", json!(["x.test", "x.test"])), "/names/1"),
        (with("names", json!([])), "/names"),
        (with("name", json!("")), "/name"),
        (with("name", json!(7)), "/name"),
        (with("name", json!("mc-7")), "/name"),
        (with("id", json!("iss-7")), "/id"),
        (with("lifetime", json!("soon")), "/lifetime"),
        (with("lifetime", json!("1s")), "/lifetime"),
        (with("key_algorithm", json!("RSA-7")), "/key_algorithm"),
        (with("issuer", json!("nobody")), "/issuer"),
        (with("targets", json!(["nowhere"])), "/targets/0"),
        (with("profile", json!("none")), "/profile"),
        (with("renew_at_share", json!(2)), "/renew_at_share"),
        (with("csr", json!("no request")), "/csr"),
        (json!([]), ""),
        (json!({}), "/name"),
    ] {
        let answer = server.ask("POST", "/api/v1/certificates", Some(body.clone())).await;
        answer.assert_problem(400, Some(pointer));
    }
    // Neither target nor request: nobody would get the key.
    let answer =
        server.ask("POST", "/api/v1/certificates", Some(json!({ "name": "x", "names": ["x.test"] }))).await;
    answer.assert_problem(400, None);
    assert!(answer.body["detail"].as_str().unwrap().contains("csr"), "{answer:?}");
    // All that is wrong is said at once.
    let answer =
        server.ask("POST", "/api/v1/certificates", Some(json!({ "name": 7, "names": 8, "more": 9 }))).await;
    for pointer in ["/name", "/names", "/more"] {
        answer.assert_problem(400, Some(pointer));
    }
    assert_eq!(count(&server).await, 1, "only the server's own is there");
    server.stop().await;
}

#[tokio::test]
async fn a_request_with_a_broken_signature() {
    let server = Running::start().await;
    let key = certctl_core::PrivateKey::generate(certctl_core::KeyAlgorithm::EcdsaP256).unwrap();
    let csr = certctl_core::Csr::create(&key, None, &["x.test".parse().unwrap()]).await.unwrap();
    let mut lines: Vec<String> = csr.to_pem().lines().map(str::to_owned).collect();
    // The signature is at the end; another letter there is another signature.
    let last = lines.len() - 2;
    let line = &mut lines[last];
    let at = line.find('=').unwrap_or(line.len()) - 4;
    let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
    line.replace_range(at..=at, other);
    let body = json!({ "name": "x", "csr": lines.join("\n") });
    let answer = server.ask("POST", "/api/v1/certificates", Some(body)).await;
    answer.assert_problem(400, Some("/csr/signature"));
    assert_eq!(count(&server).await, 1);
    // The whole one is taken.
    let body = json!({ "name": "x", "csr": csr.to_pem() });
    let answer = server.ask("POST", "/api/v1/certificates", Some(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    server.stop().await;
}

#[tokio::test]
async fn bad_connectors() {
    let server = Running::start().await;
    for (path, body, pointer) in [
        ("issuers", json!({ "name": "x", "kind": "nokind" }), "/kind"),
        ("issuers", json!({ "name": "x", "kind": "local", "config": { "valid": 1 } }), "/config/valid"),
        ("issuers", json!({ "name": "x", "kind": "local", "id": "tgt-1" }), "/id"),
        (
            "targets",
            json!({ "name": "x", "kind": "nginx", "config": { "cert_path": 7 } }),
            "/config/cert_path",
        ),
        ("targets", json!({ "name": "x", "kind": "nginx", "config": { "cert": "/x" } }), "/config/cert"),
        (
            "targets",
            json!({ "name": "x", "kind": "nginx", "config": {}, "place": { "agent": "nobody" } }),
            "/place/agent",
        ),
        ("targets", json!({ "name": "x", "kind": "files", "config": {}, "write": "quickly" }), "/write"),
        ("profiles", json!({ "name": "x", "lifetime": "1s" }), "/lifetime"),
        ("profiles", json!({ "name": "x", "lifetimes": "1d" }), "/lifetimes"),
        ("hosts", json!({ "name": "x", "kind": "nokind" }), "/kind"),
        ("api-keys", json!({ "name": "x", "role": "king" }), "/role"),
        ("api-keys", json!({ "name": "x", "role": "agent" }), "/role"),
        ("agents/enroll-tokens", json!({ "name": "x", "valid": "2h" }), "/valid"),
    ] {
        let answer = server.ask("POST", &format!("/api/v1/{path}"), Some(body)).await;
        answer.assert_problem(400, Some(pointer));
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_are_none() {
    let server = Running::start().await;
    let key = format!("Bearer {}", server.read("admin.key").trim());
    let path = "/api/v1/certificates";
    let json_type = [("authorization", key.as_str()), ("content-type", "application/json")];
    for body in ["", "{", "name=x", "\u{feff}{}", "{\"name\": \"\\ud800\"}"] {
        let answer = server.send("POST", path, &json_type, body.as_bytes().to_vec()).await;
        answer.assert_problem(400, Some(""));
    }
    let form = [("authorization", key.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    server.send("POST", path, &form, b"name=x".to_vec()).await.assert_problem(415, Some(""));
    server
        .send("POST", path, &[("authorization", key.as_str())], b"{}".to_vec())
        .await
        .assert_problem(415, None);

    let large = json!({ "name": "x".repeat(1 << 20) }).to_string().into_bytes();
    server.send("POST", path, &json_type, large).await.assert_problem(413, Some(""));
    let fits = json!({ "name": "x".repeat((1 << 20) - 20) }).to_string().into_bytes();
    server.send("POST", path, &json_type, fits).await.assert_problem(400, Some("/name"));
    assert_eq!(count(&server).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn paths_methods_and_queries() {
    let server = Running::start().await;
    for path in ["/", "/api/v1", "/api/v2/certificates", "/api/v1/certificates/x/y", "/api/v1/nothing"] {
        server.ask("GET", path, None).await.assert_problem(404, None);
    }
    for path in [
        "certificates/nobody",
        "certificates/mc-nobody",
        "certificates/%2e%2e%2f",
        "certificates/x/versions",
        "jobs/job-x",
        "jobs/x",
        "issuers/x",
        "targets/x",
        "hosts/x",
        "profiles/x",
        "agents/x",
        "connectors/target/x",
        "connectors/x/nginx",
        "certificates/x/export",
        "certificates/x/plan",
    ] {
        server.ask("GET", &format!("/api/v1/{path}"), None).await.assert_problem(404, None);
    }
    for path in [
        "certificates/x/renew",
        "certificates/x/deploy",
        "certificates/x/revoke",
        "jobs/x/cancel",
        "jobs/x/retry",
        "agents/x/revoke",
        "api-keys/x/revoke",
    ] {
        server.ask("POST", &format!("/api/v1/{path}"), None).await.assert_problem(404, None);
    }
    for (method, path) in
        [("DELETE", "certificates"), ("PATCH", "certificates/x"), ("POST", "health"), ("TRACE", "version")]
    {
        let answer = server.ask(method, &format!("/api/v1/{path}"), None).await;
        answer.assert_problem(405, None);
        assert!(answer.headers.contains_key("allow"), "{answer:?}");
    }
    for (query, pointer) in [
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        ("limit=x", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("sort=name", "/sort"),
        ("status=good", "/status"),
        ("cursor=x", "/cursor"),
        ("cursor=e30", "/cursor"),
        ("expires_before=soon", "/expires_before"),
    ] {
        let answer = server.ask("GET", &format!("/api/v1/certificates?{query}"), None).await;
        answer.assert_problem(400, Some(pointer));
    }
    server.ask("GET", "/api/v1/jobs?open=maybe", None).await.assert_problem(400, Some("/open"));
    server.ask("GET", "/api/v1/version?x=1", None).await.assert_problem(400, Some("/x"));
    server.stop().await;
}

#[tokio::test]
async fn nobody_and_the_wrong_ones() {
    let server = Running::start().await;
    let path = "/api/v1/certificates";
    for (headers, says) in [
        (vec![], "no credential"),
        (vec![("authorization", "Basic YTpi")], "another kind"),
        (vec![("authorization", "Bearer x")], "API key"),
        (vec![("authorization", "Bearer certctl_x_y")], "API key"),
        (vec![("authorization", "Bearer session_x")], "session"),
    ] {
        let answer = server.ask_with("GET", path, &headers, None).await;
        answer.assert_problem(401, None);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(answer.body["detail"].as_str().unwrap().contains(says), "{answer:?}");
    }
    // One letter less, one letter other, and one that was revoked.
    let key = server.read("admin.key");
    let key = key.trim();
    for wrong in [&key[..key.len() - 1], &format!("{}!", &key[..key.len() - 1])] {
        let error = server.client_as(Secret::new(wrong)).certificate("x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    }
    let viewer = server.key(Role::Viewer).await;
    assert!(server.client_as(viewer.clone()).certificate("certctl-server").await.is_ok());
    let keys = server.client().api_keys(&Default::default()).all().await.unwrap();
    let id = keys.iter().find(|key| key.role == Role::Viewer).unwrap().id.to_string();
    let revoked = server.client().revoke_api_key(&id).await.unwrap();
    assert!(revoked.revoked.is_some());
    let error = server.client_as(viewer).certificate("certctl-server").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(!serde_json::to_string(&keys).unwrap().contains("hash"), "{keys:?}");
    // Whoever asks for nothing secret needs no key.
    for path in ["health", "ready", "openapi.json"] {
        assert_eq!(server.ask_with("GET", &format!("/api/v1/{path}"), &[], None).await.status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn roles_may_what_they_may() {
    let server = Running::start().await;
    server.certificate("web").await;
    let (viewer, operator) = (server.key(Role::Viewer).await, server.key(Role::Operator).await);
    let bearer = |key: &Secret| format!("Bearer {}", key.expose_str().unwrap());
    let writes = [
        ("POST", "certificates", Some(json!({ "name": "y", "names": ["y.test"], "targets": ["web"] })), true),
        ("PUT", "certificates/web", Some(json!({ "names": ["z.test"], "targets": ["web"] })), true),
        ("POST", "certificates/web/renew", None, true),
        ("POST", "certificates/web/deploy", None, true),
        ("POST", "issuers", Some(json!({ "name": "y", "kind": "local", "config": {} })), false),
        ("PUT", "issuers/local", Some(json!({ "kind": "local", "config": {} })), false),
        ("DELETE", "issuers/local", None, false),
        ("POST", "targets", Some(json!({ "name": "y", "kind": "files", "config": {} })), false),
        ("POST", "profiles", Some(json!({ "name": "y" })), false),
        ("POST", "api-keys", Some(json!({ "name": "y", "role": "admin" })), false),
        ("POST", "agents/enroll-tokens", Some(json!({ "name": "y" })), false),
    ];
    for (method, path, body, for_operators) in writes {
        let path = format!("/api/v1/{path}");
        let answer =
            server.ask_with(method, &path, &[("authorization", &bearer(&viewer))], body.clone()).await;
        answer.assert_problem(403, None);
        let answer = server.ask_with(method, &path, &[("authorization", &bearer(&operator))], body).await;
        match for_operators {
            true => assert!(answer.status.is_success(), "{path}: {answer:?}"),
            false => answer.assert_problem(403, None),
        }
    }
    let answer =
        server.ask_with("GET", "/api/v1/api-keys", &[("authorization", &bearer(&viewer))], None).await;
    answer.assert_problem(403, None);
    let names: Vec<_> = server.client().issuers(&Default::default()).all().await.unwrap();
    assert_eq!(names.len(), 1, "nothing was written: {names:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_is_taken() {
    let server = Running::start().await;
    let web = server.certificate("web").await;
    let body = json!({ "name": "web", "names": ["other.test"], "targets": ["web"] });
    server.ask("POST", "/api/v1/certificates", Some(body)).await.assert_problem(409, Some("/name"));
    let id = web.certificate.id.to_string();
    let body = json!({ "id": id, "name": "web2", "names": ["other.test"], "targets": ["web"] });
    server.ask("POST", "/api/v1/certificates", Some(body)).await.assert_problem(409, Some("/id"));
    let body = json!({ "name": "local", "kind": "local", "config": {} });
    server.ask("POST", "/api/v1/issuers", Some(body)).await.assert_problem(409, Some("/name"));
    let body = json!({ "name": "x", "role": "viewer" });
    assert_eq!(server.ask("POST", "/api/v1/api-keys", Some(body.clone())).await.status, 201);
    server.ask("POST", "/api/v1/api-keys", Some(body)).await.assert_problem(409, Some("/name"));
    // In use.
    server.ask("DELETE", "/api/v1/issuers/local", None).await.assert_problem(409, None);
    server.ask("DELETE", "/api/v1/targets/web", None).await.assert_problem(409, None);
    let still = server.client().certificate("web").await.unwrap();
    assert_eq!(still.names.len(), 1);
    assert_eq!(still.names[0].to_string(), "web.test");
    server.stop().await;
}
