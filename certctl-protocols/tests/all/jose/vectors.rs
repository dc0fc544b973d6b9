//! The examples of RFC 7515 (JWS), RFC 7520 (JOSE cookbook), RFC 7638 (thumbprints) and RFC 8037 (Ed25519).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certctl_core::{PublicKey, Secret};
use certctl_protocols::jose::{Algorithm, Jwk, Jws};
use serde_json::{Value, json};

/// The payload of RFC 7515 appendices A.1 to A.3.
const JOE: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const JOE_CLEAR: &[u8] =
    b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
/// The payload of RFC 7520 section 4.
const FRODO: &str = concat!(
    "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwg",
    "YW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9m",
    "ZiB0by4",
);

#[test]
fn rfc_7515_a1_hs256() {
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let key = Secret::new(URL_SAFE_NO_PAD.decode(key).unwrap());
    let jws =
        jws("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", JOE, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_eq!(jws.verify_hmac(&key).unwrap(), JOE_CLEAR);
}

#[test]
fn rfc_7515_a2_rs256() {
    let key = key(json!({
        "kty": "RSA",
        "n": concat!(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SF",
            "d2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo",
            "7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM",
            "Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        ),
        "e": "AQAB",
    }));
    let signature = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU",
        "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d",
        "O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig",
        "cN_IoypGlUPQGe77Rw",
    );
    assert_eq!(jws("eyJhbGciOiJSUzI1NiJ9", JOE, signature).verify(&key).unwrap(), JOE_CLEAR);
}

#[test]
fn rfc_7515_a3_es256() {
    let key = key(json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }));
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert_eq!(jws("eyJhbGciOiJFUzI1NiJ9", JOE, signature).verify(&key).unwrap(), JOE_CLEAR);
}

#[test]
fn rfc_7515_a4_es512() {
    let key = key(json!({
        "kty": "EC",
        "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    }));
    let signature = concat!(
        "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2Y",
        "BJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
    );
    assert_eq!(jws("eyJhbGciOiJFUzUxMiJ9", "UGF5bG9hZA", signature).verify(&key).unwrap(), b"Payload");
}

#[test]
fn rfc_7515_a5_unsecured_is_refused() {
    let jws = jws("eyJhbGciOiJub25lIn0", JOE, "");
    let message = jws.header().unwrap_err().to_string();
    assert!(message.contains("none"), "{message}");
}

#[test]
fn rfc_7520_4_3_es512() {
    let key = key(json!({
        "kty": "EC",
        "kid": "bilbo.baggins@hobbiton.example",
        "use": "sig",
        "crv": "P-521",
        "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
        "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
    }));
    let header = "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9";
    let signature = concat!(
        "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnA",
        "MDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2",
    );
    let payload = jws(header, FRODO, signature).verify(&key).unwrap();
    assert!(String::from_utf8(payload).unwrap().starts_with("It\u{2019}s a dangerous business, Frodo"));
}

#[test]
fn rfc_8037_a4_eddsa() {
    let key = key(ed25519());
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let jws = jws("eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", signature);
    assert_eq!(jws.verify(&key).unwrap(), b"Example of Ed25519 signing");
}

#[test]
fn rfc_8037_a3_thumbprint() {
    assert_eq!(jwk(ed25519()).thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn rfc_7638_thumbprint() {
    let jwk = jwk(serde_json::from_str(include_str!("../../../../fuzz/seeds/jwk/rsa.json")).unwrap());
    assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

/// The thumbprint of an elliptic curve's key, which no RFC has an example of: computed with Python's hashlib.
#[test]
fn thumbprint_of_an_elliptic_curve() {
    let jwk = jwk(serde_json::from_str(include_str!("../../../../fuzz/seeds/jwk/p256.json")).unwrap());
    assert_eq!(jwk.thumbprint(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
}

#[test]
fn the_key_decides_the_algorithm() {
    assert_eq!(Algorithm::for_key(&key(ed25519())).unwrap(), Algorithm::EdDsa);
    for (algorithm, key) in &*super::KEYS {
        assert_eq!(Algorithm::for_key(key.public_key()).unwrap(), *algorithm);
        assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.name());
    }
}

fn ed25519() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

fn jwk(value: Value) -> Jwk {
    serde_json::from_value(value).unwrap()
}

fn key(value: Value) -> PublicKey {
    jwk(value).public_key().unwrap()
}

fn jws(protected: &str, payload: &str, signature: &str) -> Jws {
    Jws { protected: protected.into(), payload: payload.into(), signature: signature.into() }
}
