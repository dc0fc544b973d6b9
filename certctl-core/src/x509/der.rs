//! The little DER that is put together by hand: what surrounds a signature, and one name spliced in.

use super::SignatureAlgorithm;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// `SEQUENCE { to-be-signed, algorithm, BIT STRING }`: a certificate (RFC 5280 section 4.1) or a certification request
/// (RFC 2986 section 4.2).
pub(crate) fn signed(tbs: &[u8], algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(tbs.len() + signature.len() + 32);
    body.extend_from_slice(tbs);
    body.extend_from_slice(algorithm.der());
    element(&mut body, BIT_STRING, &[&[0], signature]);
    sequence(&body)
}

/// The to-be-signed certificate with its fourth element, the issuer's name, replaced by `issuer`, octet by octet what the
/// issuer's own certificate has: names must be equal in their encoding too, or strict clients don't build the chain.
pub(crate) fn with_issuer(tbs: &[u8], issuer: &[u8]) -> Option<Vec<u8>> {
    let (_, body, rest) = split(tbs)?;
    if !rest.is_empty() {
        return None;
    }
    let mut after = body;
    // Version, serial number, signature algorithm.
    for _ in 0..3 {
        after = split(after)?.2;
    }
    let before = &body[..body.len() - after.len()];
    let (_, _, after) = split(after)?;
    Some(sequence(&[before, issuer, after].concat()))
}

fn sequence(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    element(&mut out, SEQUENCE, &[body]);
    out
}

fn element(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(tag);
    let octets = len.to_be_bytes();
    let first = octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len() - 1);
    let short = &octets[first..];
    if len >= 0x80 {
        // At most eight octets: the cast can't lose anything.
        out.push(0x80 | short.len() as u8);
    }
    out.extend_from_slice(short);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The first element: tag, content, and what follows it.
fn split(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if octets.len() > 4 {
            return None;
        }
        (octets.iter().fold(0, |len, octet| (len << 8) | usize::from(*octet)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}
