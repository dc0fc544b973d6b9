//! What a server has, as JSON.

use serde_json::{Value, json};

pub(crate) const NOW: &str = "2027-01-15T12:00:00Z";

pub(crate) fn certificate(status: &str) -> Value {
    json!({
        "id": "mc-1", "name": "web", "names": ["web.test"], "common_name": null,
        "issuer": { "id": "iss-local", "name": "local" }, "profile": null,
        "requested": { "lifetime": null, "extended_key_usages": [] },
        "key_algorithm": "ECDSA-P256", "reuse_key": false, "csr": null, "renew_at_share": 0.66,
        "status": status, "reason": null,
        "targets": [{ "id": "tgt-1", "name": "nginx-1" }],
        "not_after": "2027-04-15T12:00:00Z", "serial_number": "01ab", "created": NOW, "updated": NOW,
        "revision": 3
    })
}

pub(crate) fn detail(status: &str, deployment: &str) -> Value {
    let mut detail = certificate(status);
    detail["targets"] = json!([
        { "id": "tgt-1", "name": "nginx-1", "state": deployment, "address": "127.0.0.1:443", "warnings": [] }
    ]);
    detail["versions"] = json!([{
        "id": "ver-1", "serial_number": "01ab", "fingerprint_sha256": "ab".repeat(32),
        "not_before": NOW, "not_after": "2027-04-15T12:00:00Z", "holder": "ag-1", "placement": "pl-1",
        "issuer": { "id": "iss-local", "name": "local" }, "created": NOW, "key_forgotten": false
    }]);
    detail["placements"] = json!([]);
    detail["jobs"] = json!([]);
    detail
}

pub(crate) fn started(status: &str, jobs: &[&str], warnings: &[&str]) -> Value {
    json!({ "certificate": detail(status, "pending"), "jobs": jobs, "warnings": warnings })
}

pub(crate) fn job(id: &str, kind: &str, state: &str, step: Option<&str>) -> Value {
    let target = (kind == "deploy").then(|| json!({ "id": "tgt-1", "name": "nginx-1" }));
    json!({
        "id": id, "kind": kind, "subject": "pl-1", "certificate": { "id": "mc-1", "name": "web" },
        "target": target, "place": {}, "state": state, "step": step, "failures": 0, "due": NOW, "cancel": false,
        "last_error": null, "parent": null, "open_children": 0, "actor": "ops", "created": NOW, "finished": null,
        "revision": 1
    })
}

/// The job, failing with the next try then.
pub(crate) fn failing(mut job: Value, message: &str, due: &str) -> Value {
    job["failures"] = json!(1);
    job["due"] = json!(due);
    with_error(job, message)
}

pub(crate) fn with_error(mut job: Value, message: &str) -> Value {
    job["last_error"] =
        json!({ "kind": "precondition", "message": message, "retry": "backoff", "effect": "none" });
    job
}

pub(crate) fn progress(mut job: Value, children: &[Value], progress: u64) -> Value {
    job["children"] = json!(children);
    job["progress"] = json!(progress);
    job
}
