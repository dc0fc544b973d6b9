//! JSON web signatures.

use aws_lc_rs::hmac;
use certctl_core::{Error, ErrorKind, PublicKey, Result, Secret, Signer};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Algorithm, Header, HeaderKey, header::Essence};
use crate::{base64url, object, shown::shown};

/// A JSON web signature in the flattened serialisation (RFC 7515 section 7.2.2), without an unprotected header, as ACME
/// wants it (RFC 8555 section 6.2). Reading it verifies nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jws {
    /// The header, as base64url of JSON.
    pub protected: String,
    /// What is signed, as base64url; empty for a POST-as-GET (RFC 8555 section 6.3).
    pub payload: String,
    /// The signature, as base64url.
    pub signature: String,
}

impl Jws {
    /// The longest text that is read, in octets.
    pub const MAX_LEN: usize = 256 * 1024;
    /// RSA of 8192 bits, in base64url.
    const MAX_SIGNATURE: usize = 1366;

    /// Reads JSON.
    ///
    /// # Errors
    /// `Invalid` if it is longer than [`Jws::MAX_LEN`], not the flattened serialisation, or has an unprotected header.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > Self::MAX_LEN {
            return Err(invalid("", format!("the signed message has {} octets", json.len())));
        }
        serde_json::from_slice(json).map_err(|e| {
            invalid("", format!("the signed message can't be read: {}", shown(&e.to_string(), 300)))
        })
    }

    /// Signs. ACME wants the nonce everywhere but in the inner part of a key change (RFC 8555 section 7.3.5); an empty
    /// payload makes a POST-as-GET.
    ///
    /// # Errors
    /// What the signer gives; `Unsupported` for a kind of key that JOSE has no algorithm for.
    pub async fn sign(
        signer: &dyn Signer,
        nonce: Option<String>,
        url: &str,
        key: HeaderKey,
        payload: &[u8],
    ) -> Result<Self> {
        let alg = Algorithm::for_key(signer.public_key())?;
        let unsigned = Unsigned::new(&Header { alg, nonce, url: url.to_owned(), key }, payload)?;
        let algorithm = alg.signature_algorithm().ok_or_else(|| Error::internal("a key that can't sign"))?;
        let signature = signer.sign(algorithm, unsigned.input().as_bytes()).await?;
        let signature = alg.jose_form(signature).ok_or_else(|| {
            Error::new(ErrorKind::BadResponse, "the key's signature is not ECDSA's ASN.1 form")
        })?;
        Ok(unsigned.signed(&signature))
    }

    /// Signs with HMAC-SHA-256, as external account binding wants it (RFC 8555 section 7.3.4): `kid` is what the CA gave
    /// together with the key, `url` that of newAccount, `payload` the account key's JWK.
    ///
    /// # Errors
    /// `Invalid` if the key is empty.
    pub fn hmac_sha256(key: &Secret, kid: &str, url: &str, payload: &[u8]) -> Result<Self> {
        let hmac_key = hmac_key(key)?;
        let header = Header {
            alg: Algorithm::Hs256,
            nonce: None,
            url: url.to_owned(),
            key: HeaderKey::Kid(kid.to_owned()),
        };
        let unsigned = Unsigned::new(&header, payload)?;
        let tag = hmac::sign(&hmac_key, unsigned.input().as_bytes());
        Ok(unsigned.signed(tag.as_ref()))
    }

    /// The header, which anybody may have written: it says which key to verify with.
    ///
    /// # Errors
    /// `Invalid` if it is longer than [`Header::MAX_LEN`] or not as RFC 8555 section 6.2 wants it.
    pub fn header(&self) -> Result<Header> {
        Header::read(&self.header_json()?)
    }

    /// The payload, once the signature is known to be this key's. The header's algorithm has to be the key's own.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, names another algorithm, or does not verify.
    pub fn verify(&self, key: &PublicKey) -> Result<Vec<u8>> {
        let alg = self.algorithm(Algorithm::for_key(key)?)?;
        let signature = alg.asn1_form(&self.signature_octets()?).ok_or_else(unverified)?;
        let algorithm = alg.signature_algorithm().ok_or_else(unverified)?;
        key.verify(algorithm, self.input().as_bytes(), &signature).map_err(|_| unverified())?;
        self.payload_octets()
    }

    /// The payload, once the HMAC-SHA-256 is known to be this key's.
    ///
    /// # Errors
    /// `Invalid` if it is malformed, names another algorithm, or does not verify.
    pub fn verify_hmac(&self, key: &Secret) -> Result<Vec<u8>> {
        self.algorithm(Algorithm::Hs256)?;
        let hmac_key = hmac_key(key)?;
        hmac::verify(&hmac_key, self.input().as_bytes(), &self.signature_octets()?)
            .map_err(|_| unverified())?;
        self.payload_octets()
    }

    fn algorithm(&self, wanted: Algorithm) -> Result<Algorithm> {
        let alg = Essence::read(&self.header_json()?)?.alg;
        if alg != wanted {
            return Err(Error::invalid_field(
                "/protected",
                format!("the signature's algorithm is {alg}, and the key's is {wanted}"),
                format!("sign with {wanted}"),
            ));
        }
        Ok(alg)
    }

    fn input(&self) -> String {
        format!("{}.{}", self.protected, self.payload)
    }

    fn header_json(&self) -> Result<Vec<u8>> {
        decode("/protected", &self.protected, Header::MAX_LEN.div_ceil(3) * 4)
    }

    fn payload_octets(&self) -> Result<Vec<u8>> {
        decode("/payload", &self.payload, Self::MAX_LEN)
    }

    fn signature_octets(&self) -> Result<Vec<u8>> {
        decode("/signature", &self.signature, Self::MAX_SIGNATURE)
    }
}

impl<'de> Deserialize<'de> for Jws {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Members { protected, payload, signature } = object::deserialize(deserializer)?;
        Ok(Self { protected, payload, signature })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    protected: String,
    payload: String,
    signature: String,
}

struct Unsigned {
    protected: String,
    payload: String,
}

impl Unsigned {
    fn new(header: &Header, payload: &[u8]) -> Result<Self> {
        let json = serde_json::to_vec(header)
            .map_err(|e| Error::internal("writing a signature's header failed").with_source(e))?;
        Ok(Self { protected: base64url::encode(json), payload: base64url::encode(payload) })
    }

    fn input(&self) -> String {
        format!("{}.{}", self.protected, self.payload)
    }

    fn signed(self, signature: &[u8]) -> Jws {
        Jws { protected: self.protected, payload: self.payload, signature: base64url::encode(signature) }
    }
}

fn hmac_key(key: &Secret) -> Result<hmac::Key> {
    if key.expose().is_empty() {
        return Err(Error::invalid_field("", "the HMAC key is empty", "give the key that the CA gave"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
}

fn decode(pointer: &str, text: &str, max: usize) -> Result<Vec<u8>> {
    if text.len() > max {
        return Err(invalid(pointer, format!("it has {} characters, more than {max}", text.len())));
    }
    base64url::decode(text).ok_or_else(|| invalid(pointer, "it is not base64url without padding".into()))
}

fn unverified() -> Error {
    Error::invalid_field(
        "/signature",
        "the signature does not verify",
        "sign with the key that the header names",
    )
}

fn invalid(pointer: &str, message: String) -> Error {
    Error::invalid_field(
        pointer,
        message,
        "send a JWS in the flattened serialisation (RFC 7515 section 7.2.2)",
    )
}
