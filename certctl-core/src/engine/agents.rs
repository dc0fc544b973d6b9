//! Agents: how one is admitted, turned away and forgotten. What it does once it is admitted is in `sessions`.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Actor, Error, ErrorKind, Id, Identified, KeyKind, Lifetime, Permission, PublicKey, Recipient, Result,
    Role, SealedAt, Secret, SignatureAlgorithm, Signer, Timestamp, Violation, check_name,
    engine::{
        Engine, Inner,
        commands::again_if_stale,
        profiles::first,
        sessions::presence,
        token::{self, refused},
    },
    records::{Agent, AgentConnectors, AuditEvent, EnrollToken, Placement, TargetRecord, TokenHash},
    store::{Change, Query, Record, Select, StoreExt, Stored, Test},
};

/// How long an enrolment token is valid, by default and at most.
const TOKEN_VALID: Lifetime = Lifetime::hours(1);
/// What an agent signs to enrol begins with this; nothing else that its key signs does.
const ENROLMENT: &str = "certctl agent enrolment v1";

/// The public keys that an agent enrols with, and its signature over them and the token: it has the private half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentKeys {
    /// What its signatures are checked with: ECDSA on P-256.
    pub signing_key: PublicKey,
    /// What its secrets are sealed to.
    pub sealing_key: Recipient,
    /// ECDSA with SHA-256 in its ASN.1 form, in base64.
    pub signature: String,
}

impl AgentKeys {
    /// Signs for this token.
    ///
    /// # Errors
    /// What the signer gives.
    pub async fn sign(token: &Secret, signer: &dyn Signer, sealing_key: &Recipient) -> Result<Self> {
        let message = Self::message(token, signer.public_key(), sealing_key);
        let signature = BASE64.encode(signer.sign(SignatureAlgorithm::EcdsaSha256, &message).await?);
        Ok(Self { signing_key: signer.public_key().clone(), sealing_key: sealing_key.clone(), signature })
    }

    /// What is signed: a line each for what it is, the token's SHA-256 and the two keys, in base64.
    pub fn message(token: &Secret, signing_key: &PublicKey, sealing_key: &Recipient) -> Vec<u8> {
        let token = BASE64.encode(digest(&SHA256, token.expose()));
        let signing_key = BASE64.encode(signing_key.spki_der());
        format!("{ENROLMENT}\n{token}\n{signing_key}\n{}\n", sealing_key.to_text()).into_bytes()
    }

    fn check(&self, token: &Secret) -> Result<()> {
        let mut wrong = Vec::new();
        if self.signing_key.kind() != KeyKind::EcdsaP256 {
            let message = format!("an agent does not sign with a key of kind {}", self.signing_key.kind());
            wrong.push(Violation::new("/signing_key", message, "make an ECDSA key on P-256"));
        }
        let nowhere = SealedAt { table: "", id: "", field: "" };
        if let Err(e) = self.sealing_key.seal(&nowhere, &Secret::new("")) {
            wrong.extend_from_slice(e.below("/sealing_key").violations());
        }
        let message = Self::message(token, &self.signing_key, &self.sealing_key);
        if wrong.is_empty()
            && let Err(e) = verify(&self.signing_key, &message, &self.signature)
        {
            wrong.extend_from_slice(e.violations());
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::invalid(wrong)) }
    }
}

impl Engine {
    /// Makes a token that lets an agent enrol once, as the agent of this name (or id). Its record is made here if there is
    /// none, so that targets may name the agent before it is there. The token itself is given here and never again, and
    /// takes the place of an earlier one that was not used. Valid for `valid`: an hour by default and at most.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong, `Conflict` for an agent that is enrolled and not revoked, `Denied` if the
    /// actor may not.
    pub async fn create_enroll_token(
        &self,
        actor: &Actor,
        name: &str,
        valid: Option<Lifetime>,
    ) -> Result<(Stored<Agent>, Secret, Timestamp)> {
        actor.require(Permission::ManageAgents)?;
        let valid = valid.unwrap_or(TOKEN_VALID);
        let mut wrong = Vec::new();
        if valid.as_duration() < Duration::from_secs(1) || valid > TOKEN_VALID {
            let message = format!("the token would be valid for {valid}");
            wrong.push(Violation::new("/valid", message, "write it like 10m; an hour is the most"));
        }
        if !Id::<Agent>::looks_like(name)
            && let Err(e) = check_name::<Agent>(name, "/name")
        {
            wrong.extend_from_slice(e.violations());
        }
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let inner = &self.inner;
        again_if_stale(|| async move {
            let now = inner.clock.now();
            let known = known(inner, name).await?;
            if let Some(agent) = known.as_ref().filter(|a| a.enrolled.is_some() && a.revoked.is_none()) {
                let message = format!(
                    "the agent {} is enrolled: revoke it first, if another one shall take its place",
                    agent.name
                );
                return Err(Error::new(ErrorKind::Conflict, message)
                    .with("reason", "enrolled")
                    .with_retry(crate::Retry::Never));
            }
            let agent = known.as_deref().cloned().unwrap_or_else(|| Agent {
                id: Id::mint_at(now),
                name: name.into(),
                signing_key: None,
                sealing_key: None,
                created: now,
                enrolled: None,
                revoked: None,
                clash: None,
                shunned: Vec::new(),
            });
            let id = Id::mint_at(now);
            let secret = token::make(token::ENROLL, &id);
            let expires = now + valid.as_duration();
            let token = EnrollToken {
                id,
                agent: agent.id.clone(),
                hash: TokenHash::of(&secret),
                expires,
                used: None,
                created_by: actor.name().into(),
            };
            let event = AuditEvent::new(now, actor, "agent.token_created", agent.id.as_str())
                .with("name", &*agent.name)
                .with("token", token.id.as_str())
                .with("expires", expires.to_string());
            let mut change = Change::new(event);
            let version = match &known {
                Some(known) => known.version(),
                None => {
                    change = change.insert(&agent)?;
                    1
                }
            };
            for earlier in tokens(inner, &agent.id).await?.iter().filter(|token| token.used.is_none()) {
                change = change.delete(earlier);
            }
            inner.commit(change.insert(&token)?).await?;
            Ok((Stored::new(agent, version), secret, expires))
        })
        .await
    }

    /// Admits the agent that this token is for, with its public keys. A token is used once; asking again with the same keys,
    /// because the answer was lost, gives the same answer while the token is valid.
    ///
    /// # Errors
    /// `Invalid` if the keys or the signature are wrong, `Unauthenticated` if the token is.
    pub async fn enroll(&self, token: &Secret, keys: &AgentKeys) -> Result<Stored<Agent>> {
        keys.check(token)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let refused = || refused("the enrolment token is wrong, used or expired");
            let known = match token::id_of::<EnrollToken>(token::ENROLL, token) {
                Some(id) => inner.store.find(&id).await?,
                None => None,
            };
            let right = token::is_right(known.as_ref().map(|token| &token.hash), token);
            let now = inner.clock.now();
            let mut token = known.filter(|token| right && now < token.expires).ok_or_else(refused)?;
            let mut agent = inner.store.find(&token.agent).await?.ok_or_else(refused)?;
            if let Some(used) = token.used {
                let same = agent.signing_key.as_ref() == Some(&keys.signing_key)
                    && agent.sealing_key.as_ref() == Some(&keys.sealing_key)
                    && agent.enrolled == Some(used)
                    && agent.revoked.is_none();
                return if same { Ok(agent) } else { Err(refused()) };
            }
            token.used = Some(now);
            agent.signing_key = Some(keys.signing_key.clone());
            agent.sealing_key = Some(keys.sealing_key.clone());
            agent.enrolled = Some(now);
            agent.revoked = None;
            agent.clash = None;
            agent.shunned = Vec::new();
            let actor = Actor::new(agent.id.as_str(), Role::Agent);
            let event = AuditEvent::new(now, &actor, "agent.enrolled", agent.id.as_str())
                .with("name", &*agent.name)
                .with("token", token.id.as_str())
                .with("key", keys.signing_key.fingerprint().to_string());
            let mut change = Change::new(event).update(&agent)?.update(&token)?;
            if let Some(presence) = presence(inner, &agent.id).await? {
                // Of whoever had this name before.
                change = change.delete(&presence);
            }
            let versions = inner.commit(change).await?;
            Ok(agent.at_version(versions.first().copied().unwrap_or_default()))
        })
        .await
    }

    /// Turns an agent away: it gets no work, and what it reports is refused. The keys that it holds stay where they are, and
    /// so does what it has deployed.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn revoke_agent(&self, actor: &Actor, id_or_name: &str) -> Result<Stored<Agent>> {
        actor.require(Permission::ManageAgents)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let mut agent: Stored<Agent> = inner.store.resolve(id_or_name).await?;
            if agent.revoked.is_some() {
                return Ok(agent);
            }
            let now = inner.clock.now();
            agent.revoked = Some(now);
            let event = AuditEvent::new(now, actor, "agent.revoked", agent.id.as_str());
            let mut change = Change::new(event).update(&agent)?;
            for token in tokens(inner, &agent.id).await? {
                change = change.delete(&token);
            }
            let versions = inner.commit(change).await?;
            Ok(agent.at_version(versions.first().copied().unwrap_or_default()))
        })
        .await
    }

    /// Decides which process goes on as this agent, after its identity was used by several at once: the one that calls itself
    /// `keep`. The others are refused.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if there is nothing to decide, `Invalid` if none of the processes is `keep`, `Denied` if
    /// the actor may not.
    pub async fn resolve_agent(&self, actor: &Actor, id_or_name: &str, keep: &str) -> Result<Stored<Agent>> {
        const REMEMBERED: usize = 32;
        actor.require(Permission::ManageAgents)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let mut agent: Stored<Agent> = inner.store.resolve(id_or_name).await?;
            let Some(clash) = agent.clash.take() else {
                let message = format!("the agent {} is used by one process only", agent.name);
                return Err(Error::new(ErrorKind::Precondition, message));
            };
            let Some(kept) = clash.instances.iter().find(|one| &*one.instance == keep) else {
                let known: Vec<&str> = clash.instances.iter().map(|one| &*one.instance).collect();
                let message = format!("no process of the agent {} calls itself {keep:?}", agent.name);
                return Err(Error::invalid_field(
                    "/keep",
                    message,
                    format!("use one of {}", known.join(", ")),
                ));
            };
            let others = clash.instances.iter().filter(|one| &*one.instance != keep);
            let others: Vec<Box<str>> = others.map(|one| one.instance.clone()).collect();
            let now = inner.clock.now();
            let event = AuditEvent::new(now, actor, "agent.resolved", agent.id.as_str())
                .with("kept", keep)
                .with("turned_away", others.iter().map(|one| &**one).collect::<Vec<_>>());
            agent.shunned.extend(others);
            let forgotten = agent.shunned.len().saturating_sub(REMEMBERED);
            agent.shunned.drain(..forgotten);
            let mut change = Change::new(event).update(&agent)?;
            if let Some(mut presence) = presence(inner, &agent.id).await? {
                presence.now = kept.clone();
                presence.earlier.clear();
                change = change.update(&presence)?;
            }
            let versions = inner.commit(change).await?;
            Ok(agent.at_version(versions.first().copied().unwrap_or_default()))
        })
        .await
    }

    /// Forgets an agent that nothing is deployed by.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if a target names it or it holds keys of a certificate, `Denied` if the actor may not.
    pub async fn delete_agent(&self, actor: &Actor, id_or_name: &str) -> Result<()> {
        actor.require(Permission::ManageAgents)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let agent: Stored<Agent> = inner.store.resolve(id_or_name).await?;
            refuse_if_used(inner, &agent).await?;
            let event = AuditEvent::new(inner.clock.now(), actor, "agent.deleted", agent.id.as_str())
                .with("name", &*agent.name);
            let mut change = Change::new(event).delete(&agent);
            if let Some(presence) = presence(inner, &agent.id).await? {
                change = change.delete(&presence);
            }
            for row in inner.store.get(AgentConnectors::KIND, &[agent.id.as_str()]).await? {
                change = change.delete(&Stored::<AgentConnectors>::read(&row)?);
            }
            for token in tokens(inner, &agent.id).await? {
                change = change.delete(&token);
            }
            inner.commit(change).await.map(drop)
        })
        .await
    }
}

/// Checks an agent's signature.
pub(super) fn verify(key: &PublicKey, message: &[u8], signature: &str) -> Result<()> {
    let signature = BASE64.decode(signature).map_err(|_| {
        Error::invalid_field("/signature", "the signature is no base64", "encode its ASN.1 form in base64")
    })?;
    key.verify(SignatureAlgorithm::EcdsaSha256, message, &signature)
}

/// The agent that an enrolment token is asked for. An id must be somebody's; a name may be new.
async fn known(inner: &Inner, name: &str) -> Result<Option<Stored<Agent>>> {
    if Id::<Agent>::looks_like(name) {
        return inner.store.resolve(name).await.map(Some);
    }
    inner.store.find_by("name", name.into()).await
}

async fn tokens(inner: &Inner, agent: &Id<Agent>) -> Result<Vec<Stored<EnrollToken>>> {
    inner.store.list_by("agent", agent.into()).await
}

async fn refuse_if_used(inner: &Inner, agent: &Agent) -> Result<()> {
    let its = |target: &TargetRecord| target.place.agent.as_ref() == Some(&agent.id);
    if let Some(target) = first(inner, its).await? {
        return Err(used(agent, &format!("the target {} is deployed to by it", target.name)));
    }
    let held = Query::of::<Placement>().filter("holder", Test::Equal, &agent.id).select(Select::Ids).limit(1);
    if inner.store.query(&held).await?.ids.is_empty() {
        return Ok(());
    }
    Err(used(agent, "it holds keys of certificates"))
}

fn used(agent: &Agent, how: &str) -> Error {
    let message = format!(
        "the {} {} can't be forgotten: {how}; move that elsewhere first, or revoke the agent",
        Agent::NOUN,
        agent.name
    );
    Error::new(ErrorKind::Precondition, message)
}
