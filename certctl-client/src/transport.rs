//! One request and its answer: limits, errors, and trying again.

use std::{fmt, sync::Arc, time::Duration};

use certctl_core::{Clock, Effect, Error, ErrorKind, Result, Retry, Secret, Timestamp};
use reqwest::{Method, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::types::Problem;

/// The largest answer: a page of a thousand certificates has about two MiB.
const MAX_ANSWER: usize = 32 << 20;
/// The pause before the second try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// No pause is longer: who has to wait longer is told so.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What all clones of a client share, whoever they speak for.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) http: reqwest::Client,
    /// Ends with a slash.
    pub(crate) base: Url,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Value>,
    if_match: Option<u64>,
    accept: &'static str,
    /// How much longer than usual the answer may take.
    patience: Duration,
    /// Whether doing it twice is as good as once.
    repeatable: bool,
}

impl Call {
    pub(crate) fn get<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, path, true)
    }

    pub(crate) fn post<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::POST, path, false)
    }

    pub(crate) fn put<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::PUT, path, true)
    }

    pub(crate) fn delete<'a>(path: impl IntoIterator<Item = &'a str>) -> Self {
        // What is gone is not found the second time.
        Self::new(Method::DELETE, path, false)
    }

    fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>, repeatable: bool) -> Self {
        Self {
            method,
            path: path.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            body: None,
            if_match: None,
            accept: "application/json",
            patience: Duration::ZERO,
            repeatable,
        }
    }

    /// The fields that have a value, as the query.
    pub(crate) fn query(mut self, filter: &impl Serialize) -> Result<Self> {
        let Value::Object(fields) = json(filter)? else {
            return Err(Error::internal("a query has fields"));
        };
        for (name, value) in fields {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.query.push((name, text));
        }
        Ok(self)
    }

    pub(crate) fn body(mut self, body: &impl Serialize) -> Result<Self> {
        self.body = Some(json(body)?);
        Ok(self)
    }

    pub(crate) fn if_match(mut self, revision: Option<u64>) -> Self {
        self.if_match = revision;
        // If the first time did it, the second one would be told that the revision is another one.
        self.repeatable &= revision.is_none();
        self
    }

    pub(crate) fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Says that a repetition of this POST is as good as one.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    fn url(&self, base: &Url) -> Result<Url> {
        let mut url = base.clone();
        {
            let mut segments =
                url.path_segments_mut().map_err(|()| Error::internal("the server's URL has no path"))?;
            segments.pop_if_empty().extend(["api", "v1"]);
            for segment in &self.path {
                // An URL would lose these.
                if segment.is_empty() || matches!(segment.as_str(), "." | "..") {
                    return Err(Error::invalid_field(
                        "",
                        format!("{segment:?} is neither an id nor a name"),
                        "give the id or the name",
                    ));
                }
                segments.push(segment);
            }
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

/// An answer that is no refusal.
pub(crate) struct Answer {
    url: Url,
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            // The parser quotes what it read: that may be a credential.
            let why = format!("line {}, column {}, {:?}", e.line(), e.column(), e.classify());
            bad_answer(
                &self.url,
                format!("its answer (status {}) does not read: {why}", self.status.as_u16()),
            )
        })
    }

    pub(crate) fn text(self) -> Result<String> {
        String::from_utf8(self.body).map_err(|_| bad_answer(&self.url, "its answer is no text"))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} bytes)", self.status.as_u16(), self.url, self.body.len())
    }
}

impl Transport {
    /// Asks, as often as that makes sense.
    pub(crate) async fn call(&self, token: Option<&Secret>, call: &Call) -> Result<Answer> {
        let mut tried = 0;
        loop {
            tried += 1;
            let error = match self.send(token, call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match self.pause_before_again(call, &error, tried) {
                Some(pause) => {
                    tracing::debug!(%error, ?pause, "asking the server again");
                    self.clock.pause(pause).await;
                }
                None => return Err(error),
            }
        }
    }

    fn pause_before_again(&self, call: &Call, error: &Error, tried: u32) -> Option<Duration> {
        let passes = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::RateLimited);
        let harmless = call.repeatable || error.effect() == Effect::None;
        if tried >= self.tries || !passes || !harmless {
            return None;
        }
        let growing = FIRST_PAUSE.saturating_mul(1 << (tried - 1).min(10)).min(LONGEST_PAUSE);
        // Between half and the whole: those who failed together do not come back together.
        let [byte] = certctl_core::random_bytes::<1>();
        let jittered = growing.mul_f64(0.5 + f64::from(byte) / 510.0);
        match error.retry() {
            Retry::Never => None,
            Retry::Backoff => Some(jittered),
            Retry::After(at) => {
                let told = at.since(self.clock.now());
                (told <= LONGEST_PAUSE).then(|| told.max(jittered))
            }
        }
    }

    async fn send(&self, token: Option<&Secret>, call: &Call) -> Result<Answer> {
        let url = call.url(&self.base)?;
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .timeout(self.timeout + call.patience)
            .header(header::ACCEPT, format!("{}, {}", call.accept, Problem::MEDIA_TYPE));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, bearer(token)?);
        }
        if let Some(revision) = call.if_match {
            // None must be there, for a revision of zero (RFC 9110 section 13.1.2).
            request = match revision {
                0 => request.header(header::IF_NONE_MATCH, "*"),
                revision => request.header(header::IF_MATCH, format!("\"{revision}\"")),
            };
        }
        if let Some(body) = &call.body {
            let bytes = serde_json::to_vec(body).map_err(|e| Error::internal("no JSON").with_source(e))?;
            request = request.header(header::CONTENT_TYPE, "application/json").body(bytes);
        }
        let unreachable = |e: reqwest::Error| unreachable_server(e, &url);
        let mut answer = request.send().await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(bad_answer(&url, format!("its answer has more than {} MiB", MAX_ANSWER >> 20)));
            }
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok(Answer { url, status, body });
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_problem =
            text(header::CONTENT_TYPE).is_some_and(|given| given.starts_with(Problem::MEDIA_TYPE));
        if is_problem && let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
            return Err(problem.into());
        }
        let after =
            text(header::RETRY_AFTER).and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
        Err(without_problem(&url, status, after.map(|after| self.clock.now() + after)))
    }
}

fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::internal("the request can't be written as JSON").with_source(e))
}

fn bearer(token: &Secret) -> Result<header::HeaderValue> {
    let unusable = || {
        Error::new(
            ErrorKind::Unauthenticated,
            "the API key has characters that no API key has: it may be cut, or a file's name",
        )
    };
    let text = token.expose_str().map_err(|_| unusable())?.trim();
    let mut value = header::HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whoever answers without a problem document is no certctl server, or stands before one.
fn without_problem(url: &Url, status: StatusCode, after: Option<Timestamp>) -> Error {
    let said = format!("{url} answers with status {} and nothing that says why", status.as_u16());
    let error = match status {
        StatusCode::UNAUTHORIZED => Error::new(ErrorKind::Unauthenticated, said),
        StatusCode::FORBIDDEN => Error::new(ErrorKind::Denied, said),
        StatusCode::TOO_MANY_REQUESTS => Error::new(ErrorKind::RateLimited, said),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Error::unavailable(said).with_effect(Effect::Unknown)
        }
        _ => bad_answer(url, format!("it has status {} and nothing that says why", status.as_u16())),
    };
    let error = match after {
        Some(at) if error.retry() != Retry::Never => error.with_retry(Retry::After(at)),
        _ => error,
    };
    error.with("status", status.as_u16())
}

fn bad_answer(url: &Url, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::BadResponse, format!("{url} does not answer as a certctl server does: {why}"))
        .with_effect(Effect::Unknown)
}

fn unreachable_server(error: reqwest::Error, url: &Url) -> Error {
    let host = url.host_str().unwrap_or_default();
    let at = url.port_or_known_default().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let why = if error.is_connect() && is_about_trust(&error) {
        "its certificate is not to be trusted: is this its CA's file, and one of its names?"
    } else if error.is_timeout() {
        "it takes too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    let effect = if error.is_connect() { Effect::None } else { Effect::Unknown };
    let unreachable = Error::unavailable(format!("the server at {at} can't be reached: {why}"))
        .with_effect(effect)
        .with("url", url);
    let trust = error.is_connect() && is_about_trust(&error);
    let unreachable =
        if trust { unreachable.with_retry(Retry::Never).with("reason", "trust") } else { unreachable };
    unreachable.with_source(error.without_url())
}

/// Whether it is the server's certificate that keeps a connection from coming about.
fn is_about_trust(error: &reqwest::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        // The TLS library's type is several crates away; its words are these.
        if cause.to_string().contains("invalid peer certificate") {
            return true;
        }
        next = cause.source();
    }
    false
}
