use std::{path::PathBuf, sync::Arc, time::Duration};

use certctl_core::{Clock, Error, ErrorKind, Result, Secret, SystemClock};
use reqwest::Url;
use serde::de::DeserializeOwned;

use crate::transport::{Answer, Call, Transport};

/// A certctl server, for programs. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Arc<Transport>,
    token: Option<Secret>,
}

/// Builds a [`Client`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    roots: Roots,
    api_key: Option<Secret>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    connect_timeout: Duration,
    tries: u32,
}

/// Whose word is taken for the server's name.
#[derive(Clone, Debug)]
enum Roots {
    Platform,
    File(PathBuf),
    Pem(String),
}

impl Client {
    /// A client of the server at this URL, such as `https://localhost:8443`; a path before `/api/v1` is kept.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            roots: Roots::Platform,
            api_key: None,
            clock: Arc::new(SystemClock),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            tries: 4,
        }
    }

    /// The same server, spoken to with another credential: an API key, or the token of an agent's session.
    #[must_use]
    pub fn with_token(&self, token: Secret) -> Self {
        Self { transport: self.transport.clone(), token: Some(token) }
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        self.transport.base.as_str().trim_end_matches('/')
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.answer(call).await?.json()
    }

    pub(crate) async fn tell(&self, call: Call) -> Result<()> {
        self.answer(call).await.map(drop)
    }

    pub(crate) async fn answer(&self, call: Call) -> Result<Answer> {
        self.transport.call(self.token.as_ref(), &call).await
    }
}

impl ClientBuilder {
    /// Trusts the certificates in this PEM file, such as the server's `ca.pem`, and no others. It is read by
    /// [`ClientBuilder::build`].
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = Roots::File(path.into());
        self
    }

    /// Trusts these certificates (PEM), and no others.
    pub fn ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.roots = Roots::Pem(pem.into());
        self
    }

    /// Who asks: what the server has in `admin.key`, or has answered to [`Client::create_api_key`].
    pub fn api_key(mut self, key: Secret) -> Self {
        self.api_key = Some(key);
        self
    }

    /// How long an answer may take, from the first byte sent to the last one read; 30 seconds by default. What is asked to
    /// wait may take that much longer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long it may take to connect; ten seconds by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How often at most a call is made whose error says that trying again may help, and whose repetition does no harm; four
    /// times by default, with growing pauses, of ten seconds at most. One is: never again.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// Another clock than this machine's, for the pauses.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Asks nobody: the server need not be there.
    ///
    /// # Errors
    /// `Invalid` if the URL is none, or not `https`, or the file has no certificate; `Precondition` if it can't be read.
    pub fn build(self) -> Result<Client> {
        let base = read_url(&self.url)?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("certctl/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            // A credential is for this server, and goes nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .tls_backend_rustls();
        http = match &self.roots {
            Roots::Platform => http,
            Roots::File(path) => {
                let shown = path.display();
                let pem = std::fs::read(path).map_err(|e| {
                    Error::new(ErrorKind::Precondition, format!("the CA's file {shown} can't be read"))
                        .with("file", &shown)
                        .with_source(e)
                })?;
                http.tls_certs_only(certificates(&pem, &format!("there is no certificate in {shown}"))?)
            }
            Roots::Pem(pem) => {
                http.tls_certs_only(certificates(pem.as_bytes(), "there is no certificate in the text")?)
            }
        };
        let http =
            http.build().map_err(|e| Error::internal("the HTTP client can't be built").with_source(e))?;
        let transport = Transport { http, base, clock: self.clock, timeout: self.timeout, tries: self.tries };
        Ok(Client { transport: Arc::new(transport), token: self.api_key })
    }
}

fn certificates(pem: &[u8], none: &str) -> Result<Vec<reqwest::Certificate>> {
    let roots = reqwest::Certificate::from_pem_bundle(pem).unwrap_or_default();
    if roots.is_empty() {
        let remedy = "name a PEM file with the root of the server's CA, such as its ca.pem";
        return Err(Error::invalid_field("/ca_file", none, remedy));
    }
    Ok(roots)
}

fn read_url(text: &str) -> Result<Url> {
    let bad = |message: String| {
        Error::invalid_field("/server_url", message, "write it like https://certctl.example.com:8443")
    };
    let url = Url::parse(text.trim()).map_err(|_| bad(format!("{text:?} is no URL")))?;
    if url.scheme() != "https" {
        return Err(bad(format!(
            "{text:?} does not begin with https://, and a certctl server speaks nothing else"
        )));
    }
    if url.host_str().is_none_or(str::is_empty) || url.query().is_some() || url.fragment().is_some() {
        return Err(bad(format!("{text:?} is not a server's address alone")));
    }
    // Not repeated: it may have a password in it.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("the server's URL has a user in it, which is not how one signs in".to_owned()));
    }
    Ok(url)
}
