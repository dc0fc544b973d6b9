//! Signing and verifying: both forms of ECDSA, and that nothing may be changed afterwards.

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certctl_core::{ErrorKind, PrivateKey, PublicKey, Result, Secret, SignatureAlgorithm, Signer};
use certctl_protocols::jose::{Header, HeaderKey, Jws};
use proptest::prelude::*;

use super::{KEYS, URL, jwk_of, kid};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_signed_verifies_and_says_what_was_said(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        nonce in prop::option::of("[A-Za-z0-9_-]{1,40}"),
        url in "\\PC{0,60}",
        account in prop::option::of("\\PC{0,60}"),
    ) {
        for (algorithm, key) in &*KEYS {
            let header_key = account.clone().map_or_else(|| HeaderKey::Jwk(jwk_of(key)), HeaderKey::Kid);
            let jws = sign(key, nonce.clone(), &url, header_key.clone(), &payload);
            let jws = Jws::from_json(&serde_json::to_vec(&jws).unwrap()).unwrap();
            let header = Header { alg: *algorithm, nonce: nonce.clone(), url: url.clone(), key: header_key };
            prop_assert_eq!(jws.header().unwrap(), header);
            prop_assert_eq!(jws.verify(key.public_key()).unwrap(), payload.clone());
        }
    }

    #[test]
    fn what_is_authenticated_verifies(
        key in prop::collection::vec(any::<u8>(), 1..100),
        other in prop::collection::vec(any::<u8>(), 1..100),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        kid in "\\PC{0,60}",
    ) {
        let jws = Jws::hmac_sha256(&Secret::new(key.clone()), &kid, URL, &payload).unwrap();
        prop_assert_eq!(jws.header().unwrap().key, HeaderKey::Kid(kid));
        prop_assert_eq!(jws.verify_hmac(&Secret::new(key.clone())).unwrap(), payload);
        // HMAC fills a short key up with zeros.
        let padded = |key: &[u8]| [key, &[0; 100]].concat()[..100].to_vec();
        prop_assume!(padded(&key) != padded(&other) && key.len() <= 64 && other.len() <= 64);
        prop_assert!(jws.verify_hmac(&Secret::new(other)).is_err());
    }
}

#[test]
fn no_other_key_verifies() {
    for (at, (algorithm, key)) in KEYS.iter().enumerate() {
        let jws = sign(key, None, URL, kid(), b"{}");
        for (other_at, (other, other_key)) in KEYS.iter().enumerate() {
            assert_eq!(jws.verify(other_key.public_key()).is_ok(), at == other_at, "{algorithm} by {other}");
        }
    }
}

#[test]
fn an_empty_payload_is_a_post_as_get() {
    let (_, key) = &KEYS[1];
    let jws = sign(key, Some("n".into()), URL, kid(), b"");
    assert_eq!(jws.payload, "");
    assert_eq!(jws.verify(key.public_key()).unwrap(), b"");
}

/// Every character of every part, turned into another one of its alphabet.
#[test]
fn every_change_is_seen() {
    for (algorithm, key) in &*KEYS {
        let jws = sign(key, Some("n0nce".into()), URL, kid(), br#"{"a":1}"#);
        jws.verify(key.public_key()).unwrap();
        assert_each_change_fails(&jws, &algorithm.to_string(), |jws| jws.verify(key.public_key()).is_err());
    }
    let key = Secret::new(*b"0123456789abcdef0123456789abcdef");
    let jws = Jws::hmac_sha256(&key, "kid-1", URL, br#"{"a":1}"#).unwrap();
    jws.verify_hmac(&key).unwrap();
    assert_each_change_fails(&jws, "HS256", |jws| jws.verify_hmac(&key).is_err());
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    for (algorithm, key) in &*KEYS {
        let jws = sign(key, None, URL, kid(), b"{}");
        let octets = URL_SAFE_NO_PAD.decode(&jws.signature).unwrap();
        let altered = [
            octets[..octets.len() - 1].to_vec(),
            octets[1..].to_vec(),
            [&octets[..], &[0]].concat(),
            [&[0], &octets[..]].concat(),
            // The same two numbers for who does not count.
            [&octets[..octets.len() / 2], &[0], &octets[octets.len() / 2..]].concat(),
            Vec::new(),
            octets.repeat(2),
            // Zero for both numbers: the psychic signature (CVE-2022-21449).
            vec![0; octets.len()],
        ];
        for octets in altered {
            let jws = Jws { signature: URL_SAFE_NO_PAD.encode(&octets), ..jws.clone() };
            assert!(jws.verify(key.public_key()).is_err(), "{algorithm} with {} octets", octets.len());
        }
    }
}

/// One signature in 128 has a number that begins with a zero octet, and JOSE's form keeps it.
#[test]
fn ecdsa_signatures_keep_their_length() {
    for (at, len, rounds) in [(1, 64, 1_500), (2, 96, 60), (3, 132, 60)] {
        let (algorithm, key) = &KEYS[at];
        let mut short = 0;
        for round in 0..rounds {
            let jws = sign(key, None, URL, kid(), format!("{round}").as_bytes());
            let octets = URL_SAFE_NO_PAD.decode(&jws.signature).unwrap();
            assert_eq!(octets.len(), len, "{algorithm}");
            jws.verify(key.public_key()).unwrap();
            short += usize::from(octets[0] == 0 || octets[len / 2] == 0);
        }
        // Never once in 1500 is as likely as one in a hundred thousand.
        assert!(short > 0 || rounds < 1_000, "no number began with a zero octet");
    }
}

/// The same with numbers that are chosen: a short one, and one with its highest bit set.
#[test]
fn asn1_is_turned_into_fixed_lengths() {
    let (_, key) = &KEYS[1];
    let high = [&[0x02, 0x21, 0x00, 0x80][..], &[7; 31]].concat();
    let cases: [(&[u8], &[u8], Vec<u8>); 3] = [
        (&[0x02, 0x01, 0x05], &high, [&[0; 31][..], &[5, 0x80], &[7; 31]].concat()),
        (&high, &[0x02, 0x02, 0x00, 0xff], [&[0x80][..], &[7; 31], &[0; 31], &[0xff]].concat()),
        (&[0x02, 0x01, 0x00], &[0x02, 0x01, 0x7f], [&[0; 63][..], &[0x7f]].concat()),
    ];
    for (r, s, expected) in cases {
        let body = [r, s].concat();
        let der = [&[0x30, body.len() as u8][..], &body].concat();
        let jws = block(Jws::sign(&Scripted::new(key, der), None, URL, kid(), b"")).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(&jws.signature).unwrap(), expected);
    }
}

#[test]
fn a_signer_that_answers_with_nonsense_is_an_error() {
    let (_, key) = &KEYS[1];
    let good = key.sign(SignatureAlgorithm::EcdsaSha256, b"x").unwrap();
    let bad: [Vec<u8>; 9] = [
        vec![],
        vec![0x30, 0x00],
        vec![0x30, 0x80, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01],
        vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        // Negative.
        vec![0x30, 0x06, 0x02, 0x01, 0x80, 0x02, 0x01, 0x01],
        // One number, then another type.
        vec![0x30, 0x06, 0x02, 0x01, 0x01, 0x04, 0x01, 0x01],
        // Longer than the curve.
        [&[0x30, 0x26, 0x02, 0x21][..], &[1; 33], &[0x02, 0x01, 0x01]].concat(),
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
    ];
    for der in bad {
        let error = block(Jws::sign(&Scripted::new(key, der.clone()), None, URL, kid(), b"")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadResponse, "{der:02x?}");
    }
}

fn sign(key: &PrivateKey, nonce: Option<String>, url: &str, header_key: HeaderKey, payload: &[u8]) -> Jws {
    block(Jws::sign(key, nonce, url, header_key, payload)).unwrap()
}

fn assert_each_change_fails(jws: &Jws, name: &str, fails: impl Fn(&Jws) -> bool) {
    let parts: [(&str, fn(&mut Jws) -> &mut String); 3] = [
        ("protected", |jws| &mut jws.protected),
        ("payload", |jws| &mut jws.payload),
        ("signature", |jws| &mut jws.signature),
    ];
    for (part, of) in parts {
        for at in 0..of(&mut jws.clone()).len() {
            let mut changed = jws.clone();
            let text = of(&mut changed);
            let other = if &text[at..=at] == "A" { "B" } else { "A" };
            text.replace_range(at..=at, other);
            assert!(fails(&changed), "{name}: {part} changed at {at}");
        }
        for edit in [|text: &mut String| text.push('A'), |text: &mut String| text.truncate(text.len() - 1)] {
            let mut changed = jws.clone();
            edit(of(&mut changed));
            assert!(fails(&changed), "{name}: {part} of another length");
        }
    }
}

/// A signer that gives the same answer to everything.
#[derive(Debug)]
struct Scripted {
    key: PublicKey,
    answer: Vec<u8>,
}

impl Scripted {
    fn new(key: &PrivateKey, answer: Vec<u8>) -> Self {
        Self { key: key.public_key().clone(), answer }
    }
}

#[async_trait]
impl Signer for Scripted {
    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    async fn sign(&self, _: SignatureAlgorithm, _: &[u8]) -> Result<Vec<u8>> {
        Ok(self.answer.clone())
    }
}

/// Nothing here ever waits.
fn block<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}
