//! What a server that means harm could send.

use std::fmt::Write as _;

use certctl_protocols::acme::wire::{
    Authorization, CertificateId, Directory, Finalize, Identifier, Order, Problem, Revocation, check_token,
};
use serde_json::{Value, json};

#[test]
fn tokens_are_base64url() {
    for good in ["a", "DGyRejmCefe7v4NfDGDKfA", "-_-_", &"a".repeat(256)] {
        check_token(good).unwrap();
    }
    for bad in [
        "",
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "a.b",
        "..",
        "a=",
        "a b",
        "a\nb",
        "a\0",
        "%2e",
        "$(id)",
        "\u{e4}",
        "\u{ff41}",
        &"a".repeat(257),
        &"a".repeat(1_000_000),
    ] {
        let message = check_token(bad).unwrap_err().to_string();
        assert!(message.len() < 500 && !message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn certificate_ids_are_two_parts_of_base64url() {
    for bad in [
        "",
        ".",
        "aYhb",
        "aYhb.",
        ".AIdlQyE",
        "aYhb.AIdlQyE.aYhb",
        "aYhb.AIdlQyE=",
        "aYhb.A",
        "aY/b.AIdlQyE",
        "aYhb.AIdlQyF",
        " aYhb.AIdlQyE",
        &format!("aYhb.{}", "A".repeat(300)),
    ] {
        bad.parse::<CertificateId>().unwrap_err();
        serde_json::from_value::<CertificateId>(json!(bad)).unwrap_err();
    }
}

#[test]
fn a_sentence_is_short_and_harmless() {
    let problem: Problem = serde_json::from_value(json!({
        "type": format!("urn:ietf:params:acme:error:{}", "t".repeat(10_000)),
        "detail": format!("\u{1b}]0;owned\u{7}\r\nline\u{2028}two \u{202e}desrever\u{0}{}", "d".repeat(1_000_000)),
        "subproblems": vec![json!({ "detail": "x".repeat(1_000), "identifier": { "type": "dns", "value": "\n".repeat(500) } }); 500],
    }))
    .unwrap();
    let sentence = problem.sentence();
    assert_eq!(sentence.chars().count(), Problem::MAX_SENTENCE);
    assert!(sentence.starts_with("]0;owned line two desrever dddd"), "{sentence}");
    assert!(sentence.contains("(tttt"), "{sentence}");
    assert!(!sentence.contains(|c: char| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{sentence:?}");
}

#[test]
fn a_problem_is_read_whatever_is_wrong_with_it() {
    let problem: Problem = serde_json::from_value(json!({
        "type": 5,
        "title": ["x"],
        "detail": "the sentence",
        "status": "400",
        "instance": {},
        "identifier": { "type": "dns" },
        "subproblems": ["x", { "detail": "one", "status": 70_000 }, 5],
        "algorithms": ["ES256", null],
    }))
    .unwrap();
    assert_eq!(problem.sentence(), "the sentence (about:blank); one (about:blank)");
    assert_eq!(problem.algorithms, ["ES256"]);
    assert_eq!((problem.status, problem.identifier), (None, None));
    let order = json!({ "status": "invalid", "identifiers": [], "finalize": "a", "error": "what" });
    assert_eq!(serde_json::from_value::<Order>(order).unwrap().error, None);
    serde_json::from_value::<Problem>(json!("x")).unwrap_err();
}

#[test]
fn more_subproblems_than_are_shown_are_counted() {
    let subproblems = vec![json!({ "type": "x", "detail": "n" }); 45];
    let problem: Problem =
        serde_json::from_value(json!({ "type": "x", "detail": "n", "subproblems": subproblems })).unwrap();
    assert!(problem.sentence().ends_with("; n (x); and 25 more"), "{}", problem.sentence());
}

#[test]
fn depth_is_limited() {
    let mut nested = String::new();
    for _ in 0..10_000 {
        write!(nested, r#"{{"subproblems":["#).unwrap();
    }
    serde_json::from_str::<Problem>(&nested).unwrap_err();
    let unknown = format!(r#"{{"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    // What is passed over takes no stack.
    serde_json::from_str::<Problem>(&unknown).unwrap();
}

#[test]
fn what_is_not_json_or_not_text_is_refused() {
    for bad in ["", "<html><body>502</body></html>", "null", "[]x", "{", "\"\\ud800\"", "{\"newNonce\":1}"] {
        serde_json::from_str::<Directory>(bad).unwrap_err();
        serde_json::from_str::<Order>(bad).unwrap_err();
        serde_json::from_str::<Authorization>(bad).unwrap_err();
    }
    serde_json::from_slice::<Directory>(b"{\"newNonce\":\"\xff\"}").unwrap_err();
}

#[test]
fn members_that_are_there_twice_are_refused() {
    let twice = |json: &str| serde_json::from_str::<Identifier>(json).unwrap_err().to_string();
    assert!(twice(r#"{"type":"dns","value":"a.example","value":"b.example"}"#).contains("duplicate"));
    let order = r#"{"status":"valid","identifiers":[],"finalize":"a","finalize":"b"}"#;
    assert!(serde_json::from_str::<Order>(order).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn times_that_are_none_are_refused() {
    for time in
        ["", "now", "2016-01-05", "2016-13-05T14:09:07Z", "2016-01-05T14:09:07", "9999-12-31T23:59:59-01:00"]
    {
        let order = json!({ "status": "valid", "identifiers": [], "finalize": "a", "expires": time });
        serde_json::from_value::<Order>(order).unwrap_err();
    }
}

#[test]
fn statuses_of_another_type_are_refused_and_unknown_ones_are_kept() {
    let order = |status: Value| {
        serde_json::from_value::<Order>(json!({ "status": status, "identifiers": [], "finalize": "a" }))
    };
    for bad in [json!(1), json!(null), json!(["valid"]), json!({ "valid": null })] {
        order(bad).unwrap_err();
    }
    // Not one of those that are known, so no code takes it for one.
    assert_eq!(order(json!("VALID")).unwrap().status.to_string(), "VALID");
    assert_ne!(order(json!("VALID")).unwrap().status, order(json!("valid")).unwrap().status);
}

#[test]
fn octets_are_base64url_without_padding() {
    for bad in ["MAA=", "MA+A", "M", "MAB", " MAA", "MAA\n"] {
        serde_json::from_value::<Finalize>(json!({ "csr": bad })).unwrap_err();
        serde_json::from_value::<Revocation>(json!({ "certificate": bad })).unwrap_err();
    }
    serde_json::from_value::<Revocation>(json!({ "certificate": "MAA", "reason": -1 })).unwrap_err();
    serde_json::from_value::<Revocation>(json!({ "certificate": "MAA", "reason": 256 })).unwrap_err();
}
