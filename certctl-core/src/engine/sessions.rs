//! How an agent that has enrolled is known again: it signs a challenge with its own key, for a session of ten minutes.
//!
//! Challenge and session are authenticated with a key derived from the sealer's and stored nowhere, so that a server that
//! was restarted, and another one on the same store, accept them.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Actor, Error, ErrorKind, Fingerprint, Id, Permission, Result, Retry, Role, Secret, SignatureAlgorithm,
    Signer, Timestamp, Violation,
    engine::{
        Engine, Inner,
        agents::verify,
        commands::again_if_stale,
        token::{self, refused},
    },
    random,
    records::{Agent, AgentConnectors, AgentPresence, AuditEvent, Clash, ConnectorInfo, Instance},
    store::{Change, Record, StoreExt, Stored},
};

/// How long a challenge can be answered.
const CHALLENGE: Duration = Duration::from_secs(60);
/// How far the clocks of two servers on one store may be apart.
const SKEW: Duration = Duration::from_secs(10);
/// How long a session is.
const SESSION: Duration = Duration::from_secs(600);
/// What an earlier process has sent off before the newest one opened its session may still arrive.
const IN_FLIGHT: Duration = Duration::from_secs(5);
/// How often it is written down that an agent is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// How many processes of one agent are remembered.
const INSTANCES: usize = 8;
/// How much an agent may say about its connectors, in octets of JSON.
const ANNOUNCEMENT: usize = 1024 * 1024;
/// What an agent signs to open a session begins with this; nothing else that its key signs does.
const LABEL: &str = "certctl agent session v1";
const CHALLENGE_MAC: &str = "agent session challenge";
const SESSION_MAC: &str = "agent session";

/// What an agent signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionChallenge {
    /// Text to sign as it is.
    pub challenge: String,
    /// From when on it is refused.
    pub expires: Timestamp,
}

/// What an agent opens a session with; [`SessionRequest::new`] and the public fields are its builder, and
/// [`SessionRequest::sign`] completes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The agent's id or name.
    pub agent: String,
    /// What this process calls itself: 8 to 64 random letters, digits, `-` and `_`, made when it starts.
    pub instance: String,
    /// The challenge that is answered.
    pub challenge: String,
    /// ECDSA with SHA-256 in its ASN.1 form, in base64; see [`SessionRequest::message`].
    pub signature: String,
    /// The version of the agent's program.
    #[serde(default)]
    pub version: String,
    /// The kinds of connectors that it has.
    #[serde(default)]
    pub connectors: Vec<ConnectorInfo>,
    /// SHA-256 of the certificates that it takes its server's from.
    #[serde(default)]
    pub trusts: Vec<Fingerprint>,
}

impl SessionRequest {
    /// A request that is not signed yet.
    pub fn new(agent: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            instance: instance.into(),
            challenge: String::new(),
            signature: String::new(),
            version: String::new(),
            connectors: Vec::new(),
            trusts: Vec::new(),
        }
    }

    /// Answers a challenge.
    ///
    /// # Errors
    /// What the signer gives.
    pub async fn sign(mut self, challenge: &SessionChallenge, signer: &dyn Signer) -> Result<Self> {
        self.challenge.clone_from(&challenge.challenge);
        let message = self.message();
        self.signature = BASE64.encode(signer.sign(SignatureAlgorithm::EcdsaSha256, &message).await?);
        Ok(self)
    }

    /// What is signed: a line each for what it is, the challenge, the agent and the instance.
    pub fn message(&self) -> Vec<u8> {
        format!("{LABEL}\n{}\n{}\n{}\n", self.challenge, self.agent, self.instance).into_bytes()
    }

    fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if !(8..=64).contains(&self.instance.len()) || !self.instance.chars().all(plain) {
            let message = "the instance has not 8 to 64 letters, digits, '-' or '_'";
            wrong.push(Violation::new("/instance", message, "make a random one when the process starts"));
        }
        if self.version.len() > 100 {
            wrong.push(Violation::new("/version", "the version is long", "use at most 100 octets"));
        }
        if self.trusts.len() > 100 {
            wrong.push(Violation::new("/trusts", "there are over 100 certificates", "give fewer"));
        }
        let announced = serde_json::to_string(&self.connectors).map_or(usize::MAX, |text| text.len());
        if announced > ANNOUNCEMENT {
            let message = "the connectors' schemas have over a mebibyte";
            wrong.push(Violation::new("/connectors", message, "give smaller ones"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::invalid(wrong)) }
    }
}

/// A session that was opened.
#[derive(Clone, Debug)]
pub struct Session {
    /// What the agent shows with each request.
    pub token: Secret,
    /// The agent's id.
    pub agent: Id<Agent>,
    /// The agent's name.
    pub name: Box<str>,
    /// From when on it is refused: open another one before.
    pub expires: Timestamp,
}

/// Which agent asks, and which of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSession {
    /// The agent.
    pub agent: Id<Agent>,
    /// Its name.
    pub name: Box<str>,
    /// Its process: made anew at each of its starts.
    pub instance: String,
}

impl AgentSession {
    /// The agent as an actor.
    pub fn actor(&self) -> Actor {
        Actor::new(self.agent.as_str(), Role::Agent)
    }

    /// What stands in the leases. A later process of the same agent takes them back at once.
    pub fn seat(&self) -> String {
        format!("{}/{}", self.agent, self.instance)
    }
}

impl Engine {
    /// Something for an agent to sign; good for a minute, and for one session.
    pub fn session_challenge(&self) -> SessionChallenge {
        let now = self.inner.clock.now();
        let mut whole = Vec::with_capacity(8 + 16 + 32);
        whole.extend_from_slice(&now.as_millis().to_be_bytes());
        whole.extend_from_slice(&random::bytes::<16>());
        let code = self.inner.catalog.sealer().authenticate(CHALLENGE_MAC, &whole);
        whole.extend_from_slice(&code);
        SessionChallenge { challenge: BASE64URL.encode(whole), expires: now + CHALLENGE }
    }

    /// Opens a session of ten minutes for an agent that has signed a challenge.
    ///
    /// # Errors
    /// `Invalid` for a malformed request, `Unauthenticated` if agent, challenge or signature are wrong; for whom these are
    /// right, as for [`Engine::agent_session`].
    pub async fn open_session(&self, request: &SessionRequest, address: Option<&str>) -> Result<Session> {
        request.check()?;
        let inner = &self.inner;
        again_if_stale(|| open(inner, request, address)).await
    }

    /// Which agent shows this session.
    ///
    /// # Errors
    /// `Unauthenticated` if there is no such session or it is over, `Denied` if the agent was revoked or this process of it
    /// turned away, `Conflict` with the reason `clash` if its identity is used by two processes at once: then neither is
    /// served until an operator has decided, and the error says how.
    pub async fn agent_session(&self, token: &Secret) -> Result<AgentSession> {
        let inner = &self.inner;
        let shown = Shown::read(inner, token).ok_or_else(over)?;
        again_if_stale(|| check(inner, &shown)).await
    }

    /// Notes that the agent is there; written at most once a minute.
    ///
    /// # Errors
    /// What the store gives.
    pub async fn heartbeat(&self, session: &AgentSession, address: Option<&str>) -> Result<()> {
        let inner = &self.inner;
        let Some(mut presence) = presence(inner, &session.agent).await? else { return Ok(()) };
        let now = inner.clock.now();
        let seen = presence.now.last_seen;
        let moved = address.is_some() && presence.now.address.as_deref() != address;
        if *presence.now.instance != *session.instance || !(moved || now < seen || now >= seen + SIGN_OF_LIFE)
        {
            return Ok(());
        }
        presence.now.last_seen = now;
        if moved {
            presence.now.address = address.map(Into::into);
        }
        match inner.store.commit(Change::unaudited().update(&presence)?).await {
            // Somebody else has written as much.
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            done => done.map(drop),
        }
    }

    /// When and where from the agent was seen last; none if it never was.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn agent_presence(&self, actor: &Actor, id_or_name: &str) -> Result<Option<AgentPresence>> {
        actor.require(Permission::Read)?;
        let agent: Stored<Agent> = self.inner.store.resolve(id_or_name).await?;
        Ok(presence(&self.inner, &agent.id).await?.map(Stored::into_inner))
    }

    /// The same for several agents; those that were never seen are left out.
    ///
    /// # Errors
    /// `Denied` if the actor may not.
    pub async fn agent_presences(&self, actor: &Actor, agents: &[Id<Agent>]) -> Result<Vec<AgentPresence>> {
        actor.require(Permission::Read)?;
        let ids: Vec<&str> = agents.iter().map(Id::as_str).collect();
        let rows = self.inner.store.get(AgentPresence::KIND, &ids).await?;
        rows.iter().map(|row| Stored::read(row).map(Stored::into_inner)).collect()
    }

    /// What the agent can do, as it said last; empty if it never did.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn agent_connectors(&self, actor: &Actor, id_or_name: &str) -> Result<Vec<ConnectorInfo>> {
        actor.require(Permission::Read)?;
        let agent: Stored<Agent> = self.inner.store.resolve(id_or_name).await?;
        connectors(&self.inner, &agent.id).await
    }
}

/// When and where from an agent was seen last.
pub(crate) async fn presence(inner: &Inner, agent: &Id<Agent>) -> Result<Option<Stored<AgentPresence>>> {
    inner.store.get(AgentPresence::KIND, &[agent.as_str()]).await?.first().map(Stored::read).transpose()
}

/// What an agent can do, as it said last.
pub(crate) async fn connectors(inner: &Inner, agent: &Id<Agent>) -> Result<Vec<ConnectorInfo>> {
    let rows = inner.store.get(AgentConnectors::KIND, &[agent.as_str()]).await?;
    let said = rows.first().map(Stored::<AgentConnectors>::read).transpose()?;
    Ok(said.map(|said| said.into_inner().connectors).unwrap_or_default())
}

async fn open(inner: &Inner, request: &SessionRequest, address: Option<&str>) -> Result<Session> {
    let refused = || refused("the agent is unknown, or its answer to the challenge is wrong or late");
    let now = inner.clock.now();
    let made = read_challenge(inner, &request.challenge, now).ok_or_else(refused)?;
    let agent: Stored<Agent> = match inner.store.resolve(&request.agent).await {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => return Err(refused()),
        agent => agent?,
    };
    let key = agent.signing_key.as_ref().ok_or_else(refused)?;
    verify(key, &request.message(), &request.signature).map_err(|_| refused())?;
    // From here on it is the agent, or somebody with its key, and may know more.
    if let Some(error) = turned_away(&agent, &request.instance) {
        return Err(error);
    }
    let known = presence(inner, &agent.id).await?;
    if let Some(known) = &known
        && made <= known.challenged
        && known.challenged <= now + SKEW
    {
        // Answered already, or older than one that was. After a clock was set back, its age alone has to do.
        return Err(refused());
    }
    let this = Instance {
        instance: request.instance.as_str().into(),
        address: address.map(Into::into),
        last_seen: now,
    };
    let came_back =
        known.as_ref().is_some_and(|known| known.earlier.iter().any(|one| one.instance == this.instance));
    if agent.clash.is_some() || came_back {
        return Err(clash(inner, agent, known, this).await?);
    }

    let restarted = known.as_ref().is_none_or(|known| known.now.instance != this.instance);
    let mut change = if restarted {
        let event = AuditEvent::new(now, &agent_actor(&agent.id), "agent.started", agent.id.as_str())
            .with("instance", &*this.instance)
            .with("address", address.map(str::to_owned))
            .with("version", &*request.version);
        Change::new(event)
    } else {
        Change::unaudited()
    };
    let mut fresh = AgentPresence {
        agent: agent.id.clone(),
        now: this,
        version: request.version.as_str().into(),
        started: known.as_ref().filter(|_| !restarted).map_or(now, |known| known.started),
        challenged: made,
        trusts: request.trusts.clone(),
        earlier: Vec::new(),
    };
    change = match known {
        None => change.insert(&fresh)?,
        Some(mut known) => {
            fresh.earlier = std::mem::take(&mut known.earlier);
            if restarted {
                fresh.earlier.push(known.now.clone());
                let forgotten = fresh.earlier.len().saturating_sub(INSTANCES);
                fresh.earlier.drain(..forgotten);
            }
            *known = fresh;
            change.update(&known)?
        }
    };
    change = announce(inner, &agent.id, &request.connectors, change).await?;
    inner.commit(change).await?;
    let session = Shown {
        agent: agent.id.clone(),
        instance: request.instance.as_str().into(),
        expires: now + SESSION,
        enrolled: agent.enrolled.unwrap_or(Timestamp::EPOCH),
    };
    Ok(Session {
        token: session.write(inner),
        agent: agent.id.clone(),
        name: agent.name.clone(),
        expires: session.expires,
    })
}

/// Adds what the agent can do, if that is new.
async fn announce(
    inner: &Inner,
    agent: &Id<Agent>,
    connectors: &[ConnectorInfo],
    change: Change,
) -> Result<Change> {
    let rows = inner.store.get(AgentConnectors::KIND, &[agent.as_str()]).await?;
    let said = AgentConnectors { agent: agent.clone(), connectors: connectors.to_vec() };
    match rows.first().map(Stored::<AgentConnectors>::read).transpose()? {
        None => change.insert(&said),
        Some(known) if *known == said => Ok(change),
        Some(mut known) => {
            *known = said;
            change.update(&known)
        }
    }
}

/// Whether an agent whose session was good when its request came may still be given something: a request that waits is
/// older than what an operator has decided meanwhile.
///
/// # Errors
/// As for [`Engine::agent_session`].
pub(super) async fn is_still_served(inner: &Inner, session: &AgentSession) -> Result<()> {
    let agent = inner.store.find(&session.agent).await?.ok_or_else(over)?;
    if let Some(error) = turned_away(&agent, &session.instance) {
        return Err(error);
    }
    agent.clash.as_ref().map_or(Ok(()), |clash| Err(clashes(&agent, clash)))
}

async fn check(inner: &Inner, shown: &Shown) -> Result<AgentSession> {
    let now = inner.clock.now();
    if now >= shown.expires {
        return Err(over());
    }
    let agent = inner.store.find(&shown.agent).await?.ok_or_else(over)?;
    if let Some(error) = turned_away(&agent, &shown.instance) {
        return Err(error);
    }
    if agent.enrolled != Some(shown.enrolled) {
        return Err(over());
    }
    if let Some(clash) = &agent.clash {
        return Err(clashes(&agent, clash));
    }
    let known = presence(inner, &agent.id).await?.ok_or_else(over)?;
    let just_replaced = now < known.started + IN_FLIGHT && now >= known.started;
    if known.now.instance == shown.instance || just_replaced {
        return Ok(AgentSession {
            agent: agent.id.clone(),
            name: agent.name.clone(),
            instance: shown.instance.to_string(),
        });
    }
    let seen = known.earlier.iter().find(|one| one.instance == shown.instance);
    let address = seen.and_then(|one| one.address.clone());
    let this = Instance { instance: shown.instance.clone(), address, last_seen: now };
    Err(clash(inner, agent, Some(known), this).await?)
}

fn over() -> Error {
    refused("the session is over, or there never was one: open another one")
}

/// Records that a process asks as this agent while another one does; gives what both are told.
///
/// [`again_if_stale`] does not take that for a reason to try again, because it says that it never helps.
async fn clash(
    inner: &Inner,
    mut agent: Stored<Agent>,
    known: Option<Stored<AgentPresence>>,
    this: Instance,
) -> Result<Error> {
    let now = inner.clock.now();
    let mut clash = agent.clash.clone().unwrap_or_else(|| Clash {
        at: now,
        instances: known.iter().map(|known| known.now.clone()).collect(),
    });
    let news = !clash.instances.iter().any(|one| one.instance == this.instance);
    if news && clash.instances.len() < INSTANCES {
        let event = AuditEvent::new(now, &Actor::engine(), "agent.clash", agent.id.as_str())
            .with("instance", &*this.instance)
            .with("address", this.address.as_deref());
        clash.instances.push(this);
        agent.clash = Some(clash.clone());
        inner.commit(Change::new(event).update(&agent)?).await?;
        tracing::error!(agent = %agent.id, name = %agent.name, "one agent's identity is used by two processes");
    }
    Ok(clashes(&agent, &clash))
}

fn clashes(agent: &Agent, clash: &Clash) -> Error {
    let said = |one: &Instance| {
        let from = one.address.as_deref().unwrap_or("an unknown address");
        format!("{} from {from}, seen {}", one.instance, one.last_seen)
    };
    let processes: Vec<String> = clash.instances.iter().map(said).collect();
    let message = format!(
        "the identity of the agent {} is used by several processes at once, so that none is served: {}. Decide which \
         one goes on with: certctl agents resolve {} --keep INSTANCE",
        agent.name,
        processes.join("; "),
        agent.name
    );
    Error::new(ErrorKind::Conflict, message).with("reason", "clash").with_retry(Retry::Never)
}

fn turned_away(agent: &Agent, instance: &str) -> Option<Error> {
    let message = if agent.revoked.is_some() {
        format!(
            "the agent {} was revoked: empty its state directory and enrol it anew, with a token from certctl agents \
             enroll-token",
            agent.name
        )
    } else if agent.shunned.iter().any(|one| &**one == instance) {
        format!(
            "an operator has decided that another process goes on as the agent {}: empty this one's state directory and \
             enrol it under a name of its own",
            agent.name
        )
    } else {
        return None;
    };
    Some(Error::new(ErrorKind::Denied, message).with("reason", "turned_away"))
}

fn agent_actor(agent: &Id<Agent>) -> Actor {
    Actor::new(agent.as_str(), Role::Agent)
}

/// When the challenge was made; none if it is not ours, or old.
fn read_challenge(inner: &Inner, text: &str, now: Timestamp) -> Option<Timestamp> {
    let whole = BASE64URL.decode(text).ok()?;
    let (body, code) = whole.split_at_checked(8 + 16)?;
    if !inner.catalog.sealer().is_authentic(CHALLENGE_MAC, body, code) {
        return None;
    }
    let made = Timestamp::from_millis(i64::from_be_bytes(body[..8].try_into().ok()?));
    (made <= now + SKEW && now < made + CHALLENGE).then_some(made)
}

/// What a session's token says.
#[derive(Debug)]
struct Shown {
    agent: Id<Agent>,
    instance: Box<str>,
    expires: Timestamp,
    /// Which enrolment it is of.
    enrolled: Timestamp,
}

impl Shown {
    fn write(&self, inner: &Inner) -> Secret {
        // The id last: it alone may have a dot.
        let Self { agent, instance, expires, enrolled } = self;
        let text = format!("{}.{}.{instance}.{agent}", expires.as_millis(), enrolled.as_millis());
        let code = inner.catalog.sealer().authenticate(SESSION_MAC, text.as_bytes());
        Secret::new(format!("{}_{}.{}", token::SESSION, BASE64URL.encode(text), BASE64URL.encode(code)))
    }

    /// None if it was not written here.
    fn read(inner: &Inner, token: &Secret) -> Option<Self> {
        let rest = token.expose_str().ok()?.strip_prefix(token::SESSION)?.strip_prefix('_')?;
        let (text, code) = rest.split_once('.')?;
        let (text, code) = (BASE64URL.decode(text).ok()?, BASE64URL.decode(code).ok()?);
        if !inner.catalog.sealer().is_authentic(SESSION_MAC, &text, &code) {
            return None;
        }
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.splitn(4, '.');
        let mut time = || Some(Timestamp::from_millis(parts.next()?.parse().ok()?));
        let (expires, enrolled) = (time()?, time()?);
        let instance = parts.next()?.into();
        Some(Self { agent: Id::parse(parts.next()?).ok()?, instance, expires, enrolled })
    }
}
