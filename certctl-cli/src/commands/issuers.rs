//! `certctl issuers`.

use certctl_client::types::Issuer;
use certctl_core::{IssuerSpec, Result};
use clap::{Args, Subcommand};

use super::{Delete, NamedList, One, config_text, nothing_to_change};
use crate::{Fields, Session, input::Source};

/// What to do with issuers.
#[derive(Debug, Subcommand)]
pub enum IssuersCommand {
    /// All issuers
    List(NamedList),
    /// One issuer, with its configuration
    Get(One),
    /// Store an issuer
    Create(CreateIssuer),
    /// Change an issuer; what is not given stays
    Update(UpdateIssuer),
    /// Forget an issuer that no certificate uses
    Delete(Delete),
}

/// A new issuer.
#[derive(Args, Debug)]
pub struct CreateIssuer {
    /// Its name, which no other issuer has
    name: String,
    /// What kind it is; `certctl connectors list` shows them
    #[arg(long)]
    kind: String,
    /// JSON file with its configuration, - for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
    /// Its id; iss-… is made up if it is left out
    #[arg(long)]
    id: Option<String>,
}

/// What changes.
#[derive(Args, Debug)]
pub struct UpdateIssuer {
    /// Its name or id
    name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// JSON file with all of its configuration, - for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<Source>,
}

pub(super) async fn run(command: IssuersCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        IssuersCommand::List(list) => {
            let page = list.paging.fetch(client.issuers(&list.filter())).await?;
            session.show_list(&page, &["NAME", "KIND", "ID"], |issuer| {
                [issuer.name.clone(), issuer.kind.clone(), issuer.id.to_string()]
            })
        }
        IssuersCommand::Get(one) => session.show(&client.issuer(&one.name).await?, fields),
        IssuersCommand::Create(new) => {
            let config = new.config.map(|file| file.json(session.terminal)).transpose()?.unwrap_or_default();
            let spec = IssuerSpec { id: new.id, ..IssuerSpec::new(new.name, new.kind, config) };
            session.show(&client.create_issuer(&spec).await?, fields)
        }
        IssuersCommand::Update(change) => {
            if change.rename.is_none() && change.config.is_none() {
                return Err(nothing_to_change("--rename, --config"));
            }
            let mut spec = client.issuer(&change.name).await?.spec();
            if let Some(file) = change.config {
                spec.config = file.json(session.terminal)?;
            }
            spec.name = change.rename.unwrap_or(spec.name);
            session.show(&client.put_issuer(&change.name, &spec).await?, fields)
        }
        IssuersCommand::Delete(one) => {
            client.delete_issuer(&one.name, one.revision).await?;
            session.terminal.note(&format!("The issuer {} is deleted.", one.name))
        }
    }
}

fn fields(issuer: &Issuer) -> Fields {
    Fields::default()
        .with("name", &issuer.name)
        .with("id", &issuer.id)
        .with("kind", &issuer.kind)
        .maybe("config", issuer.config.as_ref().map(config_text))
        .with("revision", issuer.revision)
}
