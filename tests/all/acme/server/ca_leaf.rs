//! What no honest CA signs: an end entity's certificate that says it is a CA's.

/// The basic constraints of an end entity, and those of a CA, as an extension's value.
const END_ENTITY: &[u8] = &[0x04, 0x02, 0x30, 0x00];
const CA: &[u8] = &[0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];
/// 2.5.29.19, and `critical`.
const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff];

/// The same `TBSCertificate`, as a CA's.
pub fn with_ca(tbs: &[u8]) -> Vec<u8> {
    let before = [BASIC_CONSTRAINTS, END_ENTITY].concat();
    let after = [BASIC_CONSTRAINTS, CA].concat();
    let out = replaced(tbs, &before, &after);
    assert_ne!(out, tbs, "there are basic constraints");
    out
}

/// The certificate of what was signed with ECDSA and SHA-256.
pub fn certificate(tbs: &[u8], signature: &[u8]) -> Vec<u8> {
    const ECDSA_WITH_SHA256: &[u8] =
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let signature = tlv(0x03, &[&[0], signature].concat());
    tlv(0x30, &[tbs, ECDSA_WITH_SHA256, &signature].concat())
}

/// With the lengths of all that is around it. `before` is the content of one element.
fn replaced(der: &[u8], before: &[u8], after: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = der;
    while let Some((&tag, tail)) = rest.split_first() {
        let (length, content) = length(tail);
        let content_of_this = &content[..length];
        // Constructed elements are gone into.
        let content_of_this = match content_of_this == before {
            true => after.to_vec(),
            false if tag & 0x20 != 0 => replaced(content_of_this, before, after),
            false => content_of_this.to_vec(),
        };
        out.extend(tlv(tag, &content_of_this));
        rest = &content[length..];
    }
    out
}

fn length(der: &[u8]) -> (usize, &[u8]) {
    match der[0] {
        short @ 0..0x80 => (usize::from(short), &der[1..]),
        long => {
            let octets = usize::from(long & 0x7f);
            let length = der[1..=octets].iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
            (length, &der[1 + octets..])
        }
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}
