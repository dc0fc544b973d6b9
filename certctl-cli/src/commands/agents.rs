//! `certctl agents`.

use certctl_client::types::{Agent, AgentFilter, EnrollTokenRequest, ResolveRequest};
use certctl_core::{Lifetime, Result};
use clap::{Args, Subcommand};

use super::{Delete, One, Paging, or_dash, read};
use crate::{Fields, Format, Session};

/// What to do with agents.
#[derive(Debug, Subcommand)]
pub enum AgentsCommand {
    /// All agents
    List(Paging),
    /// One agent
    Get(One),
    /// Make a token with which an agent enrols, once, and print it alone on standard output
    ///
    /// Makes the agent's record as well, so that targets may name the agent before it enrols. Use it like this:
    ///
    /// CERTCTL_ENROLL_TOKEN=$(certctl agents enroll-token --name web-1) certctl-agent …
    #[command(verbatim_doc_comment)]
    EnrollToken(EnrollToken),
    /// End an agent's identity at once; with a new token it can enrol anew
    Revoke(One),
    /// Decide which of two processes keeps an agent's identity
    Resolve(Resolve),
    /// Forget an agent that no target names
    Delete(Delete),
}

/// A new token.
#[derive(Args, Debug)]
pub struct EnrollToken {
    /// The agent's name
    #[arg(long)]
    name: String,
    /// How long the token is valid; an hour at most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = read::<Lifetime>)]
    valid: Lifetime,
}

/// A decision.
#[derive(Args, Debug)]
pub struct Resolve {
    /// The agent's name or id
    name: String,
    /// The instance that keeps it; `certctl agents get` shows both
    #[arg(long, value_name = "INSTANCE")]
    keep: String,
}

pub(super) async fn run(command: AgentsCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        AgentsCommand::List(paging) => {
            let filter = AgentFilter { limit: Some(paging.limit), cursor: paging.cursor.clone() };
            let page = paging.fetch(client.agents(&filter)).await?;
            session.show_list(&page, &["NAME", "STATE", "LAST SEEN", "ADDRESS", "VERSION", "ID"], |agent| {
                [
                    agent.name.clone(),
                    state(agent).to_owned(),
                    or_dash(agent.last_seen),
                    or_dash(agent.address.as_ref()),
                    or_dash(agent.version.as_ref()),
                    agent.id.to_string(),
                ]
            })
        }
        AgentsCommand::Get(one) => session.show(&client.agent(&one.name).await?, fields),
        AgentsCommand::EnrollToken(new) => {
            let request = EnrollTokenRequest { name: new.name, valid: Some(new.valid) };
            let made = client.create_enroll_token(&request).await?;
            if session.format == Format::Json {
                return session.show(&made, |_| Fields::default());
            }
            let (agent, until) = (made.agent.name, made.expires_at);
            let token = made.token.into_secret();
            session.terminal.say(&format!("{}\n", token.expose_str()?))?;
            session.terminal.note(&format!("With this token the agent {agent} enrols, once, until {until}."))
        }
        AgentsCommand::Revoke(one) => session.show(&client.revoke_agent(&one.name).await?, fields),
        AgentsCommand::Resolve(decision) => {
            let request = ResolveRequest { keep: decision.keep };
            session.show(&client.resolve_agent(&decision.name, &request).await?, fields)
        }
        AgentsCommand::Delete(one) => {
            client.delete_agent(&one.name, one.revision).await?;
            session.terminal.note(&format!("The agent {} is deleted.", one.name))
        }
    }
}

/// How an agent stands.
pub(super) fn state(agent: &Agent) -> &'static str {
    match agent {
        Agent { revoked: Some(_), .. } => "revoked",
        Agent { clash: Some(_), .. } => "clash",
        Agent { enrolled: None, .. } => "awaited",
        _ => "enrolled",
    }
}

fn fields(agent: &Agent) -> Fields {
    let kinds: Vec<String> =
        agent.connectors.iter().map(|known| format!("{} {}", known.family, known.kind)).collect();
    let mut fields = Fields::default()
        .with("name", &agent.name)
        .with("id", &agent.id)
        .with("state", state(agent))
        .with("created", agent.created)
        .maybe("enrolled", agent.enrolled)
        .maybe("revoked", agent.revoked)
        .maybe("last seen", agent.last_seen)
        .maybe("address", agent.address.as_ref())
        .maybe("version", agent.version.as_ref())
        .maybe("instance", agent.instance.as_ref())
        .maybe("connectors", (!kinds.is_empty()).then(|| kinds.join(", ")));
    if let Some(clash) = &agent.clash {
        let from = |address: &Option<Box<str>>| or_dash(address.as_ref());
        let both = clash.instances.iter().map(|process| {
            format!("{} from {}, last seen {}", process.instance, from(&process.address), process.last_seen)
        });
        let decide = format!("`certctl agents resolve {} --keep INSTANCE` decides", agent.name);
        let lines: Vec<_> = both.chain([decide]).collect();
        fields = fields.with("clash", lines.join("\n"));
    }
    fields.with("revision", agent.revision)
}
