use std::{fmt, fmt::Debug, sync::Arc};

use futures_util::future::BoxFuture;

use crate::{
    Env, Issuer, Result, Sealer, Target, Violation, WriteMode,
    connectors::{Connectors, IssuerConfig, Sealing, Site, TargetConfig, seal_solvers},
    host::Endpoint,
    records::{Place, Probe},
};

/// An issuer that a program declares in its code.
pub struct IssuerDeclaration {
    pub(crate) kind: String,
    /// What is wrong with its configuration.
    violations: Vec<Violation>,
    /// With what the solvers in its configuration are checked and sealed with.
    pub(crate) connect: Box<
        dyn FnOnce(Env, Arc<Connectors>, Arc<Sealer>) -> BoxFuture<'static, Result<Arc<dyn Issuer>>> + Send,
    >,
}

impl IssuerDeclaration {
    /// What is wrong with it, all of it.
    pub(crate) fn check(&self) -> Vec<Violation> {
        self.violations.clone()
    }
}

impl<C: IssuerConfig> From<C> for IssuerDeclaration {
    fn from(config: C) -> Self {
        Self {
            kind: C::KIND.to_owned(),
            violations: config.check(),
            connect: Box::new(|env, connectors, sealer| {
                let mut config = config;
                Box::pin(async move {
                    let with = Sealing {
                        connectors: &connectors,
                        sealer: &sealer,
                        owner: (env.owner.0, &env.owner.1),
                    };
                    seal_solvers(with, config.solvers())?;
                    config.connect(env).await
                })
            }),
        }
    }
}

impl From<Arc<dyn Issuer>> for IssuerDeclaration {
    fn from(issuer: Arc<dyn Issuer>) -> Self {
        Self {
            kind: issuer.kind().to_owned(),
            violations: Vec::new(),
            connect: Box::new(|_, _, _| Box::pin(async move { Ok(issuer) })),
        }
    }
}

impl Debug for IssuerDeclaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerDeclaration({})", self.kind)
    }
}

/// A target that a program declares in its code, with the fields that every target has.
pub struct TargetDeclaration {
    pub(crate) kind: String,
    /// What is wrong with its configuration.
    violations: Vec<Violation>,
    pub(crate) connect: TargetBuilder,
    pub(crate) default_probe: Vec<Endpoint>,
    pub(crate) place: Place,
    pub(crate) probe: Result<Probe>,
    pub(crate) write: WriteMode,
}

/// How a declared target is built.
pub(crate) enum TargetBuilder {
    /// On its host, once that is known.
    Config(Box<dyn FnOnce(Site) -> Result<Arc<dyn Target>> + Send>),
    /// It exists.
    Instance(Arc<dyn Target>),
}

impl TargetDeclaration {
    /// Endpoints on the target's host that must show the certificate, such as `127.0.0.1:443`; none at all switches the
    /// probe off. What does not read is refused when the engine is built.
    #[must_use]
    pub fn probe<E: AsRef<str>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints: Result<Vec<Endpoint>> = endpoints.into_iter().map(|e| e.as_ref().parse()).collect();
        self.probe = match (self.probe, endpoints) {
            (Ok(probe), Ok(endpoints)) => Ok(Probe { endpoints: Some(endpoints), ..probe }),
            (Err(e), _) | (_, Err(e)) => Err(e.below("/probe/endpoints")),
        };
        self
    }

    /// Everything about the probe.
    #[must_use]
    pub fn probe_with(mut self, probe: Probe) -> Self {
        self.probe = Ok(probe);
        self
    }

    /// Who deploys to it, and on which host it is.
    #[must_use]
    pub fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// How its files are written.
    #[must_use]
    pub fn write(mut self, mode: WriteMode) -> Self {
        self.write = mode;
        self
    }

    /// What is wrong with it, all of it.
    pub(crate) fn check(&self) -> Vec<Violation> {
        let mut violations = self.violations.clone();
        match &self.probe {
            Ok(probe) => violations.extend(probe.check("/probe")),
            Err(e) => violations.extend_from_slice(e.violations()),
        }
        violations
    }
}

impl<C: TargetConfig> From<C> for TargetDeclaration {
    fn from(config: C) -> Self {
        Self {
            kind: C::KIND.to_owned(),
            violations: config.check(),
            connect: TargetBuilder::Config(Box::new(|site| config.connect(site))),
            default_probe: C::default_probe(),
            place: Place::default(),
            probe: Ok(Probe::default()),
            write: WriteMode::default(),
        }
    }
}

impl From<Arc<dyn Target>> for TargetDeclaration {
    fn from(target: Arc<dyn Target>) -> Self {
        Self {
            kind: target.kind().to_owned(),
            violations: Vec::new(),
            connect: TargetBuilder::Instance(target),
            default_probe: Vec::new(),
            place: Place::default(),
            probe: Ok(Probe::default()),
            write: WriteMode::default(),
        }
    }
}

impl Debug for TargetDeclaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetDeclaration({})", self.kind)
    }
}

/// Shared fields straight on a configuration: `Nginx { .. }.probe(["127.0.0.1:443"])`.
pub trait TargetConfigExt: TargetConfig + Sized {
    /// See [`TargetDeclaration::probe`].
    fn probe<E: AsRef<str>>(self, endpoints: impl IntoIterator<Item = E>) -> TargetDeclaration {
        TargetDeclaration::from(self).probe(endpoints)
    }

    /// See [`TargetDeclaration::probe_with`].
    fn probe_with(self, probe: Probe) -> TargetDeclaration {
        TargetDeclaration::from(self).probe_with(probe)
    }

    /// See [`TargetDeclaration::place`].
    fn place(self, place: Place) -> TargetDeclaration {
        TargetDeclaration::from(self).place(place)
    }

    /// See [`TargetDeclaration::write`].
    fn write(self, mode: WriteMode) -> TargetDeclaration {
        TargetDeclaration::from(self).write(mode)
    }
}

impl<C: TargetConfig> TargetConfigExt for C {}
