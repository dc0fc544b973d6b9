//! `certctl status` and `certctl version`.

use certctl_client::{
    Pages,
    types::{AgentFilter, CertificateFilter, HealthStatus, JobFilter, ServerVersion},
};
use certctl_core::{
    Lifetime, Result,
    records::{CertificateStatus, JobState},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Fields, Session};

/// As far as things are counted.
const MANY: u32 = 1000;
/// What ends so soon is worth a look.
const SOON: Lifetime = Lifetime::days(7);

/// How the server is, and what needs a look.
#[derive(Debug, Serialize)]
struct Status {
    url: String,
    ready: HealthStatus,
    server: ServerVersion,
    /// Certificates that need a person.
    attention: Count,
    /// Certificates that are not everywhere where they should be.
    partial: Count,
    /// Certificates that end within a week.
    expiring: Count,
    /// Jobs that are not finished.
    open_jobs: Count,
    /// Jobs that need a person.
    jobs_in_attention: Count,
    /// Agents, by how they stand.
    agents: std::collections::BTreeMap<String, usize>,
}

/// How many there are, as far as that was counted.
#[derive(Debug, Serialize)]
struct Count {
    count: usize,
    /// There are more.
    more: bool,
}

pub(super) async fn status(session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    let server = client.version().await?;
    let ready = client.ready().await?.status;
    let certificates = |status| {
        let filter =
            CertificateFilter { status: Some(status), limit: Some(MANY), ..CertificateFilter::default() };
        count(client.certificates(&filter))
    };
    let expiring = CertificateFilter { limit: Some(MANY), ..CertificateFilter::default() }
        .expiring_within(server.time, SOON);
    let jobs = |filter: JobFilter| count(client.jobs(&JobFilter { limit: Some(MANY), ..filter }));
    let mut agents = std::collections::BTreeMap::new();
    let all = client.agents(&AgentFilter { limit: Some(MANY), ..AgentFilter::default() }).all().await?;
    for agent in all {
        *agents.entry(super::agents::state(&agent).to_owned()).or_default() += 1;
    }
    let status = Status {
        url: session.url().to_owned(),
        ready,
        server,
        attention: certificates(CertificateStatus::Attention).await?,
        partial: certificates(CertificateStatus::Partial).await?,
        expiring: count(client.certificates(&expiring)).await?,
        open_jobs: jobs(JobFilter { open: Some(true), ..JobFilter::default() }).await?,
        jobs_in_attention: jobs(JobFilter { state: Some(JobState::Attention), ..JobFilter::default() })
            .await?,
        agents,
    };
    session.show(&status, fields)
}

pub(super) async fn version(session: &mut Session<'_>) -> Result<()> {
    #[derive(Serialize)]
    struct Versions {
        client: &'static str,
        server: Option<ServerVersion>,
    }
    // Nobody asked for the server of a shell that names none.
    let server = match session.names_server() {
        true => Some(session.client()?.version().await),
        false => None,
    };
    let (server, failed) = match server.transpose() {
        Ok(server) => (server, None),
        Err(e) => (None, Some(e)),
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), server };
    session.show(&versions, |versions| {
        Fields::default().with("certctl", versions.client).maybe(
            "server",
            versions
                .server
                .as_ref()
                .map(|server| format!("{} {}, API {}", server.name, server.version, server.api)),
        )
    })?;
    failed.map_or(Ok(()), Err)
}

async fn count<T: DeserializeOwned>(mut pages: Pages<T>) -> Result<Count> {
    let page = pages.next_list().await?;
    Ok(page.map_or(Count { count: 0, more: false }, |page| Count {
        count: page.data.len(),
        more: page.next_cursor.is_some(),
    }))
}

fn fields(status: &Status) -> Fields {
    let look = |count: &Count, command: &str| match count {
        Count { count: 0, .. } => "none".to_owned(),
        Count { count, more } => format!("{count}{}: {command}", if *more { " and more" } else { "" }),
    };
    let agents: Vec<_> = status.agents.iter().map(|(state, count)| format!("{count} {state}")).collect();
    Fields::default()
        .with("server", &status.url)
        .with("version", &status.server.version)
        .with("ready", if status.ready == HealthStatus::Ok { "yes" } else { "no" })
        .with("in attention", look(&status.attention, "certctl certs list --status attention"))
        .with("partial", look(&status.partial, "certctl certs list --status partial"))
        .with("end in 7 days", look(&status.expiring, "certctl certs list --expires-within 7d"))
        .with("open jobs", look(&status.open_jobs, "certctl jobs list --state open"))
        .with("stuck jobs", look(&status.jobs_in_attention, "certctl jobs list --state attention"))
        .with("agents", if agents.is_empty() { "none".to_owned() } else { agents.join(", ") })
}
