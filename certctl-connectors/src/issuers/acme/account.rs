//! The account at the CA: made once, kept sealed, found again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use certctl_core::{
    Account, AccountInfo, Context, Effect, Error, ErrorKind, KeyAlgorithm, PrivateKey, Result, Retry, Secret,
    Timestamp,
};
use certctl_protocols::{
    acme::wire::{self, AccountStatus, AccountUpdate, Directory, KeyChange, NewAccount},
    jose::{HeaderKey, Jwk, Jws},
};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    client::{By, Client},
    transport::{Request, bad, shown},
};

/// The account as it signs.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) url: String,
    pub(super) key: PrivateKey,
}

/// The entry of the issuer's state, one for each directory. Wiped when dropped.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u16,
    directory_url: String,
    /// PEM.
    key: String,
    /// None until the CA has said so.
    url: Option<String>,
    /// What the CA was told last.
    email: Option<String>,
    /// PEM; while a change of keys is under way, or nobody has seen its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_key: Option<String>,
    /// Since when, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_since: Option<i64>,
    /// The key came from somewhere else, and is kept whatever the configuration says about keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
    /// Somebody has ended the account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

/// Each conflict means that somebody else has stored the account.
const MAX_CONFLICTS: usize = 16;
/// For so long a change of keys whose answer was lost may still arrive at the CA.
const CHANGE_UNDER_WAY: Duration = Duration::from_secs(600);

impl Client {
    /// The account; made if there is none, told the contact if that has changed.
    pub(super) async fn registered(&self, cx: &Context) -> Result<Arc<Registered>> {
        // One task registers, the others wait for it.
        let mut account = self.account.lock().await;
        if let Some(account) = &*account {
            return Ok(account.clone());
        }
        let registered = Arc::new(self.register(cx).await.map_err(|e| e.with_effect(Effect::None))?);
        *account = Some(registered.clone());
        Ok(registered)
    }

    /// For a CA that says it has no such account: the next call registers again, with the same key.
    pub(super) async fn forget_account(&self) -> Result<()> {
        let mut account = self.account.lock().await;
        *account = None;
        if let Some((mut stored, version)) = self.load().await?
            && stored.url.take().is_some()
        {
            self.save(&stored, Some(version)).await?;
        }
        Ok(())
    }

    /// The account as it is stored by now, if that is another one than what was signed with: another process may have changed
    /// its key.
    pub(super) async fn changed(&self, cx: &Context, used: &Registered) -> Result<Option<Arc<Registered>>> {
        // Whoever registers just now is the one who asks.
        let Ok(mut account) = self.account.try_lock() else { return Ok(None) };
        let stored = self.register(cx).await?;
        let same = stored.url == used.url && stored.key.public_key() == used.key.public_key();
        let stored = Arc::new(stored);
        *account = Some(stored.clone());
        Ok((!same).then_some(stored))
    }

    async fn register(&self, cx: &Context) -> Result<Registered> {
        for _ in 0..MAX_CONFLICTS {
            let (mut stored, mut version) = match self.load().await? {
                Some(known) => known,
                None => {
                    self.check_terms(&*self.directory(cx).await?)?;
                    let made = Stored {
                        version: 1,
                        directory_url: self.config.directory_url.clone(),
                        key: pem(&self.new_key(self.config.account_key_algorithm).await?)?,
                        url: None,
                        email: None,
                        next_key: None,
                        next_since: None,
                        imported: false,
                        ended: false,
                    };
                    // The key is kept before the CA hears of it, so that no account is lost.
                    match self.save(&made, None).await {
                        Ok(version) => (made, version),
                        Err(e) if e.kind() == ErrorKind::Conflict => continue,
                        Err(e) => return Err(e),
                    }
                }
            };
            if stored.ended {
                return Err(Error::new(
                    ErrorKind::Denied,
                    "the ACME account was ended: import another one, or a new private key to begin one with",
                ));
            }
            let before = stored.clone();
            if stored.next_key.is_some() {
                self.settle_keys(cx, &mut stored).await?;
            }
            let mut key = read_key(&stored.key)?;
            let wanted = self.config.account_key_algorithm;
            if stored.url.is_none() && !stored.imported && key.public_key().kind() != wanted.kind() {
                // No CA has taken it, and somebody has changed the configuration since.
                key = self.new_key(wanted).await?;
                stored.key = pem(&key)?;
                version = match self.save(&stored, Some(version)).await {
                    Ok(version) => version,
                    Err(e) if e.kind() == ErrorKind::Conflict => continue,
                    Err(e) => return Err(e),
                };
            }
            let email = self.config.email().map(str::to_owned);
            match stored.url.clone() {
                None => {
                    stored.url = Some(self.create(cx, &key).await?);
                    stored.email = email;
                }
                Some(url) if stored.email != email => {
                    let account = Registered { url, key: key.clone() };
                    self.tell_contact(cx, &account).await?;
                    stored.email = email;
                }
                Some(_) => {}
            }
            if stored.differs(&before) {
                match self.save(&stored, Some(version)).await {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::Conflict => continue,
                    Err(e) => return Err(e),
                }
            }
            let url = stored.url.clone().ok_or_else(|| Error::internal("an account without an address"))?;
            return Ok(Registered { url, key });
        }
        Err(stored_by_others())
    }

    /// Writes down how a change of keys has ended, whatever others have stored meanwhile.
    async fn conclude_change(&self, begun: &Stored, changed: bool) -> Result<()> {
        for _ in 0..MAX_CONFLICTS {
            let Some((mut stored, version)) = self.load().await? else { return Ok(()) };
            if changed && let Some(next) = &begun.next_key {
                stored.key.clone_from(next);
            }
            if stored.next_key == begun.next_key {
                stored.next_key = None;
                stored.next_since = None;
            }
            match self.save(&stored, Some(version)).await {
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                done => return done.map(drop),
            }
        }
        Err(stored_by_others())
    }

    /// Makes the account, or finds the one that has this key (RFC 8555 section 7.3.1).
    async fn create(&self, cx: &Context, key: &PrivateKey) -> Result<String> {
        let directory = self.directory(cx).await?;
        self.check_terms(&directory)?;
        let external_account_binding = match self.credentials(cx, &directory).await? {
            Some((kid, hmac)) => {
                let jwk = serde_json::to_vec(&Jwk::from_public_key(key.public_key())?)
                    .map_err(|e| Error::internal("a key has no JSON form").with_source(e))?;
                Some(Jws::hmac_sha256(&hmac, &kid, &directory.new_account, &jwk)?)
            }
            None => None,
        };
        let request = NewAccount {
            contact: self.contact(),
            terms_of_service_agreed: self.config.terms_of_service_agreed,
            only_return_existing: false,
            external_account_binding,
        };
        let response = self.post(cx, &directory.new_account, &request, By::Key(key)).await;
        let response = response.map_err(|e| e.during("making the ACME account"))?;
        let account: wire::Account = response.json("account")?;
        if account.status != AccountStatus::Valid {
            return Err(not_valid(&account.status));
        }
        response.location("account")
    }

    async fn tell_contact(&self, cx: &Context, account: &Registered) -> Result<()> {
        let update = AccountUpdate { contact: Some(self.contact()), ..AccountUpdate::default() };
        let response = self.post(cx, &account.url, &update, By::Account(account)).await;
        let account: wire::Account =
            response.map_err(|e| e.during("changing the ACME account's contact"))?.json("account")?;
        if account.status == AccountStatus::Valid { Ok(()) } else { Err(not_valid(&account.status)) }
    }

    /// After a change of keys whose end nobody saw: which of the two keys does the CA know?
    async fn settle_keys(&self, cx: &Context, stored: &mut Stored) -> Result<()> {
        let Some(next) = stored.next_key.clone() else { return Ok(()) };
        let next_key = read_key(&next)?;
        let question = NewAccount { only_return_existing: true, ..NewAccount::default() };
        let url = self.directory(cx).await?.new_account.clone();
        match self.post(cx, &url, &question, By::Key(&next_key)).await {
            Ok(_) => {
                stored.key = next;
                stored.next_key = None;
                stored.next_since = None;
            }
            // It does not know this one, or would never take it. The change may be on its way yet.
            Err(e) if is_refusal(&e) => {
                let since = Timestamp::from_millis(stored.next_since.unwrap_or_default());
                if cx.clock.now().since(since) > CHANGE_UNDER_WAY {
                    stored.next_key = None;
                    stored.next_since = None;
                }
            }
            Err(e) => return Err(e.during("finding out which key the ACME account has")),
        }
        Ok(())
    }

    fn contact(&self) -> Vec<String> {
        self.config.email().map(|email| format!("mailto:{email}")).into_iter().collect()
    }

    fn check_terms(&self, directory: &Directory) -> Result<()> {
        match &directory.meta.terms_of_service {
            Some(terms) if !self.config.terms_of_service_agreed => {
                let terms = shown(terms, 500);
                Err(Error::new(
                    ErrorKind::Precondition,
                    format!("the CA wants its terms of service agreed to: read {terms}, and set terms_of_service_agreed"),
                )
                .with("field", "/terms_of_service_agreed")
                .with("link", terms))
            }
            _ => Ok(()),
        }
    }

    /// For external account binding: configured, or fetched for the email.
    async fn credentials(&self, cx: &Context, directory: &Directory) -> Result<Option<(String, Secret)>> {
        if let (Some(kid), Some(hmac)) = (self.config.eab_kid(), &self.config.eab_hmac) {
            let key = self.env.secret("eab_hmac", hmac).await?;
            return Ok(Some((kid.to_owned(), hmac_key(key.expose())?)));
        }
        if let Some(url) = self.config.credentials_url() {
            let Some(email) = self.config.email() else {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    "the CA binds accounts to an email address: give email, or eab_kid and eab_hmac",
                )
                .with("field", "/email"));
            };
            return self.fetch_credentials(cx, url, email).await.map(Some);
        }
        if directory.meta.external_account_required {
            return Err(Error::new(
                ErrorKind::Precondition,
                "the CA only takes accounts that are bound to one of its own: give eab_kid and eab_hmac, as its dashboard \
                 shows them",
            )
            .with("field", "/eab_kid"));
        }
        Ok(None)
    }

    async fn fetch_credentials(&self, _: &Context, url: &str, email: &str) -> Result<(String, Secret)> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            success: bool,
            #[serde(default)]
            eab_kid: String,
            #[serde(default)]
            eab_hmac_key: String,
        }
        let mut form = reqwest::Url::parse(url)
            .map_err(|_| Error::internal("the address of the credentials is no URL"))?;
        form.query_pairs_mut().clear().append_pair("email", email);
        let body = form.query().unwrap_or_default().as_bytes().to_vec();
        let request = Request {
            body: Some(("application/x-www-form-urlencoded", body)),
            ..Request::new(Method::POST, url)
        };
        let about = |e: Error| {
            e.with_effect(Effect::None).during("fetching credentials for external account binding")
        };
        let response =
            self.transport.send(request, &self.env).await.map_err(about)?.accepted().map_err(about)?;
        // Nothing of it is quoted: the key is in it.
        let mut answer: Answer = serde_json::from_slice(&response.body)
            .map_err(|_| about(bad(url, "its answer is not the credentials that were asked for")))?;
        let key = Secret::new(std::mem::take(&mut answer.eab_hmac_key));
        if !answer.success || answer.eab_kid.is_empty() || key.expose().is_empty() {
            return Err(about(Error::new(
                ErrorKind::BadResponse,
                "the CA gives none for this email: look at email, or give eab_kid and eab_hmac",
            )));
        }
        Ok((answer.eab_kid, hmac_key(key.expose())?))
    }

    /// RSA takes up to seconds: not on a thread that others need.
    async fn new_key(&self, algorithm: KeyAlgorithm) -> Result<PrivateKey> {
        tokio::task::spawn_blocking(move || PrivateKey::generate(algorithm))
            .await
            .map_err(|e| Error::internal("making the account's key was interrupted").with_source(e))?
    }

    fn entry(&self) -> String {
        format!("account/{}", self.config.directory_url)
    }

    async fn load(&self) -> Result<Option<(Stored, u64)>> {
        let Some((value, version)) = self.env.state.load(&self.entry()).await? else { return Ok(None) };
        Ok(Some((Stored::read(&value)?, version)))
    }

    async fn save(&self, stored: &Stored, expected: Option<u64>) -> Result<u64> {
        self.env.state.save(&self.entry(), &stored.write()?, expected).await
    }

    async fn known(&self, cx: &Context) -> Result<(Stored, u64, Arc<Registered>)> {
        let registered = self.registered(cx).await?;
        let (stored, version) = self.load().await?.ok_or_else(|| Error::internal("the account is gone"))?;
        Ok((stored, version, registered))
    }
}

#[async_trait]
impl Account for Client {
    async fn describe(&self, cx: &Context) -> Result<AccountInfo> {
        let account = self.registered(cx).await?;
        let response = self.read(cx, &account.url, &account, "application/json").await?;
        let at_ca: wire::Account = response.json("account")?;
        Ok(AccountInfo {
            url: account.url.clone(),
            status: shown(at_ca.status.as_str(), 60),
            contact: at_ca.contact,
            key: account.key.public_key().clone(),
        })
    }

    async fn roll_key(&self, cx: &Context, algorithm: KeyAlgorithm) -> Result<()> {
        let (mut stored, version, account) = self.known(cx).await?;
        let directory = self.directory(cx).await?;
        let url = directory
            .key_change
            .as_deref()
            .ok_or_else(|| Error::unsupported("the CA changes no account keys"))?;
        let next = self.new_key(algorithm).await?;
        stored.next_key = Some(pem(&next)?);
        stored.next_since = Some(cx.clock.now().as_millis());
        // Kept before the CA hears of it: whichever of the two it knows in the end, it is there.
        self.save(&stored, Some(version)).await?;
        let change = KeyChange {
            account: account.url.clone(),
            old_key: Jwk::from_public_key(account.key.public_key())?,
        };
        let change = serde_json::to_vec(&change)
            .map_err(|e| Error::internal("a request has no JSON form").with_source(e))?;
        // RFC 8555 section 7.3.5: the inner signature is the new key's, without a nonce, for the same URL.
        let inner =
            Jws::sign(&next, None, url, HeaderKey::Jwk(Jwk::from_public_key(next.public_key())?), &change)
                .await?;
        let changed = self.post(cx, url, &inner, By::Account(&account)).await;
        // Whatever came of it: the next who needs the account finds out which key it has.
        *self.account.lock().await = None;
        match changed {
            Ok(_) => self.conclude_change(&stored, true).await,
            Err(e) => {
                if is_refusal(&e) {
                    self.conclude_change(&stored, false).await?;
                }
                Err(e.during("changing the ACME account's key"))
            }
        }
    }

    async fn deactivate(&self, cx: &Context) -> Result<()> {
        let account = self.registered(cx).await?;
        let update = AccountUpdate { status: Some(AccountStatus::Deactivated), ..AccountUpdate::default() };
        let response = self.post(cx, &account.url, &update, By::Account(&account)).await?;
        let account: wire::Account = response.json("account")?;
        if account.status == AccountStatus::Valid {
            return Err(Error::new(
                ErrorKind::BadResponse,
                "the CA says that the ACME account is still valid",
            ));
        }
        let mut account = self.account.lock().await;
        *account = None;
        for _ in 0..MAX_CONFLICTS {
            let Some((mut stored, version)) = self.load().await? else { return Ok(()) };
            stored.ended = true;
            match self.save(&stored, Some(version)).await {
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                done => return done.map(drop),
            }
        }
        Err(stored_by_others())
    }

    async fn export(&self, cx: &Context) -> Result<Secret> {
        self.known(cx).await?.0.write()
    }

    async fn import(&self, exported: &Secret) -> Result<()> {
        let mut account = self.account.lock().await;
        let stored = match Stored::read(exported) {
            Ok(stored) => stored,
            // A bare key is enough: the CA says which account it has.
            Err(_) => Stored {
                version: 1,
                directory_url: self.config.directory_url.clone(),
                key: pem(&PrivateKey::from_pem(exported)?)?,
                url: None,
                email: None,
                next_key: None,
                next_since: None,
                imported: true,
                ended: false,
            },
        };
        read_key(&stored.key)?;
        if stored.directory_url != self.config.directory_url {
            return Err(Error::invalid_field(
                "/directory_url",
                format!("the account is one of {}", stored.directory_url),
                "import it into an issuer of that CA",
            ));
        }
        // One that no CA knows, or that was ended, is none.
        let before = self.load().await?;
        let known = before.as_ref().is_some_and(|(before, _)| before.url.is_some() && !before.ended);
        let saved = match known {
            true => Err(Error::new(ErrorKind::Conflict, "")),
            false => self.save(&stored, before.map(|(_, version)| version)).await,
        };
        saved.map_err(|e| match e.kind() {
            ErrorKind::Conflict => Error::new(
                ErrorKind::Precondition,
                "there is an account for this directory already: import into a new issuer",
            ),
            _ => e,
        })?;
        *account = None;
        Ok(())
    }
}

impl Stored {
    /// In what is worth storing.
    fn differs(&self, other: &Self) -> bool {
        (&self.key, &self.url, &self.email, &self.next_key)
            != (&other.key, &other.url, &other.email, &other.next_key)
    }

    fn read(value: &Secret) -> Result<Self> {
        // The parser's own message could quote a key.
        let stored: Self = serde_json::from_slice(value.expose())
            .map_err(|_| Error::invalid_field("", "this is no exported ACME account", "export it again"))?;
        if stored.version != 1 {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("the ACME account was stored by a newer program (version {})", stored.version),
            ));
        }
        Ok(stored)
    }

    fn write(&self) -> Result<Secret> {
        // A vector that grows leaves copies of the keys behind.
        let mut out =
            Vec::with_capacity(2 * (self.key.len() + self.next_key.as_ref().map_or(0, String::len)) + 8_192);
        serde_json::to_writer(&mut out, self).map_err(|_| Error::internal("an account has no JSON form"))?;
        Ok(Secret::new(out))
    }
}

/// Whether the CA has said no, for certain.
fn is_refusal(error: &Error) -> bool {
    error.retry() == Retry::Never
        && error.effect() == Effect::None
        && error.kind() != ErrorKind::RateLimited
        && error.context_value("problem").is_some()
}

fn stored_by_others() -> Error {
    Error::new(ErrorKind::Conflict, "the ACME account is stored by others again and again")
}

fn pem(key: &PrivateKey) -> Result<String> {
    Ok(key.to_pem().expose_str()?.to_owned())
}

fn read_key(pem: &str) -> Result<PrivateKey> {
    PrivateKey::from_pem(&Secret::new(pem.as_bytes()))
}

fn hmac_key(text: &[u8]) -> Result<Secret> {
    use base64::{
        Engine,
        alphabet::{STANDARD, URL_SAFE},
        engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    };
    // CAs show it with and without padding, and a few in the other alphabet.
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let text = text.trim_ascii();
    let decoded = GeneralPurpose::new(&URL_SAFE, LENIENT)
        .decode(text)
        .or_else(|_| GeneralPurpose::new(&STANDARD, LENIENT).decode(text));
    match decoded {
        Ok(key) if !key.is_empty() => Ok(Secret::new(key)),
        _ => Err(Error::invalid_field(
            "/eab_hmac",
            "the HMAC key is not base64url",
            "copy it as the CA shows it",
        )),
    }
}

fn not_valid(status: &AccountStatus) -> Error {
    let status = shown(status.as_str(), 60);
    Error::new(ErrorKind::Denied, format!("the ACME account is {status}: use another issuer, or ask the CA"))
}
