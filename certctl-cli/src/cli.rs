//! The command line's outermost layer: what is the same for all commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    commands::{
        agents::AgentsCommand, api_keys::ApiKeysCommand, audit::AuditArgs, certs::CertsCommand,
        connectors::ConnectorsCommand, hosts::HostsCommand, issuers::IssuersCommand, jobs::JobsCommand,
        profiles::ProfilesCommand, targets::TargetsCommand,
    },
    exit::Exit,
    input::Source,
};

/// What plain `certctl` says.
pub(crate) const WELCOME: &str = "\
certctl is the command line for a certctl server, which issues certificates,
brings them to the programs that serve them, proves that they are served, and
renews them in time.

Where the server is, and who you are, stands in three environment variables:

  CERTCTL_SERVER_URL   https://localhost:8443, if it is not set
  CERTCTL_CA_FILE      the server's ca.pem, whom to trust
  CERTCTL_API_KEY      $(cat admin.key), or a key of your own

Five commands to begin with:

  certctl status                                is the server there, is all well
  certctl agents enroll-token --name web-1      admit the agent of a machine
  certctl targets create nginx-1 --kind nginx --agent web-1 --config nginx.json
  certctl certs create web --san web.example.com --target nginx-1 --wait
  certctl certs list                            what there is, how it stands

`certctl help` lists all commands, `certctl connectors describe nginx` says what
goes into nginx.json, and every command has a --help of its own.
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "certctl",
    version,
    about = "Certificates from any CA, deployed with proof, renewed in time",
    long_about = "The command line for a certctl server: certificates from any CA, deployed with\n\
                  proof, renewed in time. `certctl` alone shows how to begin.",
    after_help = "`certctl help COMMAND` says more. Names and ids are taken alike.",
    after_long_help = environment_and_exit_codes(),
    max_term_width = 80
)]
pub struct Cli {
    /// Options for all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options for all commands")]
pub struct Global {
    /// The server, such as https://localhost:8443 [env: CERTCTL_SERVER_URL]
    #[arg(long, alias = "server-url", value_name = "URL", global = true)]
    pub server: Option<String>,
    /// PEM file with the only CAs to trust [env: CERTCTL_CA_FILE]
    #[arg(long, alias = "ca", value_name = "FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// File with the API key, - for standard input [env: CERTCTL_API_KEY]
    // The key itself is no argument: any user of the machine can see those.
    #[arg(long, value_name = "FILE", global = true)]
    pub api_key_file: Option<Source>,
    /// How to show what comes: table, or json as in the REST API
    #[arg(
        long,
        short,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        global = true
    )]
    pub output: Format,
}

/// How answers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// As the server's REST API says it.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Certificates: create, look, renew, deploy, export, revoke
    #[command(subcommand, alias = "certificates")]
    Certs(CertsCommand),
    /// Who issues certificates
    #[command(subcommand)]
    Issuers(IssuersCommand),
    /// Where certificates go
    #[command(subcommand)]
    Targets(TargetsCommand),
    /// Machines that are reached over the network
    #[command(subcommand)]
    Hosts(HostsCommand),
    /// What issuers are asked for besides the names
    #[command(subcommand)]
    Profiles(ProfilesCommand),
    /// Programs that hold keys and deploy on their machines
    #[command(subcommand)]
    Agents(AgentsCommand),
    /// What is being done, and how it went
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Who may ask the server
    #[command(subcommand)]
    ApiKeys(ApiKeysCommand),
    /// Who did what, the newest first
    Audit(AuditArgs),
    /// Kinds of issuers, targets and notifiers, and what configures them
    #[command(subcommand)]
    Connectors(ConnectorsCommand),
    /// Whether the server is well, and what needs a look
    Status,
    /// The versions of this program and of the server
    Version,
}

fn environment_and_exit_codes() -> String {
    format!(
        "Environment:\n  CERTCTL_SERVER_URL   the server; https://localhost:8443 if it is not set\n  \
         CERTCTL_CA_FILE      the only CAs to trust, such as the server's ca.pem;\n                       \
         the system's if it is not set\n  CERTCTL_API_KEY      the API key\n\n{}",
        Exit::table()
    )
}
