//! Notifications as HTTP requests to an address of the operator's.

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use certctl_core::{
    Context, Effect, Env, Error, ErrorKind, Notification, Notifier, NotifierCapabilities, Result, Retry,
    Secret, SecretRef, Violation, connectors::NotifierConfig, host::HostPath,
};
use reqwest::{Url, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

/// For one request, from the first byte sent to the status.
const DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const MAX_CA_FILE: u64 = 1 << 20;
const USER_AGENT: &str = concat!("certctl/", env!("CARGO_PKG_VERSION"));
/// The signature's header: `t=SECONDS,v1=HEX`.
const SIGNATURE: &str = "certctl-signature";
/// The notification's id: the same when the same is sent again.
const DELIVERY: &str = "certctl-delivery";

/// Posts each notification as JSON.
///
/// With a secret, the header `Certctl-Signature: t=SECONDS,v1=HEX` proves where it comes from: the HMAC-SHA256 of the
/// seconds, a full stop, and the body. Whoever checks it refuses what is older than some minutes. The header
/// `Certctl-Delivery` has the notification's id, by which one that comes twice is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where to: `https`, or `http` on this machine.
    pub url: String,
    /// What each request is signed with; none leaves it unsigned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// A file with the certificates that the server's has to come from; by default those that this machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<HostPath>,
}

impl NotifierConfig for Webhook {
    const KIND: &'static str = "webhook";
    const ALIASES: &'static [&'static str] = &["Webhook"];

    fn check(&self) -> Vec<Violation> {
        check_url(&self.url).err().into_iter().collect()
    }

    fn connect(self, env: Env) -> Result<Arc<dyn Notifier>> {
        let url = check_url(&self.url).map_err(|violation| Error::invalid(vec![violation]))?;
        Ok(Arc::new(Hook { config: self, url, env, client: OnceCell::new() }))
    }
}

#[derive(Debug)]
struct Hook {
    config: Webhook,
    url: Url,
    env: Env,
    /// Built when it is first needed: a file is read for it.
    client: OnceCell<reqwest::Client>,
}

#[async_trait]
impl Notifier for Hook {
    fn kind(&self) -> &str {
        Webhook::KIND
    }

    fn capabilities(&self) -> NotifierCapabilities {
        NotifierCapabilities { idempotent: false, recipients: false }
    }

    async fn notify(&self, cx: &Context, notification: &Notification) -> Result<()> {
        self.capabilities().check(self.kind(), notification)?;
        let body = serde_json::to_vec(notification)
            .map_err(|e| Error::internal("a notification has no JSON form").with_source(e))?;
        let client = self.client.get_or_try_init(|| client(&self.config, &self.env)).await?;
        let mut request = client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(DELIVERY, notification.id.as_str());
        if let Some(secret) = &self.config.secret {
            let secret = self.env.secret("secret", secret).await?;
            request = request.header(SIGNATURE, signature(&secret, cx.clock.now().as_secs(), &body));
        }
        let answer = request.body(body).send().await.map_err(|e| self.unreachable(e))?;
        self.judge(cx, &answer)
    }
}

impl Hook {
    /// What the status says; the body is nobody's business.
    fn judge(&self, cx: &Context, answer: &reqwest::Response) -> Result<()> {
        let status = answer.status().as_u16();
        let said = format!("the webhook at {} answers with status {status}", self.host());
        let error = match status {
            200..300 => return Ok(()),
            300..400 => {
                let message = format!("{said}, a redirect, which is not followed");
                Error::invalid_field("/url", message, "give the address that it redirects to")
            }
            401 | 403 => Error::new(ErrorKind::Denied, said),
            408 => Error::unavailable(said),
            429 => Error::new(ErrorKind::RateLimited, said),
            400..500 => Error::invalid_field("/url", said, "look there why it refuses the notification"),
            // It may have been taken in all the same.
            _ => Error::unavailable(said).with_effect(Effect::Unknown),
        };
        let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let seconds: Option<u32> = after.and_then(|value| value.trim().parse().ok());
        Err(match seconds {
            Some(seconds) if error.retry() != Retry::Never => {
                error.with_retry(Retry::After(cx.clock.now() + Duration::from_secs(seconds.into())))
            }
            _ => error,
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let why = if error.is_timeout() {
            "it takes too long"
        } else if error.is_connect() {
            "no connection"
        } else {
            "the connection broke"
        };
        let effect = if error.is_connect() { Effect::None } else { Effect::Unknown };
        Error::unavailable(format!("the webhook at {} can't be reached: {why}", self.host()))
            .with_effect(effect)
            .with_source(error.without_url())
    }

    /// Without the path, which may be as good as a password.
    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

async fn client(config: &Webhook, env: &Env) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        // The operator has named one address, and has not vouched for any other.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(DEADLINE)
        .tls_backend_rustls();
    if let Some(path) = &config.ca_file {
        let about = |e: Error| e.during("reading ca_file").with("file", path);
        let host = env.hosts.host(None).await.map_err(about)?;
        let pem = host.read(path, MAX_CA_FILE).await.map_err(about)?;
        let roots = reqwest::Certificate::from_pem_bundle(pem.expose()).unwrap_or_default();
        if roots.is_empty() {
            let message = format!("there is no certificate in {path}");
            return Err(Error::invalid_field("/ca_file", message, "name a PEM file with the CA's root"));
        }
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(|e| Error::internal("the HTTP client can't be built").with_source(e))
}

fn signature(secret: &Secret, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let hex: String = signing.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

fn check_url(text: &str) -> Result<Url, Violation> {
    let wrong = |message: &str, remedy: &str| Violation::new("/url", message, remedy);
    if text.is_empty() {
        return Err(wrong("the address is missing", "write it like https://hooks.example.com/certctl"));
    }
    let url = Url::parse(text)
        .map_err(|_| wrong("this is no URL", "write it like https://hooks.example.com/certctl"))?;
    if !url.username().is_empty() || url.password().is_some() {
        let remedy = "leave them out: the secret proves where a notification comes from";
        return Err(wrong("the address has a user name or a password in it", remedy));
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(wrong("the address is neither https nor on this machine", "use https")),
    }
}
