//! Randomness for ids, serial seeds and nonces, from aws-lc-rs.

/// Crockford's: no letter that reads like a digit. In the order of ASCII.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Fills an array with random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // Fails only where the operating system has no randomness, and then nothing here may go on.
    #[allow(clippy::expect_used)]
    aws_lc_rs::rand::fill(&mut out).expect("the operating system gives randomness");
    out
}

/// Sorts as text like the number itself, for 45 bits: milliseconds until the year 3084.
pub(crate) fn ordered(number: u64) -> String {
    (0..9).rev().map(|digit| char::from(ALPHABET[(number >> (digit * 5)) as usize & 31])).collect()
}

/// Random lower-case text, five bits a character.
pub(crate) fn text(len: usize) -> String {
    let mut out = String::with_capacity(len);
    while out.len() < len {
        for byte in bytes::<16>() {
            if out.len() < len {
                out.push(char::from(ALPHABET[usize::from(byte & 31)]));
            }
        }
    }
    out
}
