//! Keys and signatures.

use certctl_core::{KeyAlgorithm, PrivateKey, Secret};
use certctl_protocols::jose::{Algorithm, Header, HeaderKey, Jwk, Jws};
use serde_json::json;

const URL: &str = "https://acme.example/new-order";

#[test]
fn thumbprint_of_rfc_7638() {
    let jwk: Jwk = serde_json::from_value(json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }))
    .unwrap();
    assert_eq!(jwk.thumbprint(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    assert_eq!(Jwk::from_public_key(&jwk.public_key().unwrap()).unwrap(), jwk);
}

#[test]
fn ed25519_of_rfc_8037() {
    let jwk: Jwk = serde_json::from_value(
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
    )
    .unwrap();
    assert_eq!(jwk.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let jws = Jws {
        protected: "eyJhbGciOiJFZERTQSJ9".into(),
        payload: "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".into(),
        signature: "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
            .into(),
    };
    assert_eq!(jws.verify(&jwk.public_key().unwrap()).unwrap(), b"Example of Ed25519 signing");
}

#[test]
fn es256_of_rfc_7515() {
    let jwk: Jwk = serde_json::from_value(json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }))
    .unwrap();
    let jws = Jws {
        protected: "eyJhbGciOiJFUzI1NiJ9".into(),
        payload:
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
                .into(),
        signature: "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
            .into(),
    };
    let payload = jws.verify(&jwk.public_key().unwrap()).unwrap();
    assert_eq!(
        payload,
        b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}"
    );
}

#[tokio::test]
async fn every_kind_of_key_signs_and_verifies() {
    for (kind, alg) in [
        (KeyAlgorithm::EcdsaP256, Algorithm::Es256),
        (KeyAlgorithm::EcdsaP384, Algorithm::Es384),
        (KeyAlgorithm::EcdsaP521, Algorithm::Es512),
        (KeyAlgorithm::Rsa2048, Algorithm::Rs256),
        (KeyAlgorithm::Ed25519, Algorithm::EdDsa),
    ] {
        let key = PrivateKey::generate(kind).unwrap();
        let jwk = Jwk::from_public_key(key.public_key()).unwrap();
        let header_key = HeaderKey::Jwk(jwk.clone());
        let jws = Jws::sign(&key, Some("n".into()), URL, header_key, b"{}").await.unwrap();
        let jws = Jws::from_json(&serde_json::to_vec(&jws).unwrap()).unwrap();
        let header =
            Header { alg, nonce: Some("n".into()), url: URL.into(), key: HeaderKey::Jwk(jwk.clone()) };
        assert_eq!(jws.header().unwrap(), header);
        assert_eq!(jws.verify(&jwk.public_key().unwrap()).unwrap(), b"{}");
    }
}

#[test]
fn external_account_binding_round_trip() {
    let key = Secret::new(*b"0123456789abcdef0123456789abcdef");
    let jws = Jws::hmac_sha256(&key, "kid-1", URL, b"{}").unwrap();
    let header =
        Header { alg: Algorithm::Hs256, nonce: None, url: URL.into(), key: HeaderKey::Kid("kid-1".into()) };
    assert_eq!(jws.header().unwrap(), header);
    assert_eq!(jws.verify_hmac(&key).unwrap(), b"{}");
    assert!(jws.verify_hmac(&Secret::new(*b"another")).is_err());
}
