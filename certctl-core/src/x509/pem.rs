//! PEM (RFC 7468): reading with a cap, writing.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroize;

use crate::{Error, Result, Secret};

/// Every block of a kind that rustls knows, in order; text between blocks is skipped.
///
/// # Errors
/// `Invalid` if it is larger than `cap` octets, or a block is broken.
pub(crate) fn read(input: &[u8], cap: usize, what: &str) -> Result<Vec<(SectionKind, Vec<u8>)>> {
    check_size(input, cap, what)?;
    <(SectionKind, Vec<u8>)>::pem_slice_iter(input).collect::<Result<_, _>>().map_err(|_| {
        // The library's own message can quote the input: not here, where it may be a key.
        Error::invalid_field(
            "",
            format!("the {what} is broken PEM"),
            "give whole blocks from -----BEGIN to -----END",
        )
    })
}

/// Refuses what is too large before anything looks at it.
pub(crate) fn check_size(input: &[u8], cap: usize, what: &str) -> Result<()> {
    if input.len() <= cap {
        return Ok(());
    }
    Err(Error::invalid_field(
        "",
        format!("the {what} has {} octets", input.len()),
        format!("give at most {cap} octets"),
    ))
}

/// One block with 64 characters a line.
pub(crate) fn write(label: &str, der: &[u8]) -> String {
    String::from_utf8_lossy(&block(label, der)).into_owned()
}

/// One block that is a secret.
pub(crate) fn write_secret(label: &str, der: &[u8]) -> Secret {
    Secret::new(block(label, der))
}

fn block(label: &str, der: &[u8]) -> Vec<u8> {
    let mut text = BASE64.encode(der);
    // All in one allocation: a grown vector would leave copies of a key behind.
    let mut out = Vec::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 64);
    out.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in text.as_bytes().chunks(64) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    text.zeroize();
    out
}
