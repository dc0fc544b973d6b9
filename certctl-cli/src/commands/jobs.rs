//! `certctl jobs`.

use certctl_client::types::{Job, JobDetail, JobFilter};
use certctl_core::{Lifetime, Result, records::JobState};
use clap::{Args, Subcommand, ValueEnum};

use super::{Paging, or_dash, read};
use crate::{Failure, Fields, Session, Table, wait};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Jobs, the newest first
    List(ListJobs),
    /// One job, with those that it waits for
    Get(OneJob),
    /// Ask a job to stop; it does before it writes anything, or else not at all
    Cancel(OneJob),
    /// Take up a job that needs attention, or waits for a later try
    Retry(OneJob),
    /// Show a job's steps as they happen, until it ends
    Watch(Watch),
}

/// Which jobs.
#[derive(Args, Debug)]
pub struct ListJobs {
    /// How they stand
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only those for this certificate
    #[arg(long, value_name = "NAME")]
    certificate: Option<String>,
    /// Only those of this agent, or `here` for those of the server
    #[arg(long, value_name = "AGENT")]
    place: Option<String>,
    /// Which part of it.
    #[command(flatten)]
    paging: Paging,
}

/// How jobs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Not finished: ready, waiting or attention.
    Open,
    /// Being done, or due later.
    Ready,
    /// Waiting for other jobs.
    Waiting,
    /// Waiting for a person.
    Attention,
    /// Ended well.
    Done,
    /// Failed for good.
    Failed,
    /// Stopped before anything was written.
    Cancelled,
}

/// The job that a command is about.
#[derive(Args, Debug)]
pub struct OneJob {
    /// Its id
    id: String,
}

/// The job to watch.
#[derive(Args, Debug)]
pub struct Watch {
    /// Its id
    id: String,
    /// How long to watch at most; the job goes on in any case
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = read::<Lifetime>)]
    timeout: Lifetime,
}

pub(super) async fn run(command: JobsCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        JobsCommand::List(list) => {
            let (state, open) = match list.state {
                Some(State::Open) => (None, Some(true)),
                Some(State::Ready) => (Some(JobState::Ready), None),
                Some(State::Waiting) => (Some(JobState::Waiting), None),
                Some(State::Attention) => (Some(JobState::Attention), None),
                Some(State::Done) => (Some(JobState::Done), None),
                Some(State::Failed) => (Some(JobState::Failed), None),
                Some(State::Cancelled) => (Some(JobState::Cancelled), None),
                None => (None, None),
            };
            let filter = JobFilter {
                state,
                open,
                certificate: list.certificate,
                place: list.place,
                limit: Some(list.paging.limit),
                cursor: list.paging.cursor.clone(),
            };
            let page = list.paging.fetch(client.jobs(&filter)).await?;
            let heading = ["ID", "KIND", "CERTIFICATE", "TARGET", "STATE", "DUE", "ERROR"];
            session.show_list(&page, &heading, row)?;
        }
        JobsCommand::Get(one) => session.show(&client.job(&one.id).await?, fields)?,
        JobsCommand::Cancel(one) => session.show(&client.cancel_job(&one.id).await?, fields)?,
        JobsCommand::Retry(one) => session.show(&client.retry_job(&one.id).await?, fields)?,
        JobsCommand::Watch(watch) => {
            let ended = wait::watch(session, &client, &watch.id, watch.timeout).await?;
            session.show(&ended, fields)?;
        }
    }
    Ok(())
}

fn row(job: &Job) -> [String; 7] {
    let error = job.last_error.as_ref().filter(|_| job.state != JobState::Done);
    [
        job.id.to_string(),
        job.kind.clone(),
        or_dash(job.certificate.as_ref().map(|certificate| &certificate.name)),
        or_dash(job.target.as_ref().map(|target| &target.name)),
        job.state.as_str().to_owned(),
        or_dash(job.due.filter(|_| job.state == JobState::Ready)),
        or_dash(error.map(|error| &error.message)),
    ]
}

fn fields(job: &JobDetail) -> Fields {
    let fields = Fields::default()
        .with("id", &job.id)
        .with("kind", &job.kind)
        .maybe("certificate", job.certificate.as_ref().map(|certificate| &certificate.name))
        .maybe("target", job.target.as_ref().map(|target| &target.name))
        .maybe("agent", job.place.agent.as_ref())
        .with("state", job.state.as_str())
        .maybe("step", job.step.as_ref())
        .maybe("due", job.due.filter(|_| job.state == JobState::Ready))
        .maybe("cancelled", job.cancel.then_some("somebody asked it to stop"))
        .maybe("failures", (job.failures > 0).then_some(job.failures))
        .maybe("last error", job.last_error.as_ref().map(|error| &error.message))
        .with("asked by", &job.actor)
        .with("created", job.created)
        .maybe("finished", job.finished);
    if job.children.is_empty() {
        return fields;
    }
    let mut table = Table::new(&["ID", "KIND", "CERTIFICATE", "TARGET", "STATE", "DUE", "ERROR"]);
    for child in &job.children {
        table.row(row(child));
    }
    fields.with("waits for", table.render(None).trim_end())
}
