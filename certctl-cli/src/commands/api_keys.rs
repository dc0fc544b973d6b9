//! `certctl api-keys`.

use certctl_client::types::{ApiKey, ApiKeyFilter};
use certctl_core::{Lifetime, Result, Role, engine::ApiKeySpec};
use clap::{Args, Subcommand};

use super::{One, Paging, or_dash, read};
use crate::{Fields, Format, Session};

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeysCommand {
    /// All API keys, without what makes them keys
    List(Paging),
    /// Make an API key, and print it alone on standard output: it is shown only now
    Create(CreateApiKey),
    /// End an API key at once
    Revoke(One),
}

/// A new API key.
#[derive(Args, Debug)]
pub struct CreateApiKey {
    /// Its name, which no other key has; the audit trail calls its bearer so
    name: String,
    /// What its bearer may do: admin, operator or viewer
    #[arg(long, value_parser = read::<Role>)]
    role: Role,
    /// How long it is valid, such as 90d; until it is revoked if it is left out
    #[arg(long, value_name = "TIME", value_parser = read::<Lifetime>)]
    valid: Option<Lifetime>,
}

pub(super) async fn run(command: ApiKeysCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        ApiKeysCommand::List(paging) => {
            let filter = ApiKeyFilter { limit: Some(paging.limit), cursor: paging.cursor.clone() };
            let page = paging.fetch(client.api_keys(&filter)).await?;
            session.show_list(&page, &["NAME", "ROLE", "EXPIRES", "REVOKED", "LAST USED", "ID"], |key| {
                [
                    key.name.clone(),
                    key.role.to_string(),
                    or_dash(key.expires),
                    or_dash(key.revoked),
                    or_dash(key.last_used),
                    key.id.to_string(),
                ]
            })
        }
        ApiKeysCommand::Create(new) => {
            let spec = ApiKeySpec { valid: new.valid, ..ApiKeySpec::new(new.name, new.role) };
            let created = client.create_api_key(&spec).await?;
            if session.format == Format::Json {
                return session.show(&created, |_| Fields::default());
            }
            let key = created.key.into_secret();
            session.terminal.say(&format!("{}\n", key.expose_str()?))?;
            session.terminal.note(&format!(
                "This is the key of {}. Keep it: it is not shown again.",
                created.api_key.name
            ))
        }
        ApiKeysCommand::Revoke(one) => session.show(&client.revoke_api_key(&one.name).await?, fields),
    }
}

fn fields(key: &ApiKey) -> Fields {
    Fields::default()
        .with("name", &key.name)
        .with("id", &key.id)
        .with("role", key.role)
        .with("created", key.created)
        .maybe("expires", key.expires)
        .maybe("revoked", key.revoked)
        .maybe("last used", key.last_used)
}
