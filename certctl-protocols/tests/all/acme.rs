//! What ACME sends.

use certctl_core::{Timestamp, X509Certificate};
use certctl_protocols::acme::wire::{
    CertificateId, Identifier, Order, OrderStatus, Problem, ProblemType, check_token,
    headers::{Link, links, retry_after},
};
use serde_json::json;

#[test]
fn certificate_id_of_rfc_9773() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let der = STANDARD.decode(concat!(
        "MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt",
        "cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS",
        "BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu",
        "7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf",
        "qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B",
        "yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb",
        "+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK",
    ));
    let certificate = X509Certificate::from_der(&der.unwrap()).unwrap();
    let id = CertificateId::of(&certificate).unwrap();
    assert_eq!(id.as_str(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    assert_eq!(id.as_str().parse::<CertificateId>().unwrap(), id);
    assert_eq!(id.serial_octets(), [0, 0x87, 0x65, 0x43, 0x21]);
}

#[test]
fn times_are_read_with_fractions_and_offsets() {
    let order: Order = serde_json::from_value(json!({
        "status": "pending",
        "expires": "2016-01-05T14:09:07.99Z",
        "notBefore": "2016-01-01T02:00:00+02:00",
        "identifiers": [{ "type": "dns", "value": "www.example.org" }, { "type": "x", "value": "y" }],
        "authorizations": null,
        "finalize": "https://example.com/acme/order/TOlocE8rfgo/finalize",
    }))
    .unwrap();
    assert_eq!(order.status, OrderStatus::Pending);
    assert_eq!(order.expires, Some(Timestamp::from_millis(1_452_002_947_990)));
    assert_eq!(order.not_before, Some(Timestamp::from_secs(1_451_606_400)));
    assert_eq!(order.identifiers[1], Identifier::Other { kind: "x".into(), value: "y".into() });
}

#[test]
fn a_problem_is_a_sentence() {
    let problem: Problem = serde_json::from_value(json!({
        "type": "urn:ietf:params:acme:error:malformed",
        "detail": "Some of the identifiers\r\nrequested were rejected",
        "subproblems": [{
            "type": "urn:ietf:params:acme:error:rejectedIdentifier",
            "detail": "This CA will not issue for \"example.net\"",
            "identifier": { "type": "dns", "value": "example.net" },
        }],
    }))
    .unwrap();
    assert_eq!(problem.subproblems[0].kind, ProblemType::RejectedIdentifier);
    assert_eq!(
        problem.sentence(),
        "Some of the identifiers requested were rejected (malformed); \
         example.net: This CA will not issue for \"example.net\" (rejectedIdentifier)"
    );
}

#[test]
fn tokens_are_base64url() {
    check_token("DGyRejmCefe7v4NfDGDKfA").unwrap();
    for bad in ["", "../../etc/passwd", "a.b", "a=", "a b", "ä", &"a".repeat(257)] {
        check_token(bad).unwrap_err();
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = Timestamp::from_secs(1_000);
    assert_eq!(retry_after(" 120 ", now), Some(Timestamp::from_secs(1_120)));
    let date = Some(Timestamp::from_secs(784_111_777));
    for text in
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
    {
        assert_eq!(retry_after(text, now), date, "{text}");
    }
    for bad in ["", "-1", "+1", "1.5", "soon", "1 2"] {
        assert_eq!(retry_after(bad, now), None, "{bad}");
    }
    assert!(retry_after("9999999999999999999", now).unwrap() > now);
}

#[test]
fn links_of_several_headers() {
    let link = |url: &str, rel: &str| Link { url: url.into(), rel: rel.into() };
    let values = [
        r#"<https://a.example/1?x=1,2;3>; title="a, \"b\"; c"; rel="alternate Next", </dir>;rel=index"#,
        r#"<https://a.example/2>;REL=alternate ; rel="up""#,
    ];
    let expected = [
        link("https://a.example/1?x=1,2;3", "alternate"),
        link("https://a.example/1?x=1,2;3", "next"),
        link("/dir", "index"),
        link("https://a.example/2", "alternate"),
    ];
    assert_eq!(links(values), expected);
}
