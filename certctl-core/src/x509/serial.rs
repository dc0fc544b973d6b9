//! Serial numbers and fingerprints.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;

use super::{shown, text_serde};
use crate::{Error, Result};

/// A certificate's serial number (RFC 5280 section 4.1.2.2): at most 20 octets, written as lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(Box<[u8]>);

impl SerialNumber {
    /// The serial number that belongs to a seed: always the same, positive, exactly 20 octets, 158 of the seed's bits.
    pub fn from_seed(seed: &[u8; 20]) -> Self {
        let mut octets = *seed;
        // The sign bit clear keeps it positive, the next one set keeps it 20 octets long.
        octets[0] = (octets[0] & 0x7f) | 0x40;
        Self(octets.into())
    }

    /// From big-endian octets without a sign; leading zeros are cut off. Zero is read, since devices' own certificates
    /// have it.
    ///
    /// # Errors
    /// `Invalid` if there are none, or more than 20.
    pub fn from_octets(octets: &[u8]) -> Result<Self> {
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        let octets = &octets[zeros.min(octets.len().saturating_sub(1))..];
        if octets.is_empty() || octets.len() > 20 {
            return Err(Error::invalid_field(
                "",
                format!("a serial number of {} octets", octets.len()),
                "a serial number has 1 to 20 octets (RFC 5280 section 4.1.2.2)",
            ));
        }
        Ok(Self(octets.into()))
    }

    /// Big-endian octets, without leading zeros.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for SerialNumber {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let octets = read_hex(text).ok_or_else(|| {
            Error::invalid_field(
                "",
                format!("{} is not a serial number", shown(text)),
                "write it as hexadecimal, with or without colons",
            )
        })?;
        Self::from_octets(&octets)
    }
}

text_serde!(
    SerialNumber,
    "SerialNumber",
    "A certificate's serial number in hexadecimal",
    ToString::to_string,
    str::parse
);

/// The SHA-256 of a certificate's DER (or of what its maker says), written as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// From the 32 octets of a SHA-256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 octets.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        read_hex(text).and_then(|octets| <[u8; 32]>::try_from(octets).ok()).map(Self).ok_or_else(|| {
            Error::invalid_field(
                "",
                format!("{} is not a SHA-256 fingerprint", shown(text)),
                "write 64 hexadecimal digits, with or without colons",
            )
        })
    }
}

text_serde!(
    Fingerprint,
    "Fingerprint",
    "A SHA-256 fingerprint in hexadecimal",
    ToString::to_string,
    str::parse
);

fn write_hex(f: &mut fmt::Formatter<'_>, octets: &[u8]) -> fmt::Result {
    octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
}

/// Pairs of hexadecimal digits, with colons between octets or without.
fn read_hex(text: &str) -> Option<Vec<u8>> {
    // Longer than anything read here: refused before it is looked at.
    if text.len() > 200 {
        return None;
    }
    let octet = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4) | digit(*low)?),
        _ => None,
    };
    if text.contains(':') {
        return text.split(':').map(|part| octet(part.as_bytes())).collect();
    }
    text.as_bytes().chunks(2).map(octet).collect()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
