//! What a certificate authority looks like to the engine.

use std::fmt::Debug;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Account, Chain, Context, Csr, Error, ErrorReport, Id, KeyAlgorithm, Lifetime, Result, Revocation,
    SolverSpec, SubjectAltName, Timestamp, X509Certificate,
    engine::plan,
    records::{Attempt, Profile},
};

/// A certificate authority. `submit` and `poll` are single bounded steps: an issuer never sleeps and never waits.
#[async_trait]
pub trait Issuer: Send + Sync + Debug {
    /// The connector's kind, such as `local`.
    fn kind(&self) -> &str;

    /// What it can do. What it can't is refused before it is asked.
    fn capabilities(&self) -> IssuerCapabilities;

    /// Asks for a certificate. The attempt is committed before this is called; an error whose effect is `Unknown`, or a
    /// crash, leads to [`Issuer::recover`], never to a second `submit` of the same attempt.
    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress>;

    /// Goes on with an order that was not finished. An order that has ended for the worse is [`Progress::Failed`]; an error
    /// says that this step could not be done. One that can't be tried again ends the order as well.
    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        let (_, _, _) = (cx, order, handle);
        Err(Error::internal(format!("the issuer kind {} gave a handle that it can't poll", self.kind())))
    }

    /// Finds out what became of an order whose answer was lost. `None` means that the CA knows nothing of it, so that it
    /// may be submitted.
    ///
    /// Called only if the capabilities do not say [`Recovery::None`].
    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>>;

    /// Revokes a certificate of this CA. That it is revoked already is success: an answer may have been lost.
    async fn revoke(&self, cx: &Context, revocation: &Revocation) -> Result<()> {
        let (_, _) = (cx, revocation);
        Err(Error::unsupported(format!("the issuer kind {} can't revoke", self.kind())))
    }

    /// The certificates that a relying party must trust to trust what this CA issues: its roots. Empty for a CA whose
    /// roots everybody has, or that does not say.
    async fn trust_anchors(&self, cx: &Context) -> Result<Vec<X509Certificate>> {
        let _ = cx;
        Ok(Vec::new())
    }

    /// The account that it has at its CA, where there is such a thing.
    fn account(&self) -> Option<&dyn Account> {
        None
    }

    /// When the CA wants this certificate renewed (RFC 9773), if it has an opinion.
    async fn renewal_window(&self, cx: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
        let (_, _) = (cx, chain);
        Ok(None)
    }
}

/// What an issuer can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerCapabilities {
    /// How a lost answer is found again.
    pub recovery: Recovery,
    /// Names of DNS servers, also as wildcards.
    pub dns: bool,
    /// Wildcard DNS names.
    pub wildcard: bool,
    /// IP addresses.
    pub ip: bool,
    /// Email addresses.
    pub email: bool,
    /// URIs.
    pub uri: bool,
    /// Whether the requester may choose the lifetime.
    pub lifetime: bool,
    /// Key algorithms that it certifies; empty for all.
    pub key_algorithms: Vec<KeyAlgorithm>,
    /// Whether it revokes.
    pub revoke: bool,
    /// Whether it has an opinion about when to renew: see [`Issuer::renewal_window`].
    #[serde(default)]
    pub renewal_info: bool,
}

/// How an issuer finds out what became of an order whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// The same order, submitted again, gives the same certificate.
    Idempotent,
    /// Orders can be searched for.
    Searchable,
    /// Not at all: a person has to look.
    None,
}

/// One attempt to obtain one certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The attempt, unique for ever: an idempotency key for those CAs that take one.
    pub attempt: Id<Attempt>,
    /// Randomness that was fixed with the attempt, so that a repeated local signing rebuilds the same certificate.
    pub seed: [u8; 20],
    /// When the attempt was made.
    pub created: Timestamp,
    /// The request.
    pub csr: Csr,
    /// The subject's common name; none leaves the subject empty.
    pub common_name: Option<String>,
    /// The names to certify.
    pub names: Vec<SubjectAltName>,
    /// What was asked for besides.
    pub profile: Profile,
    /// The certificate that this one replaces, if there is one.
    pub replaces: Option<Chain>,
}

impl Order {
    /// An order for what the request asks for, outside any engine.
    pub fn from_csr(csr: Csr, profile: Profile, now: Timestamp) -> Self {
        Self {
            attempt: Id::mint_at(now),
            seed: crate::random::bytes(),
            created: now,
            common_name: csr.common_name().map(str::to_owned),
            names: csr.names().to_vec(),
            csr,
            profile,
            replaces: None,
        }
    }
}

/// Obtains one certificate for a request, without an engine: asks, and polls as long as the CA says to wait.
///
/// # Errors
/// What the issuer gives, also as the end of the order; `Unsupported` if it wants challenges presented, which needs an engine;
/// `BadResponse` if it answers with a certificate for another key or other names.
pub async fn issue(issuer: &dyn Issuer, cx: &Context, csr: Csr, profile: Profile) -> Result<Chain> {
    let order = Order::from_csr(csr, profile, cx.clock.now());
    let capabilities = issuer.capabilities();
    capabilities.check(issuer.kind(), &order.names, None, order.profile.lifetime)?;
    let mut progress = issuer.submit(cx, &order).await?;
    let mut held: Option<Handle> = None;
    let mut at_once = 0;
    loop {
        progress = match progress {
            Progress::Issued { chain } => {
                let check = chain.check_issued(order.csr.public_key(), &order.names, cx.clock.now());
                check.map_err(|e| {
                    Error::new(crate::ErrorKind::BadResponse, format!("not what was asked for: {e}"))
                })?;
                return Ok(chain);
            }
            Progress::Waiting { handle, at } => {
                let now = cx.clock.now();
                if at <= now && held.as_ref() != Some(&handle) && at_once < plan::POLLS_AT_ONCE {
                    at_once += 1;
                } else {
                    at_once = 0;
                    cx.clock.sleep_until(plan::poll_at(at, now)).await;
                }
                held = Some(handle.clone());
                issuer.poll(cx, &order, handle).await?
            }
            Progress::Failed { error } => return Err(error.into()),
            Progress::Challenges { .. } => {
                return Err(Error::unsupported(format!(
                    "the issuer kind {} wants challenges presented: use an engine",
                    issuer.kind()
                )));
            }
        }
    }
}

/// What became of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Ask again with this handle, not before that time. With a handle that differs from the one before and a time that
    /// is not in the future, the handle is stored and asked for at once, a few times in a row at most
    /// ([`plan::POLLS_AT_ONCE`]); otherwise not within a second, and after a day at the latest ([`plan::poll_at`]).
    Waiting {
        /// What the CA gave to hold.
        handle: Handle,
        /// When to ask again.
        at: Timestamp,
    },
    /// Have these presented, then poll with this handle.
    Challenges {
        /// What the CA gave to hold.
        handle: Handle,
        /// What has to be shown, each by whoever the name points to.
        present: Vec<Challenge>,
    },
    /// Here it is.
    Issued {
        /// Leaf first.
        chain: Chain,
    },
    /// The order has ended without a certificate, such as an ACME order that became `invalid` (RFC 8555 section 7.1.6).
    Failed {
        /// Why. Its `retry` says whether another order may be made, and when.
        error: ErrorReport,
    },
}

/// What a CA gave to hold on to: an order URL, an id. Stored, and never looked into by the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The version of `state`'s form.
    pub version: u16,
    /// The issuer's own.
    pub state: Value,
}

/// What has to be shown to prove control over a name (RFC 8555 section 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The method.
    pub kind: ChallengeKind,
    /// The name.
    pub name: SubjectAltName,
    /// The token.
    pub token: String,
    /// The key authorization (RFC 8555 section 8.1).
    pub key_authorization: String,
    /// For challenges in the DNS: the record to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txt: Option<TxtRecord>,
    /// Who shows it, unless a solver of the process does; before those, if it is explicit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solver: Option<SolverSpec>,
}

/// One value of a TXT record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxtRecord {
    /// The record's full name without a dot at its end, such as `_acme-challenge.www.example.com`; where that is an alias,
    /// the name that it stands for.
    pub name: String,
    /// The value.
    pub value: String,
}

/// The challenge's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeKind {
    /// RFC 8555 section 8.3.
    #[serde(rename = "http-01")]
    Http01,
    /// RFC 8555 section 8.4.
    #[serde(rename = "dns-01")]
    Dns01,
    /// RFC 8737.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// draft-ietf-acme-dns-persist: a record that stays.
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
}

impl ChallengeKind {
    /// As it is written in ACME.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }

    /// Whether what is shown stays for the next order.
    pub const fn is_persistent(self) -> bool {
        matches!(self, Self::DnsPersist01)
    }
}

/// When a CA wants a certificate renewed (RFC 9773 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalWindow {
    /// Not before.
    pub start: Timestamp,
    /// Not after.
    pub end: Timestamp,
    /// When to ask again.
    pub ask_again: Timestamp,
    /// A page that says why.
    pub explanation: Option<String>,
}

impl IssuerCapabilities {
    /// Everything, with this way to recover.
    pub fn all(recovery: Recovery) -> Self {
        Self {
            recovery,
            dns: true,
            wildcard: true,
            ip: true,
            email: true,
            uri: true,
            lifetime: true,
            key_algorithms: Vec::new(),
            revoke: false,
            renewal_info: false,
        }
    }

    /// # Errors
    /// `Unsupported`, naming all that is asked for and can't be had.
    pub fn check(
        &self,
        kind: &str,
        names: &[SubjectAltName],
        algorithm: Option<KeyAlgorithm>,
        lifetime: Option<Lifetime>,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for name in names {
            let fine = match name {
                SubjectAltName::Dns(dns) if dns.starts_with("*.") => self.dns && self.wildcard,
                SubjectAltName::Dns(_) => self.dns,
                SubjectAltName::Ip(_) => self.ip,
                SubjectAltName::Email(_) => self.email,
                SubjectAltName::Uri(_) => self.uri,
            };
            if !fine {
                missing.push(format!("the name {name}"));
            }
        }
        if let Some(algorithm) = algorithm
            && !self.key_algorithms.is_empty()
            && !self.key_algorithms.contains(&algorithm)
        {
            missing.push(format!("a key of {algorithm}"));
        }
        if let Some(lifetime) = lifetime
            && !self.lifetime
        {
            missing.push(format!("a lifetime of {lifetime} (the CA decides it)"));
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::unsupported(format!("the issuer kind {kind} does not certify {}", missing.join(", "))))
    }
}
