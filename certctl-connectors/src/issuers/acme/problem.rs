//! What the CA's problem documents (RFC 8555 section 6.7) mean for whoever asked.

use std::time::Duration;

use certctl_core::{Effect, Error, ErrorKind, Retry, Timestamp};
use certctl_protocols::acme::wire::{Problem, ProblemType, headers};
use reqwest::header;

use super::transport::{Response, shown};

/// How long at most a CA's word is waited for: nobody's renewals stop for longer because of a header.
const MAX_WAIT: Duration = Duration::from_secs(7 * 86_400);
/// How long a CA that limits its rate is left alone if it does not say.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(3_600);

/// The error that a refusal is.
pub(super) fn error(response: &Response) -> Error {
    let after = response.retry_after().map(|at| at.min(response.at + MAX_WAIT));
    let Some(problem) = response.problem() else {
        let what = format!("the ACME server answers with status {}", response.status);
        let kind = match response.status {
            429 => ErrorKind::RateLimited,
            500.. => ErrorKind::Unavailable,
            _ => ErrorKind::BadResponse,
        };
        let retry = after.map_or(Retry::Backoff, Retry::After);
        // What stands in front of a CA may answer after the CA has done it.
        let effect = if response.status >= 500 { Effect::Unknown } else { Effect::None };
        return Error::new(kind, what)
            .with_retry(retry)
            .with_effect(effect)
            .with("url", &response.url)
            .with("status", response.status);
    };
    let error = of(&problem, response.status, response.at, after)
        .with("url", &response.url)
        .with("status", response.status);
    // What the problem itself names comes first: the headers of Let's Encrypt lead to what is general.
    let links = ["help", "terms-of-service"].into_iter().flat_map(|rel| response.links(rel));
    match links.filter_map(|link| whole_link(&link)).next() {
        Some(link) => error.with("link", link),
        None => error,
    }
}

/// Why an order, an authorization or a challenge came to nothing: whether another order can help.
pub(super) fn of_order(problem: &Problem, now: Timestamp) -> Error {
    let error = of(problem, 403, now, None);
    // What is wrong lies with the names' servers, and may be right the next time.
    let error = match &problem.kind {
        ProblemType::Dns
        | ProblemType::Connection
        | ProblemType::Tls
        | ProblemType::IncorrectResponse
        | ProblemType::Unauthorized
        | ProblemType::Caa
        | ProblemType::ServerInternal => error.with_retry(Retry::Backoff),
        _ => error,
    };
    error.with_effect(Effect::None)
}

fn of(problem: &Problem, status: u16, now: Timestamp, after: Option<Timestamp>) -> Error {
    let kind = kind(&problem.kind, status);
    let detail = problem.detail.as_deref().unwrap_or_default();
    let link = problem.instance.as_deref().and_then(whole_link).or_else(|| link_in(detail));
    let told = after.or_else(|| told_in(detail));
    let paused = kind == ErrorKind::RateLimited && told.is_none() && link.is_some() && is_paused(detail);
    let retry = match kind {
        _ if paused => Retry::Never,
        ErrorKind::RateLimited => Retry::After(told.unwrap_or(now + RATE_LIMIT_PAUSE).min(now + MAX_WAIT)),
        ErrorKind::Unavailable => after.map_or(Retry::Backoff, Retry::After),
        _ => Retry::Never,
    };
    let effect = if kind == ErrorKind::Unavailable { Effect::Unknown } else { Effect::None };
    let mut sentence = format!("the CA says: {}", problem.sentence());
    let remedy =
        if paused { Some("end the pause, at the link that it gives") } else { remedy(&problem.kind) };
    if let Some(remedy) = remedy {
        sentence = format!("{sentence}; {remedy}");
    }
    let kind_of_problem = shown(problem.kind.as_str(), 200);
    let error = Error::new(kind, sentence).with_retry(retry).with_effect(effect);
    let error = error.with("problem", kind_of_problem);
    match link {
        Some(link) => error.with("link", link),
        None => error,
    }
}

/// Whether the account may not order for some names until a person says so. Let's Encrypt does that to names whose validation
/// failed a thousand times in a row; its sentence has no time, for none helps: "Your account is temporarily prevented from
/// requesting certificates for ... Please visit: https://...".
fn is_paused(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    detail.contains("temporarily prevented") || detail.contains("pause")
}

/// The first link of a sentence for people.
fn link_in(detail: &str) -> Option<String> {
    let from = &detail[detail.find("https://")?..];
    let end = from.find(|c: char| !c.is_ascii_graphic() || "\"'<>`".contains(c)).unwrap_or(from.len());
    // The sentence's own marks are not the link's; a bracket is, where it has its partner in the link.
    let mut link = &from[..end];
    while let Some(last) = link.chars().next_back() {
        let partner = match last {
            ')' => Some('('),
            ']' => Some('['),
            '}' => Some('{'),
            '.' | ',' | ';' | ':' | '!' | '?' => None,
            _ => break,
        };
        if partner.is_some_and(|partner| link.matches(partner).count() >= link.matches(last).count()) {
            break;
        }
        link = &link[..link.len() - 1];
    }
    whole_link(link)
}

/// A link that a person can follow: one that is cut would lead nowhere, so it is whole or not there.
fn whole_link(link: &str) -> Option<String> {
    const MAX: usize = 2_048;
    let plain = link.len() <= MAX && link.bytes().all(|byte| byte.is_ascii_graphic());
    let url = reqwest::Url::parse(link).ok().filter(|_| plain)?;
    // What stands before an @ looks like a host, and is none.
    let honest = url.username().is_empty() && url.password().is_none();
    (honest && matches!(url.scheme(), "https" | "http")).then(|| link.to_owned())
}

/// The time in a sentence such as Boulder's, "... retry after 2027-01-31 12:00:00 UTC: see ...".
fn told_in(detail: &str) -> Option<Timestamp> {
    let (_, rest) = detail.split_once("retry after ")?;
    let (date, rest) = rest.split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    if !rest.starts_with("UTC") || date.len() > 10 || time.len() > 8 {
        return None;
    }
    format!("{date}T{time}Z").parse().ok()
}

fn kind(problem: &ProblemType, status: u16) -> ErrorKind {
    match problem {
        ProblemType::RateLimited => ErrorKind::RateLimited,
        ProblemType::ServerInternal | ProblemType::BadNonce => ErrorKind::Unavailable,
        ProblemType::AlreadyReplaced => ErrorKind::Conflict,
        ProblemType::Unauthorized | ProblemType::AccountDoesNotExist => ErrorKind::Denied,
        ProblemType::Malformed => ErrorKind::Precondition,
        _ if status == 429 => ErrorKind::RateLimited,
        _ if status >= 500 => ErrorKind::Unavailable,
        _ if status == 409 => ErrorKind::Conflict,
        _ => ErrorKind::Precondition,
    }
}

fn remedy(problem: &ProblemType) -> Option<&'static str> {
    Some(match problem {
        ProblemType::ExternalAccountRequired => "give eab_kid and eab_hmac, as the CA's dashboard shows them",
        ProblemType::UserActionRequired => "agree to the CA's new terms, at the link that it gives",
        ProblemType::InvalidContact | ProblemType::UnsupportedContact => "give another email",
        ProblemType::InvalidProfile => "leave profile out, or name one that the CA has",
        ProblemType::Caa => "allow the CA in the names' CAA records",
        ProblemType::Dns => "look whether the names have the records that the challenge needs",
        ProblemType::Connection => "let the CA reach the names' addresses on the challenge's port",
        _ => return None,
    })
}

/// Whether the server speaks of a nonce that it does not know.
pub(super) fn is_bad_nonce(response: &Response) -> bool {
    response.status >= 400 && response.problem().is_some_and(|problem| problem.kind == ProblemType::BadNonce)
}

/// The nonce for the next request.
pub(super) fn nonce(response: &Response) -> Option<String> {
    let value = response.header(header::HeaderName::from_static("replay-nonce"))?;
    headers::nonce(value).map(str::to_owned)
}
