//! `certctl connectors`.

use certctl_client::types::{ConnectorFamily, ConnectorKind, List};
use certctl_core::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::{Fields, Session, Table, fields, schema::prose, text::wrap};

/// What to do with kinds of connectors.
#[derive(Debug, Subcommand)]
pub enum ConnectorsCommand {
    /// All kinds that the server knows
    List(ListConnectors),
    /// One kind, and what its configuration has in it
    Describe(Describe),
}

/// Which kinds.
#[derive(Args, Debug)]
pub struct ListConnectors {
    /// Only those of this family
    #[arg(long, value_enum)]
    family: Option<Family>,
}

/// Which kind.
#[derive(Args, Debug)]
pub struct Describe {
    /// The kind, such as nginx
    kind: String,
    /// Its family, where several have the same name
    #[arg(long, value_enum)]
    family: Option<Family>,
}

/// What connectors are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// They issue certificates.
    Issuer,
    /// They are given certificates.
    Target,
    /// They tell people.
    Notifier,
    /// They show answers to challenges.
    Solver,
}

pub(super) async fn run(command: ConnectorsCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    let mut known = client.connectors().await?;
    match command {
        ConnectorsCommand::List(list) => {
            known.retain(|kind| list.family.is_none_or(|family| kind.family == family.into()));
            let list = List { data: known, next_cursor: None };
            session.show_list(&list, &["FAMILY", "KIND", "ALSO CALLED", "WHAT IT IS"], |kind| {
                let what = prose(kind.description.as_deref().unwrap_or_default());
                // The first paragraph says what it is; `describe` has the rest.
                let what = what.split("\n\n").next().unwrap_or_default();
                [
                    kind.family.as_str().to_owned(),
                    kind.kind.clone(),
                    kind.aliases.join(", "),
                    what.split_whitespace().collect::<Vec<_>>().join(" "),
                ]
            })
        }
        ConnectorsCommand::Describe(wanted) => {
            known.retain(|kind| {
                wanted.family.is_none_or(|family| kind.family == family.into())
                    && (kind.kind == wanted.kind || kind.aliases.contains(&wanted.kind))
            });
            match known.as_slice() {
                [one] => describe(&client.connector(one.family, &one.kind).await?, session),
                [] => Err(Error::not_found("kind of connector", &wanted.kind)
                    .during("`certctl connectors list` shows all")),
                several => {
                    let families: Vec<_> = several.iter().map(|kind| kind.family.as_str()).collect();
                    Err(Error::invalid_field(
                        "--family",
                        format!("several families have a kind {}: {}", wanted.kind, families.join(", ")),
                        "name the family",
                    ))
                }
            }
        }
    }
}

fn describe(kind: &ConnectorKind, session: &mut Session<'_>) -> Result<()> {
    if session.format == crate::Format::Json {
        return session.show(kind, |_| Fields::default());
    }
    let width = session.terminal.width.unwrap_or(80);
    let mut text = format!("{} ({})\n", kind.kind, kind.family.as_str());
    if !kind.aliases.is_empty() {
        text.push_str(&format!("also called: {}\n", kind.aliases.join(", ")));
    }
    if let Some(description) = &kind.description {
        text.push_str(&format!("\n{}\n", wrap(&prose(description), width, "").join("\n")));
    }
    let fields = kind.schema.as_ref().map(fields).unwrap_or_default();
    if fields.is_empty() {
        text.push_str("\nIts configuration has no fields.\n");
    } else {
        let mut table = Table::new(&["FIELD", "TYPE", "DEFAULT", "MEANING"]);
        for field in fields {
            table.row([field.name, field.kind, field.default, field.meaning]);
        }
        text.push_str(&format!("\n{}", table.render(Some(width))));
    }
    session.terminal.say(&text)
}

impl From<Family> for ConnectorFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Issuer => Self::Issuer,
            Family::Target => Self::Target,
            Family::Notifier => Self::Notifier,
            Family::Solver => Self::Solver,
        }
    }
}
