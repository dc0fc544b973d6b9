//! What an operator can set. Public fields and `Default` are the builder; [`Settings`] reads flags, environment and file.

mod settings;
mod table;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use certctl_core::IssuerSpec;

pub use settings::{Origin, Settings};
pub use table::{OTHERS, Setting, SettingKind, settings};

/// How a server runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it keeps what it has: the database, keys, `master.key`, `admin.key`, `ca.pem`.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The SQLite file; none for `certctl.db` in the data directory.
    pub database: Option<PathBuf>,
    /// Names of its own certificate besides localhost, the loopback addresses and this machine's name: DNS names and
    /// addresses.
    pub server_names: Vec<String>,
    /// What is logged, as [`tracing_subscriber::EnvFilter`] reads it. The library logs nothing by itself: its program does.
    pub log_level: String,
    /// How many connections there are at most. Further clients wait.
    pub max_connections: usize,
    /// How many jobs, or units of targets, are worked on at the same time.
    pub renewal_concurrency: usize,
    /// How long open requests have when the server stops.
    pub shutdown_timeout: Duration,
    /// Issuers that the settings describe, under ids of their own. One that somebody has edited since stays as it is.
    pub issuers: Vec<IssuerSpec>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            database: None,
            server_names: Vec::new(),
            log_level: "info".to_owned(),
            max_connections: 4_096,
            renewal_concurrency: 64,
            shutdown_timeout: Duration::from_secs(10),
            issuers: Vec::new(),
        }
    }
}
