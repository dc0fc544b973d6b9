//! Public keys as JSON.

use std::fmt;

use aws_lc_rs::digest;
use certctl_core::{Error, KeyKind, PublicKey, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IgnoredAny};

use super::der;
use crate::{base64url, object};

/// A public key as a JSON web key (RFC 7517; RFC 7518 section 6, RFC 8037 section 2).
///
/// Each key has exactly one form here: coordinates have their curve's length, numbers no leading zeros. Private members
/// are refused. Whether the point is on its curve, and the key strong enough, [`Jwk::public_key`] says.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Jwk(Members);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Members {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: Curve, x: Vec<u8>, y: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Jwk {
    /// The longest modulus that is read, in octets: RSA of 8192 bits.
    const MAX_MODULUS: usize = 1024;

    /// The key's JWK.
    ///
    /// # Errors
    /// `Unsupported` for a kind of key that JOSE doesn't know.
    pub fn from_public_key(key: &PublicKey) -> Result<Self> {
        members(key).map(Self).ok_or_else(|| {
            Error::unsupported(format!("a key of kind {} can't be written as a JSON web key", key.kind()))
        })
    }

    /// The key.
    ///
    /// # Errors
    /// `Invalid` if the point is not on its curve, or the key is weak.
    pub fn public_key(&self) -> Result<PublicKey> {
        PublicKey::from_spki_der(&match &self.0 {
            Members::Rsa { n, e } => der::spki(RSA, &der::two_integers(n, e)),
            Members::Ec { curve, x, y } => der::spki(curve.identifier(), &[&[4], &x[..], y].concat()),
            Members::Ed25519 { x } => der::spki(ED25519, x),
        })
    }

    /// The thumbprint with SHA-256 (RFC 7638), in base64url.
    pub fn thumbprint(&self) -> String {
        // The required members in the order of their names, without white space: what serialising gives as well, but this
        // must not change with the serialiser. All values are of the base64url alphabet and need no escapes.
        let json = match self.members() {
            Out { kty, crv: Some(crv), x: Some(x), y: Some(y), .. } => {
                format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#)
            }
            Out { kty, crv: Some(crv), x: Some(x), .. } => {
                format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"}}"#)
            }
            Out { kty, n, e, .. } => {
                let (n, e) = (n.unwrap_or_default(), e.unwrap_or_default());
                format!(r#"{{"e":"{e}","kty":"{kty}","n":"{n}"}}"#)
            }
        };
        base64url::encode(digest::digest(&digest::SHA256, json.as_bytes()))
    }

    fn members(&self) -> Out {
        let text = |octets: &[u8]| Some(base64url::encode(octets));
        match &self.0 {
            Members::Rsa { n, e } => Out { kty: "RSA", n: text(n), e: text(e), ..Out::default() },
            Members::Ec { curve, x, y } => {
                Out { kty: "EC", crv: Some(curve.name()), x: text(x), y: text(y), ..Out::default() }
            }
            Members::Ed25519 { x } => Out { kty: "OKP", crv: Some("Ed25519"), x: text(x), ..Out::default() },
        }
    }
}

impl TryFrom<&PublicKey> for Jwk {
    type Error = Error;
    fn try_from(key: &PublicKey) -> Result<Self> {
        Self::from_public_key(key)
    }
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwk({})", self.thumbprint())
    }
}

impl Serialize for Jwk {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.members().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Jwk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let read: In = object::deserialize(deserializer)?;
        read.members().map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Default, Serialize)]
struct Out {
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

/// Members that are not listed, such as `use` and `kid`, are passed over (RFC 7517 section 4).
#[derive(Deserialize)]
struct In {
    kty: String,
    crv: Option<String>,
    e: Option<String>,
    n: Option<String>,
    x: Option<String>,
    y: Option<String>,
    // What only a private or a symmetric key has (RFC 7518 sections 6.2.2, 6.3.2, 6.4.1).
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl In {
    fn members(&self) -> std::result::Result<Members, String> {
        let secret = [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth, &self.k];
        if secret.iter().any(|member| member.is_some()) {
            return Err("the JSON web key has private members; a public key is wanted".into());
        }
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                Ok(Members::Rsa { n: number("n", self.n.as_deref())?, e: number("e", self.e.as_deref())? })
            }
            ("EC", Some(crv)) => {
                let curve = Curve::ALL.into_iter().find(|curve| curve.name() == crv);
                let curve = curve.ok_or("the curve is none of P-256, P-384 and P-521")?;
                let x = coordinate("x", self.x.as_deref(), curve.len())?;
                let y = coordinate("y", self.y.as_deref(), curve.len())?;
                Ok(Members::Ec { curve, x, y })
            }
            ("OKP", Some("Ed25519")) => Ok(Members::Ed25519 { x: coordinate("x", self.x.as_deref(), 32)? }),
            ("OKP", _) => Err("the curve is not Ed25519".into()),
            ("EC", None) => Err("the JSON web key names no curve".into()),
            _ => Err("the JSON web key is none of RSA, EC and OKP".into()),
        }
    }
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Octets of a coordinate (RFC 7518 section 6.2.1.2).
    const fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// `id-ecPublicKey` with the curve (RFC 5480 section 2.1.1).
    const fn identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => {
                b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
            }
            Self::P384 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
            Self::P521 => b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
        }
    }
}

/// `rsaEncryption` (RFC 3279 section 2.3.1).
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// `id-Ed25519` (RFC 8410 section 3).
const ED25519: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";

fn members(key: &PublicKey) -> Option<Members> {
    let bits = der::spki_bits(key.spki_der())?;
    let point = |curve: Curve| {
        let (x, y) = bits.strip_prefix(&[4])?.split_at_checked(curve.len())?;
        Some(Members::Ec { curve, x: x.to_vec(), y: y.to_vec() })
    };
    match key.kind() {
        KeyKind::Rsa { .. } => {
            let (n, e) = der::read_two_integers(bits)?;
            Some(Members::Rsa { n: n.to_vec(), e: e.to_vec() })
        }
        KeyKind::EcdsaP256 => point(Curve::P256),
        KeyKind::EcdsaP384 => point(Curve::P384),
        KeyKind::EcdsaP521 => point(Curve::P521),
        KeyKind::Ed25519 => Some(Members::Ed25519 { x: bits.to_vec() }),
        _ => None,
    }
}

/// `Base64urlUInt` (RFC 7518 section 2): as few octets as it takes.
fn number(name: &str, text: Option<&str>) -> std::result::Result<Vec<u8>, String> {
    let octets = octets(name, text, Jwk::MAX_MODULUS)?;
    if octets.first().is_none_or(|first| *first == 0) {
        return Err(format!("{name} is empty or begins with zero"));
    }
    Ok(octets)
}

fn coordinate(name: &str, text: Option<&str>, len: usize) -> std::result::Result<Vec<u8>, String> {
    let octets = octets(name, text, len)?;
    if octets.len() != len {
        return Err(format!("{name} has {} octets, not {len}", octets.len()));
    }
    Ok(octets)
}

fn octets(name: &str, text: Option<&str>, max: usize) -> std::result::Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("{name} is missing"))?;
    if text.len() > max.div_ceil(3) * 4 {
        return Err(format!("{name} is longer than {max} octets"));
    }
    let octets = base64url::decode(text).ok_or_else(|| format!("{name} is not base64url without padding"))?;
    if octets.len() > max {
        return Err(format!("{name} is longer than {max} octets"));
    }
    Ok(octets)
}
