use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64},
    },
};

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::{
    Actor, Clock, Error, ErrorKind, Id, Identified, Result, Solver, SystemClock, Violation,
    catalog::{Catalog, Parts},
    check_name,
    connectors::{IssuerDeclaration, Site, TargetBuilder, TargetDeclaration, escaped},
    engine::{Engine, Inner, http01::StoreSolver},
    home::{Home, IntoHome},
    records::{AuditEvent, IssuerRecord, KINDS, TargetRecord},
    store::{Change, Record, StoreExt, Stored},
    worker::{LocalWorker, Worker},
};

/// Builds an [`Engine`].
#[derive(Debug)]
#[must_use]
pub struct EngineBuilder {
    home: Result<Home>,
    clock: Arc<dyn Clock>,
    issuers: Vec<(String, IssuerDeclaration)>,
    targets: Vec<(String, TargetDeclaration)>,
    solvers: Vec<Arc<dyn Solver>>,
    answers_http01: bool,
    default_issuer: Option<String>,
    keys_need_a_place: bool,
    worker: Wrap,
    at_once: usize,
}

/// How the local worker is wrapped.
struct Wrap(Box<dyn FnOnce(LocalWorker) -> Arc<dyn Worker> + Send>);

impl Debug for Wrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wrap")
    }
}

impl Engine {
    /// An engine that lives in `home`: a store that is a directory, a [`crate::store::MemoryStore`], or a [`Home`] put
    /// together from parts.
    pub fn builder(home: impl IntoHome) -> EngineBuilder {
        EngineBuilder {
            home: home.into_home(),
            clock: Arc::new(SystemClock),
            issuers: Vec::new(),
            targets: Vec::new(),
            solvers: Vec::new(),
            answers_http01: false,
            default_issuer: None,
            keys_need_a_place: false,
            worker: Wrap(Box::new(|local| Arc::new(local))),
            at_once: 64,
        }
    }
}

impl EngineBuilder {
    /// Declares an issuer: a configuration, or an issuer that exists.
    pub fn issuer(mut self, name: impl Into<String>, issuer: impl Into<IssuerDeclaration>) -> Self {
        self.issuers.push((name.into(), issuer.into()));
        self
    }

    /// Declares a target: a configuration (with or without the shared fields), or a target that exists.
    pub fn target(mut self, name: impl Into<String>, target: impl Into<TargetDeclaration>) -> Self {
        self.targets.push((name.into(), target.into()));
        self
    }

    /// Registers who can show answers to challenges.
    pub fn solver(mut self, solver: Arc<dyn Solver>) -> Self {
        self.solvers.push(solver);
        self
    }

    /// Says that a web server in front of every process on this store answers http-01 with [`Engine::http01_answer`]: the
    /// answers are written into the store. Solvers that are registered come first.
    pub fn answers_http01(mut self) -> Self {
        self.answers_http01 = true;
        self
    }

    /// Who issues where a [`CertificateSpec`](crate::CertificateSpec) names nobody, by name or id. By default that is the only
    /// issuer there is.
    pub fn default_issuer(mut self, id_or_name: impl Into<String>) -> Self {
        self.default_issuer = Some(id_or_name.into());
        self
    }

    /// Refuses certificates that have neither a target nor a request from elsewhere: for a program that gives nobody the keys
    /// that it holds itself.
    pub fn keys_need_a_place(mut self) -> Self {
        self.keys_need_a_place = true;
        self
    }

    /// Another clock than this machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Puts something around the worker, to observe or to restrict it.
    pub fn worker(mut self, wrap: impl FnOnce(LocalWorker) -> Arc<dyn Worker> + Send + 'static) -> Self {
        self.worker = Wrap(Box::new(wrap));
        self
    }

    /// How many jobs, or units of targets, are worked on at the same time; 64 by default.
    pub fn at_once(mut self, at_once: usize) -> Self {
        self.at_once = at_once.max(1);
        self
    }

    /// Opens the store and records what is declared. Asks nobody: neither CA nor target need to be there.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong in the declarations, and what opening the store gives.
    pub async fn build(mut self) -> Result<Engine> {
        let home = self.home?;
        let mut wrong = check_declarations::<IssuerRecord, _>("issuers", &self.issuers, |one| one.check());
        wrong.extend(check_declarations::<TargetRecord, _>("targets", &self.targets, |one| one.check()));
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        home.store.open(KINDS).await?;
        let parts = Parts {
            store: home.store.clone(),
            clock: self.clock.clone(),
            secrets: home.secrets,
            sealer: home.sealer,
            hosts: home.hosts,
            connectors: Arc::new(home.connectors),
        };
        let mut catalog = Catalog::new(parts.clone());
        for (name, declaration) in self.issuers {
            if let Err(e) = declare_issuer(&parts, &mut catalog, &name, declaration).await {
                collect(&mut wrong, &format!("/issuers/{}", escaped(&name)), e)?;
            }
        }
        for (name, declaration) in self.targets {
            if let Err(e) = declare_target(&parts, &mut catalog, &name, declaration).await {
                collect(&mut wrong, &format!("/targets/{}", escaped(&name)), e)?;
            }
        }
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }

        if self.answers_http01 {
            let solver = StoreSolver { store: home.store.clone(), clock: self.clock.clone() };
            self.solvers.push(Arc::new(solver));
        }
        let catalog = Arc::new(catalog);
        let seat = home.store.seat().await?;
        let worker = (self.worker.0)(LocalWorker::new(catalog.clone(), home.keys.clone(), self.solvers));
        Ok(Engine {
            inner: Arc::new(Inner {
                store: home.store,
                clock: self.clock,
                catalog,
                keys: home.keys,
                worker,
                seat,
                default_issuer: self.default_issuer,
                keys_need_a_place: self.keys_need_a_place,
                at_once: self.at_once,
                latest: AtomicI64::new(i64::MIN),
                wake: watch::channel(0).0,
                wake_agents: watch::channel(0).0,
                ending: AtomicBool::new(false),
                events: broadcast::channel(4096).0,
                running: Mutex::new(HashMap::new()),
            }),
        })
    }
}

/// What is wrong with what is declared, before anything is written.
fn check_declarations<R: Identified, D>(
    list: &str,
    declared: &[(String, D)],
    check: impl Fn(&D) -> Vec<Violation>,
) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for (index, (name, declaration)) in declared.iter().enumerate() {
        let pointer = format!("/{list}/{}", escaped(name));
        let mut found = check(declaration);
        found.extend(check_name::<R>(name, "").err().iter().flat_map(|e| e.violations().to_vec()));
        if declared[..index].iter().any(|(other, _)| other == name) {
            let message = format!("the name {name:?} is declared twice");
            found.push(Violation::new("", message, format!("give each {} a name of its own", R::NOUN)));
        }
        wrong.extend(Error::invalid(found).below(&pointer).violations().iter().cloned());
    }
    wrong
}

/// Keeps what is wrong with the input; anything else ends the build.
fn collect(wrong: &mut Vec<Violation>, pointer: &str, error: Error) -> Result<()> {
    if error.kind() != ErrorKind::Invalid {
        return Err(error);
    }
    wrong.extend_from_slice(error.below(pointer).violations());
    Ok(())
}

async fn declare_issuer(
    parts: &Parts,
    catalog: &mut Catalog,
    name: &str,
    declaration: IssuerDeclaration,
) -> Result<()> {
    let record = loop {
        let known = parts.store.find_by::<IssuerRecord>("name", name.into()).await?;
        let wanted = IssuerRecord {
            id: known.as_ref().map_or_else(|| declared_id(name, parts), |known| known.id.clone()),
            name: name.into(),
            // What an operator stored under this name stays: the code comes first only as long as it declares it.
            kind: kind_of(known.as_ref().map(|known| (&known.config, &*known.kind)), &declaration.kind),
            config: known.as_ref().and_then(|known| known.config.clone()),
        };
        if let Some(record) = record_declared(parts, known, wanted, "issuer.declared").await? {
            break record;
        }
    };
    let env = parts.env(&record.id);
    let issuer = (declaration.connect)(env, parts.connectors.clone(), parts.sealer.clone()).await?;
    catalog.declare_issuer(record.id.as_str(), issuer);
    Ok(())
}

async fn declare_target(
    parts: &Parts,
    catalog: &mut Catalog,
    name: &str,
    declaration: TargetDeclaration,
) -> Result<()> {
    let probe = declaration.probe?;
    let record = loop {
        let known = parts.store.find_by::<TargetRecord>("name", name.into()).await?;
        let wanted = TargetRecord {
            id: known.as_ref().map_or_else(|| declared_id(name, parts), |known| known.id.clone()),
            name: name.into(),
            kind: kind_of(known.as_ref().map(|known| (&known.config, &*known.kind)), &declaration.kind),
            config: known.as_ref().and_then(|known| known.config.clone()),
            place: declaration.place.clone(),
            probe: probe.clone(),
            write: declaration.write,
            checked: known.as_ref().and_then(|known| known.checked.clone()),
        };
        if let Some(record) = record_declared(parts, known, wanted, "target.declared").await? {
            break record;
        }
    };
    let target = match declaration.connect {
        TargetBuilder::Instance(target) => target,
        TargetBuilder::Config(connect) => {
            let host = parts.hosts.host(record.place.host.as_ref().map(Id::as_str)).await?;
            connect(Site { env: parts.env(&record.id), host, write: record.write })?
        }
    };
    catalog.declare_target(record.id.as_str(), target, declaration.default_probe);
    Ok(())
}

/// The kind that goes with a stored configuration, or else the declared one.
fn kind_of(known: Option<(&Option<Value>, &str)>, declared: &str) -> Box<str> {
    match known {
        Some((Some(_), stored)) => stored.into(),
        _ => declared.into(),
    }
}

/// `iss-local` for the issuer `local`; a minted id where the name has other characters.
fn declared_id<R: Identified>(name: &str, parts: &Parts) -> Id<R> {
    Id::parse(&format!("{}-{name}", R::PREFIX)).unwrap_or_else(|_| Id::mint_at(parts.clock.now()))
}

/// None if somebody else was faster: look again.
async fn record_declared<R: Record + PartialEq + Clone>(
    parts: &Parts,
    known: Option<Stored<R>>,
    wanted: R,
    action: &str,
) -> Result<Option<R>> {
    let event = AuditEvent::new(parts.clock.now(), &Actor::process(), action, wanted.id());
    let change = match known {
        Some(known) if *known == wanted => return Ok(Some(wanted)),
        Some(mut known) => {
            *known = wanted.clone();
            Change::new(event).update(&known)?
        }
        None => Change::new(event).insert(&wanted)?,
    };
    match parts.store.commit(change).await {
        Ok(_) => Ok(Some(wanted)),
        Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
        Err(e) => Err(e),
    }
}
