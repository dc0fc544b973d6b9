//! JSON web keys: what is read, and what is not.

use certctl_protocols::jose::Jwk;
use serde_json::{Value, json};

use super::{KEYS, jwk_of};

#[test]
fn each_key_is_the_same_after_writing_and_reading() {
    for (algorithm, key) in &*KEYS {
        let jwk = jwk_of(key);
        let read: Jwk = serde_json::from_str(&serde_json::to_string(&jwk).unwrap()).unwrap();
        assert_eq!(read, jwk, "{algorithm}");
        assert_eq!(&read.public_key().unwrap(), key.public_key(), "{algorithm}");
    }
}

#[test]
fn members_that_say_nothing_are_passed_over() {
    let mut value = p256();
    value["kid"] = json!("2011-04-29");
    value["use"] = json!("sig");
    value["x5c"] = json!([1, { "deep": [] }]);
    let jwk: Jwk = serde_json::from_value(value).unwrap();
    assert_eq!(serde_json::to_value(&jwk).unwrap(), p256());
}

#[test]
fn private_members_are_refused() {
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        let message = refused(with(name, json!("AQAB")));
        assert!(message.contains("private members"), "{name}: {message}");
        refused(with(name, json!(["not even text"])));
    }
}

#[test]
fn unknown_types_and_curves_are_refused() {
    refused(json!({}));
    refused(json!([]));
    refused(json!(["EC", "P-256", "", "", "", ""]));
    refused(json!({ "kty": "oct" }));
    refused(json!({ "kty": "ec", "crv": "P-256" }));
    refused(with("kty", json!("RSA")));
    refused(with("kty", json!("OKP")));
    refused(with("crv", json!("secp256k1")));
    refused(with("crv", json!("P-384")));
    refused(with("crv", Value::Null));
    refused(json!({ "kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }));
    refused(json!({ "kty": "OKP", "crv": "Ed448", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }));
}

#[test]
fn coordinates_have_the_curves_length_and_no_other_alphabet() {
    let x = p256()["x"].as_str().unwrap().to_owned();
    let bad = [
        String::new(),
        x[..42].to_owned(),
        x[..40].to_owned(),
        format!("AA{x}"),
        format!("{x}="),
        format!("{x}A"),
        format!(" {x}"),
        x.replace('u', "+"),
        x.replace('u', "\u{fc}"),
        // The last two bits belong to no octet.
        format!("{}V", &x[..42]),
        "A".repeat(1_000_000),
    ];
    for bad in bad {
        refused(with("x", json!(bad)));
        refused(with("y", json!(bad)));
    }
    refused(with("x", json!(5)));
    refused(json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUQ" }));
}

#[test]
fn a_point_off_the_curve_is_no_key() {
    for (x, y) in [("A", "A"), ("_", "8"), ("B", "A")] {
        let coordinate = |c: &str| format!("{}{}", c.repeat(42), "A");
        let value = json!({ "kty": "EC", "crv": "P-256", "x": coordinate(x), "y": coordinate(y) });
        let jwk: Jwk = serde_json::from_value(value).unwrap();
        jwk.public_key().unwrap_err();
    }
}

#[test]
fn rsa_numbers_have_one_form() {
    let rsa: Value = serde_json::to_value(jwk_of(&KEYS[0].1)).unwrap();
    let changed = |name: &str, text: &str| {
        let mut value = rsa.clone();
        value[name] = json!(text);
        value
    };
    let n = rsa["n"].as_str().unwrap();
    refused(changed("e", ""));
    // 65537 with a zero before it.
    refused(changed("e", "AAEAAQ"));
    refused(changed("n", &format!("AAAA{n}")));
    refused(changed("n", &"_".repeat(2_000)));
    refused(changed("n", ""));
    let weak = |value: Value| serde_json::from_value::<Jwk>(value).unwrap().public_key().unwrap_err();
    // 3, and 1008 bits.
    weak(changed("e", "Aw"));
    weak(changed("n", &"_".repeat(168)));
    // An even modulus.
    weak(changed("n", &format!("{}A", &n[..n.len() - 1])));
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let text = p256().to_string().replacen("\"x\"", "\"kty\":\"EC\",\"x\"", 1);
    let message = serde_json::from_str::<Jwk>(&text).unwrap_err().to_string();
    assert!(message.contains("duplicate"), "{message}");
}

fn p256() -> Value {
    serde_json::from_str(include_str!("../../../../fuzz/seeds/jwk/p256.json")).unwrap()
}

fn with(name: &str, member: Value) -> Value {
    let mut value = p256();
    value[name] = member;
    value
}

fn refused(value: Value) -> String {
    serde_json::from_value::<Jwk>(value).unwrap_err().to_string()
}
