//! What commands ask for, and how answers and refusals are shown.

use certctl_cli::{Environment, Exit, Fields, Table, fields, wrap};
use certctl_core::{Error, Violation};
use serde_json::{Value, json};

use crate::{
    scripted::{Answer, Scripted, problem},
    shell::{Ran, assert_narrow, environment, run, run_with},
    things::{NOW, certificate, detail, job, started},
};

fn list(data: &[Value], next: Option<&str>) -> Value {
    json!({ "data": data, "next_cursor": next })
}

fn ok(ran: &Ran) {
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.err);
}

#[test]
fn a_list_is_a_table_with_one_line_for_each() {
    let server = Scripted::start().says("GET /certificates", list(&[certificate("active")], None));
    let ran = run(&["certs", "list", "--status", "active", "--target", "nginx-1"], &server.environment());
    ok(&ran);
    assert_eq!(
        ran.out,
        "NAME  STATUS  UNTIL                 NAMES     ISSUER  TARGETS  ID\n\
         web   active  2027-04-15T12:00:00Z  web.test  local   nginx-1  mc-1\n"
    );
    assert_eq!(ran.err, "");
    let asked = server.asked();
    assert_eq!(asked[0].line, "GET /certificates?limit=100&status=active&target=nginx-1");
    assert!(asked[0].head.contains("authorization: Bearer certctl_1_secret"), "{}", asked[0].head);
}

#[test]
fn a_table_keeps_to_the_terminals_width() {
    let server = Scripted::start().says("GET /certificates", list(&[certificate("active")], None));
    let ran = run_with(&["certs", "list"], &server.environment(), "", Some(60));
    ok(&ran);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 60), "{}", ran.out);
}

#[test]
fn json_of_a_list_is_the_servers_and_all_pages_are_one() {
    let pages = [
        Answer::Json(200, list(&[certificate("active")], Some("more"))),
        Answer::Json(200, list(&[certificate("partial")], None)),
    ];
    let server = Scripted::start().on("GET /certificates", pages.clone());
    let ran = run(&["certs", "list", "--output", "json", "--limit", "1"], &server.environment());
    ok(&ran);
    let one: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(one["next_cursor"], "more");
    assert_eq!(one["data"].as_array().unwrap().len(), 1);
    assert_eq!(one["data"][0]["serial_number"], "01ab");

    let server = Scripted::start().on("GET /certificates", pages.clone());
    let all = run(&["certs", "list", "--output", "json", "--all"], &server.environment());
    let all: Value = serde_json::from_str(&all.out).unwrap();
    assert_eq!((all["data"].as_array().unwrap().len(), &all["next_cursor"]), (2, &Value::Null));
    assert!(server.asked()[1].line.contains("cursor=more"));

    let server = Scripted::start().on("GET /certificates", pages);
    let table = run(&["certs", "list"], &server.environment());
    assert!(table.err.contains("--cursor more"), "{}", table.err);
}

#[test]
fn a_certificate_is_shown_with_its_newest_version_and_targets() {
    let server = Scripted::start().says("GET /certificates/web", detail("active", "proved"));
    let ran = run(&["certs", "get", "web"], &server.environment());
    ok(&ran);
    assert!(ran.out.contains("\nstatus:    active\n"), "{}", ran.out);
    assert!(ran.out.contains("\ntargets:   nginx-1: deployed, and proved"), "{}", ran.out);
    assert!(ran.out.contains("\nversion:   serial 01ab\n           SHA-256 abab"), "{}", ran.out);

    let json = run(&["certs", "get", "web", "-o", "json"], &server.environment());
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["versions"][0]["fingerprint_sha256"], "ab".repeat(32));
    assert_eq!(json["versions"][0]["not_after"], "2027-04-15T12:00:00Z");
}

#[test]
fn what_is_wanted_of_a_certificate_reaches_the_server() {
    let server = Scripted::start().says("POST /certificates", started("pending", &["job-1"], &[]));
    let args = [
        "certs",
        "create",
        "api",
        "--id",
        "mc-api",
        "--san",
        "a.test",
        "--san",
        "192.0.2.1",
        "--issuer",
        "iss-local",
        "--csr",
        "-",
        "--lifetime",
        "47d",
        "--profile",
        "short",
        "--common-name",
        "a.test",
    ];
    let ran = run_with(&args, &server.environment(), "PEM", None);
    ok(&ran);
    let body = server.body_of("POST /certificates");
    assert_eq!(body["names"], json!(["a.test", "192.0.2.1"]));
    for (field, value) in [
        ("id", "mc-api"),
        ("issuer", "iss-local"),
        ("csr", "PEM"),
        ("lifetime", "47d"),
        ("profile", "short"),
        ("common_name", "a.test"),
    ] {
        assert_eq!(body[field], value, "{field}: {body}");
    }
    assert!(ran.out.contains("begun:     job-1\n"), "{}", ran.out);
    assert_eq!(ran.err, "`certctl jobs watch job-1` shows how it goes.\n");
}

#[test]
fn an_update_changes_what_it_names_and_only_the_revision_that_was_read() {
    let server = Scripted::start()
        .says("GET /certificates/web", detail("active", "proved"))
        .says("PUT /certificates/web", started("active", &[], &[]));
    let ran = run(&["certs", "update", "web", "--san", "b.test"], &server.environment());
    ok(&ran);
    let body = server.body_of("PUT /certificates/web");
    assert_eq!((&body["names"], &body["targets"]), (&json!(["b.test"]), &json!(["tgt-1"])));
    assert!(server.asked()[1].head.to_lowercase().contains("if-match: \"3\""), "{}", server.asked()[1].head);

    let nothing = run(&["certs", "update", "web"], &server.environment());
    assert_eq!(nothing.exit, Exit::Invalid);
    assert!(nothing.err.contains("says nothing that shall change"), "{}", nothing.err);
}

#[test]
fn a_target_is_made_from_its_file() {
    let target = json!({
        "id": "tgt-1", "name": "nginx-1", "kind": "nginx", "config": { "cert_path": "/c" },
        "place": { "agent": "ag-1", "host": null },
        "probe": { "endpoints": ["127.0.0.1:443"], "elsewhere": [], "deadline": "10s", "connections": 3 },
        "write": "atomic", "revision": 1
    });
    let server = Scripted::start().on("POST /targets", [Answer::Json(201, target)]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nginx.json");
    std::fs::write(&file, r#"{"cert_path": "/c", "probe": ["127.0.0.1:443"]}"#).unwrap();
    let file = file.to_str().unwrap();
    let args = ["targets", "create", "nginx-1", "--kind", "nginx", "--agent", "web-1", "--config", file];
    let ran = run(&args, &server.environment());
    ok(&ran);
    let body = server.body_of("POST /targets");
    assert_eq!(body["config"], json!({ "cert_path": "/c", "probe": ["127.0.0.1:443"] }));
    assert_eq!(body["place"], json!({ "agent": "web-1", "host": null }));
    assert!(ran.out.contains("probe:     127.0.0.1:443\n"), "{}", ran.out);
}

#[test]
fn a_dry_run_shows_what_would_be_written_and_run() {
    let plan = json!({ "data": [{ "target": "nginx-1", "plan": {
        "old": null, "new": "ab".repeat(32),
        "changes": [{ "what": "/etc/nginx/a.pem", "action": "replace", "mode_before": "0600", "mode": "0640", "owner": "0:0" }],
        "commands": ["nginx -t", "nginx -s reload"]
    }}]});
    let server = Scripted::start().says("GET /certificates/web/plan", plan);
    let ran = run(&["certs", "deploy", "web", "--dry-run"], &server.environment());
    ok(&ran);
    assert!(
        ran.out.contains("writes:    replace /etc/nginx/a.pem, mode 0600 to 0640, owner 0:0\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("runs:      nginx -t\n           nginx -s reload\n"), "{}", ran.out);
    assert_eq!(ran.err, "Nothing was touched.\n");
    assert!(server.asked().iter().all(|request| request.line.starts_with("GET ")));
}

#[test]
fn export_prints_the_chain_as_it_came() {
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let server = Scripted::start().on("GET /certificates/web/export", [Answer::Pem(pem)]);
    let ran = run(&["certs", "export", "web"], &server.environment());
    ok(&ran);
    assert_eq!(ran.out, pem);
}

#[test]
fn a_token_or_key_stands_alone_on_standard_output() {
    let server = Scripted::start()
        .says(
            "POST /agents/enroll-tokens",
            json!({ "agent": { "id": "ag-1", "name": "web-1" }, "token": "enroll_1_x", "expires_at": NOW }),
        )
        .says(
            "POST /api-keys",
            json!({ "key": "certctl_2_y", "api_key": {
                "id": "ak-2", "name": "ci", "role": "viewer", "created": NOW, "expires": null, "revoked": null } }),
        );
    let token = run(&["agents", "enroll-token", "--name", "web-1"], &server.environment());
    ok(&token);
    assert_eq!(token.out, "enroll_1_x\n");
    assert_eq!(server.body_of("POST /agents/enroll-tokens"), json!({ "name": "web-1", "valid": "1h" }));
    let key = run(&["api-keys", "create", "ci", "--role", "viewer"], &server.environment());
    ok(&key);
    assert_eq!(key.out, "certctl_2_y\n");
    assert!(!key.err.contains("certctl_2"), "{}", key.err);
}

#[test]
fn open_jobs_are_asked_for_as_such() {
    let server = Scripted::start().says("GET /jobs", list(&[job("job-1", "deploy", "ready", None)], None));
    let ran = run(&["jobs", "list", "--state", "open"], &server.environment());
    ok(&ran);
    assert_eq!(server.asked()[0].line, "GET /jobs?limit=100&open=true");
    assert!(ran.out.contains("\njob-1  deploy  web          nginx-1  ready"), "{}", ran.out);
}

#[test]
fn a_connector_is_described_by_the_fields_of_its_configuration() {
    let kinds = [
        json!({ "family": "target", "kind": "nginx", "aliases": ["NGINX"], "description": "Files for [`nginx`].\n\n```\nlet code = 1;\n```\n" }),
    ];
    let mut one = kinds[0].clone();
    one["schema"] = json!({
        "type": "object", "required": ["cert_path"],
        "properties": {
            "reload_command": { "type": ["string", "null"], "default": "nginx -s reload", "description": "Makes nginx\nread it." },
            "cert_path": { "type": "string", "description": "Where the chain goes." },
            "owner": { "$ref": "#/$defs/Owner" }
        },
        "$defs": { "Owner": { "type": "object", "description": "Whose.", "properties": { "uid": { "type": "integer" } } } }
    });
    let server = Scripted::start()
        .says("GET /connectors", list(&kinds, None))
        .says("GET /connectors/target/nginx", one);
    let ran = run(&["connectors", "describe", "NGINX"], &server.environment());
    ok(&ran);
    assert_eq!(
        ran.out,
        "nginx (target)\nalso called: NGINX\n\nFiles for `nginx`.\n\n\
         FIELD           TYPE     DEFAULT          MEANING\n\
         cert_path       text     required         Where the chain goes.\n\
         owner           object   -                Whose.\n\
         owner.uid       integer  -\n\
         reload_command  text     nginx -s reload  Makes nginx read it.\n"
    );
    let missing = run(&["connectors", "describe", "ngin"], &server.environment());
    assert_eq!(missing.exit, Exit::NotFound);
    assert!(missing.err.contains("certctl connectors list"), "{}", missing.err);
}

#[test]
fn schemas_are_read_as_deep_as_they_are_written() {
    let schema = json!({
        "properties": {
            "mode": { "enum": ["a", "b"] },
            "choice": { "anyOf": [{ "type": "string" }, { "type": "integer" }, { "type": "null" }] },
            "names": { "type": "array", "items": { "type": "string" }, "default": [] },
            "wait": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "default": "60s" },
            "secret": { "type": "string", "format": "password" },
            "loop": { "$ref": "#/properties/loop" },
        }
    });
    let found = fields(&schema);
    let kind = |name: &str| found.iter().find(|field| field.name == name).map(|field| field.kind.as_str());
    assert_eq!(kind("mode"), Some("a | b"));
    assert_eq!(kind("choice"), Some("text | integer"));
    assert_eq!(kind("names"), Some("list of text"));
    assert_eq!(kind("wait"), Some("duration"));
    assert_eq!(kind("secret"), Some("secret"));
    assert_eq!(kind("loop"), Some("anything"));
    assert!(fields(&json!(true)).is_empty());
}

#[test]
fn each_violation_has_a_line_with_its_pointer_and_what_to_do() {
    let violations = vec![
        Violation::new(
            "/config/cert_path",
            "is missing",
            "give the file that nginx reads its certificate from, with its folder",
        ),
        Violation::new("/name", "looks like an id", "choose another one"),
    ];
    let error = Error::invalid(violations);
    let body = json!({
        "title": "Bad Request", "status": 400, "detail": error.message(), "kind": "invalid", "retry": "never",
        "violations": error.violations()
    });
    let server = Scripted::start().on("POST /issuers", [Answer::Json(400, body)]);
    let ran = run(&["issuers", "create", "iss-a", "--kind", "acme"], &server.environment());
    assert_eq!(ran.exit, Exit::Invalid);
    assert_eq!(
        ran.err,
        "error: 2 fields are wrong\n  /config/cert_path: is missing; give the file that nginx reads its certificate\n      \
         from, with its folder\n  /name: looks like an id; choose another one\n"
    );
    assert_narrow(&ran.err);
}

#[test]
fn refusals_have_their_exit_codes_and_say_what_to_do() {
    for (status, kind, exit, words) in [
        (
            401,
            "unauthenticated",
            Exit::Unauthenticated,
            "The key in CERTCTL_API_KEY is not, or no longer, one of",
        ),
        (403, "denied", Exit::Denied, "Ask with the key of an admin"),
        (404, "not_found", Exit::NotFound, "error: the detail"),
        (409, "conflict", Exit::Conflict, "error: the detail"),
        (500, "internal", Exit::Internal, "error: the detail"),
    ] {
        let server = Scripted::start().on("DELETE /issuers/a", [problem(status, kind, "the detail")]);
        let ran = run(&["issuers", "delete", "a"], &server.environment());
        assert_eq!(ran.exit, exit);
        let unwrapped = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(unwrapped.contains(words), "{kind}: {unwrapped}");
        assert!(ran.out.is_empty());
        assert_narrow(&ran.err);
        assert!(!ran.err.contains("certctl_1_secret"));
    }
    let server = Scripted::start().on("GET /issuers", [problem(401, "unauthenticated", "who?")]);
    let without = environment(&[
        (Environment::SERVER_URL, &server.url),
        (Environment::CA_FILE, server.ca.path().to_str().unwrap()),
    ]);
    let ran = run(&["issuers", "list"], &without);
    assert!(ran.err.contains("No API key was given: set CERTCTL_API_KEY"), "{}", ran.err);
    let key = run_with(&["issuers", "list", "--api-key-file", "-"], &without, "certctl_9_z\n", None);
    assert!(key.err.contains("The key in --api-key-file"), "{}", key.err);
    assert!(
        server.asked()[1].head.contains("authorization: Bearer certctl_9_z\r\n"),
        "{}",
        server.asked()[1].head
    );
}

#[test]
fn a_server_that_is_not_there_or_not_to_be_trusted_is_told_with_the_remedy() {
    let server = Scripted::start();
    let other = Scripted::start();
    let ca = server.ca.path().to_str().unwrap();
    let wrong = run(&["issuers", "list", "--server", &other.url, "--ca-file", ca], &Environment::default());
    assert_eq!(wrong.exit, Exit::Unavailable);
    let unwrapped = wrong.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains(&format!("Is {ca} the ca.pem of the server at {}", other.url)), "{unwrapped}");
    let none = run(&["issuers", "list", "--server", &other.url], &Environment::default());
    assert!(none.err.contains("Set CERTCTL_CA_FILE to the server's ca.pem"), "{}", none.err);
    assert!(other.asked().is_empty(), "no key goes to whom nobody trusts");

    // A port that was free a moment ago.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
    drop(tcp);
    let away = run(&["issuers", "list", "--ca-file", ca], &environment(&[(Environment::SERVER_URL, &url)]));
    assert_eq!(away.exit, Exit::Unavailable);
    assert!(away.err.contains("no connection"), "{}", away.err);
    let unwrapped = away.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(unwrapped.contains("(CERTCTL_SERVER_URL says so)"), "{unwrapped}");
}

#[test]
fn what_others_wrote_reaches_no_terminal_as_a_command() {
    let mut odd = certificate("active");
    odd["issuer"]["name"] = json!("\u{1b}[31mred");
    let server = Scripted::start()
        .says("GET /certificates", list(&[odd], None))
        .on("GET /issuers/a", [problem(404, "not_found", "\u{1b}[2Jgone")]);
    let listed = run(&["certs", "list"], &server.environment());
    ok(&listed);
    let refused = run(&["issuers", "get", "a"], &server.environment());
    assert!(
        !listed.out.contains('\u{1b}') && !refused.err.contains('\u{1b}'),
        "{}{}",
        listed.out,
        refused.err
    );
    assert!(listed.out.contains("[31mred") && refused.err.contains("[2Jgone"));
}

#[test]
fn text_is_broken_between_words() {
    assert_eq!(wrap("one two three", 8, "  "), ["one two", "  three"]);
    assert_eq!(wrap("  one two", 6, "    "), ["  one", "    two"]);
    assert_eq!(wrap("averyveryverylongword b", 8, ""), ["averyveryverylongword", "b"]);
    assert_eq!(wrap("a\n\nb", 8, ""), ["a", "", "b"]);
}

#[test]
fn tables_and_fields_are_plain_text() {
    let mut table = Table::new(&["A", "B"]);
    table.row(["x".to_owned(), "two\nlines".to_owned()]);
    assert_eq!(table.render(None), "A  B\nx  two lines\n");
    let fields = Fields::default().with("one", 1).maybe("none", None::<u8>).with("other", "a\nb");
    assert_eq!(fields.render(None), "one:    1\nother:  a\n        b\n");
}
