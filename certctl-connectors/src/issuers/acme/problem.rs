//! What the CA's problem documents (RFC 8555 section 6.7) mean for whoever asked.

use std::time::Duration;

use certctl_core::{Effect, Error, ErrorKind, Retry, Timestamp};
use certctl_protocols::acme::wire::{Problem, ProblemType};
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
    // Let's Encrypt and others say by this where a person can read more, or agree to something.
    let help = response.links("help").into_iter().next();
    match problem.instance.clone().or(help).or_else(|| response.links("terms-of-service").into_iter().next())
    {
        Some(link) => error.with("link", shown(&link, 500)),
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
    let retry = match (kind, after) {
        (ErrorKind::RateLimited, after) => {
            let told = after.or_else(|| told_in(problem.detail.as_deref()?));
            Retry::After(told.unwrap_or(now + RATE_LIMIT_PAUSE).min(now + MAX_WAIT))
        }
        (ErrorKind::Unavailable, after) => after.map_or(Retry::Backoff, Retry::After),
        _ => Retry::Never,
    };
    let effect = if kind == ErrorKind::Unavailable { Effect::Unknown } else { Effect::None };
    let mut sentence = format!("the CA says: {}", problem.sentence());
    if let Some(remedy) = remedy(&problem.kind) {
        sentence = format!("{sentence}; {remedy}");
    }
    let kind_of_problem = shown(problem.kind.as_str(), 200);
    Error::new(kind, sentence).with_retry(retry).with_effect(effect).with("problem", kind_of_problem)
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

/// The nonce for the next request (RFC 8555 section 6.5.1).
pub(super) fn nonce(response: &Response) -> Option<String> {
    let name = header::HeaderName::from_static("replay-nonce");
    let nonce = response.header(name)?;
    let fits = (1..=512).contains(&nonce.len())
        && nonce.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    fits.then(|| nonce.to_owned())
}
