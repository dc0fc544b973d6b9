//! A worker that refuses what the policy does not allow before anything is built.

use std::sync::Arc;

use async_trait::async_trait;
use certctl_core::{
    Context, Error, ErrorKind, Id, Result, Worker,
    connectors::Connectors,
    records::{Agent, TargetRecord},
    worker::{Journal, Work, WorkReport},
};

use super::Guard;

/// Kinds are checked here; paths and commands where they are used, by the hosts that the inner worker was given: not by
/// reading configurations, whose meaning only their connectors know.
#[derive(Debug)]
pub(crate) struct GuardedWorker {
    pub(crate) inner: Arc<dyn Worker>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) agent: Id<Agent>,
    pub(crate) connectors: Connectors,
}

impl GuardedWorker {
    fn check(&self, work: &Work) -> Result<()> {
        match work {
            Work::Deploy(work) => work.items.iter().try_for_each(|item| self.target(&item.target)),
            Work::Plan(item) => self.target(&item.target),
            Work::Check(target) => self.target(target),
            Work::Present(challenge) | Work::Retract(challenge) => {
                challenge.solver.iter().try_for_each(|solver| {
                    let kind = self.connectors.solver(&solver.kind).map_or(&*solver.kind, |kind| kind.name);
                    self.guard.kind(kind)
                })
            }
            Work::MakeCsr(_) | Work::ForgetKey(_) => Ok(()),
        }
    }

    fn target(&self, target: &TargetRecord) -> Result<()> {
        if let Some(other) = target.place.agent.as_ref().filter(|other| **other != self.agent) {
            let message = format!("the target {} belongs to the agent {other}, not to this one", target.name);
            return Err(Error::new(ErrorKind::Denied, message).with("target", &target.name));
        }
        // By its own name, also where an alias is used.
        let kind = self.connectors.target(&target.kind).map_or(&*target.kind, |kind| kind.name);
        self.guard.kind(kind).map_err(|e| e.with("target", &target.name))
    }
}

#[async_trait]
impl Worker for GuardedWorker {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport> {
        self.check(&work)?;
        self.inner.execute(cx, work, journal).await
    }
}
