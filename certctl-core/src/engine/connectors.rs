//! Issuers and targets that somebody stores, instead of declaring them in a program's code.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Actor, Error, ErrorKind, Id, Identified, Issuer, Lifetime, Permission, Result, Violation, WriteMode,
    check_name,
    connectors::{Sealing, read_config, seal},
    engine::{Engine, Inner, commands::again_if_stale, errands, place},
    host::Endpoint,
    records::{AuditEvent, Certificate, Deployment, IssuerRecord, Place, Probe, TargetRecord},
    store::{Change, Record, Store, StoreExt, Stored},
};

/// An issuer to store. Public fields and [`IssuerSpec::new`] are its builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerSpec {
    /// The id, if it shall not be minted: `iss-` and letters, digits, dashes.
    pub id: Option<String>,
    /// The name, unique.
    pub name: String,
    /// The connector's kind, or another name for it.
    pub kind: String,
    /// The connector's configuration; the kind's schema says what is in it.
    pub config: Value,
    /// Refuse with `Conflict` unless the stored issuer has this version; zero if there must be none.
    #[serde(skip)]
    pub expected_version: Option<u64>,
}

/// A target to store. Public fields and [`TargetSpec::new`] are its builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TargetSpec {
    /// The id, if it shall not be minted: `tgt-` and letters, digits, dashes.
    pub id: Option<String>,
    /// The name, unique.
    pub name: String,
    /// The connector's kind, or another name for it.
    pub kind: String,
    /// The connector's configuration; the kind's schema says what is in it. A field `probe` (addresses alone, or all of a
    /// probe) and `post_deploy_verify { enabled, endpoint, timeout }` are other ways to write this spec's `probe`.
    pub config: Value,
    /// Who deploys to it, and on which host it is.
    pub place: PlaceSpec,
    /// How it is proved what it serves; the connector's own endpoints by default.
    pub probe: Option<Probe>,
    /// How its files are written.
    pub write: WriteMode,
    /// Refuse with `Conflict` unless the stored target has this version; zero if there must be none.
    #[serde(skip)]
    pub expected_version: Option<u64>,
}

/// Who deploys to a target, and on which host it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlaceSpec {
    /// The agent, by name or id; none for this process.
    pub agent: Option<String>,
    /// The host, by name or id; none for the machine that the agent, or this process, runs on.
    pub host: Option<String>,
}

impl From<Place> for PlaceSpec {
    fn from(place: Place) -> Self {
        Self { agent: place.agent.map(|id| id.to_string()), host: place.host.map(|id| id.to_string()) }
    }
}

impl IssuerSpec {
    /// An issuer of this name.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, config: Value) -> Self {
        Self { name: name.into(), kind: kind.into(), config, ..Self::default() }
    }

    /// Refuses with `Conflict` unless the stored issuer has this version; zero if there must be none.
    #[must_use]
    pub fn expect_version(mut self, version: u64) -> Self {
        self.expected_version = Some(version);
        self
    }
}

impl TargetSpec {
    /// A target of this name.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, config: Value) -> Self {
        Self { name: name.into(), kind: kind.into(), config, ..Self::default() }
    }

    /// Refuses with `Conflict` unless the stored target has this version; zero if there must be none.
    #[must_use]
    pub fn expect_version(mut self, version: u64) -> Self {
        self.expected_version = Some(version);
        self
    }
}

impl Engine {
    /// Stores an issuer, or changes the one that has this id, or else this name. In use from the next step of any job on, in
    /// every process on the store. What is stored already is left alone.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong (the configuration's fields below `/config`), `Conflict` if the name is taken
    /// or [`IssuerSpec::expected_version`] is not the stored one, `Precondition` if this program declares the issuer in its
    /// code, `Denied` if the actor may not.
    pub async fn put_issuer(&self, actor: &Actor, spec: IssuerSpec) -> Result<Stored<IssuerRecord>> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        let mut wrong = Vec::new();
        let config = &object(&spec.config);
        let id = check_identity::<IssuerRecord>(spec.id.as_deref(), &spec.name, &mut wrong);
        let kind = take(&mut wrong, "", inner.catalog.connectors().issuer(&spec.kind));
        if let Some(kind) = kind {
            take(&mut wrong, "/config", kind.check(config));
        }
        let Some(kind) = kind.filter(|_| wrong.is_empty()) else { return Err(Error::invalid(wrong)) };
        let (id, spec) = (&id, &spec);
        again_if_stale(|| async move {
            let known =
                known(&*inner.store, id.as_ref(), &spec.name, |record: &IssuerRecord| &record.id).await?;
            if known.as_ref().is_some_and(|known| inner.catalog.declares_issuer(known.id.as_str())) {
                return Err(declared("issuer", &spec.name));
            }
            let id = chosen(inner, known.as_ref().map(|known| &known.id), id.as_ref());
            let before = known.as_ref().and_then(|known| known.config.as_ref());
            let record = IssuerRecord {
                config: Some(sealed(inner, &id, &kind.schema(), config, before)?),
                id,
                name: spec.name.as_str().into(),
                kind: kind.name.into(),
            };
            put(inner, actor, known, record, spec.expected_version, Ok).await
        })
        .await
    }

    /// Stores a target, or changes the one that has this id, or else this name. What is stored already is left alone. A
    /// changed target gets the certificates that belong there when each is next deployed: see [`Engine::deploy`]. The agent of a
    /// target is asked whether its configuration will do: [`TargetRecord::checked`] is its answer, once there is one. What it
    /// did not like is asked again when it is stored again.
    ///
    /// # Errors
    /// As for [`Engine::put_issuer`]; `Precondition` if another agent is named while certificates go there.
    pub async fn put_target(&self, actor: &Actor, spec: TargetSpec) -> Result<Stored<TargetRecord>> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        let mut wrong = Vec::new();
        let id = check_identity::<TargetRecord>(spec.id.as_deref(), &spec.name, &mut wrong);
        let mut config = object(&spec.config);
        let probe = split_probe(&mut config, spec.probe.clone(), &mut wrong);
        let place = place::read(inner, &spec.place, &mut wrong).await?;
        let kind = place::kind(inner, &spec.kind, &place, &config, &mut wrong).await?;
        let Some(kind) = kind.filter(|_| wrong.is_empty()) else { return Err(Error::invalid(wrong)) };
        let (kind, place) = (&kind, &place);
        let (id, spec, config, probe) = (&id, &spec, &config, &probe);
        again_if_stale(|| async move {
            let known =
                known(&*inner.store, id.as_ref(), &spec.name, |record: &TargetRecord| &record.id).await?;
            if known.as_ref().is_some_and(|known| inner.catalog.declares_target(known.id.as_str())) {
                return Err(declared("target", &spec.name));
            }
            let id = chosen(inner, known.as_ref().map(|known| &known.id), id.as_ref());
            if let Some(known) = known.as_ref().filter(|known| known.place.agent != place.agent)
                && inner.store.find_by::<Deployment>("target", (&known.id).into()).await?.is_some()
            {
                return Err(place::in_use(&spec.name));
            }
            let before = known.as_ref().and_then(|known| known.config.as_ref());
            let record = TargetRecord {
                config: Some(sealed(inner, &id, &kind.schema, config, before)?),
                id,
                name: spec.name.as_str().into(),
                kind: kind.name.clone(),
                place: place.clone(),
                probe: probe.clone(),
                write: spec.write,
                checked: None,
            };
            let record = errands::as_checked(known.as_deref(), record);
            let check = errands::check_job(inner, actor, &record, known.as_ref().map_or(0, Stored::version))?;
            let check = check.as_ref();
            put(inner, actor, known, record, spec.expected_version, |change| match check {
                Some(check) => change.insert(check),
                None => Ok(change),
            })
            .await
        })
        .await
    }

    /// The issuer itself, for what has no command here, such as [`Issuer::renewal_window`]. What is done with it directly is in
    /// no audit trail; for its account, see [`Engine::account`] and the commands beside it.
    ///
    /// # Errors
    /// `NotFound`, what its constructor gives, or `Denied` if the actor may not.
    pub async fn issuer(&self, actor: &Actor, id_or_name: &str) -> Result<Arc<dyn Issuer>> {
        actor.require(Permission::ManageConnectors)?;
        let record: Stored<IssuerRecord> = self.inner.store.resolve(id_or_name).await?;
        self.inner.catalog.issuer(&record).await
    }

    /// Forgets an issuer that no certificate uses. What it had sealed for itself, such as a CA's keys, stays under its id.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if a certificate uses it or this program declares it, `Denied` if the actor may not.
    pub async fn delete_issuer(&self, actor: &Actor, id_or_name: &str) -> Result<()> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let issuer: Stored<IssuerRecord> = inner.store.resolve(id_or_name).await?;
            if inner.catalog.declares_issuer(issuer.id.as_str()) {
                return Err(declared("issuer", &issuer.name));
            }
            let user: Option<Stored<Certificate>> =
                inner.store.find_by("issuer", (&issuer.id).into()).await?;
            let user = user.map(|certificate| format!("the certificate {}", certificate.name));
            delete(inner, actor, &issuer, user.as_deref()).await
        })
        .await
    }

    /// Forgets a target that no certificate goes to. What was deployed there stays where it is.
    ///
    /// # Errors
    /// As for [`Engine::delete_issuer`].
    pub async fn delete_target(&self, actor: &Actor, id_or_name: &str) -> Result<()> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let target: Stored<TargetRecord> = inner.store.resolve(id_or_name).await?;
            if inner.catalog.declares_target(target.id.as_str()) {
                return Err(declared("target", &target.name));
            }
            let user: Option<Stored<Deployment>> = inner.store.find_by("target", (&target.id).into()).await?;
            let user = user.map(|deployment| format!("the certificate {}", deployment.certificate));
            delete(inner, actor, &target, user.as_deref()).await
        })
        .await
    }
}

/// What the original has inside a target's configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct PostDeployVerify {
    enabled: bool,
    endpoint: Option<Endpoint>,
    timeout: Lifetime,
}

impl Default for PostDeployVerify {
    fn default() -> Self {
        Self { enabled: true, endpoint: None, timeout: Probe::default().deadline }
    }
}

/// Takes `probe` and `post_deploy_verify` out of a configuration, and gives the probe that one of them or the spec asks for.
fn split_probe(config: &mut Value, probe: Option<Probe>, wrong: &mut Vec<Violation>) -> Probe {
    const INSIDE: &str = "/config/probe";
    const VERIFY: &str = "/config/post_deploy_verify";
    let mut take_out = |name: &str| config.as_object_mut().and_then(|fields| fields.remove(name));
    let (inside, verify) = (take_out("probe"), take_out("post_deploy_verify"));
    let said = [("/probe", probe.is_some()), (INSIDE, inside.is_some()), (VERIFY, verify.is_some())];
    let mut said = said.into_iter().filter(|(_, given)| *given).map(|(pointer, _)| pointer);
    if let Some(first) = said.next() {
        wrong.extend(said.map(|pointer| {
            let message = format!("this and {first} say the same thing in two ways");
            Violation::new(pointer, message, "leave out one of them")
        }));
    }
    if let Some(probe) = probe {
        wrong.extend(probe.check("/probe"));
        return probe;
    }
    if let Some(inside) = inside {
        // Addresses alone, or all of it.
        let probe = if inside.is_array() {
            take(wrong, INSIDE, read_config::<Vec<Endpoint>>(&inside))
                .map(|endpoints| Probe { endpoints: Some(endpoints), ..Probe::default() })
        } else {
            take(wrong, INSIDE, read_config::<Probe>(&inside))
        };
        let probe = probe.unwrap_or_default();
        wrong.extend(probe.check(INSIDE));
        return probe;
    }
    let Some(verify) =
        verify.and_then(|verify| take(wrong, VERIFY, read_config::<PostDeployVerify>(&verify)))
    else {
        return Probe::default();
    };
    let endpoints = match (verify.enabled, verify.endpoint) {
        (false, _) => Some(Vec::new()),
        (true, endpoint) => endpoint.map(|endpoint| vec![endpoint]),
    };
    let probe = Probe { endpoints, deadline: verify.timeout, ..Probe::default() };
    wrong.extend(
        probe.check("").into_iter().map(|found| Violation { pointer: format!("{VERIFY}/timeout"), ..found }),
    );
    probe
}

/// A configuration that is left out has no fields.
pub(super) fn object(config: &Value) -> Value {
    if config.is_null() { Value::Object(Default::default()) } else { config.clone() }
}

pub(super) fn check_identity<R: Identified>(
    id: Option<&str>,
    name: &str,
    wrong: &mut Vec<Violation>,
) -> Option<Id<R>> {
    take(wrong, "", check_name::<R>(name, "/name"));
    id.and_then(|id| take(wrong, "/id", Id::parse(id)))
}

/// The value, or what is wrong with it below `pointer`.
pub(super) fn take<T>(wrong: &mut Vec<Violation>, pointer: &str, result: Result<T>) -> Option<T> {
    result.map_err(|e| wrong.extend_from_slice(e.below(pointer).violations())).ok()
}

/// The record that a spec is about: the one with its id, or else the one with its name.
pub(super) async fn known<R: Record + Identified>(
    store: &dyn Store,
    id: Option<&Id<R>>,
    name: &str,
    id_of: impl Fn(&R) -> &Id<R>,
) -> Result<Option<Stored<R>>> {
    let named: Option<Stored<R>> = store.find_by("name", name.into()).await?;
    match (id, named) {
        (Some(id), Some(named)) if id_of(&named) != id => Err(Error::taken(
            "/name",
            format!("the name {name:?} is that of {}", id_of(&named)),
            "choose another name, or leave out the id to change that one",
        )),
        (Some(id), None) => store.find(id).await,
        (_, named) => Ok(named),
    }
}

pub(super) fn chosen<R: Identified>(inner: &Inner, known: Option<&Id<R>>, id: Option<&Id<R>>) -> Id<R> {
    known.or(id).cloned().unwrap_or_else(|| Id::mint_at(inner.clock.now()))
}

/// Writes a record that is new or has changed.
pub(super) async fn put<R: Record + Identified + PartialEq + Clone>(
    inner: &Inner,
    actor: &Actor,
    known: Option<Stored<R>>,
    record: R,
    expected: Option<u64>,
    also: impl FnOnce(Change) -> Result<Change>,
) -> Result<Stored<R>> {
    let noun = R::NOUN;
    let stored = known.as_ref().map_or(0, Stored::version);
    if let Some(expected) = expected.filter(|expected| *expected != stored) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the {noun} has version {stored} and not {expected}: read it again"),
        )
        .with("reason", "version")
        .with("expected", expected)
        .with("version", stored));
    }
    let event =
        |what: &str| AuditEvent::new(inner.clock.now(), actor, &format!("{noun}.{what}"), record.id());
    let change = match &known {
        Some(known) if **known == record => return Ok(Stored::new(record, stored)),
        Some(_) => Change::new(event("changed")).update(&Stored::new(record.clone(), stored))?,
        None => Change::new(event("created")).insert(&record)?,
    };
    let versions = inner.commit(also(change)?).await?;
    Ok(Stored::new(record, versions.first().copied().unwrap_or_default()))
}

pub(super) async fn delete<R: Record + Identified>(
    inner: &Inner,
    actor: &Actor,
    record: &Stored<R>,
    used_by: Option<&str>,
) -> Result<()> {
    let noun = R::NOUN;
    if let Some(user) = used_by {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("the {noun} {} is used by {user}: give that another one first", record.id()),
        ));
    }
    let event = AuditEvent::new(inner.clock.now(), actor, &format!("{noun}.deleted"), record.id());
    inner.commit(Change::new(event).delete(record)).await.map(drop)
}

/// The configuration as it is stored: its secrets sealed for the record.
fn sealed<R: Record + Identified>(
    inner: &Inner,
    id: &Id<R>,
    schema: &schemars::Schema,
    config: &Value,
    before: Option<&Value>,
) -> Result<Value> {
    let mut config = config.clone();
    let with = Sealing {
        connectors: inner.catalog.connectors(),
        sealer: inner.catalog.sealer(),
        owner: (R::KIND.table, id.as_str()),
    };
    seal(with, schema.as_value(), &mut config, before).map_err(|e| e.below("/config"))?;
    Ok(config)
}

fn declared(noun: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!("the {noun} {name:?} is declared in this program's code, which comes first: change it there"),
    )
}
