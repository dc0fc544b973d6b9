//! Dry runs: what a deployment would change, here and at agents.

use std::time::Duration;

use crate::{
    Actor, Context, Error, ErrorKind, Id, Permission, Result, Timestamp,
    engine::{
        Engine, Inner,
        commands::{event, not_issued, staying},
        deploy,
        errands::{self, PLAN, PlanStep},
        held,
    },
    records::{Certificate, Deployment, Job, JobState, TargetRecord, Version},
    store::{Change, StoreExt, Stored},
    target::Plan,
    worker::{MemoryJournal, Work, WorkReport},
};

/// How long an agent has for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a deployment would change; see [`Engine::plan`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct DeploymentPlan {
    /// The target's name.
    pub target: Box<str>,
    /// What would be done there.
    pub plan: Plan,
}

impl Engine {
    /// Dry run of [`Engine::deploy`]: what would be changed on each target, and which commands run. Touches nothing. Where a
    /// target is on an agent, that agent is asked, and has half a minute.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if there is no version yet, `Unavailable` if an agent does not answer in time, and what a
    /// deployment would be refused for.
    pub async fn plan(&self, actor: &Actor, id_or_name: &str) -> Result<Vec<DeploymentPlan>> {
        actor.require(Permission::Read)?;
        let inner = &*self.inner;
        let certificate: Stored<Certificate> = inner.store.resolve(id_or_name).await?;
        let mut here = Vec::new();
        let mut there = Vec::new();
        for placement in staying(inner, &certificate.id).await? {
            let version = placement.version.as_ref().ok_or_else(|| not_issued(&certificate))?;
            let deployments: Vec<Stored<Deployment>> =
                inner.store.list_by("placement", (&placement.id).into()).await?;
            for mut deployment in deployments {
                deployment.wanted = Some(version.clone());
                let target: Stored<TargetRecord> = inner.store.read(&deployment.target).await?;
                match target.place.agent {
                    Some(_) => there.push((job(inner, actor, &deployment, &target, version)?, target)),
                    None => here.push(deployment),
                }
            }
        }
        if let Some((first, _)) = there.first() {
            let event = event(inner, actor, "plan.requested", first.certificate()?);
            let change = there.iter().try_fold(Change::new(event), |change, (job, _)| change.insert(job))?;
            inner.commit(change).await?;
        }
        let until = inner.clock.now() + PATIENCE;
        let mut plans = Vec::new();
        for deployment in &here {
            plans.extend(plan_here(inner, deployment).await?);
        }
        for (job, target) in &there {
            let plan = answer(inner, job, target, until).await;
            if plan.is_err() {
                for (job, _) in &there {
                    self.withdraw(job).await;
                }
            }
            plans.push(DeploymentPlan { target: target.name.clone(), plan: plan? });
        }
        Ok(plans)
    }

    /// Nobody waits for the answer any more.
    async fn withdraw(&self, job: &Job) {
        if let Err(e) = self.cancel(&Actor::engine(), &job.id).await {
            tracing::warn!(job = %job.id, error = %e, "a dry run that nobody waits for could not be cancelled");
        }
    }
}

async fn plan_here(engine: &Inner, deployment: &Deployment) -> Result<Option<DeploymentPlan>> {
    let Some(item) = deploy::item_for_plan(engine, deployment).await? else { return Ok(None) };
    let target = item.target.name.clone();
    let cx = Context::new(engine.clock.clone());
    match engine.worker.execute(&cx, Work::Plan(Box::new(item)), &MemoryJournal::default()).await? {
        WorkReport::Plan(plan) => Ok(Some(DeploymentPlan { target, plan })),
        _ => Err(Error::internal("the worker did not answer with a plan")),
    }
}

fn job(
    engine: &Inner,
    actor: &Actor,
    deployment: &Deployment,
    target: &TargetRecord,
    version: &Id<Version>,
) -> Result<Job> {
    let place = target.place.clone();
    let mut job = deploy::blank_job(engine, PLAN, deployment.id.as_str(), &deployment.certificate, place);
    job.actor = actor.clone();
    held::set_step_of(&mut job, &PlanStep { version: version.clone(), plan: None })?;
    Ok(job)
}

/// Waits for an agent's answer.
async fn answer(engine: &Inner, job: &Job, target: &TargetRecord, until: Timestamp) -> Result<Plan> {
    let mut changes = engine.changes();
    loop {
        changes.mark_unchanged();
        let now: Stored<Job> = engine.store.read(&job.id).await?;
        let step: PlanStep = held::step_of(&now)?;
        match (now.state, step.plan, &now.last_error) {
            (JobState::Done, Some(plan), _) => return Ok(plan),
            (JobState::Failed, _, Some(error)) => {
                return Err(Error::from(error.clone()).with("target", &target.name));
            }
            (state, _, _) if state.is_finished() => {
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    format!("the dry run for the target {} was cancelled", target.name),
                ));
            }
            _ => {}
        }
        if engine.clock.now() >= until {
            let error = match &target.place.agent {
                Some(agent) => errands::absent(engine, agent).await?,
                None => Error::unavailable("nobody has answered"),
            };
            return Err(error
                .during(format!("no answer within {} s", PATIENCE.as_secs()))
                .with("target", &target.name));
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = engine.clock.sleep_until(until) => {}
            () = engine.clock.pause(Duration::from_millis(200)) => {}
        }
    }
}
