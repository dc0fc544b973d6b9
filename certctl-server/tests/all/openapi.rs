//! The OpenAPI document: whole, and true.

use std::{collections::BTreeSet, path::PathBuf, process::Stdio};

use certctl_core::Secret;
use serde_json::{Value, json};

use crate::running::Running;

/// Every object of a document, wherever it is.
fn walk<'a>(value: &'a Value, see: &mut dyn FnMut(&'a Value)) {
    see(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|value| walk(value, see)),
        Value::Array(items) => items.iter().for_each(|value| walk(value, see)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let document = certctl_server::openapi();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"], json!([{ "url": "/" }]), "the paths are whole");
    let mut references = 0;
    walk(&document, &mut |value| {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return };
        references += 1;
        let found = document.pointer(reference.strip_prefix('#').expect("a reference is in the document"));
        assert!(found.is_some(), "{reference} leads nowhere");
    });
    assert!(references > 50);

    let mut operations = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operations.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].as_str().is_some_and(|summary| summary.ends_with('.')), "{id}");
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path: BTreeSet<_> = parameters
                .iter()
                .filter(|one| one["in"] == "path")
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect();
            let wanted: BTreeSet<_> = path
                .split('/')
                .filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.to_owned()))
                .collect();
            assert_eq!(in_path, wanted, "{id}");
            assert!(operation.get("requestBody").is_none() || method != "get", "{id}");
            assert!(
                operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')),
                "{id}"
            );
            assert!(operation["responses"]["500"]["$ref"].is_string(), "{id}");
        }
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{name}");
    }
    assert!(operations.len() > 50, "{operations:?}");
}

/// What of a value is not as its schema says: types, fields that have to be there, words, choices.
fn misfits(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        misfits(document, document.pointer(&reference[1..]).unwrap(), value, at, found);
    }
    for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        misfits(document, part, value, at, found);
    }
    for choice in ["anyOf", "oneOf"] {
        let Some(choices) = schema.get(choice).and_then(Value::as_array) else { continue };
        let fits = choices.iter().any(|one| {
            let mut none = Vec::new();
            misfits(document, one, value, at, &mut none);
            none.is_empty()
        });
        if !fits {
            found.push(format!("{at}: {value} is none of the choices"));
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    if let Some(wanted) = schema.get("type")
        && !is(wanted)
        && !wanted.as_array().is_some_and(|all| all.iter().any(is))
    {
        found.push(format!("{at}: {value} is no {wanted}"));
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|words| !words.contains(value))
        || schema.get("const").is_some_and(|wanted| wanted != value)
    {
        found.push(format!("{at}: {value} is no such word"));
    }
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            misfits(
                document,
                schema.get("items").unwrap_or(&Value::Bool(true)),
                item,
                &format!("{at}/{index}"),
                found,
            );
        }
    }
    let Value::Object(fields) = value else { return };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in fields {
        if let Some(schema) = schema.get("properties").and_then(|all| all.get(name)) {
            misfits(document, schema, value, &format!("{at}/{name}"), found);
        }
    }
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let server = Running::start().await;
    server.certificate("web").await;
    let document = server.ask("GET", "/api/v1/openapi.json", None).await.body;
    let job = server.client().jobs(&Default::default()).all().await.unwrap().remove(0).id.to_string();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(operation) = methods.get("get") else { continue };
        let id = match path.split('/').nth(3).unwrap() {
            "certificates" | "targets" => "web",
            "issuers" => "local",
            "jobs" => &job,
            _ => "nobody",
        };
        let real = path.replace("{id}", id).replace("{family}", "target").replace("{kind}", "nginx");
        let answer = server.ask("GET", &real, None).await;
        let said = &operation["responses"][answer.status.as_str()];
        assert!(said.is_object(), "{real}: {answer:?}");
        let said = match said.get("$ref").and_then(Value::as_str) {
            Some(reference) => document.pointer(&reference[1..]).unwrap(),
            None => said,
        };
        let media_type = answer.headers["content-type"].to_str().unwrap();
        let schema = said["content"].get(media_type).unwrap_or_else(|| panic!("{real}: {media_type}"));
        let mut found = Vec::new();
        misfits(&document, &schema["schema"], &answer.body, &real, &mut found);
        assert_eq!(found, Vec::<String>::new());
        asked += usize::from(answer.status.is_success());
    }
    assert!(asked >= 15, "{asked}");
    let mut wrong = Vec::new();
    let list = json!({ "data": [{ "id": 7 }], "next_cursor": null });
    misfits(
        &document,
        &document["paths"]["/api/v1/issuers"]["get"]["responses"]["200"]["content"]["application/json"]["schema"],
        &list,
        "",
        &mut wrong,
    );
    assert!(!wrong.is_empty(), "the checker finds what is wrong");
    server.stop().await;
}

/// Where `scripts/install-peers` puts it.
#[allow(clippy::disallowed_methods)] // Tests read their environment.
fn schemathesis_program() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = dir("CERTCTL_PEERS_DIR").or_else(|| {
        let cache = dir("XDG_CACHE_HOME").or_else(|| Some(dir("HOME")?.join(".cache")));
        Some(cache?.join("certctl-peers"))
    });
    Some(cache?.join("schemathesis-4.32.5/schemathesis")).filter(|program| program.exists())
}

/// Asks each operation at random, by the document: no answer is a 5xx, or outside of what the document says.
#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn schemathesis() {
    let Some(program) = schemathesis_program() else {
        assert!(
            std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_none(),
            "schemathesis is not installed: run scripts/install-peers"
        );
        eprintln!("skipped: schemathesis is not installed");
        return;
    };
    let server = Running::start().await;
    server.certificate("web").await;
    // What is found is the same each time.
    let output = tokio::process::Command::new(program)
        .current_dir(server.directory.path())
        .args(["run", &format!("{}/api/v1/openapi.json", server.url)])
        .args(["-H", &format!("Authorization: Bearer {}", server.read("admin.key").trim())])
        .args(["--tls-verify", server.file("ca.pem").to_str().unwrap()])
        // It would revoke the key that it asks with.
        .args(["--exclude-path-regex", "api-keys/.id./revoke"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection,unsupported_method"])
        .args(["--max-examples", "10", "--seed", "1", "--generation-deterministic", "--no-color"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("passed"), "{said}");
    let still = server.client_as(Secret::new(server.read("admin.key").trim())).version().await;
    assert!(still.is_ok(), "{still:?}");
    server.stop().await;
}
