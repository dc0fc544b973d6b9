//! `certctl targets`.

use std::time::Duration;

use certctl_client::{Client, types::Target};
use certctl_core::{Error, Result, TargetSpec, WriteMode, engine::PlaceSpec};
use clap::{Args, Subcommand, ValueEnum};

use super::{Delete, NamedList, One, config_text, nothing_to_change, or_dash};
use crate::{Fields, Session, input::Source};

/// What to do with targets.
#[derive(Debug, Subcommand)]
pub enum TargetsCommand {
    /// All targets
    List(NamedList),
    /// One target, with its configuration
    Get(One),
    /// Store a target
    Create(CreateTarget),
    /// Change a target; what is not given stays
    Update(UpdateTarget),
    /// Forget a target that no certificate goes to
    Delete(Delete),
}

/// A new target.
#[derive(Args, Debug)]
pub struct CreateTarget {
    /// Its name, which no other target has
    name: String,
    /// What kind it is; `certctl connectors list` shows them
    #[arg(long)]
    kind: String,
    /// JSON file with its configuration, - for standard input. Besides the kind's fields it may have `probe`, a list of
    /// addresses on the target's machine that must serve the certificate
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
    /// The agent that deploys to it, and holds the keys; the server itself if it is left out
    #[arg(long)]
    agent: Option<String>,
    /// The host that it is on, if that is another machine
    #[arg(long)]
    host: Option<String>,
    /// How files are written
    #[arg(long, value_enum, default_value_t)]
    write: Write,
    /// Its id; tgt-… is made up if it is left out
    #[arg(long)]
    id: Option<String>,
}

/// What changes.
#[derive(Args, Debug)]
pub struct UpdateTarget {
    /// Its name or id
    name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// JSON file with all of its configuration, - for standard input. The probe stays if there is none in the file
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
    /// Another agent
    #[arg(long)]
    agent: Option<String>,
    /// Another host
    #[arg(long)]
    host: Option<String>,
    /// How files are written
    #[arg(long, value_enum)]
    write: Option<Write>,
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Write {
    /// Each file is replaced in one step.
    #[default]
    Atomic,
    /// Each file is overwritten, for those that are mounted one by one.
    InPlace,
}

pub(super) async fn run(command: TargetsCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        TargetsCommand::List(list) => {
            let page = list.paging.fetch(client.targets(&list.filter())).await?;
            session.show_list(&page, &["NAME", "KIND", "AGENT", "HOST", "ID"], |target| {
                [
                    target.name.clone(),
                    target.kind.clone(),
                    or_dash(target.place.agent.as_ref()),
                    or_dash(target.place.host.as_ref()),
                    target.id.to_string(),
                ]
            })
        }
        TargetsCommand::Get(one) => session.show(&client.target(&one.name).await?, fields),
        TargetsCommand::Create(new) => {
            let config = new.config.map(|file| file.json(session.terminal)).transpose()?.unwrap_or_default();
            let spec = TargetSpec {
                id: new.id,
                place: PlaceSpec { agent: new.agent, host: new.host },
                write: new.write.into(),
                ..TargetSpec::new(new.name, new.kind, config)
            };
            session.show(&create(session, &client, &spec).await?, fields)
        }
        TargetsCommand::Update(change) => {
            let mut spec = client.target(&change.name).await?.spec();
            let before = spec.clone();
            if let Some(file) = change.config {
                spec.config = file.json(session.terminal)?;
                if ["probe", "post_deploy_verify"].iter().any(|field| spec.config.get(field).is_some()) {
                    spec.probe = None;
                }
            }
            spec.name = change.rename.unwrap_or(spec.name);
            spec.place.agent = change.agent.or(spec.place.agent);
            spec.place.host = change.host.or(spec.place.host);
            spec.write = change.write.map_or(spec.write, WriteMode::from);
            if spec == before {
                return Err(nothing_to_change(
                    "--rename, --config, --agent, --host, --write, with another value",
                ));
            }
            session.show(&client.put_target(&change.name, &spec).await?, fields)
        }
        TargetsCommand::Delete(one) => {
            client.delete_target(&one.name, one.revision).await?;
            session.terminal.note(&format!("The target {} is deleted.", one.name))
        }
    }
}

impl From<Write> for WriteMode {
    fn from(write: Write) -> Self {
        match write {
            Write::Atomic => Self::Atomic,
            Write::InPlace => Self::InPlace,
        }
    }
}

fn fields(target: &Target) -> Fields {
    let endpoints = target.probe.endpoints.as_ref().map(|endpoints| match endpoints.as_slice() {
        [] => "none: what is served is not looked at".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    });
    let checked = target.checked.as_ref().map(|checked| match &checked.error {
        None => format!("the agent takes it ({})", checked.at),
        Some(error) => format!("the agent does not take it: {} ({})", error.message, checked.at),
    });
    Fields::default()
        .with("name", &target.name)
        .with("id", &target.id)
        .with("kind", &target.kind)
        .maybe("agent", target.place.agent.as_ref())
        .maybe("host", target.place.host.as_ref())
        .maybe("config", target.config.as_ref().map(config_text))
        .with("probe", endpoints.unwrap_or_else(|| "where the kind serves".to_owned()))
        .with("write", if target.write == WriteMode::Atomic { "atomic" } else { "in-place" })
        .maybe("checked", checked)
        .with("revision", target.revision)
}

/// Stores it. An agent that is not there yet is waited for a moment: a script makes its enrol token in the background, in the
/// line that starts the agent, and goes on at once.
async fn create(session: &Session<'_>, client: &Client, spec: &TargetSpec) -> Result<Target> {
    const PAUSES: usize = 25;
    const PAUSE: Duration = Duration::from_millis(200);
    let no_agent = |e: &Error| {
        e.violations().len() == 1 && e.violations().iter().all(|wrong| wrong.pointer == "/place/agent")
    };
    for _ in 0..PAUSES {
        match client.create_target(spec).await {
            Err(e) if spec.place.agent.is_some() && no_agent(&e) => session.clock.pause(PAUSE).await,
            done => return done,
        }
    }
    client.create_target(spec).await
}
