//! Who shows the answers to challenges, and the DNS providers that some of them are shown with.

use std::fmt::Debug;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Challenge, Context, Error, Result, TxtRecord, connectors::SolverConfig};

/// Shows answers to challenges where a CA will look for them. Answers to several challenges may be shown at the same time,
/// also for the same name.
#[async_trait]
pub trait Solver: Send + Sync + Debug {
    /// Whether this one can show this challenge.
    fn solves(&self, challenge: &Challenge) -> bool;

    /// Shows it; showing it twice is fine.
    async fn present(&self, cx: &Context, challenge: &Challenge) -> Result<()>;

    /// Takes it away; what is not there is fine.
    async fn retract(&self, cx: &Context, challenge: &Challenge) -> Result<()>;
}

/// Which solver shows a challenge, before or after the process's own: a kind of the solvers' table and its configuration,
/// as a value, so that it can travel to whoever the name points to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SolverSpec {
    /// The kind, such as `rfc2136`.
    pub kind: Box<str>,
    /// The kind's own configuration; its schema says what is in it.
    #[serde(default)]
    pub config: Value,
    /// The id of the issuer whose configuration this is part of: secrets in it are sealed for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub owner: Option<Box<str>>,
    /// Whether somebody chose it, so that it goes before the process's own solvers; otherwise it is what there is besides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip)]
    pub explicit: bool,
}

impl SolverSpec {
    /// A solver with this configuration.
    ///
    /// # Errors
    /// `Invalid` with what is wrong with it; a secret has to be a reference (an environment variable, a file).
    pub fn of<C: SolverConfig>(config: &C) -> Result<Self> {
        let wrong = config.check();
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let config = serde_json::to_value(config).map_err(|e| {
            Error::invalid_field(
                "",
                format!("the configuration of a {} solver can't be stored: {e}", C::KIND),
                "give its secrets as environment variables or files",
            )
        })?;
        Ok(Self { kind: C::KIND.into(), config, owner: None, explicit: false })
    }
}

impl Debug for SolverSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration may be one that nobody has sealed yet.
        write!(f, "SolverSpec({})", self.kind)
    }
}

/// Who holds a zone: adds and removes single values of TXT records. [`DnsSolver`] makes a solver of it.
#[async_trait]
pub trait DnsProvider: Send + Sync + Debug {
    /// Adds the value beside those that the name has already: an apex and its wildcard share a name. Twice is fine.
    async fn add(&self, cx: &Context, record: &TxtRecord, challenge: &Challenge) -> Result<()>;

    /// Removes this value and leaves the others; what is not there is fine.
    async fn remove(&self, cx: &Context, record: &TxtRecord, challenge: &Challenge) -> Result<()>;
}

/// Shows dns-01 and dns-persist-01 challenges in a zone.
#[derive(Debug)]
pub struct DnsSolver<P>(pub P);

#[async_trait]
impl<P: DnsProvider> Solver for DnsSolver<P> {
    fn solves(&self, challenge: &Challenge) -> bool {
        challenge.txt.is_some()
    }

    async fn present(&self, cx: &Context, challenge: &Challenge) -> Result<()> {
        self.0.add(cx, record(challenge)?, challenge).await
    }

    async fn retract(&self, cx: &Context, challenge: &Challenge) -> Result<()> {
        if challenge.kind.is_persistent() {
            return Ok(());
        }
        self.0.remove(cx, record(challenge)?, challenge).await
    }
}

fn record(challenge: &Challenge) -> Result<&TxtRecord> {
    challenge
        .txt
        .as_ref()
        .ok_or_else(|| Error::internal("a challenge without a TXT record came to a DNS solver"))
}
