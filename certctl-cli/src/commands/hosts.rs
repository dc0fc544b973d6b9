//! `certctl hosts`.

use certctl_client::types::Host;
use certctl_core::Result;
use clap::Subcommand;

use super::{Delete, NamedList, One, config_text};
use crate::{Fields, Session};

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// All hosts
    List(NamedList),
    /// One host, with its configuration
    Get(One),
    /// Forget a host that no target is on
    Delete(Delete),
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
