//! Configurations out of JSON: everything that is wrong with one, at once.

use std::collections::BTreeMap;

use certctl_core::{
    Error, ErrorKind, Lifetime, Secret, SecretRef, SubjectAltName, Violation,
    connectors::{IssuerConfig, IssuerKind, read_config},
    host::HostPath,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A bit of everything.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    port: u16,
    path: HostPath,
    #[serde(default)]
    lifetime: Option<Lifetime>,
    #[serde(default)]
    token: Option<SecretRef>,
    #[serde(default)]
    names: Vec<SubjectAltName>,
    #[serde(default)]
    nested: Nested,
    #[serde(default)]
    tags: BTreeMap<String, u8>,
    mode: Mode,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Nested {
    retries: u8,
    verify: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    Careful { passes: u8 },
}

// The calls read better without a borrow.
#[allow(clippy::needless_pass_by_value)]
fn wrong(config: Value) -> Error {
    let error = read_config::<Config>(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for violation in error.violations() {
        assert!(!violation.message.is_empty() && !violation.remedy.is_empty(), "{violation:?}");
    }
    error
}

fn pointers(error: &Error) -> Vec<&str> {
    let mut pointers: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
    pointers.sort_unstable();
    pointers
}

fn good() -> Value {
    json!({ "url": "https://ca.test", "port": 443, "path": "/etc/tls", "mode": "fast" })
}

fn with(mut changes: Value) -> Value {
    let mut config = good();
    config.as_object_mut().unwrap().append(changes.as_object_mut().unwrap());
    config
}

#[test]
fn what_is_right_reads() {
    let config: Config =
        read_config(&with(json!({ "token": { "env": "TOKEN" }, "lifetime": "7d" }))).unwrap();
    assert_eq!(config.lifetime, Some(Lifetime::days(7)));
    assert_eq!(config.mode, Mode::Fast);
}

#[test]
fn every_field_that_does_not_read_is_named() {
    let error = wrong(json!({
        "url": 7, "port": "https", "path": "etc/tls", "lifetime": "soon", "names": ["a.test", "a b", "*.*", 3],
        "nested": { "retries": 300, "verfy": true, "verify": "yes" }, "tags": { "a/b": -1, "c": 2 },
        "mode": { "careful": { "passes": "two" } }, "uri": "https://ca.test",
    }));
    assert_eq!(
        pointers(&error),
        [
            "/lifetime",
            "/mode/careful/passes",
            "/names/1",
            "/names/2",
            "/names/3",
            "/nested/retries",
            "/nested/verfy",
            "/nested/verify",
            "/path",
            "/port",
            "/tags/a~1b",
            "/uri",
            "/url",
        ]
    );
}

#[test]
fn fields_that_are_missing_are_named_beside_others() {
    assert_eq!(pointers(&wrong(json!({}))), ["/mode", "/path", "/port", "/url"]);
    assert_eq!(
        pointers(&wrong(json!({ "url": "x", "port": true, "mode": "slow" }))),
        ["/mode", "/path", "/port"]
    );
    assert_eq!(pointers(&wrong(with(json!({ "mode": { "careful": {} } })))), ["/mode/careful/passes"]);
    for nonsense in [json!(null), json!(7), json!("text"), json!([])] {
        assert!(!wrong(nonsense).violations().is_empty());
    }
}

#[test]
fn each_violation_says_what_to_do() {
    let error = wrong(with(json!({ "prot": 1, "mode": "slow", "path": "tls/../x" })));
    let of = |pointer: &str| error.violations().iter().find(|v| v.pointer == pointer).unwrap();
    assert!(of("/prot").remedy.contains("port"), "{}", of("/prot"));
    assert!(of("/mode").remedy.contains("fast"), "{}", of("/mode"));
    assert!(
        of("/path").message.contains("relative") && of("/path").remedy.contains("/etc/"),
        "{}",
        of("/path")
    );
}

#[test]
fn no_value_is_repeated() {
    for secret in [json!({ "value": "hunter2" }), json!({ "env": ["hunter2"] }), json!(["hunter2"])] {
        let error = wrong(with(json!({ "token": secret })));
        assert!(error.violations()[0].pointer.starts_with("/token"), "{error:?}");
        let all = format!("{error:?} {}", serde_json::to_string(&error.report()).unwrap());
        assert!(!all.contains("hunter2"), "{all}");
    }
    // Nor one that stands where it does not belong.
    let error = wrong(with(json!({ "port": "hunter2, expected hunter2", "mode": "hunter2", "url": 90210 })));
    let all = format!("{error:?} {}", serde_json::to_string(&error.report()).unwrap());
    assert!(!all.contains("hunter2") && !all.contains("90210"), "{all}");
}

#[test]
fn a_secret_in_clear_is_read_and_never_written() {
    let config: Config = read_config(&with(json!({ "token": "hunter2" }))).unwrap();
    assert_eq!(config.token, Some(SecretRef::Value(Secret::new("hunter2"))));
    assert!(!format!("{config:?}").contains("hunter2"));
    let refused = serde_json::to_value(&config).unwrap_err().to_string();
    assert!(!refused.contains("hunter2") && refused.contains("never written"), "{refused}");
}

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Checked {
    low: u8,
    high: u8,
    name: String,
}

#[async_trait::async_trait]
impl IssuerConfig for Checked {
    const KIND: &'static str = "checked";

    fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        if self.low >= self.high {
            violations.push(Violation::new("/high", "it is not above low", "raise it"));
        }
        if self.name.is_empty() {
            violations.push(Violation::new("/name", "it is missing", "give it"));
        }
        violations
    }

    async fn connect(
        self,
        _: certctl_core::Env,
    ) -> certctl_core::Result<std::sync::Arc<dyn certctl_core::Issuer>> {
        Err(Error::internal("nobody builds it"))
    }
}

#[test]
fn what_a_check_finds_is_told_along() {
    let kind = IssuerKind::of::<Checked>();
    let pointers_of = |config| pointers(&kind.check(&config).unwrap_err()).join(" ");
    assert_eq!(pointers_of(json!({ "low": 5, "high": 3, "nam": "x" })), "/high /nam /name");
    assert_eq!(pointers_of(json!({ "low": 5, "high": 3, "name": 1 })), "/high /name", "a field is told once");
    // Without its value the other end can't be judged.
    assert_eq!(pointers_of(json!({ "low": 5, "high": "x", "name": "x" })), "/high");
    kind.check(&json!({ "low": 1, "high": 3, "name": "x" })).unwrap();
}
