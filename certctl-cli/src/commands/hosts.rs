//! `certctl hosts`.

use certctl_client::types::Host;
use certctl_core::{Result, engine::HostSpec};
use clap::{Args, Subcommand};

use super::{Delete, NamedList, One, config_text, nothing_to_change};
use crate::{Fields, Session, input::Source};

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// All hosts
    List(NamedList),
    /// One host, with its configuration
    Get(One),
    /// Store a host
    Create(CreateHost),
    /// Change a host; what is not given stays
    Update(UpdateHost),
    /// Forget a host that no target is on
    Delete(Delete),
}

/// A new host.
#[derive(Args, Debug)]
pub struct CreateHost {
    /// Its name, which no other host has
    name: String,
    /// How it is reached
    #[arg(long)]
    kind: String,
    /// JSON file with what that takes, - for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
    /// Its id; host-… is made up if it is left out
    #[arg(long)]
    id: Option<String>,
}

/// What changes.
#[derive(Args, Debug)]
pub struct UpdateHost {
    /// Its name or id
    name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// JSON file with all of its configuration, - for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
}

pub(super) async fn run(command: HostsCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        HostsCommand::List(list) => {
            let page = list.paging.fetch(client.hosts(&list.filter())).await?;
            session.show_list(&page, &["NAME", "KIND", "ID"], |host| {
                [host.name.clone(), host.kind.clone(), host.id.to_string()]
            })
        }
        HostsCommand::Get(one) => session.show(&client.host(&one.name).await?, fields),
        HostsCommand::Create(new) => {
            let config = new.config.map(|file| file.json(session.terminal)).transpose()?.unwrap_or_default();
            let spec = HostSpec { id: new.id, ..HostSpec::new(new.name, new.kind, config) };
            session.show(&client.create_host(&spec).await?, fields)
        }
        HostsCommand::Update(change) => {
            if change.rename.is_none() && change.config.is_none() {
                return Err(nothing_to_change("--rename, --config"));
            }
            let mut spec = client.host(&change.name).await?.spec();
            if let Some(file) = change.config {
                spec.config = file.json(session.terminal)?;
            }
            spec.name = change.rename.unwrap_or(spec.name);
            session.show(&client.put_host(&change.name, &spec).await?, fields)
        }
        HostsCommand::Delete(one) => {
            client.delete_host(&one.name, one.revision).await?;
            session.terminal.note(&format!("The host {} is deleted.", one.name))
        }
    }
}

fn fields(host: &Host) -> Fields {
    Fields::default()
        .with("name", &host.name)
        .with("id", &host.id)
        .with("kind", &host.kind)
        .with("config", config_text(&host.config))
        .with("revision", host.revision)
}
