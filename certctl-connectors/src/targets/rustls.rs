//! A TLS server in this process: a slot of a [`TlsResolver`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use certctl_core::{
    Bundle, Context, Error, ErrorKind, Fingerprint, Result, Target,
    host::Host,
    target::{Observed, Pair, Plan, PlannedChange, Snapshot},
    tls::TlsResolver,
};
use serde::{Deserialize, Serialize};

/// The slot of this name as a target, for [`certctl_core::connectors::TargetDeclaration`].
///
/// ```
/// # use std::sync::Arc;
/// # use certctl_core::{connectors::TargetDeclaration, tls::TlsResolver};
/// # use certctl_connectors::targets::resolver_target;
/// let resolver = Arc::new(TlsResolver::new());
/// let target = TargetDeclaration::from(resolver_target(&resolver, "web"));
/// # let _ = target;
/// ```
pub fn resolver_target(resolver: &Arc<TlsResolver>, name: &str) -> Arc<dyn Target> {
    Arc::new(ResolverTarget::new(resolver.clone(), name))
}

/// A slot of a [`TlsResolver`] as a target. What is deployed serves from the next handshake on; it lives in memory, as the
/// key does, and is gone when the process ends.
#[derive(Debug)]
pub struct ResolverTarget {
    resolver: Arc<TlsResolver>,
    slot: Box<str>,
    host: Option<Arc<dyn Host>>,
    /// By name; none for an empty slot.
    snapshots: Mutex<BTreeMap<String, Option<Bundle>>>,
}

impl ResolverTarget {
    /// A slot of this resolver; it need not be filled.
    pub fn new(resolver: Arc<TlsResolver>, slot: impl Into<Box<str>>) -> Self {
        Self { resolver, slot: slot.into(), host: None, snapshots: Mutex::default() }
    }

    /// The host that the server's endpoints are probed from: without one there is no probe.
    #[must_use]
    pub fn with_host(mut self, host: Arc<dyn Host>) -> Self {
        self.host = Some(host);
        self
    }

    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<String, Option<Bundle>>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, bundle: &Bundle) -> bool {
        self.resolver.bundle(&self.slot).is_some_and(|current| {
            current.chain == bundle.chain && current.key.public_key() == bundle.key.public_key()
        })
    }

    fn put(&self, bundle: Option<&Bundle>) -> Result<()> {
        match bundle {
            Some(bundle) => {
                self.resolver.install(&self.slot, bundle).map_err(|e| e.with("step", "install"))?;
            }
            None => self.resolver.remove(&self.slot),
        }
        Ok(())
    }
}

#[async_trait]
impl Target for ResolverTarget {
    fn kind(&self) -> &str {
        "rustls"
    }

    fn address(&self) -> String {
        format!("slot {} of this process", self.slot)
    }

    fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.clone()
    }

    async fn observe(&self, _: &Context) -> Result<Observed> {
        let certificate = self.resolver.current(&self.slot);
        let pair = if certificate.is_some() { Pair::Whole } else { Pair::Absent };
        Ok(Observed { certificate, pair })
    }

    async fn plan(&self, _: &Context, bundle: &Bundle) -> Result<Plan> {
        let old = self.resolver.current(&self.slot);
        let mut plan = Plan {
            old,
            new: Some(bundle.chain.leaf().fingerprint()),
            changes: Vec::new(),
            commands: Vec::new(),
        };
        if !self.holds(bundle) {
            plan.changes.push(PlannedChange {
                what: self.address(),
                action: if old.is_some() { "replace" } else { "create" }.to_owned(),
                mode_before: None,
                mode: None,
                owner: None,
                note: None,
            });
        }
        Ok(plan)
    }

    async fn snapshot(&self, _: &Context, name: &str) -> Result<Snapshot> {
        let current = self.resolver.bundle(&self.slot);
        let certificate = current.as_ref().map(|bundle| bundle.chain.leaf().fingerprint());
        self.snapshots().insert(name.to_owned(), current);
        let state = State { name: name.to_owned(), certificate };
        Ok(Snapshot { place: "this process's memory".to_owned(), state: state.write()? })
    }

    async fn apply(&self, _: &Context, bundle: &Bundle) -> Result<()> {
        if self.holds(bundle) { Ok(()) } else { self.put(Some(bundle)) }
    }

    async fn restore(&self, _: &Context, snapshot: &Snapshot) -> Result<()> {
        let state = State::read(snapshot)?;
        if let Some(kept) = self.snapshots().get(&state.name).cloned() {
            return self.put(kept.as_ref());
        }
        match state.certificate {
            None => self.put(None),
            Some(certificate) if self.resolver.current(&self.slot) == Some(certificate) => Ok(()),
            // The process that kept it is gone, and what it had begun to install went with it.
            Some(_) if self.resolver.current(&self.slot).is_none() => Ok(()),
            Some(certificate) => Err(Error::new(
                ErrorKind::Precondition,
                format!("the snapshot {} of {} is not kept by this process", state.name, self.address()),
            )
            .with("step", "restore")
            .with("fingerprint", certificate)),
        }
    }

    async fn discard(&self, _: &Context, snapshot: &Snapshot) -> Result<()> {
        let state = State::read(snapshot)?;
        self.snapshots().remove(&state.name);
        Ok(())
    }
}

/// What stands in a [`Snapshot`].
#[derive(Serialize, Deserialize)]
struct State {
    name: String,
    /// What the slot held.
    certificate: Option<Fingerprint>,
}

impl State {
    fn read(snapshot: &Snapshot) -> Result<Self> {
        Self::deserialize(&snapshot.state)
            .map_err(|e| Error::internal("the snapshot is not one of a rustls target").with_source(e))
    }

    fn write(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|e| Error::internal("a snapshot has no JSON form").with_source(e))
    }
}
