//! The names a certificate is for.

use std::{fmt, net::IpAddr, str::FromStr};

use x509_parser::extensions::GeneralName;

use super::{shown, text_serde};
use crate::{Error, Result, Violation};

/// A name that a certificate is for (RFC 5280 section 4.2.1.6).
///
/// As text a name is written plainly, and becomes the type that it parses as: an IP address, a URI (`scheme:`), an
/// email address (`a@b`), else a DNS name.
///
/// ```
/// # use certctl_core::SubjectAltName;
/// let name: SubjectAltName = "*.Example.COM".parse()?;
/// assert_eq!(name, SubjectAltName::Dns("*.example.com".into()));
/// assert!(name.matches("www.example.com") && !name.matches("a.b.example.com"));
/// # Ok::<(), certctl_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectAltName {
    /// A DNS name, lower-case, with `*` at most as its whole first label.
    Dns(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// An email address (RFC 822 name); its domain is lower-case.
    Email(String),
    /// A URI with its scheme, such as `spiffe://example.org/web`.
    Uri(String),
}

impl SubjectAltName {
    /// A DNS name; lower-cased, one trailing dot is cut off.
    ///
    /// # Errors
    /// `Invalid` for an IP address, a misplaced wildcard, an underscore, characters outside ASCII, or lengths that DNS
    /// does not know (RFC 1034 section 3.5).
    pub fn dns(text: &str) -> Result<Self> {
        host_name(text, true).map(Self::Dns).map_err(Into::into)
    }

    /// An IP address.
    pub fn ip(address: impl Into<IpAddr>) -> Self {
        Self::Ip(address.into())
    }

    /// An email address, ASCII only (RFC 5280 section 4.2.1.6).
    ///
    /// # Errors
    /// `Invalid` if it is not `local@domain`.
    pub fn email(text: &str) -> Result<Self> {
        email(text).map(Self::Email).map_err(Into::into)
    }

    /// A URI (RFC 3986); its scheme is lower-cased.
    ///
    /// # Errors
    /// `Invalid` if it has no scheme, or characters that a URI can't have.
    pub fn uri(text: &str) -> Result<Self> {
        uri(text).map(Self::Uri).map_err(Into::into)
    }

    /// Checks a name that was put together by hand.
    ///
    /// # Errors
    /// `Invalid` if it is not what the constructors would have made.
    pub fn check(&self) -> Result<()> {
        let canonical = match self {
            Self::Dns(text) => Self::dns(text)?,
            Self::Email(text) => Self::email(text)?,
            Self::Uri(text) => Self::uri(text)?,
            Self::Ip(_) => return Ok(()),
        };
        if canonical == *self {
            return Ok(());
        }
        let remedy = format!("write {:?}", canonical.to_string());
        Err(Error::invalid_field(
            "",
            format!("{} is not in its plain form", shown(&self.to_string())),
            remedy,
        ))
    }

    /// Whether a client that connects to `host` accepts this name: equal, or a wildcard over exactly one label (RFC 6125
    /// section 6.4.3).
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Ip(address) => host.trim_start_matches('[').trim_end_matches(']').parse() == Ok(*address),
            Self::Dns(name) => {
                let host = host.strip_suffix('.').unwrap_or(host);
                if host.parse::<IpAddr>().is_ok() {
                    return false;
                }
                match (name.strip_prefix("*."), host.split_once('.')) {
                    (Some(parent), Some((label, rest))) => {
                        !label.is_empty() && rest.eq_ignore_ascii_case(parent)
                    }
                    (Some(_), None) => false,
                    (None, _) => host.eq_ignore_ascii_case(name),
                }
            }
            Self::Email(_) | Self::Uri(_) => false,
        }
    }

    /// Whether it is a wildcard DNS name.
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.starts_with("*."))
    }

    /// Whether a certificate with this name serves for `wanted`: the same, or the wildcard above it.
    pub fn covers(&self, wanted: &Self) -> bool {
        self == wanted || matches!(wanted, Self::Dns(host) if !wanted.is_wildcard() && self.matches(host))
    }

    /// Checks every name of a list; a violation's pointer is `prefix` and the index.
    pub(crate) fn check_all(names: &[Self], prefix: &str) -> Vec<Violation> {
        let check = |(index, name): (usize, &Self)| {
            name.check().err().map(|error| error.below(&format!("{prefix}/{index}")).violations().to_vec())
        };
        names.iter().enumerate().filter_map(check).flatten().collect()
    }

    /// From a parsed certificate or request; `None` if its type is not among ours.
    pub(crate) fn from_general_name(name: &GeneralName<'_>) -> Option<Result<Self>> {
        Some(match name {
            GeneralName::DNSName(text) => Self::dns(text),
            GeneralName::RFC822Name(text) => Self::email(text),
            GeneralName::URI(text) => Self::uri(text),
            GeneralName::IPAddress(octets) => {
                match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets)) {
                    (Ok(v4), _) => Ok(Self::ip(v4)),
                    (_, Ok(v6)) => Ok(Self::ip(v6)),
                    _ => Err(Error::invalid_field(
                        "",
                        format!("an IP address has {} octets", octets.len()),
                        "give 4 octets for IPv4 or 16 for IPv6 (RFC 5280 section 4.2.1.6)",
                    )),
                }
            }
            // DNS, email and URI that are not even text.
            GeneralName::Invalid(tag, _) if [1, 2, 6].contains(&tag.0) => {
                Err(Error::invalid_field("", "a name is not text", "make it anew with names in ASCII"))
            }
            _ => return None,
        })
    }
}

impl FromStr for SubjectAltName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(address));
        }
        if scheme(text).is_some() {
            return Self::uri(text);
        }
        if text.contains('@') { Self::email(text) } else { Self::dns(text) }
    }
}

impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

text_serde!(
    SubjectAltName,
    "SubjectAltName",
    "An IP address, a URI, an email address or a DNS name",
    ToString::to_string,
    str::parse
);

/// Why a text is no name; an [`Error`] at the edge.
struct Refusal {
    message: String,
    remedy: String,
}

impl Refusal {
    fn new(text: &str, why: &str, remedy: impl Into<String>) -> Self {
        Self { message: format!("{} {why}", shown(text)), remedy: remedy.into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::invalid_field("", refusal.message, refusal.remedy)
    }
}

fn host_name(text: &str, wildcard: bool) -> Result<String, Refusal> {
    let refuse = |why: &str, remedy: &str| Err(Refusal::new(text, why, remedy));
    if let Ok(address) = text.parse::<IpAddr>() {
        return refuse(
            "is an IP address, given as a DNS name",
            &format!("give it as the IP address {address}"),
        );
    }
    if text.contains(char::is_control) {
        return refuse("has control characters", "remove line ends and other control characters");
    }
    if !text.is_ascii() {
        return refuse("is not ASCII", "give an internationalised name in its A-label form (xn--...)");
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return refuse("is empty", "give a DNS name such as www.example.com");
    }
    if name.len() > 253 {
        return refuse("is longer than 253 characters", "give a DNS name of at most 253 characters");
    }
    let plain = match name.strip_prefix("*.") {
        Some(parent) if wildcard && parent.split('.').count() >= 2 => parent,
        Some(_) if wildcard => {
            return refuse("is a wildcard over a whole top-level domain", "put at least two labels after *.");
        }
        _ => name.as_str(),
    };
    if plain.contains('*') {
        return refuse(
            "has a misplaced wildcard",
            "use * only as the whole first label, such as *.example.com",
        );
    }
    for label in plain.split('.') {
        if label.is_empty() {
            return refuse("has an empty label", "remove the doubled or leading dot");
        }
        if label.len() > 63 {
            return refuse("has a label longer than 63 characters", "shorten the label");
        }
        if label.contains('_') {
            return refuse(
                "has an underscore",
                "rename the host: certificates allow letters, digits and hyphens only",
            );
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return refuse(
                "has characters that a DNS name can't have",
                "use letters, digits, hyphens and dots; leave out port, path and brackets",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse(
                "has a label that begins or ends with a hyphen",
                "begin and end labels with a letter or digit",
            );
        }
    }
    // Resolvers and URL parsers take such a name for an IPv4 address.
    if plain.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return refuse(
            "ends in a number, and is no IP address either",
            "give a valid IP address, or a DNS name whose last label has a letter",
        );
    }
    Ok(name)
}

fn email(text: &str) -> Result<String, Refusal> {
    let refuse =
        |why: &str| Err(Refusal::new(text, why, "give an address such as admin@example.com, ASCII only"));
    let Some((local, domain)) = text.rsplit_once('@') else {
        return refuse("has no @");
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    if local.is_empty() || local.len() > 64 || !local.bytes().all(plain) {
        return refuse("has a local part that can't stand in a certificate");
    }
    if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
        return refuse("has a misplaced dot in its local part");
    }
    if text.len() > 254 {
        return refuse("is longer than 254 characters");
    }
    Ok(format!("{local}@{}", host_name(domain, false)?))
}

fn uri(text: &str) -> Result<String, Refusal> {
    let refuse = |why: &str, remedy: &str| Err(Refusal::new(text, why, remedy));
    if text.parse::<IpAddr>().is_ok() {
        return refuse("is an IP address, given as a URI", "give it as an IP address");
    }
    let Some((scheme, rest)) = scheme(text) else {
        return refuse("has no scheme", "give a URI such as spiffe://example.org/web");
    };
    if rest.trim_matches('/').is_empty() {
        return refuse("is a scheme alone", "give a URI such as spiffe://example.org/web");
    }
    if rest.bytes().all(|b| b.is_ascii_digit()) {
        return refuse("looks like a host with a port", "give the name without the port");
    }
    if text.len() > 2048 {
        return refuse("is longer than 2048 characters", "shorten the URI");
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    if !rest.bytes().all(allowed) {
        return refuse("has characters that a URI can't have", "percent-encode them (RFC 3986 section 2.1)");
    }
    let escape =
        |part: &str| part.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !rest.split('%').skip(1).all(escape) {
        return refuse("has a % that begins no escape", "write two hexadecimal digits after each %");
    }
    let uri = format!("{}:{rest}", scheme.to_ascii_lowercase());
    Ok(uri)
}

/// The scheme and what follows its colon (RFC 3986 section 3.1).
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then_some((scheme, rest))
}
