//! `certctl profiles`.

use certctl_client::types::Profile;
use certctl_core::{ExtendedKeyUsage, KeyAlgorithm, Lifetime, Result, engine::ProfileSpec};
use clap::{Args, Subcommand};

use super::{Delete, NamedList, One, nothing_to_change, or_dash, read, read_word};
use crate::{Fields, Session};

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub enum ProfilesCommand {
    /// All profiles
    List(NamedList),
    /// One profile
    Get(One),
    /// Store a profile
    Create(CreateProfile),
    /// Change a profile; what is not given stays
    Update(UpdateProfile),
    /// Forget a profile that no certificate uses
    Delete(Delete),
}

/// What a profile says.
#[derive(Args, Debug)]
pub struct Says {
    /// How long certificates are valid, such as 47d; the issuer's own if it is left out
    #[arg(long, value_name = "TIME", value_parser = read::<Lifetime>)]
    lifetime: Option<Lifetime>,
    /// An extended key usage, once for each, such as client_auth; server_auth if there is none
    #[arg(long = "usage", value_name = "USAGE", value_parser = read_usage)]
    usages: Vec<ExtendedKeyUsage>,
    /// The algorithm of keys, such as RSA-2048
    #[arg(long, value_name = "ALGORITHM", value_parser = read::<KeyAlgorithm>)]
    key_algorithm: Option<KeyAlgorithm>,
}

/// A new profile.
#[derive(Args, Debug)]
pub struct CreateProfile {
    /// Its name, which no other profile has
    name: String,
    /// What it says.
    #[command(flatten)]
    says: Says,
    /// Its id; prof-… is made up if it is left out
    #[arg(long)]
    id: Option<String>,
}

/// What changes. Usages replace those that there are.
#[derive(Args, Debug)]
pub struct UpdateProfile {
    /// Its name or id
    name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// What it says.
    #[command(flatten)]
    says: Says,
}

pub(super) async fn run(command: ProfilesCommand, session: &mut Session<'_>) -> Result<()> {
    let client = session.client()?;
    match command {
        ProfilesCommand::List(list) => {
            let page = list.paging.fetch(client.profiles(&list.filter())).await?;
            session.show_list(&page, &["NAME", "LIFETIME", "USAGES", "KEY", "ID"], |profile| {
                [
                    profile.name.clone(),
                    or_dash(profile.profile.lifetime),
                    usages(profile),
                    or_dash(profile.profile.key_algorithm),
                    profile.id.to_string(),
                ]
            })
        }
        ProfilesCommand::Get(one) => session.show(&client.profile(&one.name).await?, fields),
        ProfilesCommand::Create(new) => {
            let spec = new.says.apply(ProfileSpec { id: new.id, ..ProfileSpec::new(new.name) });
            session.show(&client.create_profile(&spec).await?, fields)
        }
        ProfilesCommand::Update(change) => {
            let before = client.profile(&change.name).await?.spec();
            let mut spec = change.says.apply(before.clone());
            spec.name = change.rename.unwrap_or(spec.name);
            if spec == before {
                let options = "--rename, --lifetime, --usage, --key-algorithm, with another value";
                return Err(nothing_to_change(options));
            }
            session.show(&client.put_profile(&change.name, &spec).await?, fields)
        }
        ProfilesCommand::Delete(one) => {
            client.delete_profile(&one.name, one.revision).await?;
            session.terminal.note(&format!("The profile {} is deleted.", one.name))
        }
    }
}

impl Says {
    fn apply(self, mut spec: ProfileSpec) -> ProfileSpec {
        spec.lifetime = self.lifetime.or(spec.lifetime);
        spec.key_algorithm = self.key_algorithm.or(spec.key_algorithm);
        if !self.usages.is_empty() {
            spec.extended_key_usages = self.usages;
        }
        spec
    }
}

fn read_usage(text: &str) -> Result<ExtendedKeyUsage, String> {
    read_word(text).ok_or_else(|| {
        "use server_auth, client_auth, code_signing, email_protection, time_stamping or ocsp_signing"
            .to_owned()
    })
}

fn usages(profile: &Profile) -> String {
    let words = profile.profile.extended_key_usages.iter().map(|usage| {
        let word = serde_json::to_value(usage).ok();
        word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
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
        .maybe("key", profile.profile.key_algorithm)
        .with("revision", profile.revision)
}
