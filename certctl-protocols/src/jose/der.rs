//! The little DER (X.690) between JOSE's numbers and what the crypto takes.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// `SEQUENCE { INTEGER, INTEGER }` of two unsigned numbers: an ECDSA signature (RFC 3279 section 2.2.3), an RSA public key
/// (RFC 8017 appendix A.1.1).
pub(crate) fn two_integers(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(a.len() + b.len() + 12);
    integer(&mut body, a);
    integer(&mut body, b);
    let mut out = Vec::with_capacity(body.len() + 6);
    element(&mut out, SEQUENCE, &[&body]);
    out
}

/// The two numbers without leading zeros; `None` if there is anything else, or one is negative.
pub(crate) fn read_two_integers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = whole(der, SEQUENCE)?;
    let (a, rest) = split(body, INTEGER)?;
    let b = whole(rest, INTEGER)?;
    Some((unsigned(a)?, unsigned(b)?))
}

/// `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7) of an algorithm in DER and the content of the BIT STRING.
pub(crate) fn spki(algorithm: &[u8], bits: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(algorithm.len() + bits.len() + 8);
    body.extend_from_slice(algorithm);
    element(&mut body, BIT_STRING, &[&[0], bits]);
    let mut out = Vec::with_capacity(body.len() + 6);
    element(&mut out, SEQUENCE, &[&body]);
    out
}

/// The content of a `SubjectPublicKeyInfo`'s BIT STRING.
pub(crate) fn spki_bits(der: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split(whole(der, SEQUENCE)?, SEQUENCE)?;
    whole(rest, BIT_STRING)?.strip_prefix(&[0])
}

fn integer(out: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    let number = &number[zeros..];
    // The sign bit has to stay clear; zero is one octet.
    let pad: &[u8] = if number.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
    element(out, INTEGER, &[pad, number]);
}

fn element(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    out.push(tag);
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let octets = len.to_be_bytes();
    match octets.iter().position(|octet| *octet != 0) {
        Some(first) if len >= 0x80 => {
            let octets = &octets[first..];
            // At most eight of them.
            #[allow(clippy::cast_possible_truncation)]
            out.push(0x80 | octets.len() as u8);
            out.extend_from_slice(octets);
        }
        _ => out.push(octets[octets.len() - 1]),
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn unsigned(content: &[u8]) -> Option<&[u8]> {
    let zeros = content.iter().take_while(|octet| **octet == 0).count();
    match content.first()? {
        first if first & 0x80 != 0 => None,
        _ => Some(&content[zeros..]),
    }
}

fn whole(der: &[u8], tag: u8) -> Option<&[u8]> {
    split(der, tag).filter(|(_, rest)| rest.is_empty()).map(|(content, _)| content)
}

/// Content and what follows of the first element, if it has this tag.
fn split(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Three octets count 16 MB.
        if octets.is_empty() || octets.len() > 3 {
            return None;
        }
        (octets.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)), rest)
    };
    rest.split_at_checked(len)
}
