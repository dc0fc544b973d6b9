//! An issuer that does what a test's script says, and the conformance suite for every issuer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conformance;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    CertificateAuthority, Chain, Challenge, ChallengeKind, Context, Effect, Error, ErrorKind,
    ExtendedKeyUsage, Handle, Id, Issuer, IssuerCapabilities, KeyAlgorithm, LeafRequest, Lifetime, Order,
    PrivateKey, Progress, PublicKey, Recovery, RenewalWindow, Result, Retry, Revocation, RevocationReason,
    SubjectAltName, Timestamp, X509Certificate, random, records::Attempt,
};

pub use conformance::{conformance, order};

/// What a [`ScriptedIssuer`] does with an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// Issues at once.
    Issue,
    /// Lets the order wait until then; asks to be polled again every six hours.
    PendUntil(Timestamp),
    /// Wants an http-01 challenge presented for each name, and issues once [`ScriptedIssuer::set_presented`] was called.
    Challenge,
    /// Takes the order, and lets it end without a certificate at the first poll: [`Progress::Failed`], with this to say about
    /// another order.
    EndFailed(Retry),
    /// Goes on at each poll, with another handle and without a pause, and issues after so many.
    GoOn(u32),
    /// Wants to be asked again at once each time, with the same handle, and issues after so many polls.
    Repeat(u32),
    /// Wants to be asked again not before then, and does not issue before.
    WaitUntil(Timestamp),
    /// Wants another challenge presented at each poll, for ever.
    ChallengeForEver,
    /// Issues, and loses the answer: `Unavailable`, with an unknown effect.
    LoseAnswer,
    /// Loses the request: the same error, but the CA knows nothing of the order.
    LoseRequest,
    /// Is down: `Unavailable`, and nothing happened.
    Down,
    /// Refuses, for good: `Invalid`.
    Reject,
    /// Wants to be left alone until then.
    RateLimit(Timestamp),
    /// Certifies another key than the one that was asked for.
    OtherKey,
    /// Certifies another name than those that were asked for.
    OtherNames,
    /// Gives the right leaf with a chain that does not belong to it.
    GarbageChain,
    /// Gives a certificate that has expired.
    Expired,
}

/// What a [`ScriptedIssuer`] does when it shall revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeScript {
    /// Revokes.
    Revoke,
    /// Revokes, and loses the answer: `Unavailable`, with an unknown effect.
    LoseAnswer,
    /// Is down: `Unavailable`, and nothing happened.
    Down,
    /// Refuses, for good: `Denied`.
    Refuse,
}

/// A CA of its own that does what a script says, and counts what it is asked.
#[derive(Debug)]
pub struct ScriptedIssuer {
    capabilities: IssuerCapabilities,
    ca: CertificateAuthority,
    stranger: CertificateAuthority,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// For the next orders, one each; then `usual`.
    scripts: VecDeque<Script>,
    usual: Script,
    presented: bool,
    attempts: BTreeMap<Id<Attempt>, Known>,
    issued: Vec<Chain>,
    revoked: Vec<(Chain, RevocationReason)>,
    revocations: VecDeque<RevokeScript>,
    revocations_asked: u32,
    window: Result<Option<RenewalWindow>>,
    windows_asked: Vec<Chain>,
}

/// What is known of one attempt.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Fixed once the CA has the order.
    script: Option<Script>,
    calls: Calls,
    /// The order, as the CA has it.
    open: bool,
    replaces: Option<Chain>,
    chain: Option<Chain>,
}

/// How often a [`ScriptedIssuer`] was asked about one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of `submit`.
    pub submits: u32,
    /// Calls of `poll`.
    pub polls: u32,
    /// Calls of `recover`.
    pub recovers: u32,
    /// How many orders the CA had of it in the end. More than one is what must never happen.
    pub orders: u32,
}

impl ScriptedIssuer {
    /// A new CA, with a root that is valid for ten years around `now`; issues at once until told otherwise.
    pub async fn new(now: Timestamp, capabilities: IssuerCapabilities) -> Arc<Self> {
        Arc::new(Self {
            capabilities,
            ca: ca("Scripted CA", now).await,
            stranger: ca("Another CA", now).await,
            state: Mutex::new(State {
                scripts: VecDeque::new(),
                usual: Script::Issue,
                presented: false,
                attempts: BTreeMap::new(),
                issued: Vec::new(),
                revoked: Vec::new(),
                revocations: VecDeque::new(),
                revocations_asked: 0,
                window: Ok(None),
                windows_asked: Vec::new(),
            }),
        })
    }

    /// What to do with every order from now on; one that the CA has already goes on as it began.
    pub fn script(&self, script: Script) {
        let mut state = self.state();
        state.scripts.clear();
        state.usual = script;
    }

    /// What to do with the next calls of `submit`, one each, before what [`ScriptedIssuer::script`] said holds again.
    pub fn script_next(&self, scripts: impl IntoIterator<Item = Script>) {
        self.state().scripts.extend(scripts);
    }

    /// What to do from now on with an order that the CA has already.
    pub fn rescript(&self, attempt: &Id<Attempt>, script: Script) {
        self.state().attempts.entry(attempt.clone()).or_default().script = Some(script);
    }

    /// Whether the challenges can be seen.
    pub fn set_presented(&self, presented: bool) {
        self.state().presented = presented;
    }

    /// How often it was asked about this attempt.
    pub fn calls(&self, attempt: &Id<Attempt>) -> Calls {
        self.state().attempts.get(attempt).map(|known| known.calls).unwrap_or_default()
    }

    /// What the order of this attempt was said to replace.
    pub fn replaces(&self, attempt: &Id<Attempt>) -> Option<Chain> {
        self.state().attempts.get(attempt).and_then(|known| known.replaces.clone())
    }

    /// Every attempt that it was asked about, in the order of their ids.
    pub fn attempts(&self) -> Vec<(Id<Attempt>, Calls)> {
        self.state().attempts.iter().map(|(id, known)| (id.clone(), known.calls)).collect()
    }

    /// Every certificate that it signed, in that order.
    pub fn issued(&self) -> Vec<Chain> {
        self.state().issued.clone()
    }

    /// Every certificate that it revoked, and why, in that order.
    pub fn revoked(&self) -> Vec<(Chain, RevocationReason)> {
        self.state().revoked.clone()
    }

    /// What to do with the next calls of `revoke`, one each; then it revokes.
    pub fn script_revocations(&self, scripts: impl IntoIterator<Item = RevokeScript>) {
        self.state().revocations.extend(scripts);
    }

    /// How often it was asked to revoke.
    pub fn revocations_asked(&self) -> u32 {
        self.state().revocations_asked
    }

    /// What to answer from now on to the question when to renew.
    pub fn set_window(&self, window: Result<Option<RenewalWindow>>) {
        self.state().window = window;
    }

    /// The certificates about which it was asked when to renew them, in that order.
    pub fn windows_asked(&self) -> Vec<Chain> {
        self.state().windows_asked.clone()
    }

    /// # Panics
    /// If an attempt became more than one order.
    pub fn assert_no_second_order(&self) {
        for (attempt, calls) in self.attempts() {
            assert!(calls.orders <= 1, "{attempt} was ordered {} times: {calls:?}", calls.orders);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the scripted issuer's state")
    }

    /// Signs what the script says, once: an order that was signed keeps its certificate.
    async fn issue(&self, order: &Order, script: &Script) -> Result<Progress> {
        if let Some(chain) = self.state().attempts.get(&order.attempt).and_then(|known| known.chain.clone()) {
            return Ok(Progress::Issued { chain });
        }
        let lifetime = order.profile.lifetime.unwrap_or(Lifetime::days(90)).as_duration();
        let mut request = LeafRequest {
            public_key: order.csr.public_key().clone(),
            names: order.names.clone(),
            common_name: order.common_name.clone(),
            not_before: order.created,
            not_after: order.created + lifetime,
            serial_seed: order.seed,
            usages: vec![ExtendedKeyUsage::ServerAuth],
        };
        match script {
            Script::OtherKey => request.public_key = other_key()?,
            Script::OtherNames => request.names = vec![SubjectAltName::dns("other.test")?],
            Script::Expired => {
                request.not_before = order.created - Duration::from_secs(2 * 86_400);
                request.not_after = order.created - Duration::from_secs(86_400);
            }
            _ => {}
        }
        let mut chain = self.ca.sign(&request).await?;
        if *script == Script::GarbageChain {
            chain = Chain::new(vec![chain.leaf().clone(), self.stranger.certificate().clone()])?;
        }
        let mut state = self.state();
        state.issued.push(chain.clone());
        let known = state.attempts.entry(order.attempt.clone()).or_default();
        known.chain = Some(chain.clone());
        Ok(Progress::Issued { chain })
    }

    /// Goes on with an order that the CA has.
    async fn step(&self, cx: &Context, order: &Order, script: &Script) -> Result<Progress> {
        let now = cx.clock.now();
        let polls = self.calls(&order.attempt).polls;
        let mut handle = Handle { version: 1, state: serde_json::json!({ "order": order.attempt }) };
        match script {
            Script::EndFailed(_) if polls == 0 => Ok(Progress::Waiting { handle, at: now }),
            Script::EndFailed(retry) => {
                let error = Error::new(ErrorKind::Denied, "the CA saw the wrong answer at the name")
                    .with_retry(*retry)
                    .report();
                Ok(Progress::Failed { error })
            }
            Script::GoOn(steps) if polls < *steps => {
                handle.state["polls"] = polls.into();
                Ok(Progress::Waiting { handle, at: now })
            }
            Script::Repeat(times) if polls < *times => Ok(Progress::Waiting { handle, at: now }),
            Script::WaitUntil(until) if now < *until => Ok(Progress::Waiting { handle, at: *until }),
            Script::ChallengeForEver => {
                let another =
                    |name| Challenge { token: format!("token-{polls}-for-{name}"), ..challenge(name) };
                Ok(Progress::Challenges { handle, present: order.names.iter().map(another).collect() })
            }
            Script::PendUntil(until) if now < *until => {
                let at = (now + Duration::from_secs(6 * 3_600)).min(*until);
                Ok(Progress::Waiting { handle, at })
            }
            Script::Challenge if !self.state().presented => {
                Ok(Progress::Challenges { handle, present: order.names.iter().map(challenge).collect() })
            }
            _ => self.issue(order, script).await,
        }
    }
}

#[async_trait]
impl Issuer for ScriptedIssuer {
    fn kind(&self) -> &str {
        "scripted"
    }

    fn capabilities(&self) -> IssuerCapabilities {
        self.capabilities.clone()
    }

    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        let lost = |message: &str| Error::unavailable(message).with_effect(Effect::Unknown);
        let script = {
            let mut state = self.state();
            let next = match state.attempts.get(&order.attempt).and_then(|known| known.script.clone()) {
                Some(script) => script,
                None => state.scripts.pop_front().unwrap_or_else(|| state.usual.clone()),
            };
            let idempotent = self.capabilities.recovery == Recovery::Idempotent;
            let known = state.attempts.entry(order.attempt.clone()).or_default();
            known.calls.submits += 1;
            match next {
                Script::LoseRequest => {
                    // The next try gets through.
                    known.script = Some(Script::Issue);
                    return Err(lost("the connection broke before the order was sent"));
                }
                Script::Down => return Err(Error::unavailable("the CA is down for maintenance")),
                Script::Reject => {
                    return Err(Error::invalid_field(
                        "/names/0",
                        "the CA's policy does not allow the name",
                        "ask for another name",
                    ));
                }
                Script::RateLimit(until) if cx.clock.now() < until => {
                    return Err(
                        Error::new(ErrorKind::RateLimited, "too many orders").with_retry(Retry::After(until))
                    );
                }
                _ => {}
            }
            if !(known.open && idempotent) {
                known.calls.orders += 1;
            }
            if known.open && !idempotent {
                // A second order is a second certificate.
                known.chain = None;
            }
            known.open = true;
            known.replaces.clone_from(&order.replaces);
            known.script = Some(next.clone());
            next
        };
        let progress = self.step(cx, order, &script).await?;
        if script == Script::LoseAnswer {
            self.rescript(&order.attempt, Script::Issue);
            return Err(lost("the connection broke before the answer came"));
        }
        Ok(progress)
    }

    async fn poll(&self, cx: &Context, order: &Order, handle: Handle) -> Result<Progress> {
        let named = handle.state.get("order").and_then(|id| id.as_str());
        if handle.version != 1 || named != Some(order.attempt.as_str()) {
            return Err(Error::not_found("order", &handle.state));
        }
        let script = {
            let mut state = self.state();
            let known = state.attempts.get_mut(&order.attempt).filter(|known| known.open);
            let known = known.ok_or_else(|| Error::not_found("order", &order.attempt))?;
            known.calls.polls += 1;
            known.script.clone().unwrap_or(Script::Issue)
        };
        match script {
            Script::Down => Err(Error::unavailable("the CA is down for maintenance")),
            Script::Reject => Err(Error::invalid_field(
                "/names/0",
                "the CA could not validate the name",
                "make the name point to this server",
            )),
            script => self.step(cx, order, &script).await,
        }
    }

    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        let script = {
            let mut state = self.state();
            let known = state.attempts.entry(order.attempt.clone()).or_default();
            known.calls.recovers += 1;
            match (self.capabilities.recovery, known.open) {
                (Recovery::None, _) => {
                    return Err(Error::unsupported("the scripted CA can't say what became of an order"));
                }
                (_, false) => return Ok(None),
                (_, true) => known.script.clone().unwrap_or(Script::Issue),
            }
        };
        self.step(cx, order, &script).await.map(Some)
    }

    async fn revoke(&self, _: &Context, revocation: &Revocation) -> Result<()> {
        if !self.capabilities.revoke {
            return Err(Error::unsupported("the scripted CA can't revoke"));
        }
        let mut state = self.state();
        state.revocations_asked += 1;
        let script = state.revocations.pop_front().unwrap_or(RevokeScript::Revoke);
        match script {
            RevokeScript::Down => return Err(Error::unavailable("the CA is down for maintenance")),
            RevokeScript::Refuse => {
                return Err(Error::new(ErrorKind::Denied, "this account may not revoke the certificate"));
            }
            RevokeScript::Revoke | RevokeScript::LoseAnswer => {}
        }
        // What is revoked already stays as it is.
        if !state.revoked.iter().any(|(chain, _)| *chain == revocation.chain) {
            state.revoked.push((revocation.chain.clone(), revocation.reason));
        }
        if script == RevokeScript::LoseAnswer {
            return Err(Error::unavailable("the connection broke before the answer came")
                .with_effect(Effect::Unknown));
        }
        Ok(())
    }

    async fn renewal_window(&self, _: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
        let mut state = self.state();
        state.windows_asked.push(chain.clone());
        state.window.clone()
    }

    async fn trust_anchors(&self, _: &Context) -> Result<Vec<X509Certificate>> {
        Ok(vec![self.ca.certificate().clone()])
    }
}

async fn ca(name: &str, now: Timestamp) -> CertificateAuthority {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key can be made");
    let begin = now - Duration::from_secs(5 * 365 * 86_400);
    CertificateAuthority::create_root(Arc::new(key), name, begin, Lifetime::days(10 * 365), random::bytes())
        .await
        .expect("a root can be made")
}

fn other_key() -> Result<PublicKey> {
    Ok(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?.public_key().clone())
}

fn challenge(name: &SubjectAltName) -> Challenge {
    let token = format!("token-for-{}", name.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    Challenge {
        kind: ChallengeKind::Http01,
        name: name.clone(),
        key_authorization: format!("{token}.thumbprint"),
        token,
        txt: None,
        solver: None,
    }
}
