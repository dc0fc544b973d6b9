//! `certctl certs`.

use certctl_client::{
    Client,
    types::{Certificate, CertificateFilter, List, RenewRequest, RevokeRequest, Started},
};
use certctl_core::{
    CertificateSpec, KeyAlgorithm, Lifetime, Result, RevocationReason,
    engine::{DeploymentPlan, WantedName},
    records::CertificateStatus,
};
use clap::{Args, Subcommand};

use super::{Delete, One, Paging, nothing_to_change, or_dash, read, read_word};
use crate::{
    Failure, Fields, Format, Session,
    input::Source,
    wait::{self, Goal},
};

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// All certificates
    List(ListCerts),
    /// One certificate: how it stands, where it is, its versions
    Get(One),
    /// Make a certificate: it is issued, and brought to its targets
    ///
    /// Either its key is made by whoever deploys it to the targets (--target), or it is elsewhere and a request comes from
    /// there (--csr).
    Create(CreateCert),
    /// Change a certificate; what is not given stays
    Update(UpdateCert),
    /// Renew a certificate now
    Renew(Renew),
    /// Bring the newest version to its targets once more
    Deploy(Deploy),
    /// Print the newest version in PEM: the leaf, then each one's issuer
    Export(One),
    /// Revoke the newest version, or another one
    Revoke(Revoke),
    /// All versions, the newest first
    Versions(One),
    /// Forget a certificate and destroy its keys; what is deployed stays
    Delete(Delete),
}

/// Which certificates.
#[derive(Args, Debug)]
pub struct ListCerts {
    /// How they stand: pending, active, partial, attention or revoked
    #[arg(long, value_parser = read_status)]
    status: Option<CertificateStatus>,
    /// Only those of this issuer
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Only those that go to this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only the one of this name
    #[arg(long)]
    name: Option<String>,
    /// Only those whose newest version ends within this time, such as 30d
    #[arg(long, value_name = "TIME", value_parser = read::<Lifetime>)]
    expires_within: Option<Lifetime>,
    /// Which part of it.
    #[command(flatten)]
    paging: Paging,
}

/// What is wanted of a certificate.
#[derive(Args, Debug, Default)]
pub struct Wanted {
    /// A name to certify: DNS name, IP address, email address or URI; once for each
    #[arg(long = "san", value_name = "NAME")]
    sans: Vec<String>,
    /// The subject's common name
    #[arg(long, value_name = "NAME")]
    common_name: Option<String>,
    /// A target that it goes to; once for each
    #[arg(long = "target", value_name = "NAME")]
    targets: Vec<String>,
    /// Who issues it; the server's default issuer if it is left out
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// A stored profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// PEM file with a request whose key is elsewhere, - for standard input
    #[arg(long, value_name = "FILE")]
    csr: Option<Source>,
    /// How long it shall be valid, such as 47d
    #[arg(long, value_name = "TIME", value_parser = read::<Lifetime>)]
    lifetime: Option<Lifetime>,
    /// ECDSA-P256 (the default), -P384, -P521, RSA-2048, -3072, -4096 or Ed25519
    #[arg(long, value_name = "ALGORITHM", value_parser = read::<KeyAlgorithm>)]
    key_algorithm: Option<KeyAlgorithm>,
    /// Whether a renewal keeps the key
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    reuse_key: Option<bool>,
    /// After which share of its lifetime it is renewed, such as 0.66
    #[arg(long, value_name = "SHARE")]
    renew_at_share: Option<f64>,
}

/// A new certificate.
#[derive(Args, Debug)]
pub struct CreateCert {
    /// Its name, which no other certificate has
    name: String,
    /// Its id; mc-… is made up if it is left out
    #[arg(long)]
    id: Option<String>,
    /// What is wanted of it.
    #[command(flatten)]
    wanted: Wanted,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// What changes. Names and targets replace those that there are.
#[derive(Args, Debug)]
pub struct UpdateCert {
    /// Its name or id
    name: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// What is wanted of it.
    #[command(flatten)]
    wanted: Wanted,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// A renewal.
#[derive(Args, Debug)]
pub struct Renew {
    /// The certificate's name or id
    name: String,
    /// PEM file with a new request, where the key is elsewhere; the same request is sent again if it is left out
    #[arg(long, value_name = "FILE")]
    csr: Option<Source>,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// A deployment.
#[derive(Args, Debug)]
pub struct Deploy {
    /// The certificate's name or id
    name: String,
    /// Show what would be written and run, and touch nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// A revocation.
#[derive(Args, Debug)]
pub struct Revoke {
    /// The certificate's name or id
    name: String,
    /// Why, such as key_compromise, superseded or cessation_of_operation
    #[arg(long, default_value = "unspecified", value_parser = read_reason)]
    reason: RevocationReason,
    /// Which version: its id, serial number or SHA-256 fingerprint; the newest if it is left out
    #[arg(long)]
    version: Option<String>,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// Whether to wait for what was begun.
#[derive(Args, Clone, Copy, Debug)]
pub struct Waiting {
    /// Show the steps as they happen, and end when all is done, or at the first that fails
    #[arg(long)]
    wait: bool,
    /// How long to wait at most; the jobs go on in any case
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "wait", value_parser = read::<Lifetime>)]
    timeout: Lifetime,
}

pub(super) async fn run(command: CertsCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        CertsCommand::List(list) => self::list(list, &client, session).await?,
        CertsCommand::Get(one) => session.show(&client.certificate(&one.name).await?, wait::fields)?,
        CertsCommand::Create(new) => {
            let spec = CertificateSpec { id: new.id, ..CertificateSpec::new(new.name) };
            let spec = new.wanted.apply(spec, session)?;
            let started = client.create_certificate(&spec).await?;
            begun(started, Goal::Active, new.waiting, &client, session).await?;
        }
        CertsCommand::Update(change) => {
            let before = client.certificate(&change.name).await?.spec()?;
            let mut spec = change.wanted.apply(before.clone(), session)?;
            spec.name = change.rename.unwrap_or(spec.name);
            if spec == before {
                let options = "--rename, --san, --target, --issuer and so on, with another value";
                return Err(nothing_to_change(options).into());
            }
            let started = client.put_certificate(&change.name, &spec).await?;
            begun(started, Goal::Active, change.waiting, &client, session).await?;
        }
        CertsCommand::Renew(renew) => {
            let csr = renew.csr.map(|file| file.text(session.terminal)).transpose()?;
            let started = client.renew(&renew.name, &RenewRequest { csr }).await?;
            begun(started, Goal::Active, renew.waiting, &client, session).await?;
        }
        CertsCommand::Deploy(deploy) if deploy.dry_run => {
            let plans = client.plan(&deploy.name).await?;
            match session.format {
                Format::Json => session.show(&plans, |_| Fields::default())?,
                Format::Table if plans.data.is_empty() => session.terminal.note("It has no targets.")?,
                Format::Table => {
                    for plan in &plans.data {
                        let text = plan_fields(plan).render(session.terminal.width);
                        session.terminal.say(&text)?;
                    }
                    session.terminal.note("Nothing was touched.")?;
                }
            }
        }
        CertsCommand::Deploy(deploy) => {
            let started = client.deploy(&deploy.name).await?;
            begun(started, Goal::Active, deploy.waiting, &client, session).await?;
        }
        CertsCommand::Export(one) => {
            let pem = client.export(&one.name).await?;
            session.terminal.say(&pem)?;
        }
        CertsCommand::Revoke(revoke) => {
            let request = RevokeRequest { reason: revoke.reason, version: revoke.version };
            let started = client.revoke(&revoke.name, &request).await?;
            begun(started, Goal::Revoked, revoke.waiting, &client, session).await?;
        }
        CertsCommand::Versions(one) => {
            let versions = List { data: client.versions(&one.name).await?, next_cursor: None };
            let heading = ["SERIAL NUMBER", "FROM", "UNTIL", "ISSUER", "HOLDER", "REVOKED", "ID"];
            session.show_list(&versions, &heading, |version| {
                [
                    version.serial_number.to_string(),
                    version.not_before.to_string(),
                    version.not_after.to_string(),
                    version.issuer.name.clone(),
                    version.holder.clone(),
                    or_dash(version.revoked),
                    version.id.to_string(),
                ]
            })?;
        }
        CertsCommand::Delete(one) => {
            client.delete_certificate(&one.name, one.revision).await?;
            session
                .terminal
                .note(&format!("The certificate {} is deleted; what is deployed stays.", one.name))?;
        }
    }
    Ok(())
}

async fn list(list: ListCerts, client: &Client, session: &mut Session<'_>) -> Result<()> {
    let mut filter = CertificateFilter {
        status: list.status,
        issuer: list.issuer,
        name: list.name,
        target: list.target,
        limit: Some(list.paging.limit),
        cursor: list.paging.cursor.clone(),
        ..CertificateFilter::default()
    };
    if let Some(span) = list.expires_within {
        filter = filter.expiring_within(session.clock.now(), span);
    }
    let page = list.paging.fetch(client.certificates(&filter)).await?;
    let heading = ["NAME", "STATUS", "UNTIL", "NAMES", "ISSUER", "TARGETS", "ID"];
    session.show_list(&page, &heading, |certificate: &Certificate| {
        let names: Vec<_> = certificate.names.iter().map(ToString::to_string).collect();
        let targets: Vec<_> = certificate.targets.iter().map(|target| target.name.as_str()).collect();
        [
            certificate.name.clone(),
            certificate.status.as_str().to_owned(),
            or_dash(certificate.not_after),
            names.join(","),
            certificate.issuer.name.clone(),
            if targets.is_empty() { "-".to_owned() } else { targets.join(",") },
            certificate.id.to_string(),
        ]
    })
}

/// Shows what a command has begun, and waits for its end if that was asked for.
async fn begun(
    started: Started,
    goal: Goal,
    waiting: Waiting,
    client: &Client,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    for warning in &started.warnings {
        session.terminal.note(&format!("warning: {warning}"))?;
    }
    if waiting.wait {
        let certificate = wait::wait(session, client, started, goal, waiting.timeout).await?;
        return Ok(session.show(&certificate, wait::fields)?);
    }
    session.show(&started, |started| {
        let jobs: Vec<_> = started.jobs.iter().map(ToString::to_string).collect();
        let jobs = if jobs.is_empty() { "none: there is nothing to do".to_owned() } else { jobs.join("\n") };
        wait::fields(&started.certificate).with("begun", jobs)
    })?;
    if let (Format::Table, Some(job)) = (session.format, started.jobs.first()) {
        session.terminal.note(&format!("`certctl jobs watch {job}` shows how it goes."))?;
    }
    Ok(())
}

impl Wanted {
    fn apply(self, mut spec: CertificateSpec, session: &mut Session<'_>) -> Result<CertificateSpec> {
        if !self.sans.is_empty() {
            spec.names = self.sans.into_iter().map(WantedName::Any).collect();
        }
        if !self.targets.is_empty() {
            spec.targets = self.targets;
        }
        if let Some(file) = self.csr {
            spec.csr = Some(file.text(session.terminal)?);
        }
        spec.common_name = self.common_name.or(spec.common_name);
        spec.issuer = self.issuer.or(spec.issuer);
        spec.profile = self.profile.or(spec.profile);
        spec.lifetime = self.lifetime.or(spec.lifetime);
        spec.key_algorithm = self.key_algorithm.or(spec.key_algorithm);
        spec.reuse_key = self.reuse_key.unwrap_or(spec.reuse_key);
        spec.renew_at_share = self.renew_at_share.or(spec.renew_at_share);
        Ok(spec)
    }
}

fn plan_fields(plan: &DeploymentPlan) -> Fields {
    let inner = &plan.plan;
    let changes = inner.changes.iter().map(|change| {
        let mode = match (&change.mode_before, &change.mode) {
            (Some(before), Some(after)) if before != after => format!(", mode {before} to {after}"),
            (_, Some(after)) => format!(", mode {after}"),
            _ => String::new(),
        };
        let owner = change.owner.as_ref().map(|owner| format!(", owner {owner}")).unwrap_or_default();
        let note = change.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        format!("{} {}{mode}{owner}{note}", change.action, change.what)
    });
    let changes: Vec<_> = changes.collect();
    let nothing = "nothing: all is in place".to_owned();
    Fields::default()
        .with("target", &plan.target)
        .maybe("in place", inner.old.as_ref())
        .maybe("would be", inner.new.as_ref())
        .with("writes", if changes.is_empty() { nothing } else { changes.join("\n") })
        .maybe("runs", (!inner.commands.is_empty()).then(|| inner.commands.join("\n")))
}

fn read_status(text: &str) -> std::result::Result<CertificateStatus, String> {
    read_word(text).ok_or_else(|| "use pending, active, partial, attention or revoked".to_owned())
}

fn read_reason(text: &str) -> std::result::Result<RevocationReason, String> {
    read_word(text).ok_or_else(|| {
        let all: Vec<_> = RevocationReason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("use one of {}", all.join(", "))
    })
}
