//! Signed requests, with their nonces.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use certctl_core::{Context, Effect, Env, Error, ErrorKind, Result, Retry, Signer, Timestamp};
use certctl_protocols::{
    acme::wire::{Directory, ProblemType},
    jose::{HeaderKey, Jwk, Jws},
};
use reqwest::Method;
use serde::Serialize;

use super::{
    Acme,
    account::Registered,
    problem,
    transport::{Request, Response, Transport},
};

/// One CA, one account.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) config: Acme,
    pub(super) env: Env,
    pub(super) transport: Transport,
    pub(super) directory: Mutex<Option<(Arc<Directory>, Timestamp)>>,
    pub(super) account: tokio::sync::Mutex<Option<Arc<Registered>>>,
    /// The newest last.
    nonces: Mutex<VecDeque<String>>,
    /// Tells this process's presentations of challenges from those of one before it.
    pub(super) run: String,
}

/// How often a request is signed anew because the server does not know its nonce: against a server that refuses one in four,
/// once in a million requests this is not enough.
const NONCE_TRIES: usize = 10;
/// More are not kept: old ones are the first that a server forgets.
const MAX_NONCES: usize = 64;
const JOSE_JSON: &str = "application/jose+json";

/// Who signs.
pub(super) enum By<'a> {
    /// The account.
    Account(&'a Registered),
    /// A key that the server does not know, or that proves something by itself.
    Key(&'a dyn Signer),
}

impl Client {
    pub(super) async fn new(config: Acme, env: Env) -> Result<Self> {
        let transport = Transport::new(&env, config.ca_file.as_ref()).await?;
        let run: [u8; 8] = certctl_core::random_bytes();
        Ok(Self {
            config,
            env,
            transport,
            directory: Mutex::default(),
            account: tokio::sync::Mutex::default(),
            nonces: Mutex::default(),
            run: run.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Sends a signed request. A nonce that the server does not know is replaced, and the request signed again.
    ///
    /// # Errors
    /// What the server refuses it for.
    pub(super) async fn post(
        &self,
        cx: &Context,
        url: &str,
        payload: &impl Serialize,
        by: By<'_>,
    ) -> Result<Response> {
        let payload = serde_json::to_vec(payload)
            .map_err(|e| Error::internal("a request has no JSON form").with_source(e))?;
        self.post_bytes(cx, url, &payload, by, "application/json").await
    }

    /// Reads a resource (POST-as-GET, RFC 8555 section 6.3).
    pub(super) async fn read(
        &self,
        cx: &Context,
        url: &str,
        account: &Registered,
        accept: &'static str,
    ) -> Result<Response> {
        self.post_bytes(cx, url, b"", By::Account(account), accept).await
    }

    async fn post_bytes(
        &self,
        cx: &Context,
        url: &str,
        payload: &[u8],
        by: By<'_>,
        accept: &'static str,
    ) -> Result<Response> {
        let refused = match self.post_signed(cx, url, payload, &by, accept).await {
            Err(e) if disowns_signer(&e) => e,
            answer => return answer,
        };
        let By::Account(used) = by else { return Err(refused) };
        // Another process may have changed the account's key.
        match Box::pin(self.changed(cx, used)).await {
            Ok(Some(account)) => self.post_signed(cx, url, payload, &By::Account(&account), accept).await,
            _ => Err(refused),
        }
    }

    async fn post_signed(
        &self,
        cx: &Context,
        url: &str,
        payload: &[u8],
        by: &By<'_>,
        accept: &'static str,
    ) -> Result<Response> {
        let mut last = None;
        for _ in 0..NONCE_TRIES {
            let nonce = self.nonce(cx).await?;
            let (signer, key): (&dyn Signer, _) = match by {
                By::Account(account) => (&account.key, HeaderKey::Kid(account.url.clone())),
                By::Key(signer) => (*signer, HeaderKey::Jwk(Jwk::from_public_key(signer.public_key())?)),
            };
            let jws = Jws::sign(signer, Some(nonce), url, key, payload).await?;
            let body = serde_json::to_vec(&jws)
                .map_err(|e| Error::internal("a signature has no JSON form").with_source(e))?;
            let request =
                Request { body: Some((JOSE_JSON, body)), accept, ..Request::new(Method::POST, url) };
            let response = self.transport.send(request, &self.env).await?;
            self.keep_nonce(&response);
            if !problem::is_bad_nonce(&response) {
                return response.accepted();
            }
            last = Some(response);
        }
        let url = last.as_ref().map_or(url, |response| response.url.as_str());
        // The requests were refused, every one of them.
        Err(Error::unavailable(format!("the ACME server refused {NONCE_TRIES} of its own nonces in a row"))
            .with_retry(Retry::Backoff)
            .with_effect(Effect::None)
            .with("problem", ProblemType::BadNonce.to_string())
            .with("url", url))
    }

    /// The one that was given last: a server forgets the oldest first.
    async fn nonce(&self, cx: &Context) -> Result<String> {
        if let Some(nonce) = self.nonces().pop_back() {
            return Ok(nonce);
        }
        let url = self.directory(cx).await?.new_nonce.clone();
        // RFC 8555 section 7.2: HEAD answers 200, GET 204.
        let response = self.transport.send(Request::new(Method::HEAD, &url), &self.env).await;
        // Nothing was asked for but a nonce.
        let response = response
            .map_err(|e| e.with_effect(Effect::None))?
            .accepted()
            .map_err(|e| e.with_effect(Effect::None))?;
        problem::nonce(&response).ok_or_else(|| {
            Error::new(ErrorKind::BadResponse, "the ACME server gives no nonce where it should")
                .with_retry(Retry::Backoff)
                .with("url", url)
        })
    }

    fn keep_nonce(&self, response: &Response) {
        let Some(nonce) = problem::nonce(response) else { return };
        let mut nonces = self.nonces();
        if nonces.len() >= MAX_NONCES {
            nonces.pop_front();
        }
        nonces.push_back(nonce);
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server may not know the key that signed: CAs say it in different ways.
fn disowns_signer(error: &Error) -> bool {
    const KINDS: [&str; 4] =
        [":malformed", ":unauthorized", ":accountDoesNotExist", ":badSignatureAlgorithm"];
    let problem = error.context_value("problem").unwrap_or_default();
    KINDS.iter().any(|kind| problem.ends_with(kind))
}
