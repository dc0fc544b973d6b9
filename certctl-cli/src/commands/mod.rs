//! One module for each thing that there are commands for.

pub mod agents;
pub mod api_keys;
pub mod audit;
pub mod certs;
pub mod connectors;
pub mod hosts;
pub mod issuers;
pub mod jobs;
pub mod profiles;
pub mod status;
pub mod targets;

use certctl_client::{Pages, types::List};
use certctl_core::{Error, Result};
use clap::Args;
use serde::de::DeserializeOwned;

use crate::{Command, Failure, Session};

/// Does what was asked for.
///
/// # Errors
/// What the server answers, or what is wrong before it is asked.
pub async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Certs(command) => certs::run(command, session).await,
        Command::Issuers(command) => Ok(issuers::run(command, session).await?),
        Command::Targets(command) => Ok(targets::run(command, session).await?),
        Command::Hosts(command) => Ok(hosts::run(command, session).await?),
        Command::Profiles(command) => Ok(profiles::run(command, session).await?),
        Command::Agents(command) => Ok(agents::run(command, session).await?),
        Command::Jobs(command) => jobs::run(command, session).await,
        Command::ApiKeys(command) => Ok(api_keys::run(command, session).await?),
        Command::Audit(args) => Ok(audit::run(args, session).await?),
        Command::Connectors(command) => Ok(connectors::run(command, session).await?),
        Command::Status => Ok(status::status(session).await?),
        Command::Version => Ok(status::version(session).await?),
    }
}

/// Which part of a list.
#[derive(Args, Clone, Debug)]
pub struct Paging {
    /// How many at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// Where the page before ended
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// All of them, page by page
    #[arg(long)]
    pub all: bool,
}

impl Paging {
    /// One page, or all of them as if they were one.
    async fn fetch<T: DeserializeOwned>(&self, mut pages: Pages<T>) -> Result<List<T>> {
        let mut list = List { data: Vec::new(), next_cursor: None };
        while let Some(mut page) = pages.next_list().await? {
            list.data.append(&mut page.data);
            list.next_cursor = page.next_cursor;
            if !self.all {
                break;
            }
        }
        Ok(list)
    }
}

/// Which of those that have names.
#[derive(Args, Clone, Debug)]
pub struct NamedList {
    /// Only the one of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Which part of it.
    #[command(flatten)]
    pub paging: Paging,
}

impl NamedList {
    fn filter(&self) -> certctl_client::types::NamedFilter {
        certctl_client::types::NamedFilter {
            name: self.name.clone(),
            limit: Some(self.paging.limit),
            cursor: self.paging.cursor.clone(),
        }
    }
}

/// The one that a command is about.
#[derive(Args, Clone, Debug)]
pub struct One {
    /// Its name or id
    pub name: String,
}

/// The one that is deleted.
#[derive(Args, Clone, Debug)]
pub struct Delete {
    /// Its name or id
    pub name: String,
    /// Only if it still has this revision
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
}

/// A configuration in one line of text.
fn config_text(config: &serde_json::Value) -> String {
    serde_json::to_string_pretty(config).unwrap_or_default()
}

/// A value, or a dash where there is none.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// For a command that would change nothing.
fn nothing_to_change(options: &str) -> Error {
    Error::invalid_field(
        "",
        "the command line says nothing that shall change",
        format!("give one of {options}"),
    )
}

/// Reads an argument; what is wrong with it is said without the pointer that a field would have.
fn read<T: std::str::FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: Error| match e.violations() {
        [one] => format!("{}; {}", one.message, one.remedy),
        _ => e.message().to_owned(),
    })
}

/// A word that the REST API knows.
fn read_word<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}
