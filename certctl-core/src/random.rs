//! Randomness for ids, serial seeds and nonces, from aws-lc-rs.

/// Fills an array with random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // Fails only where the operating system has no randomness, and then nothing here may go on.
    #[allow(clippy::expect_used)]
    aws_lc_rs::rand::fill(&mut out).expect("the operating system gives randomness");
    out
}

/// Random lower-case text, five bits a character.
pub(crate) fn text(len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
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
