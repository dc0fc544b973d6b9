//! Connector tables: one row per kind gives its name, its schema and its constructor.
//!
//! A connector is a configuration struct that implements [`IssuerConfig`] or [`TargetConfig`]. Whether it is built in or an
//! integrator's own, it comes into a program in one of two ways: declared in code (`.issuer("local", LocalCa::default())`),
//! or stored as kind and JSON and found through a [`Connectors`] table.

mod config;
mod declare;
mod seal;

use std::{collections::BTreeMap, fmt, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, Schema};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Env, Error, Issuer, Notifier, Result, Solver, SolverSpec, Target, Violation, WriteMode,
    files::OnHost,
    host::{Endpoint, Host},
    target::FileTarget,
};

pub(crate) use config::escaped;
pub(crate) use declare::TargetBuilder;
pub(crate) use seal::{Sealing, reseal, seal, seal_solvers};

pub use config::read_config;
pub use declare::{IssuerDeclaration, TargetConfigExt, TargetDeclaration};

use config::read_and_check;

/// The configuration of an issuer: public fields and `Default` are its builder. Unknown fields are refused
/// (`#[serde(deny_unknown_fields)]`).
#[async_trait]
pub trait IssuerConfig: Serialize + DeserializeOwned + JsonSchema + Debug + Send + Sync + 'static {
    /// The kind: a lower-case word.
    const KIND: &'static str;
    /// Other names that configurations may use for it.
    const ALIASES: &'static [&'static str] = &[];

    /// What is wrong with it, all of it.
    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// The solvers that are part of it, each with the JSON pointer to its field. Where the configuration is declared in a
    /// program's code, they are checked and their secrets sealed through this: they become part of stored jobs.
    fn solvers(&mut self) -> Vec<(&'static str, &mut SolverSpec)> {
        Vec::new()
    }

    /// Builds the issuer. Does not ask the CA anything: a CA that is down must not stop a program from starting.
    async fn connect(self, env: Env) -> Result<Arc<dyn Issuer>>;
}

/// The configuration of a target; see [`IssuerConfig`].
pub trait TargetConfig: Serialize + DeserializeOwned + JsonSchema + Debug + Send + Sync + 'static {
    /// The kind: a lower-case word.
    const KIND: &'static str;
    /// Other names that configurations may use for it.
    const ALIASES: &'static [&'static str] = &[];

    /// What is wrong with it, all of it.
    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Where such a server usually serves, on its own host; empty if it does not serve by itself.
    fn default_probe() -> Vec<Endpoint> {
        Vec::new()
    }

    /// Builds the target. Does not touch it.
    fn connect(self, site: Site) -> Result<Arc<dyn Target>>;
}

/// The configuration of a notifier; see [`IssuerConfig`].
pub trait NotifierConfig: Serialize + DeserializeOwned + JsonSchema + Debug + Send + Sync + 'static {
    /// The kind: a lower-case word.
    const KIND: &'static str;
    /// Other names that configurations may use for it.
    const ALIASES: &'static [&'static str] = &[];

    /// What is wrong with it, all of it.
    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Builds the notifier. Tells nobody anything.
    fn connect(self, env: Env) -> Result<Arc<dyn Notifier>>;
}

/// The configuration of a solver of ACME challenges; see [`IssuerConfig`].
#[async_trait]
pub trait SolverConfig: Serialize + DeserializeOwned + JsonSchema + Debug + Send + Sync + 'static {
    /// The kind: a lower-case word.
    const KIND: &'static str;
    /// Other names that configurations may use for it.
    const ALIASES: &'static [&'static str] = &[];
    /// Whether one instance with this configuration serves all issuers: for what there can be only one of, such as a port.
    /// Its environment is nobody's then: no sealed secrets, no state.
    const SHARED: bool = false;

    /// What is wrong with it, all of it.
    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Builds the solver. Shows nothing.
    async fn connect(self, env: Env) -> Result<Arc<dyn Solver>>;
}

/// What a target's constructor gets besides its configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// What every connector gets.
    pub env: Env,
    /// The host that it is on.
    pub host: Arc<dyn Host>,
    /// How its files are written.
    pub write: WriteMode,
}

impl Site {
    /// A file-based target on this site's host: what [`TargetConfig::connect`] of such a target returns.
    pub fn files<T: FileTarget + 'static>(self, target: T) -> Arc<dyn Target> {
        Arc::new(OnHost::new(target, self.host, self.write))
    }
}

/// One row of the issuers' table.
#[derive(Clone, Copy)]
pub struct IssuerKind {
    /// See [`IssuerConfig::KIND`].
    pub name: &'static str,
    /// See [`IssuerConfig::ALIASES`].
    pub aliases: &'static [&'static str],
    schema: fn() -> Schema,
    check: fn(&Value) -> Result<()>,
    connect: for<'a> fn(&'a Value, Env) -> BoxFuture<'a, Result<Arc<dyn Issuer>>>,
}

/// One row of the targets' table.
#[derive(Clone, Copy)]
pub struct TargetKind {
    /// See [`TargetConfig::KIND`].
    pub name: &'static str,
    /// See [`TargetConfig::ALIASES`].
    pub aliases: &'static [&'static str],
    schema: fn() -> Schema,
    check: fn(&Value) -> Result<()>,
    default_probe: fn() -> Vec<Endpoint>,
    connect: fn(&Value, Site) -> Result<Arc<dyn Target>>,
}

/// One row of the notifiers' table.
#[derive(Clone, Copy)]
pub struct NotifierKind {
    /// See [`NotifierConfig::KIND`].
    pub name: &'static str,
    /// See [`NotifierConfig::ALIASES`].
    pub aliases: &'static [&'static str],
    schema: fn() -> Schema,
    check: fn(&Value) -> Result<()>,
    connect: fn(&Value, Env) -> Result<Arc<dyn Notifier>>,
}

/// One row of the solvers' table.
#[derive(Clone, Copy)]
pub struct SolverKind {
    /// See [`SolverConfig::KIND`].
    pub name: &'static str,
    /// See [`SolverConfig::ALIASES`].
    pub aliases: &'static [&'static str],
    /// See [`SolverConfig::SHARED`].
    pub shared: bool,
    schema: fn() -> Schema,
    check: fn(&Value) -> Result<()>,
    connect: for<'a> fn(&'a Value, Env) -> BoxFuture<'a, Result<Arc<dyn Solver>>>,
}

impl SolverKind {
    /// The row for this configuration.
    pub const fn of<C: SolverConfig>() -> Self {
        Self {
            name: C::KIND,
            aliases: C::ALIASES,
            shared: C::SHARED,
            schema: || schemars::schema_for!(C),
            check: |config| read_and_check(config, C::check).map(drop),
            connect: |config, env| {
                Box::pin(async move {
                    let config = read_and_check(config, C::check)?;
                    config.connect(env).await
                })
            },
        }
    }

    /// Builds the solver.
    ///
    /// # Errors
    /// `Invalid`, with every violation, and what the constructor gives.
    pub async fn connect(&self, config: &Value, env: Env) -> Result<Arc<dyn Solver>> {
        (self.connect)(config, env).await
    }
}

impl IssuerKind {
    /// The row for this configuration.
    pub const fn of<C: IssuerConfig>() -> Self {
        Self {
            name: C::KIND,
            aliases: C::ALIASES,
            schema: || schemars::schema_for!(C),
            check: |config| read_and_check(config, C::check).map(drop),
            connect: |config, env| {
                Box::pin(async move {
                    let config = read_and_check(config, C::check)?;
                    config.connect(env).await
                })
            },
        }
    }

    /// Builds the issuer.
    pub async fn connect(&self, config: &Value, env: Env) -> Result<Arc<dyn Issuer>> {
        (self.connect)(config, env).await
    }
}

impl TargetKind {
    /// The row for this configuration.
    pub const fn of<C: TargetConfig>() -> Self {
        Self {
            name: C::KIND,
            aliases: C::ALIASES,
            schema: || schemars::schema_for!(C),
            check: |config| read_and_check(config, C::check).map(drop),
            default_probe: C::default_probe,
            connect: |config, site| {
                let config = read_and_check(config, C::check)?;
                config.connect(site)
            },
        }
    }

    /// See [`TargetConfig::default_probe`].
    pub fn default_probe(&self) -> Vec<Endpoint> {
        (self.default_probe)()
    }

    /// Builds the target.
    pub fn connect(&self, config: &Value, site: Site) -> Result<Arc<dyn Target>> {
        (self.connect)(config, site)
    }
}

impl NotifierKind {
    /// The row for this configuration.
    pub const fn of<C: NotifierConfig>() -> Self {
        Self {
            name: C::KIND,
            aliases: C::ALIASES,
            schema: || schemars::schema_for!(C),
            check: |config| read_and_check(config, C::check).map(drop),
            connect: |config, env| read_and_check(config, C::check)?.connect(env),
        }
    }

    /// Builds the notifier.
    ///
    /// # Errors
    /// `Invalid`, with every violation, and what the constructor gives.
    pub fn connect(&self, config: &Value, env: Env) -> Result<Arc<dyn Notifier>> {
        (self.connect)(config, env)
    }
}

/// What the rows of all tables have.
macro_rules! rows {
    ($($kind:ident)*) => {$(
        impl $kind {
            /// The JSON schema of its configuration.
            pub fn schema(&self) -> Schema {
                (self.schema)()
            }

            /// # Errors
            /// `Invalid`, with every violation.
            pub fn check(&self, config: &Value) -> Result<()> {
                (self.check)(config)
            }
        }

        impl Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name)
            }
        }
    )*};
}
rows!(IssuerKind TargetKind NotifierKind SolverKind);

/// The kinds that a program knows: those built in, and those that it registers.
#[derive(Clone, Debug, Default)]
pub struct Connectors {
    issuers: BTreeMap<&'static str, IssuerKind>,
    targets: BTreeMap<&'static str, TargetKind>,
    notifiers: BTreeMap<&'static str, NotifierKind>,
    solvers: BTreeMap<&'static str, SolverKind>,
}

/// The static tables of a crate.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Tables<'a> {
    pub issuers: &'a [IssuerKind],
    pub targets: &'a [TargetKind],
    pub notifiers: &'a [NotifierKind],
    pub solvers: &'a [SolverKind],
}

impl Connectors {
    /// With all kinds of these tables; those of the same name are replaced.
    #[must_use]
    pub fn with(mut self, tables: Tables<'_>) -> Self {
        self.issuers.extend(tables.issuers.iter().map(|kind| (kind.name, *kind)));
        self.targets.extend(tables.targets.iter().map(|kind| (kind.name, *kind)));
        self.notifiers.extend(tables.notifiers.iter().map(|kind| (kind.name, *kind)));
        self.solvers.extend(tables.solvers.iter().map(|kind| (kind.name, *kind)));
        self
    }

    /// Adds a kind; one of the same name is replaced.
    pub fn register_issuer(&mut self, kind: IssuerKind) {
        self.issuers.insert(kind.name, kind);
    }

    /// Adds a kind; one of the same name is replaced.
    pub fn register_target(&mut self, kind: TargetKind) {
        self.targets.insert(kind.name, kind);
    }

    /// Adds a kind; one of the same name is replaced.
    pub fn register_notifier(&mut self, kind: NotifierKind) {
        self.notifiers.insert(kind.name, kind);
    }

    /// Adds a kind; one of the same name is replaced.
    pub fn register_solver(&mut self, kind: SolverKind) {
        self.solvers.insert(kind.name, kind);
    }

    /// The issuers' table, by name.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerKind> {
        self.issuers.values()
    }

    /// The targets' table, by name.
    pub fn targets(&self) -> impl Iterator<Item = &TargetKind> {
        self.targets.values()
    }

    /// The notifiers' table, by name.
    pub fn notifiers(&self) -> impl Iterator<Item = &NotifierKind> {
        self.notifiers.values()
    }

    /// The solvers' table, by name.
    pub fn solvers(&self) -> impl Iterator<Item = &SolverKind> {
        self.solvers.values()
    }

    /// The kind of this name or alias.
    ///
    /// # Errors
    /// `Invalid`, naming the kinds that there are.
    pub fn solver(&self, kind: &str) -> Result<&SolverKind> {
        find("solver", kind, &self.solvers, |row| row.aliases)
    }

    /// The kind of this name or alias.
    ///
    /// # Errors
    /// `Invalid`, naming the kinds that there are.
    pub fn issuer(&self, kind: &str) -> Result<&IssuerKind> {
        find("issuer", kind, &self.issuers, |row| row.aliases)
    }

    /// The kind of this name or alias.
    ///
    /// # Errors
    /// `Invalid`, naming the kinds that there are.
    pub fn target(&self, kind: &str) -> Result<&TargetKind> {
        find("target", kind, &self.targets, |row| row.aliases)
    }

    /// The kind of this name or alias.
    ///
    /// # Errors
    /// `Invalid`, naming the kinds that there are.
    pub fn notifier(&self, kind: &str) -> Result<&NotifierKind> {
        find("notifier", kind, &self.notifiers, |row| row.aliases)
    }
}

fn find<'a, K>(
    noun: &str,
    kind: &str,
    table: &'a BTreeMap<&'static str, K>,
    aliases: impl Fn(&K) -> &'static [&'static str],
) -> Result<&'a K> {
    let row = table.get(kind).or_else(|| table.values().find(|row| aliases(row).contains(&kind)));
    row.ok_or_else(|| unknown_kind(noun, kind, table.keys()))
}

fn unknown_kind<'a>(noun: &str, kind: &str, known: impl Iterator<Item = &'a &'static str>) -> Error {
    let known: Vec<&str> = known.copied().collect();
    Error::invalid_field(
        "/kind",
        format!("there is no {noun} kind {kind:?}"),
        match known.as_slice() {
            [] => format!("this program knows no {noun} kind: register one"),
            known => format!("use one of: {}", known.join(", ")),
        },
    )
}
