//! Jobs.

use std::time::Duration;

use certctl_client::types::{Job, JobDetail, JobFilter, JobWatchRequest, List};
use certctl_core::{
    Error, Id, Result,
    engine::JobProgress,
    records::{self, Agent, Certificate, Deployment, Place, TargetRecord},
    store::{Direction, Query, Stored, Test},
};
use serde_json::Value;

use super::{
    answer::{Json, Reply, json},
    call::Call,
    names::Names,
    page,
    route::{Route, get, post},
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/jobs", "listJobs", "Jobs, the newest first.").query::<JobFilter>().to(list),
        get("/jobs/{id}", "getJob", "A job, with those that it waits for.").to(read),
        get(
            "/jobs/{id}/watch",
            "watchJob",
            "The job as soon as it, or one that it waits for, has changed, or when the time is over.",
        )
        .query::<JobWatchRequest>()
        .to(watch),
        post("/jobs/{id}/cancel", "cancelJob", "Asks a job to stop; obeyed before the first write.")
            .to(cancel),
        post(
            "/jobs/{id}/retry",
            "retryJob",
            "Takes up a job that asks for attention, or waits for a later try.",
        )
        .to(retry),
    ]
}

async fn list(call: Call, filter: JobFilter, (): ()) -> Result<Reply<Json<List<Job>>>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let mut query = Query::of::<records::Job>().order("id", Direction::Descending);
    if let Some(state) = filter.state {
        query = query.filter("state", Test::Equal, state.as_str());
    }
    if let Some(open) = filter.open {
        let test = if open { Test::Equal } else { Test::NotEqual };
        query = query.filter("finished", test, certctl_core::store::ColumnValue::Null);
    }
    if let Some(certificate) = &filter.certificate {
        let certificate =
            engine.read::<Certificate>(actor, certificate).await.map_err(|e| e.during("certificate"))?;
        query = query.filter("certificate", Test::Equal, &certificate.id);
    }
    if let Some(place) = &filter.place {
        let place = match place.as_str() {
            Place::HERE => Place::HERE.to_owned(),
            agent => engine.read::<Agent>(actor, agent).await?.id.to_string(),
        };
        query = query.filter("place", Test::Equal, place);
    }
    let cursor = filter.cursor.as_deref();
    let query = page::paged(query, filter.limit, cursor)?;
    let (jobs, next) = engine.list(actor, query).await.map_err(|e| page::explained(e, cursor))?;
    Ok(json(page::list(views(&call, &jobs).await?, next.as_ref())?))
}

async fn read(call: Call, (): (), (): ()) -> Result<Reply<Json<JobDetail>>> {
    let progress = call.engine().job_progress(call.actor()?, call.id()?).await?;
    Ok(json(detail(&call, &progress).await?))
}

async fn watch(call: Call, request: JobWatchRequest, (): ()) -> Result<Reply<Json<JobDetail>>> {
    let wait = Duration::from_secs(request.wait.unwrap_or(25).into());
    let until = call.app().wait(wait);
    let progress = call.engine().progress_after(call.actor()?, call.id()?, request.after, until).await?;
    Ok(json(detail(&call, &progress).await?))
}

async fn cancel(call: Call, (): (), (): ()) -> Result<Reply<Json<JobDetail>>> {
    call.engine().cancel(call.actor()?, &id(&call)?).await?;
    read(call, (), ()).await
}

async fn retry(call: Call, (): (), (): ()) -> Result<Reply<Json<JobDetail>>> {
    // Dropping what watches it cancels nothing.
    let _ = call.engine().retry(call.actor()?, &id(&call)?).await?;
    read(call, (), ()).await
}

fn id(call: &Call) -> Result<Id<records::Job>> {
    let text = call.id()?;
    Id::parse(text).map_err(|_| Error::not_found("job", text))
}

async fn detail(call: &Call, progress: &JobProgress) -> Result<JobDetail> {
    let all: Vec<&Stored<records::Job>> = [&progress.job].into_iter().chain(&progress.children).collect();
    let mut views = views(call, &all).await?.into_iter();
    let job = views.next().ok_or_else(|| Error::internal("a job has a view"))?;
    Ok(JobDetail { job, children: views.collect(), progress: progress.mark() })
}

/// Jobs as they are shown.
pub(super) async fn views(
    call: &Call,
    jobs: &[impl std::borrow::Borrow<Stored<records::Job>>],
) -> Result<Vec<Job>> {
    let (engine, actor) = (call.engine(), call.actor()?);
    let jobs: Vec<&Stored<records::Job>> = jobs.iter().map(std::borrow::Borrow::borrow).collect();
    let certificates =
        Names::of(engine, actor, jobs.iter().filter_map(|job| job.certificate.as_ref())).await?;
    let deployments: Vec<Id<Deployment>> =
        jobs.iter().filter_map(|job| Id::parse(&job.subject).ok()).collect();
    let deployments = engine.read_all(actor, &deployments).await?;
    // A job that checks a target is about the target itself.
    let checked: Vec<Id<TargetRecord>> = jobs.iter().filter_map(|job| Id::parse(&job.subject).ok()).collect();
    let targets = checked.iter().chain(deployments.iter().map(|deployment| &deployment.target));
    let targets = Names::of(engine, actor, targets).await?;
    let target_of = |job: &records::Job| {
        if let Some(target) = checked.iter().find(|target| target.as_str() == &*job.subject) {
            return Some(targets.reference(target));
        }
        let deployment = deployments.iter().find(|deployment| deployment.id.as_str() == &*job.subject)?;
        Some(targets.reference(&deployment.target))
    };
    Ok(jobs
        .iter()
        .map(|job| Job {
            id: job.id.clone(),
            kind: job.kind.to_string(),
            subject: job.subject.to_string(),
            certificate: job.certificate.as_ref().map(|certificate| certificates.reference(certificate)),
            target: target_of(job),
            place: job.place.clone(),
            state: job.state,
            step: step(&job.step),
            failures: job.failures,
            due: job.due,
            cancel: job.cancel,
            last_error: job.last_error.clone(),
            parent: job.parent.clone(),
            open_children: job.open_children,
            actor: job.actor.name().to_owned(),
            created: job.created,
            finished: job.finished,
            revision: job.version(),
        })
        .collect())
}

/// The step's name; what else is in it is between the engine and itself.
fn step(step: &Value) -> Option<String> {
    let name = step.get("at").or_else(|| step.get("step")).and_then(Value::as_str);
    match (name, step) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Value::Null) => None,
        (None, _) => Some("begun".to_owned()),
    }
}
