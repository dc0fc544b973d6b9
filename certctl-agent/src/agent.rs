//! The agent itself: put together from parts, enrolled, and run.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use certctl_client::Client;
use certctl_connectors::{hosts::LocalHosts, keys::DiskKeys};
use certctl_core::{
    Catalog, Chain, Clock, Error, ErrorKind, Fingerprint, Home, Keys, LocalWorker, Result, Retry, Secret,
    SystemClock,
    connectors::{Connectors, TargetConfig, TargetKind},
    engine::AgentKeys,
    host::Hosts,
    records::ConnectorInfo,
};
use tokio::select;

use crate::{
    files::blocking,
    journal::Journal,
    link::{Link, instance, pause},
    policy::{Guard, GuardedHosts, GuardedWorker, Policy},
    runner::Runner,
    secrets::AgentSecrets,
    state::{Identity, StateDir},
    uplink::Uplink,
};

/// Puts an [`Agent`] together.
#[derive(Debug)]
#[must_use]
pub struct AgentBuilder {
    server: String,
    state_dir: PathBuf,
    way: Way,
    token: Option<Secret>,
    connectors: Connectors,
    policy: (Policy, Option<PathBuf>),
    key_dir: Option<PathBuf>,
    keys: Option<Arc<dyn Keys>>,
    hosts: Arc<dyn Hosts>,
    clock: Arc<dyn Clock>,
    parallel: usize,
}

/// How the server is reached.
#[derive(Debug)]
enum Way {
    /// Over HTTPS; its certificate has to come from one of those in this file.
    Https(PathBuf),
    Own(Arc<dyn Uplink>),
}

impl AgentBuilder {
    fn new(server: String, state_dir: PathBuf, way: Way) -> Self {
        Self {
            server,
            state_dir,
            way,
            token: None,
            connectors: certctl_connectors::connectors(),
            policy: (Policy::default(), None),
            key_dir: None,
            keys: None,
            hosts: Arc::new(LocalHosts),
            clock: Arc::new(SystemClock),
            parallel: 4,
        }
    }

    /// An agent that reaches its server in its own way, such as inside the same process. `server` is what people call it.
    pub fn with_uplink(
        uplink: Arc<dyn Uplink>,
        server: impl Into<String>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        Self::new(server.into(), state_dir.into(), Way::Own(uplink))
    }

    /// The token to enrol with. An agent whose state directory holds an identity does not look at it.
    pub fn token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// Adds a kind of targets of one's own; one of the same name is replaced.
    pub fn target_kind<C: TargetConfig>(mut self) -> Self {
        self.connectors.register_target(TargetKind::of::<C>());
        self
    }

    /// Other connectors than all of those that are built in.
    pub fn connectors(mut self, connectors: Connectors) -> Self {
        self.connectors = connectors;
        self
    }

    /// What the server may ask for; `file` is where that is written, for what a refusal says.
    pub fn policy(mut self, policy: Policy, file: Option<PathBuf>) -> Self {
        self.policy = (policy, file);
        self
    }

    /// Where the private keys of certificates are, instead of in the state directory.
    pub fn key_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.key_dir = Some(dir.into());
        self
    }

    /// Another key store than a directory.
    pub fn keys(mut self, keys: Arc<dyn Keys>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Other hosts than this machine.
    pub fn hosts(mut self, hosts: Arc<dyn Hosts>) -> Self {
        self.hosts = hosts;
        self
    }

    /// Another clock than this machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How many pieces of work are done at the same time; 4 by default.
    pub fn parallel(mut self, parallel: usize) -> Self {
        self.parallel = parallel;
        self
    }

    /// Takes the state directory. Asks the server nothing: it need not be there.
    ///
    /// # Errors
    /// `Precondition` if another process uses the directory, or something in it can't be read; `Invalid` with everything
    /// that is wrong with the rules; `Unauthenticated` if there is neither an identity nor a token.
    pub async fn open(self) -> Result<Agent> {
        let wrong = self.policy.0.check();
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let (uplink, trusts) = match self.way {
            Way::Https(ca) => https(&self.server, &ca, self.clock.clone())?,
            Way::Own(uplink) => (uplink, Vec::new()),
        };
        let (path, key_dir, keys) = (self.state_dir, self.key_dir, self.keys);
        let opened = blocking(move || Opened::open(&path, key_dir, keys)).await?;
        if opened.identity.is_none() && self.token.is_none() {
            return Err(Error::new(
                ErrorKind::Unauthenticated,
                format!(
                    "there is no identity in {}, and no token to enrol with: run `certctl agents enroll-token --name NAME` \
                     where you administer the server, and give what it prints in CERTCTL_ENROLL_TOKEN",
                    opened.state.path().display()
                ),
            ));
        }
        let (policy, file) = self.policy;
        let mut guard = Guard::new(policy, file.clone()).close(opened.state.path())?;
        for own in [&opened.key_dir, &file].into_iter().flatten() {
            guard = guard.close(own)?;
        }
        Ok(Agent {
            server: self.server,
            uplink,
            trusts,
            token: self.token,
            connectors: self.connectors,
            guard: Arc::new(guard),
            hosts: self.hosts,
            clock: self.clock,
            parallel: self.parallel,
            opened,
        })
    }

    /// [`AgentBuilder::open`], then [`Agent::run`].
    ///
    /// # Errors
    /// Of both.
    pub async fn run(self, until: impl Future<Output = ()>) -> Result<()> {
        self.open().await?.run(until).await
    }
}

/// A process that holds keys and deploys where it runs, on behalf of a server.
///
/// It makes private keys itself and never sends one anywhere. It asks for work, does what its owner's rules allow, and says
/// what became of it; what it has begun, it finishes without the server.
#[derive(Debug)]
pub struct Agent {
    server: String,
    uplink: Arc<dyn Uplink>,
    trusts: Vec<Fingerprint>,
    token: Option<Secret>,
    connectors: Connectors,
    guard: Arc<Guard>,
    hosts: Arc<dyn Hosts>,
    clock: Arc<dyn Clock>,
    parallel: usize,
    opened: Opened,
}

/// What is on the disk.
#[derive(Debug)]
struct Opened {
    state: StateDir,
    identity: Option<Identity>,
    signing_key: certctl_core::PrivateKey,
    sealing_key: certctl_core::RecipientKey,
    journal: Journal,
    keys: Arc<dyn Keys>,
    key_dir: Option<PathBuf>,
}

impl Opened {
    fn open(path: &Path, key_dir: Option<PathBuf>, keys: Option<Arc<dyn Keys>>) -> Result<Self> {
        let state = StateDir::open(path)?;
        let (keys, key_dir) = match keys {
            Some(keys) => (keys, None),
            None => {
                let dir = key_dir.unwrap_or_else(|| state.path().join("keys"));
                let dir = std::path::absolute(&dir)
                    .map_err(|error| crate::files::fault("find the key directory", &dir, error))?;
                (Arc::new(DiskKeys::open(&dir)?) as Arc<dyn Keys>, Some(dir))
            }
        };
        Ok(Self {
            identity: state.identity()?,
            signing_key: state.signing_key()?,
            sealing_key: state.sealing_key()?,
            journal: Journal::open(state.path().join("journal"))?,
            keys,
            key_dir,
            state,
        })
    }
}

/// The client asks once: when to ask again is the agent's own business.
fn https(server: &str, ca: &Path, clock: Arc<dyn Clock>) -> Result<(Arc<dyn Uplink>, Vec<Fingerprint>)> {
    let client = Client::builder(server).ca_file(ca).clock(clock).tries(1).build()?;
    // Readable: the client has read it. What does not read as one chain is not announced.
    let text = std::fs::read(ca).unwrap_or_default();
    let roots = Chain::from_pem(&text)
        .map(|chain| chain.certificates().iter().map(|root| root.fingerprint()).collect());
    Ok((Arc::new(client), roots.unwrap_or_default()))
}

impl Agent {
    /// An agent of the server at this URL, whose certificate has to come from one of those in the file `ca` (PEM), and which
    /// lives in `state_dir`.
    pub fn builder(
        server: impl Into<String>,
        ca: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> AgentBuilder {
        AgentBuilder::new(server.into(), state_dir.into(), Way::Https(ca.into()))
    }

    /// What its owner lets the server ask for. Rules may be replaced while it works.
    pub fn guard(&self) -> Arc<Guard> {
        self.guard.clone()
    }

    /// Who this is; none before it has enrolled.
    pub fn identity(&self) -> Option<&Identity> {
        self.opened.identity.as_ref()
    }

    /// Enrols if need be, then works until `until` is over: what has not begun to write stops, what has ends first.
    ///
    /// # Errors
    /// If the enrolment is refused, or the journal can't be read. A server that is not there is no error.
    pub async fn run(mut self, until: impl Future<Output = ()>) -> Result<()> {
        let mut until = pin!(until);
        let identity = match self.opened.identity.take() {
            Some(identity) => self.moved(identity).await?,
            None => select! {
                biased;
                () = &mut until => return Ok(()),
                identity = self.enroll() => identity?,
            },
        };
        tracing::info!(agent = %identity.name, id = %identity.agent, server = self.server, "at work");
        let catalog = self.catalog().await?;
        let local = LocalWorker::new(Arc::new(catalog), self.opened.keys.clone(), Vec::new());
        let worker = GuardedWorker {
            inner: Arc::new(local),
            guard: self.guard.clone(),
            agent: identity.agent.clone(),
            connectors: self.connectors.clone(),
        };
        let link = Link {
            uplink: self.uplink.clone(),
            clock: self.clock.clone(),
            identity,
            key: self.opened.signing_key.clone(),
            instance: instance(),
            connectors: self.announced(),
            trusts: self.trusts.clone(),
            session: tokio::sync::Mutex::default(),
            trouble: std::sync::Mutex::default(),
        };
        // The state directory is held until the end.
        let Opened { state, journal, .. } = self.opened;
        let (link, journal) = (Arc::new(link), Arc::new(journal));
        let runner = Runner::new(link, journal, Arc::new(worker), self.clock, self.parallel);
        let ended = runner.run(until).await;
        drop(state);
        ended
    }

    /// Asks until somebody answers: nothing can be done without.
    async fn enroll(&self) -> Result<Identity> {
        let token = self.token.as_ref().ok_or_else(|| Error::internal("there is no token"))?;
        let keys =
            AgentKeys::sign(token, &self.opened.signing_key, self.opened.sealing_key.recipient()).await?;
        let mut failures = 0;
        let enrolled = loop {
            match self.uplink.enroll(token, &keys).await {
                Ok(enrolled) => break enrolled,
                Err(error) if error.retry() == Retry::Never => return Err(error.during("enrolling")),
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!("enrolling: {error}; trying again");
                    }
                    self.clock.pause(pause(&error, failures, self.clock.now())).await;
                }
            }
        };
        let identity = Identity { agent: enrolled.agent, name: enrolled.name, server: self.server.clone() };
        self.opened.state.save_identity(&identity)?;
        tracing::info!(agent = %identity.name, id = %identity.agent, "enrolled");
        Ok(identity)
    }

    /// A server may have got another name.
    async fn moved(&self, mut identity: Identity) -> Result<Identity> {
        if identity.server != self.server {
            tracing::info!(before = identity.server, now = self.server, "the server is called otherwise now");
            identity.server.clone_from(&self.server);
            self.opened.state.save_identity(&identity)?;
        }
        Ok(identity)
    }

    async fn catalog(&self) -> Result<Catalog> {
        let home = Home {
            keys: self.opened.keys.clone(),
            hosts: Arc::new(GuardedHosts::new(self.hosts.clone(), self.guard.clone())),
            secrets: Arc::new(AgentSecrets {
                key: self.opened.sealing_key.clone(),
                guard: self.guard.clone(),
            }),
            connectors: self.connectors.clone(),
            ..Home::in_memory()
        };
        Catalog::for_worker(home, self.clock.clone()).await
    }

    /// What the server may hand out to it.
    fn announced(&self) -> Vec<ConnectorInfo> {
        let info = |family: &str, kind: &str, aliases: &[&str], schema: schemars::Schema| ConnectorInfo {
            family: family.into(),
            kind: kind.into(),
            aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
            schema: schema.to_value(),
        };
        let targets =
            self.connectors.targets().map(|kind| info("target", kind.name, kind.aliases, kind.schema()));
        let solvers =
            self.connectors.solvers().map(|kind| info("solver", kind.name, kind.aliases, kind.schema()));
        targets.chain(solvers).filter(|info| self.guard.kind(&info.kind).is_ok()).collect()
    }
}
