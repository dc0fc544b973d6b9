//! One function for each reader of what strangers send. It panics if a reader does, or breaks a promise.
//!
//! certctl-protocols' tests run the same functions over mutations of the seeds, without any fuzzer.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certctl_core::{PublicKey, Secret, Timestamp};
use certctl_protocols::{
    acme::wire::{
        Account, AccountUpdate, Authorization, CertificateId, Challenge, Directory, Finalize, KeyChange,
        NewAccount, NewOrder, Order, OrdersList, Problem, RenewalInfo, Revocation, check_token, headers,
    },
    jose::{Jwk, Jws},
};
use serde::{Serialize, de::DeserializeOwned};

/// The key that the signatures among the seeds were made with (RFC 7515 appendix A.3).
const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
/// What was signed with it.
const SIGNED: [(&str, &str); 1] = [(
    "eyJhbGciOiJFUzI1NiJ9",
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
)];

/// Signed messages. Whatever is done to one, the key never vouches for what it did not sign.
pub fn jws(data: &[u8]) {
    let key = key();
    // A header is base64url, which a fuzzer does not find its way through.
    let header =
        Jws { protected: URL_SAFE_NO_PAD.encode(data), payload: String::new(), signature: String::new() };
    if let Ok(read) = header.header() {
        let written = serde_json::to_vec(&read).expect("a header can be written");
        let again = Jws { protected: URL_SAFE_NO_PAD.encode(written), ..header.clone() };
        assert_eq!(again.header().expect("what was written can be read"), read);
    }
    assert!(header.verify(&key).is_err());

    let Ok(jws) = Jws::from_json(data) else { return };
    same_again(&jws);
    let _ = jws.header();
    if jws.verify(&key).is_ok() {
        assert!(SIGNED.contains(&(jws.protected.as_str(), jws.payload.as_str())), "forged: {jws:?}");
    }
    assert!(jws.verify_hmac(&Secret::new(key.spki_der())).is_err());
}

/// Public keys. What is read has one form only.
pub fn jwk(data: &[u8]) {
    let Some(jwk) = reads::<Jwk>(data) else { return };
    assert_eq!(jwk.thumbprint().len(), 43);
    if let Ok(key) = jwk.public_key() {
        assert_eq!(Jwk::from_public_key(&key).expect("the key came from a JWK"), jwk);
    }
}

/// Everything of ACME, whatever the bytes are meant to be.
pub fn acme_wire(data: &[u8]) {
    reads::<Directory>(data);
    reads::<NewAccount>(data);
    reads::<Account>(data);
    reads::<AccountUpdate>(data);
    reads::<KeyChange>(data);
    reads::<OrdersList>(data);
    reads::<NewOrder>(data);
    reads::<Order>(data);
    reads::<Finalize>(data);
    reads::<Authorization>(data);
    reads::<Challenge>(data);
    reads::<Revocation>(data);
    reads::<RenewalInfo>(data);
    if let Some(problem) = reads::<Problem>(data) {
        let sentence = problem.sentence();
        assert!(sentence.chars().count() <= Problem::MAX_SENTENCE);
        assert!(!sentence.contains(char::is_control), "{sentence:?}");
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(id) = text.parse::<CertificateId>() {
        assert_eq!(id.as_str(), text);
        assert!(!id.authority_key_id().is_empty() && !id.serial_octets().is_empty());
    }
    if check_token(&text).is_ok() {
        assert!(!text.contains(['/', '\\', '.', '%', '=', '\0']) && !text.is_empty());
    }
}

/// Header values, one a line.
pub fn headers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for link in headers::links(text.lines()) {
        assert!(!link.url.contains('>'), "{link:?}");
        assert!(!link.rel.is_empty() && !link.rel.contains([' ', '\t', 'R']), "{link:?}");
    }
    for line in text.lines() {
        let _ = headers::retry_after(line, Timestamp::EPOCH);
        if let Some(nonce) = headers::nonce(line) {
            assert!(!nonce.is_empty() && line.contains(nonce));
        }
    }
}

/// Reads, and checks that what was read is the same after writing and reading again.
fn reads<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(data).ok()?;
    same_again(&read);
    Some(read)
}

fn same_again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(value: &T) {
    let written = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(&again, value);
}

fn key() -> PublicKey {
    serde_json::from_str::<Jwk>(KEY).expect("the key is well-formed").public_key().expect("the key is good")
}
