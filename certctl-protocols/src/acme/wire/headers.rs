//! The HTTP headers that mean something in ACME.

use std::time::{Duration, UNIX_EPOCH};

use certctl_core::Timestamp;

use crate::base64url;

/// The longest value that is looked at, in octets.
const MAX_LEN: usize = 16 * 1024;
/// How many links are read of all values together.
const MAX_LINKS: usize = 100;
/// How long a nonce may be, in characters.
const MAX_NONCE: usize = 1024;

/// `Retry-After` (RFC 9110 section 10.2.3): seconds from `now`, or a date in any of the three forms. `None` for what is
/// neither; the answer may lie in the past.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Timestamp> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.len() < 20 && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Some are meant to say "never"; a sum can't run over.
        return Some(now + Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    if value.len() > 40 {
        return None;
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let millis = i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    Some(Timestamp::from_millis(millis))
}

/// `Replay-Nonce` (RFC 8555 section 6.5.1); `None` for what is not a nonce, which has to be passed over.
pub fn nonce(value: &str) -> Option<&str> {
    let value = value.trim_matches([' ', '\t']);
    ((1..=MAX_NONCE).contains(&value.len()) && base64url::is_alphabet(value)).then_some(value)
}

/// One link of a `Link` header (RFC 8288): `rel` is lower-case; a link with several relations is given once for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it leads; a reference that is resolved against the URL of the response.
    pub url: String,
    /// What is there, such as `alternate`, `next`, `up`, `index` or `terms-of-service`.
    pub rel: String,
}

/// All links of all `Link` headers (RFC 8288 section 3), without those that have another context (`anchor`). What is
/// malformed ends the reading of its value.
pub fn links<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Link> {
    let mut out = Vec::new();
    for value in values {
        if value.len() > MAX_LEN {
            continue;
        }
        let mut rest = Cursor(value);
        while let Some(found) = rest.link() {
            out.extend(found);
            if out.len() >= MAX_LINKS {
                out.truncate(MAX_LINKS);
                return out;
            }
        }
    }
    out
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    /// RFC 8288 appendix B.2.
    fn link(&mut self) -> Option<Vec<Link>> {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
        let (url, rest) = self.0.strip_prefix('<')?.split_once('>')?;
        self.0 = rest;
        let (mut rel, mut anchored) = (None, false);
        while let Some((name, value)) = self.parameter() {
            match name.as_str() {
                // Only the first counts (RFC 8288 section 3.3).
                "rel" if rel.is_none() => rel = Some(value),
                "anchor" => anchored = true,
                _ => {}
            }
        }
        self.skip();
        if !self.0.is_empty() && !self.0.starts_with(',') {
            return None;
        }
        let rel = rel.filter(|_| !anchored).unwrap_or_default();
        let relations = rel.split_ascii_whitespace();
        Some(
            relations.map(|rel| Link { url: url.trim().to_owned(), rel: rel.to_ascii_lowercase() }).collect(),
        )
    }

    /// The next parameter, its name in lower case; `None` if there is none.
    fn parameter(&mut self) -> Option<(String, String)> {
        self.skip();
        self.0 = self.0.strip_prefix(';')?;
        self.skip();
        let end = self.0.find(['=', ';', ',', ' ', '\t']).unwrap_or(self.0.len());
        let name = self.0[..end].to_ascii_lowercase();
        self.0 = &self.0[end..];
        self.skip();
        let Some(rest) = self.0.strip_prefix('=') else { return Some((name, String::new())) };
        self.0 = rest;
        self.skip();
        let value = match self.0.strip_prefix('"') {
            Some(rest) => self.quoted(rest),
            None => {
                let end = self.0.find([';', ',']).unwrap_or(self.0.len());
                let value = self.0[..end].trim_end().to_owned();
                self.0 = &self.0[end..];
                value
            }
        };
        Some((name, value))
    }

    fn quoted(&mut self, rest: &str) -> String {
        let mut out = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => out.extend(chars.next().map(|(_, c)| c)),
                c => out.push(c),
            }
        }
        let skipped = self.0.len() - rest.len() + end;
        self.0 = &self.0[skipped..];
        out
    }

    fn skip(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }
}
