//! One place to look up issuers and targets, whether a program declares them or somebody stored them.

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use tokio::sync::Mutex;

use crate::{
    Clock, Env, Error, ErrorKind, Id, Identified, Issuer, Recipient, Result, Sealer, Secrets, Solver,
    SolverSpec, Target,
    connectors::{Connectors, Site, reseal},
    home::Home,
    host::{Endpoint, Host, Hosts},
    records::{IssuerRecord, Place, StateRecord, TargetRecord},
    state::StoreState,
    store::{Record, Store},
};

/// Issuers and targets by record: what the program declares first, then what is stored, built by the connector tables.
#[derive(Debug)]
pub struct Catalog {
    parts: Parts,
    issuers: HashMap<Box<str>, Arc<dyn Issuer>>,
    targets: HashMap<Box<str>, (Arc<dyn Target>, Vec<Endpoint>)>,
    built_issuers: Mutex<HashMap<Box<str>, (IssuerRecord, Arc<dyn Issuer>)>>,
    /// Few: one for each configuration that is in use. What was used last is last.
    built_solvers: Mutex<Vec<(SolverSpec, Arc<dyn Solver>)>>,
}

/// What connectors are built with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) hosts: Arc<dyn Hosts>,
    pub(crate) connectors: Arc<Connectors>,
}

impl Parts {
    /// The environment of the connector with this id.
    pub(crate) fn env<R: Record + Identified>(&self, owner: &Id<R>) -> Env {
        let id = owner.as_str();
        let state =
            StoreState::new(self.store.clone(), self.sealer.clone(), self.clock.clone(), id.to_owned());
        Env::new(self.clock.clone(), self.secrets.clone(), Arc::new(state), self.hosts.clone())
            .owned_by(R::KIND.table, id)
    }
}

impl Catalog {
    /// For a [`crate::LocalWorker`] without an engine, such as an agent's. Of the home's store it needs no more than a place
    /// for what connectors keep.
    ///
    /// # Errors
    /// What opening the store gives.
    pub async fn for_worker(home: Home, clock: Arc<dyn Clock>) -> Result<Self> {
        home.store.open(&[StateRecord::KIND]).await?;
        Ok(Self::new(Parts {
            store: home.store,
            clock,
            secrets: home.secrets,
            sealer: home.sealer,
            hosts: home.hosts,
            connectors: Arc::new(home.connectors),
        }))
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            issuers: HashMap::new(),
            targets: HashMap::new(),
            built_issuers: Mutex::default(),
            built_solvers: Mutex::default(),
        }
    }

    pub(crate) fn declare_issuer(&mut self, id: &str, issuer: Arc<dyn Issuer>) {
        self.issuers.insert(id.into(), issuer);
    }

    pub(crate) fn declare_target(&mut self, id: &str, target: Arc<dyn Target>, default_probe: Vec<Endpoint>) {
        self.targets.insert(id.into(), (target, default_probe));
    }

    /// Whether this program declares the issuer with this id.
    pub(crate) fn declares_issuer(&self, id: &str) -> bool {
        self.issuers.contains_key(id)
    }

    /// Whether this program declares the target with this id.
    pub(crate) fn declares_target(&self, id: &str) -> bool {
        self.targets.contains_key(id)
    }

    /// The host of this place.
    pub(crate) async fn host(&self, place: &Place) -> Result<Arc<dyn Host>> {
        self.parts.hosts.host(place.host.as_ref().map(Id::as_str)).await
    }

    /// Checks what somebody wants to store about a host.
    pub(crate) fn check_host(&self, kind: &str, config: &serde_json::Value) -> Result<()> {
        self.parts.hosts.check(kind, config)
    }

    /// The target as an agent gets it: what this store has sealed in its configuration is sealed to the agent instead, for the
    /// same fields of the same record.
    ///
    /// # Errors
    /// `Precondition` if a value does not open with this store's key.
    pub fn for_agent(&self, record: &TargetRecord, recipient: &Recipient) -> Result<TargetRecord> {
        let mut record = record.clone();
        if let Some(config) = &mut record.config {
            let owner = (TargetRecord::KIND.table, record.id.as_str());
            reseal(self.sealer(), recipient, owner, "", config)?;
        }
        Ok(record)
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.parts.sealer
    }

    /// The connector tables.
    pub fn connectors(&self) -> &Connectors {
        &self.parts.connectors
    }

    /// The issuer of this record.
    ///
    /// # Errors
    /// `Precondition` if a program declared it and this one does not; what its constructor gives.
    pub async fn issuer(&self, record: &IssuerRecord) -> Result<Arc<dyn Issuer>> {
        if let Some(issuer) = self.issuers.get(record.id.as_str()) {
            return Ok(issuer.clone());
        }
        let config = record.config.as_ref().ok_or_else(|| undeclared("issuer", &record.name))?;
        let mut built = self.built_issuers.lock().await;
        if let Some((of, issuer)) = built.get(record.id.as_str())
            && (&of.kind, &of.config) == (&record.kind, &record.config)
        {
            return Ok(issuer.clone());
        }
        let env = self.parts.env(&record.id);
        let issuer = self.parts.connectors.issuer(&record.kind)?.connect(config, env).await?;
        built.insert(record.id.as_str().into(), (record.clone(), issuer.clone()));
        Ok(issuer)
    }

    /// The solver of this kind and configuration. The same configuration gives the same solver: one listener shows the
    /// answers to many challenges.
    ///
    /// # Errors
    /// `Invalid` if there is no such kind or its configuration is wrong; what its constructor gives.
    pub async fn solver(&self, spec: &SolverSpec) -> Result<Arc<dyn Solver>> {
        const KEPT: usize = 64;
        let kind = self.parts.connectors.solver(&spec.kind)?;
        let mut spec = spec.clone();
        spec.explicit = false;
        if kind.shared {
            spec.owner = None;
        }
        let mut built = self.built_solvers.lock().await;
        if let Some(known) = built.iter().position(|(of, _)| *of == spec) {
            let known = built.remove(known);
            let solver = known.1.clone();
            built.push(known);
            return Ok(solver);
        }
        let owner = Id::<IssuerRecord>::parse(spec.owner.as_deref().unwrap_or("iss-unknown"))?;
        let env = self.parts.env(&owner);
        let solver = kind.connect(&spec.config, env).await?;
        // One that is shared may hold a port, and answers that are shown there: it stays.
        let replaceable =
            |(of, _): &(SolverSpec, _)| self.parts.connectors.solver(&of.kind).is_ok_and(|kind| !kind.shared);
        if built.iter().filter(|one| replaceable(one)).count() >= KEPT
            && let Some(longest_unused) = built.iter().position(replaceable)
        {
            built.remove(longest_unused);
        }
        built.push((spec, solver.clone()));
        Ok(solver)
    }

    /// The target of this record, and where such a server usually serves.
    ///
    /// # Errors
    /// As for [`Catalog::issuer`].
    pub async fn target(&self, record: &TargetRecord) -> Result<(Arc<dyn Target>, Vec<Endpoint>)> {
        if let Some((target, probe)) = self.targets.get(record.id.as_str()) {
            return Ok((target.clone(), probe.clone()));
        }
        let config = record.config.as_ref().ok_or_else(|| undeclared("target", &record.name))?;
        let kind = self.parts.connectors.target(&record.kind)?;
        let host = self.host(&record.place).await?;
        let site = Site { env: self.parts.env(&record.id), host, write: record.write };
        Ok((kind.connect(config, site)?, kind.default_probe()))
    }
}

/// The `reason` of a connector that was declared by a program that does not any more: trying again does not help.
pub(crate) const UNDECLARED: &str = "undeclared";

fn undeclared(noun: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!(
            "the {noun} {name} was declared by a program, and this one does not: declare it again, or store it"
        ),
    )
    .with("reason", UNDECLARED)
}
