//! The table of settings: each has a flag, a variable and a key of the file, and a line that says what it is.

use certctl_connectors::environment::{FAMILIES, Variable};
use certctl_core::connectors::Connectors;
use serde_json::Value;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its key in `certctl.toml`, such as `data_dir`. The flag has dashes instead.
    pub key: String,
    /// Its environment variable, such as `CERTCTL_DATA_DIR`.
    pub variable: String,
    /// What it is, in a line, with its default.
    pub doc: String,
    /// How it is read.
    pub kind: SettingKind,
    /// Whether `SIGHUP` is enough for a change.
    pub reloads: bool,
}

/// How a setting is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingKind {
    /// The server's own.
    Own,
    /// A field of an issuer that the settings describe.
    Issuer,
    /// The same, and a secret: never a flag, because arguments can be seen by everybody on the machine.
    IssuerSecret,
}

impl Setting {
    /// Its flag without the dashes before it; none for a secret.
    pub fn flag(&self) -> Option<String> {
        (self.kind != SettingKind::IssuerSecret).then(|| self.key.replace('_', "-"))
    }
}

/// Names of variables, or what they begin with where that ends with a `_`, that belong to other programs of certctl, or to its tests: a server that is started in an operator's
/// shell has nothing to say about them.
pub const OTHERS: &[&str] = &[
    "CERTCTL_AGENT_",
    "CERTCTL_API_KEY",
    "CERTCTL_CA_FILE",
    "CERTCTL_DISCOVERY_DIRS",
    "CERTCTL_ENROLL_TOKEN",
    "CERTCTL_KEY_DIR",
    "CERTCTL_LOG",
    "CERTCTL_SERVER_URL",
    "CERTCTL_STATE_DIR",
    "CERTCTL_TEST_",
];

const OWN: &[(&str, bool, &str)] = &[
    ("config", false, "The file with settings, certctl.toml; none by default. Not a key of the file itself."),
    ("data_dir", false, "Where the server keeps what it has; data by default."),
    ("listen", false, "The address that it listens on; 127.0.0.1:8443 by default."),
    (
        "database_url",
        false,
        "Its database, such as sqlite:/var/lib/certctl/certctl.db; certctl.db in the data directory by default.",
    ),
    (
        "server_names",
        true,
        "Names of its certificate, separated by commas, besides localhost, the loopback addresses and this machine's name.",
    ),
    (
        "log_level",
        true,
        "What is logged: error, warn, info (the default), debug, trace, or a filter such as info,certctl_core=debug.",
    ),
    (
        "max_connections",
        false,
        "How many connections there are at most; 4096 by default. Further clients wait.",
    ),
    ("renewal_concurrency", false, "How many jobs are worked on at the same time; 64 by default."),
    ("shutdown_timeout", false, "How long open requests have when the server stops; 10s by default."),
];

/// Every setting.
pub fn settings(connectors: &Connectors) -> Vec<Setting> {
    let mut all: Vec<Setting> = OWN
        .iter()
        .map(|(key, reloads, doc)| Setting {
            key: (*key).to_owned(),
            variable: format!("CERTCTL_{}", key.to_ascii_uppercase()),
            doc: (*doc).to_owned(),
            kind: SettingKind::Own,
            reloads: *reloads,
        })
        .collect();
    for family in FAMILIES {
        let schema =
            connectors.issuer(family.kind).map(|kind| Value::from(kind.schema())).unwrap_or_default();
        all.extend(family.variables.iter().map(|variable| issuer_setting(variable, &schema)));
    }
    all
}

fn issuer_setting(variable: &Variable, schema: &Value) -> Setting {
    let doc = schema["properties"][variable.field]["description"].as_str().unwrap_or_default();
    let key = variable.name.trim_start_matches("CERTCTL_").to_ascii_lowercase();
    let kind = if variable.is_secret() { SettingKind::IssuerSecret } else { SettingKind::Issuer };
    Setting { key, variable: variable.name.to_owned(), doc: first_sentence(doc), kind, reloads: true }
}

fn first_sentence(doc: &str) -> String {
    let line = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.find(". ") {
        Some(end) => line[..=end].to_owned(),
        None => line,
    }
}
