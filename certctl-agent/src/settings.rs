//! The settings of the program `certctl-agent`: by flag, by environment, by file, in that order.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use certctl_core::{Error, ErrorKind, Result, Secret, Violation};
use serde::Deserialize;

use crate::policy::Policy;

/// One setting and its three names.
struct Setting {
    flag: &'static str,
    value: &'static str,
    variable: &'static str,
    key: &'static str,
    help: &'static str,
}

const fn setting(
    flag: &'static str,
    value: &'static str,
    variable: &'static str,
    key: &'static str,
    help: &'static str,
) -> Setting {
    Setting { flag, value, variable, key, help }
}

const SERVER: Setting = setting(
    "--server",
    "URL",
    "CERTCTL_SERVER_URL",
    "server_url",
    "the server, such as https://certctl.test:8443",
);
const CA: Setting = setting(
    "--ca",
    "FILE",
    "CERTCTL_CA_FILE",
    "ca_file",
    "PEM file that the server's certificate comes from",
);
const STATE: Setting = setting(
    "--state-dir",
    "DIR",
    "CERTCTL_STATE_DIR",
    "state_dir",
    "who this agent is, and what it is doing",
);
const KEYS: Setting = setting(
    "--key-dir",
    "DIR",
    "CERTCTL_KEY_DIR",
    "key_dir",
    "private keys of certificates\n[keys/ in the state directory]",
);
const PARALLEL: Setting =
    setting("--parallel", "N", "CERTCTL_AGENT_PARALLEL", "parallel", "how many pieces of work at a time [4]");
const LOG: Setting =
    setting("--log", "LEVEL", "CERTCTL_LOG", "log", "error, warn, info, debug or trace [info]");
const FILE: Setting = setting(
    "--config",
    "FILE",
    "CERTCTL_AGENT_CONFIG",
    "",
    "settings, and what the server may ask for\n[agent.toml in the state directory, if there]",
);
const TOKEN: Setting = setting(
    "--enroll-token-file",
    "FILE",
    "CERTCTL_ENROLL_TOKEN",
    "",
    "a file with the token to enrol with, - for standard\ninput; the variable holds the token itself",
);
const ALL: [&Setting; 8] = [&SERVER, &CA, &STATE, &KEYS, &TOKEN, &FILE, &PARALLEL, &LOG];

/// What our own prefix of variables is.
const OWN_PREFIX: &str = "CERTCTL_AGENT_";
/// The largest file of settings, in bytes.
const MAX: u64 = 1 << 20;

/// What the program was asked for.
#[derive(Debug)]
pub enum Asked {
    /// To run.
    Run(Box<Settings>),
    /// To explain itself, or to say its version.
    Say(String),
}

/// How an agent is to run.
#[derive(Debug)]
pub struct Settings {
    /// The server's URL.
    pub server: String,
    /// The file with the certificates that the server's has to come from.
    pub ca: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Another directory for the private keys of certificates.
    pub key_dir: Option<PathBuf>,
    /// The token to enrol with.
    pub token: Option<Secret>,
    /// How many pieces of work at a time.
    pub parallel: usize,
    /// The least urgent level that is logged.
    pub log: String,
    /// What the server may ask for.
    pub policy: Policy,
    /// Where that is written.
    pub file: Option<PathBuf>,
}

/// As the file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    server_url: Option<String>,
    ca_file: Option<String>,
    state_dir: Option<String>,
    key_dir: Option<String>,
    parallel: Option<u16>,
    log: Option<String>,
    allow: Policy,
}

impl Settings {
    /// Reads them: `arguments` without the program's name, the whole environment, and the file that they name.
    ///
    /// # Errors
    /// `Invalid` with everything that is unknown, missing or wrong, each by the name it was given by; `Precondition` for a
    /// file that can't be read.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Asked> {
        let mut wrong = Vec::new();
        let environment: BTreeMap<String, String> =
            environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        wrong.extend(environment.keys().filter_map(|name| unknown_variable(name)));
        let flags = match flags(arguments, &mut wrong) {
            Flags::Given(flags) => flags,
            Flags::Say(text) => return Ok(Asked::Say(text)),
        };
        let given = |setting: &Setting| {
            let variable = environment.get(setting.variable).map(|value| (setting.variable, value.clone()));
            flags.get(setting.flag).map(|value| (setting.flag, value.clone())).or(variable)
        };
        let value = |setting: &Setting| given(setting).map(|(_, value)| value);

        let file = match value(&FILE) {
            Some(path) => Some(PathBuf::from(path)),
            None => value(&STATE).map(|dir| Path::new(&dir).join("agent.toml")).filter(|path| path.exists()),
        };
        let written = match &file {
            Some(path) => read_file(path)?,
            None => Written::default(),
        };
        wrong.extend(written.allow.check());

        let mut required = |setting: &Setting, in_file: Option<String>| {
            let value = value(setting).or(in_file);
            if value.is_none() {
                wrong.push(Violation::new(
                    setting.flag,
                    "this is missing",
                    format!("give {} {}, or set {}", setting.flag, setting.value, setting.variable),
                ));
            }
            value.unwrap_or_default()
        };
        let server = required(&SERVER, written.server_url);
        let ca = required(&CA, written.ca_file);
        let state_dir = required(&STATE, written.state_dir);
        let parallel = match given(&PARALLEL) {
            Some((name, text)) => text.parse().map_err(|_| name).unwrap_or_else(|name| {
                wrong.push(Violation::new(
                    name,
                    format!("{text:?} is no number"),
                    "give 1 to 64; 4 is usual",
                ));
                4
            }),
            None => written.parallel.unwrap_or(4),
        };
        if !(1..=64).contains(&parallel) {
            let remedy = "give 1 to 64; 4 is usual";
            wrong.push(Violation::new(PARALLEL.key, format!("{parallel} at a time is out of range"), remedy));
        }
        let log = value(&LOG).or(written.log).unwrap_or_else(|| "info".to_owned());
        if !["error", "warn", "info", "debug", "trace"].contains(&&*log) {
            let remedy = "use error, warn, info, debug or trace";
            wrong.push(Violation::new(LOG.key, format!("there is no log level {log:?}"), remedy));
        }
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let token = match flags.get(TOKEN.flag) {
            Some(path) => Some(read_token(path)?),
            None => environment.get(TOKEN.variable).map(|token| Secret::new(token.trim().to_owned())),
        };
        Ok(Asked::Run(Box::new(Self {
            server,
            ca: ca.into(),
            state_dir: state_dir.into(),
            key_dir: value(&KEYS).or(written.key_dir).map(PathBuf::from),
            token,
            parallel: parallel.into(),
            log,
            policy: written.allow,
            file,
        })))
    }

    /// The rules in the file as they are now.
    ///
    /// # Errors
    /// `Invalid` or `Precondition`, as for [`Settings::read`].
    pub fn read_policy(file: &Path) -> Result<Policy> {
        read_file(file).map(|written| written.allow)
    }
}

enum Flags {
    Given(BTreeMap<&'static str, String>),
    Say(String),
}

fn flags(arguments: impl IntoIterator<Item = String>, wrong: &mut Vec<Violation>) -> Flags {
    let mut given = BTreeMap::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (argument, None),
        };
        match &*name {
            "--help" | "-h" => return Flags::Say(help()),
            "--version" | "-V" => return Flags::Say(format!("certctl-agent {}", env!("CARGO_PKG_VERSION"))),
            "--enroll-token" | "--token" => {
                // Not repeated: it may be the token.
                let remedy = "set CERTCTL_ENROLL_TOKEN, or give --enroll-token-file FILE";
                wrong.push(Violation::new(
                    name,
                    "a token is never an argument: others can see those",
                    remedy,
                ));
                let _ = value.or_else(|| arguments.next());
                continue;
            }
            _ => {}
        }
        let Some(setting) = ALL.iter().find(|setting| setting.flag == name) else {
            wrong.push(Violation::new(name, "there is no such setting", "certctl-agent --help lists them"));
            continue;
        };
        match value.or_else(|| arguments.next()).filter(|value| !value.is_empty()) {
            None => {
                let remedy = format!("write {} {}", setting.flag, setting.value);
                wrong.push(Violation::new(name, "its value is missing", remedy));
            }
            Some(value) => {
                if given.insert(setting.flag, value).is_some() {
                    wrong.push(Violation::new(name, "it is given twice", "give it once"));
                }
            }
        }
    }
    Flags::Given(given)
}

/// Other programs' variables are none of our business, but for those that can only be meant for this one.
fn unknown_variable(name: &str) -> Option<Violation> {
    let known = ALL.iter().any(|setting| setting.variable == name);
    if known || !name.starts_with(OWN_PREFIX) {
        return None;
    }
    let remedy = match name {
        "CERTCTL_AGENT_NAME" | "CERTCTL_AGENT_ID" => {
            "remove it: an agent's name belongs to the token that it enrols with".to_owned()
        }
        _ => {
            let all: Vec<&str> = ALL.iter().map(|setting| setting.variable).collect();
            format!("remove it, or use one of: {}", all.join(", "))
        }
    };
    Some(Violation::new(name, "there is no such setting", remedy))
}

fn read_file(path: &Path) -> Result<Written> {
    let text = read_text(path, "settings")?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
        let message = format!("{} line {line}: {}", path.display(), error.message());
        Error::invalid_field("", message, "correct it; certctl-agent --help lists the settings")
            .with("file", path.display())
    })
}

fn read_token(path: &str) -> Result<Secret> {
    let text = if path == "-" {
        let mut text = String::new();
        use std::io::Read;
        std::io::stdin()
            .take(MAX)
            .read_to_string(&mut text)
            .map_err(|error| unreadable(Path::new("-"), "token", &error))?;
        text
    } else {
        read_text(Path::new(path), "token")?
    };
    match text.trim() {
        "" => Err(Error::invalid_field(
            TOKEN.flag,
            "there is no token in it",
            "write the token alone into the file",
        )),
        token => Ok(Secret::new(token.to_owned())),
    }
}

fn read_text(path: &Path, what: &str) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, what, &error))?;
    file.take(MAX).read_to_string(&mut text).map_err(|error| unreadable(path, what, &error))?;
    Ok(text)
}

fn unreadable(path: &Path, what: &str, error: &std::io::Error) -> Error {
    let message = format!("the {what} in {} can't be read: {error}", path.display());
    Error::new(ErrorKind::Precondition, message).with("file", path.display())
}

fn help() -> String {
    let mut text = "certctl-agent holds private keys and deploys certificates on this machine, on
behalf of a certctl server.

  certctl-agent --server URL --ca FILE --state-dir DIR

It enrols once, with a token that `certctl agents enroll-token --name NAME`
prints; its identity is in the state directory from then on.

Settings, also by variable, or by key in the file; the flag comes first, then
the variable:
"
    .to_owned();
    for setting in ALL {
        let mut help = setting.help.lines();
        let flag = format!("{} {}", setting.flag, setting.value);
        text.push_str(&format!("\n  {flag:<26}{}\n", help.next().unwrap_or_default()));
        for line in help {
            text.push_str(&format!("{:28}{line}\n", ""));
        }
        let names = if setting.key.is_empty() {
            setting.variable.to_owned()
        } else {
            format!("{}, {}", setting.variable, setting.key)
        };
        text.push_str(&format!("{:28}{names}\n", ""));
    }
    text.push_str(
        "
What the server may ask for is restricted by the file. A list that is absent
restricts nothing, an empty one allows nothing; SIGHUP reads it again:

  [allow]
  kinds = [\"nginx\"]
  paths = [\"/etc/nginx/tls\"]
  commands = [\"nginx -t\", [\"systemctl\", \"reload\", \"nginx\"]]
  secrets = [\"/run/secrets/f5\", \"env:F5_TOKEN\"]
",
    );
    text
}
