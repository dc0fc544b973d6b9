//! Names as text: letters, digits, hyphens and underscores. Whatever else the DNS allows is in no certificate.

use certctl_core::{Error, ErrorKind, Result};
use hickory_proto::rr::Name;

/// Reads a name; a dot at its end is fine.
///
/// # Errors
/// `Invalid` for what is no name that a certificate or a challenge can have.
pub(crate) fn parse(text: &str) -> Result<Name> {
    let bad = || {
        Error::invalid_field(
            "",
            format!("{:?} is not a name of the DNS", text.chars().take(300).collect::<String>()),
            "write it like _acme-challenge.www.example.com",
        )
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    if !is_plain(bare) {
        return Err(bad());
    }
    Name::from_ascii(format!("{}.", bare.to_ascii_lowercase())).map_err(|_| bad())
}

/// The name in lower case, without a dot at its end.
///
/// # Errors
/// `Precondition` for a name that [`parse`] would not read: a DNS answer may bring any.
pub(crate) fn plain(name: &Name) -> Result<String> {
    let text = name.to_ascii().to_ascii_lowercase();
    let bare = text.strip_suffix('.').unwrap_or(&text);
    if !is_plain(bare) {
        let message =
            format!("the DNS answers with the name {text:?}, which no record of a challenge can have");
        return Err(Error::new(ErrorKind::Precondition, message));
    }
    Ok(bare.to_owned())
}

fn is_plain(bare: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    bare.len() <= 253 && bare.split('.').all(is_label)
}
