//! Requests to the CA's server, with limits on everything that it can make larger or longer.

use std::time::Duration;

use certctl_core::{Effect, Env, Error, ErrorKind, Result, Retry, Timestamp, host::HostPath};
use certctl_protocols::acme::wire::{Problem, headers};
use reqwest::{Method, header, header::HeaderMap};

use super::problem;

/// For one request, from the first byte sent to the last one read.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Chains are the longest answers; 100 authorizations of one order have about 20 KiB.
pub(super) const MAX_BODY: usize = 512 << 10;
const MAX_CA_FILE: u64 = 1 << 20;
/// RFC 8555 section 6.1 wants one.
const USER_AGENT: &str = concat!("certctl/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
}

/// What the server answered.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) url: String,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// When it was read.
    pub(super) at: Timestamp,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a str,
    /// Content type and body.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
    pub(super) accept: &'static str,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, url: &'a str) -> Self {
        Self { method, url, body: None, accept: "application/json" }
    }
}

impl Transport {
    pub(super) async fn new(env: &Env, ca_file: Option<&HostPath>) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .https_only(true)
            // A server that moved says so to a person: a signed request names its URL, and is for no other.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE)
            .tls_backend_rustls();
        if let Some(path) = ca_file {
            let about = |e: Error| e.during("reading ca_file").with("file", path);
            let pem =
                env.hosts.host(None).await.map_err(about)?.read(path, MAX_CA_FILE).await.map_err(about)?;
            let roots = reqwest::Certificate::from_pem_bundle(pem.expose()).unwrap_or_default();
            if roots.is_empty() {
                return Err(Error::invalid_field(
                    "/ca_file",
                    format!("there is no certificate in {path}"),
                    "name a PEM file with the CA's root",
                ));
            }
            builder = builder.tls_certs_only(roots);
        }
        let client =
            builder.build().map_err(|e| Error::internal("the HTTP client can't be built").with_source(e))?;
        Ok(Self { client })
    }

    /// Sends, and reads the whole answer. That the server refuses is no error here.
    ///
    /// # Errors
    /// `Unavailable` if there is no answer, `BadResponse` if it is too large or a redirect. The effect is unknown unless no
    /// connection came about.
    pub(super) async fn send(&self, request: Request<'_>, env: &Env) -> Result<Response> {
        let url = check_url(request.url)?;
        let mut builder = self.client.request(request.method, url).header(header::ACCEPT, request.accept);
        if let Some((content_type, body)) = request.body {
            builder = builder.header(header::CONTENT_TYPE, content_type).body(body);
        }
        let failed = |e: reqwest::Error| unreachable_server(e, request.url);
        let mut answer = builder.send().await.map_err(failed)?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        if (300..400).contains(&status) {
            let to = headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let to = shown(to, 200);
            return Err(bad(request.url, format!("it redirects to {to:?}, which is not followed")));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > MAX_BODY {
                return Err(bad(request.url, format!("its answer has more than {} KiB", MAX_BODY >> 10)));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Response { url: request.url.to_owned(), status, headers, body, at: env.clock.now() })
    }
}

impl Response {
    /// Itself, unless it says that the request was refused.
    ///
    /// # Errors
    /// What the server's problem document says.
    pub(super) fn accepted(self) -> Result<Self> {
        match self.status {
            200..300 => Ok(self),
            _ => Err(problem::error(&self)),
        }
    }

    /// # Errors
    /// `BadResponse` if it is no JSON, or not what is expected.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T> {
        if !self.is("application/json") && !self.is("application/problem+json") {
            return Err(self.not(what));
        }
        serde_json::from_slice(&self.body).map_err(|e| {
            // The parser quotes what it read, at any length.
            let why = shown(&e.to_string(), 200);
            bad(&self.url, format!("its answer is not the {what} that was asked for ({why})"))
        })
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        if !self.is("application/problem+json") && !self.is("application/json") {
            return None;
        }
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether this is its content type; parameters are passed over.
    pub(super) fn is(&self, content_type: &str) -> bool {
        let given = self.header(header::CONTENT_TYPE).unwrap_or_default();
        given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(content_type)
    }

    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When the server wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Timestamp> {
        headers::retry_after(self.header(header::RETRY_AFTER)?, self.at)
    }

    /// The targets of its links with this relation (RFC 8288), on whatever host: for people.
    pub(super) fn links(&self, rel: &str) -> Vec<String> {
        let values = self.headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
        let links = headers::links(values).into_iter();
        links.filter(|link| link.rel == rel).filter_map(|link| self.resolve(&link.url)).collect()
    }

    /// Those that stay on this host: for requests.
    pub(super) fn own_links(&self, rel: &str) -> Vec<String> {
        let mut links = self.links(rel);
        links.retain(|link| *link != self.url && check_own(&self.url, link).is_ok());
        links.dedup();
        links
    }

    /// The resource that was made (RFC 9110 section 10.2.2).
    ///
    /// # Errors
    /// `BadResponse` if there is none, or it is elsewhere.
    pub(super) fn location(&self, what: &str) -> Result<String> {
        let location = self
            .header(header::LOCATION)
            .ok_or_else(|| bad(&self.url, format!("it does not say where the {what} is")))?;
        let url = self.resolve(location).ok_or_else(|| {
            bad(&self.url, format!("the {what} is at {:?}, which is no https URL", shown(location, 100)))
        })?;
        check_own(&self.url, &url)?;
        Ok(url)
    }

    pub(super) fn not(&self, what: &str) -> Error {
        let given = shown(self.header(header::CONTENT_TYPE).unwrap_or("no content type"), 100);
        bad(&self.url, format!("it answers with {given:?} (status {}) instead of the {what}", self.status))
    }

    /// URLs are absolute (RFC 8555 section 6.1), yet there are servers with relative links.
    fn resolve(&self, url: &str) -> Option<String> {
        let base = reqwest::Url::parse(&self.url).ok()?;
        let mut url = base.join(url).ok()?;
        // It would be signed, and not be sent.
        url.set_fragment(None);
        let url = url.to_string();
        check_url(&url).ok().map(|_| url)
    }
}

/// What the server gave as an address is as untrusted as all that it gives.
pub(super) fn check_url(url: &str) -> Result<reqwest::Url> {
    const MAX: usize = 2_048;
    // The parser mends what it can; but what is signed and what is asked for have to be the same.
    let plain = url.len() <= MAX && url.bytes().all(|byte| byte.is_ascii_graphic());
    match reqwest::Url::parse(url) {
        Ok(parsed)
            if plain
                && parsed.scheme() == "https"
                && parsed.username().is_empty()
                && parsed.password().is_none()
                && parsed.fragment().is_none() =>
        {
            Ok(parsed)
        }
        _ => {
            let why = "it names an address that is no plain https URL, or a very long one";
            Err(bad(&shown(url, 100), why))
        }
    }
}

/// What an answer names is on the host that answered: no server sends our requests to others. Where it is as a whole, its
/// directory says.
pub(super) fn check_own(answered: &str, url: &str) -> Result<()> {
    let (from, to) = (check_url(answered)?, check_url(url)?);
    if from.host_str() == to.host_str() {
        return Ok(());
    }
    let host = shown(to.host_str().unwrap_or_default(), 100);
    Err(bad(answered, format!("it names an address on another host, {host}, which is not asked")))
}

/// Foreign text for people: no control characters, nothing that changes the direction of writing, and not more than `max`
/// characters.
pub(super) fn shown(text: &str, max: usize) -> String {
    let harmless = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().filter(harmless).take(max).collect()
}

/// The other side does not keep to the protocol. Proxies and maintenance pages do that for a while.
pub(super) fn bad(url: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadResponse, format!("the ACME server does not answer as it should: {why}"))
        .with_retry(Retry::Backoff)
        .with_effect(Effect::Unknown)
        .with("url", url)
}

fn unreachable_server(error: reqwest::Error, url: &str) -> Error {
    let why = if error.is_timeout() {
        "it takes too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    let effect = if error.is_connect() { Effect::None } else { Effect::Unknown };
    Error::unavailable(format!("the ACME server can't be reached: {why}"))
        .with_effect(effect)
        .with("url", url)
        .with_source(error.without_url())
}
