//! `certctl profiles`.

use certctl_client::types::Profile;
use certctl_core::Result;
use clap::Subcommand;

use super::{Delete, NamedList, One, or_dash};
use crate::{Fields, Session};

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub enum ProfilesCommand {
    /// All profiles
    List(NamedList),
    /// One profile
    Get(One),
    /// Forget a profile that no certificate uses
    Delete(Delete),
}

pub(super) async fn run(command: ProfilesCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        ProfilesCommand::List(list) => {
            let page = list.paging.fetch(client.profiles(&list.filter())).await?;
            session.show_list(&page, &["NAME", "LIFETIME", "USAGES", "ID"], |profile| {
                [
                    profile.name.clone(),
                    or_dash(profile.profile.lifetime),
                    usages(profile),
                    profile.id.to_string(),
                ]
            })
        }
        ProfilesCommand::Get(one) => session.show(&client.profile(&one.name).await?, fields),
        ProfilesCommand::Delete(one) => {
            client.delete_profile(&one.name, one.revision).await?;
            session.terminal.note(&format!("The profile {} is deleted.", one.name))
        }
    }
}

fn usages(profile: &Profile) -> String {
    let words = profile.profile.extended_key_usages.iter().map(|usage| {
        serde_json::to_value(usage).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
    });
    let words: Vec<_> = words.collect();
    if words.is_empty() { "server_auth".to_owned() } else { words.join(", ") }
}

fn fields(profile: &Profile) -> Fields {
    Fields::default()
        .with("name", &profile.name)
        .with("id", &profile.id)
        .maybe("lifetime", profile.profile.lifetime)
        .with("usages", usages(profile))
        .with("revision", profile.revision)
}
