use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Bundle, Challenge, Context, Csr, Error, Keys, Result, Solver,
    catalog::Catalog,
    tls::KeyType,
    worker::{
        DeployItem, Journal, MakeCsr, Work, WorkReport, Worker,
        deploy::{self, Member},
        proof::Prober,
    },
};

/// Carries work out where it runs: with the keys, hosts and connectors of this process.
#[derive(Clone, Debug)]
pub struct LocalWorker {
    catalog: Arc<Catalog>,
    keys: Arc<dyn Keys>,
    solvers: Vec<Arc<dyn Solver>>,
}

impl LocalWorker {
    /// With these connectors, keys and solvers.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<dyn Keys>, solvers: Vec<Arc<dyn Solver>>) -> Self {
        Self { catalog, keys, solvers }
    }

    async fn make_csr(&self, work: &MakeCsr) -> Result<Csr> {
        self.keys.create(&work.key, work.algorithm).await?;
        let signer = self.keys.signer(&work.key).await?;
        Csr::create(&*signer, work.common_name.as_deref(), &work.names).await
    }

    async fn member(&self, item: DeployItem) -> Result<Member> {
        let (target, default_probe) = self.catalog.target(&item.target).await?;
        let key = self.keys.export(&item.key).await?;
        let key_type = item.chain.leaf().public_key().ok().map(|key| KeyType::of(key.kind()));
        let prober = Prober::new(target.host(), &item.target.probe, &default_probe, &item.names, key_type);
        let bundle = Bundle { chain: item.chain.clone(), key };
        Ok(Member { item, target, bundle, prober })
    }

    /// The process's own solvers come first, for what it serves itself is where the CA will look, unless another was chosen.
    async fn solver(&self, challenge: &Challenge) -> Result<Arc<dyn Solver>> {
        let chosen = challenge.solver.as_ref().is_some_and(|spec| spec.explicit);
        if !chosen && let Some(solver) = self.solvers.iter().find(|solver| solver.solves(challenge)) {
            return Ok(solver.clone());
        }
        if let Some(spec) = &challenge.solver {
            let solver = self.catalog.solver(spec).await?;
            if solver.solves(challenge) {
                return Ok(solver);
            }
        }
        Err(Error::unsupported(format!(
            "nobody here can show a {} challenge for {}: configure how, or register a solver",
            challenge.kind.as_str(),
            challenge.name
        )))
    }
}

#[async_trait]
impl Worker for LocalWorker {
    async fn execute(&self, cx: &Context, work: Work, journal: &dyn Journal) -> Result<WorkReport> {
        match work {
            Work::MakeCsr(work) => Ok(WorkReport::Csr(self.make_csr(&work).await?)),
            Work::Deploy(work) => {
                // A target that can't even be built is one member's failure, not the unit's.
                let mut members = Vec::new();
                let mut refused = Vec::new();
                for item in work.items {
                    match self.member(item.clone()).await {
                        Ok(member) => members.push(member),
                        Err(e) => refused.push(deploy::refused(&item, &e)),
                    }
                }
                let mut reports = deploy::deploy_unit(cx, &members, journal).await?;
                reports.extend(refused);
                Ok(WorkReport::Deployed(reports))
            }
            Work::Plan(item) => Ok(WorkReport::Plan(deploy::plan(cx, &self.member(*item).await?).await?)),
            Work::Check(target) => {
                let (target, _) = self.catalog.target(&target).await?;
                target.permitted().await?;
                Ok(WorkReport::Done)
            }
            Work::Present(challenge) => {
                self.solver(&challenge).await?.present(cx, &challenge).await?;
                Ok(WorkReport::Done)
            }
            Work::Retract(challenge) => {
                self.solver(&challenge).await?.retract(cx, &challenge).await?;
                Ok(WorkReport::Done)
            }
            Work::ForgetKey(key) => {
                self.keys.forget(&key).await?;
                Ok(WorkReport::Done)
            }
        }
    }
}
