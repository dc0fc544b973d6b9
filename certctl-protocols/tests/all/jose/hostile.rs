//! Messages that were made to mislead.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certctl_core::Secret;
use certctl_protocols::jose::{Header, HeaderKey, Jws};
use serde_json::{Value, json};

use super::{KEYS, URL, jwk_of};

/// The classic: the public key, which everybody has, used as the secret of an HMAC.
#[test]
fn a_public_key_is_no_hmac_secret() {
    for (_, key) in &*KEYS {
        let jwk = serde_json::to_vec(&jwk_of(key)).unwrap();
        for secret in [key.public_key().spki_der().to_vec(), key.public_key().to_pem().into_bytes(), jwk] {
            let jws = Jws::hmac_sha256(&Secret::new(secret), "kid", URL, b"{}").unwrap();
            let message = jws.verify(key.public_key()).unwrap_err().to_string();
            assert!(message.contains("algorithm is HS256"), "{message}");
        }
    }
}

#[test]
fn the_header_does_not_choose_the_algorithm() {
    let (_, rsa) = &KEYS[0];
    for alg in ["none", "None", "RS384", "RS512", "PS256", "ES256K", "HS512", "", "rs256", "RS256\0"] {
        let jws = unsigned(&json!({ "alg": alg, "kid": "x", "url": URL }));
        assert!(jws.header().is_err(), "{alg}");
        assert!(jws.verify(rsa.public_key()).is_err(), "{alg}");
        assert!(jws.verify_hmac(&Secret::new(*b"secret")).is_err(), "{alg}");
    }
    for alg in [json!(null), json!(5), json!(["RS256"]), json!({ "RS256": null }), json!({ "RS256": 1 })] {
        let jws = unsigned(&json!({ "alg": alg, "kid": "x", "url": URL }));
        assert!(jws.header().is_err(), "{alg}");
        assert!(jws.verify(rsa.public_key()).is_err(), "{alg}");
    }
}

#[test]
fn an_empty_secret_is_refused() {
    let empty = Secret::new(Vec::new());
    Jws::hmac_sha256(&empty, "kid", URL, b"{}").unwrap_err();
    let jws = Jws::hmac_sha256(&Secret::new(*b"x"), "kid", URL, b"{}").unwrap();
    jws.verify_hmac(&empty).unwrap_err();
}

#[test]
fn exactly_one_of_jwk_and_kid() {
    let jwk = serde_json::to_value(jwk_of(&KEYS[1].1)).unwrap();
    let read = |value: Value| unsigned(&value).header();
    read(json!({ "alg": "ES256", "url": URL })).unwrap_err();
    read(json!({ "alg": "ES256", "url": URL, "jwk": jwk, "kid": "x" })).unwrap_err();
    let header = read(json!({ "alg": "ES256", "url": URL, "jwk": jwk, "unknown": [1] })).unwrap();
    assert!(matches!(header.key, HeaderKey::Jwk(_)));
    assert_eq!(
        read(json!({ "alg": "ES256", "url": URL, "kid": "x" })).unwrap().key,
        HeaderKey::Kid("x".into())
    );
    read(json!({ "alg": "ES256", "kid": "x" })).unwrap_err();
    read(json!(["ES256", null, URL, null, "x"])).unwrap_err();
    read(json!("ES256")).unwrap_err();
}

#[test]
fn crit_is_refused_before_anything_is_verified() {
    let (_, key) = &KEYS[1];
    for crit in [json!(["b64"]), json!([]), json!(null), json!("x")] {
        let header = json!({ "alg": "ES256", "kid": "x", "url": URL, "crit": crit });
        let jws = unsigned(&header);
        for message in
            [jws.header().unwrap_err().to_string(), jws.verify(key.public_key()).unwrap_err().to_string()]
        {
            assert!(message.contains("crit"), "{message}");
        }
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let header = |json: &str| Jws { protected: URL_SAFE_NO_PAD.encode(json), ..empty() };
    for json in [
        r#"{"alg":"ES256","alg":"HS256","kid":"x","url":"u"}"#,
        r#"{"alg":"ES256","kid":"x","kid":"y","url":"u"}"#,
        r#"{"alg":"ES256","kid":"x","url":"u","u\u0072l":"v"}"#,
    ] {
        let message = header(json).header().unwrap_err().to_string();
        assert!(message.contains("duplicate"), "{message}");
    }
    let twice = br#"{"protected":"","payload":"","signature":"","payload":"e30"}"#;
    assert!(Jws::from_json(twice).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn only_the_flattened_serialisation_is_read() {
    for json in [
        "",
        "null",
        "[]",
        r#"["","",""]"#,
        r#""a.b.c""#,
        r#"{"protected":"","payload":""}"#,
        r#"{"protected":"","payload":"","signature":"","header":{}}"#,
        r#"{"payload":"","signatures":[{"protected":"","signature":""}]}"#,
        r#"{"protected":null,"payload":"","signature":""}"#,
        r#"{"protected":"","payload":{},"signature":""}"#,
        r#"{"protected":"","payload":"","signature":""}x"#,
        "\u{feff}{\"protected\":\"\",\"payload\":\"\",\"signature\":\"\"}",
    ] {
        Jws::from_json(json.as_bytes()).unwrap_err();
    }
    assert_eq!(Jws::from_json(br#"{"protected":"","payload":"","signature":""}"#).unwrap(), empty());
}

#[test]
fn base64_has_one_form() {
    let (_, key) = &KEYS[1];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let good = runtime.block_on(Jws::sign(key, None, URL, HeaderKey::Kid("x".into()), b"{}")).unwrap();
    good.verify(key.public_key()).unwrap();
    let edits: [fn(&str) -> String; 5] = [
        |text| format!("{text}="),
        |text| format!("{text}=="),
        |text| format!("{text}\n"),
        |text| format!(" {text}"),
        |text| format!("{}+", &text[..text.len() - 1]),
    ];
    for edit in edits {
        let jws = Jws { signature: edit(&good.signature), ..good.clone() };
        let message = jws.verify(key.public_key()).unwrap_err().to_string();
        assert!(message.contains("base64url"), "{message}");
        Jws { protected: edit(&good.protected), ..good.clone() }.header().unwrap_err();
        Jws { payload: edit(&good.payload), ..good.clone() }.verify(key.public_key()).unwrap_err();
    }
}

#[test]
fn what_is_too_long_is_not_parsed() {
    let (_, key) = &KEYS[1];
    let long =
        |len: usize| Jws { protected: "A".repeat(len), payload: "A".repeat(len), signature: "A".repeat(len) };
    let message = |error: certctl_core::Error| error.to_string();
    assert!(message(long(100_000).header().unwrap_err()).contains("more than"));
    assert!(message(long(100_000).verify(key.public_key()).unwrap_err()).contains("more than"));
    let json = serde_json::to_vec(&long(100_000)).unwrap();
    assert!(message(Jws::from_json(&json).unwrap_err()).contains("octets"));

    let header =
        |len: usize| unsigned(&json!({ "alg": "ES256", "kid": "x", "url": "u".repeat(len) })).header();
    header(Header::MAX_LEN - 100).unwrap();
    header(Header::MAX_LEN).unwrap_err();
    let signature = Jws { signature: "A".repeat(1_367), ..unsigned(&json!({ "alg": "ES256" })) };
    assert!(message(signature.verify(key.public_key()).unwrap_err()).contains("more than"));
}

#[test]
fn depth_is_limited() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(4_000), close.repeat(4_000));
    for json in [deep("[", "]"), format!(r#"{{"protected":{}}}"#, deep("[", "]")), "[".repeat(200_000)] {
        Jws::from_json(json.as_bytes()).unwrap_err();
    }
    let header = format!(r#"{{"alg":"ES256","kid":"x","url":"u","jwk":{}}}"#, r#"{"kty":"#.repeat(1_000));
    Jws { protected: URL_SAFE_NO_PAD.encode(header), ..empty() }.header().unwrap_err();
}

#[test]
fn errors_show_foreign_text_cut_and_without_control_characters() {
    let alg = format!("\u{1b}[2J\r\n{}", "x".repeat(4_000));
    let message = unsigned(&json!({ "alg": alg, "kid": "x", "url": URL })).header().unwrap_err().to_string();
    assert!(message.len() < 1_000, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

fn unsigned(header: &Value) -> Jws {
    Jws { protected: URL_SAFE_NO_PAD.encode(header.to_string()), ..empty() }
}

fn empty() -> Jws {
    Jws { protected: String::new(), payload: String::new(), signature: String::new() }
}
