//! What the machine's owner lets the server ask for. A server that was taken over gets no further than this.

mod host;
mod worker;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use certctl_core::{
    CommandLine, Error, ErrorKind, Result, SecretRef, Violation,
    host::{Command, HostPath},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::host::{GuardedHost, GuardedHosts};
pub(crate) use self::worker::GuardedWorker;

/// The `[allow]` table of `agent.toml`. A list that is absent restricts nothing; one that is empty allows nothing.
///
/// ```toml
/// [allow]
/// kinds = ["nginx"]
/// paths = ["/etc/nginx/tls"]
/// commands = ["nginx -t", ["systemctl", "reload", "nginx"]]
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The kinds of targets, and of solvers of challenges, that may be configured.
    pub kinds: Option<Vec<String>>,
    /// The directories in which files may be read, written and removed, with everything below them. Symlinks do not lead
    /// out of them. Files wait, and snapshots lie, beside their destinations, so that a single file is not enough.
    pub paths: Option<Vec<HostPath>>,
    /// The commands that may be run, each with exactly these arguments.
    pub commands: Option<Vec<CommandLine>>,
    /// The secrets of this machine that a configuration may refer to: paths of files, and variables as `env:NAME`. If there
    /// is any other restriction and no such list, there are none.
    pub secrets: Option<Vec<String>>,
}

impl Policy {
    /// Whether it restricts anything.
    pub fn is_restricted(&self) -> bool {
        self.kinds.is_some() || self.paths.is_some() || self.commands.is_some() || self.secrets.is_some()
    }

    /// What is wrong with it, all of it.
    pub fn check(&self) -> Vec<Violation> {
        let commands = self.commands.iter().flatten().enumerate();
        let mut wrong: Vec<Violation> = commands
            .flat_map(|(index, command)| command.check(&format!("/allow/commands/{index}")))
            .collect();
        for (index, secret) in self.secrets.iter().flatten().enumerate() {
            let is_variable = secret.strip_prefix("env:").is_some_and(|name| !name.is_empty());
            if !is_variable && HostPath::parse(secret).is_err() {
                wrong.push(Violation::new(
                    format!("/allow/secrets/{index}"),
                    format!("{secret:?} is neither the path of a file nor a variable"),
                    "write /run/secrets/NAME or env:NAME",
                ));
            }
        }
        wrong
    }
}

/// A [`Policy`], where it is written, and what is nobody's business whatever it says.
#[derive(Debug, Default)]
pub struct Guard {
    policy: RwLock<Arc<Policy>>,
    file: Option<PathBuf>,
    /// The agent's own files and directories.
    closed: Vec<HostPath>,
}

impl Guard {
    /// Enforces `policy`; `file` is where its lines stand, for what a refusal says.
    pub fn new(policy: Policy, file: Option<PathBuf>) -> Self {
        Self { policy: RwLock::new(Arc::new(policy)), file, closed: Vec::new() }
    }

    /// Closes a file or directory of the agent's own, whatever the policy says.
    ///
    /// # Errors
    /// `Invalid` for a path that can't be closed, since no target could be told from it.
    pub fn close(mut self, path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).ok();
        let text = absolute.as_deref().and_then(Path::to_str).ok_or_else(|| {
            let message = format!("the agent's own path {} is not UTF-8, or has no place", path.display());
            Error::invalid_field("", message, "give an absolute path in UTF-8")
        })?;
        self.closed.push(HostPath::parse(text)?);
        Ok(self)
    }

    /// The policy.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enforces another policy from now on. What is being done goes on under it.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong with it; the one before stays.
    pub fn replace(&self, policy: Policy) -> Result<()> {
        let wrong = policy.check();
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        Ok(())
    }

    /// # Errors
    /// `Denied` if connectors of this kind are not allowed.
    pub fn kind(&self, kind: &str) -> Result<()> {
        match &self.policy().kinds {
            Some(kinds) if !kinds.iter().any(|allowed| allowed == kind) => {
                Err(self.denied("kind", kind, "kinds", kinds, kind.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// `Denied` if exactly this command is not allowed.
    pub fn command(&self, command: &Command) -> Result<()> {
        let policy = self.policy();
        let Some(commands) = &policy.commands else { return Ok(()) };
        let allowed = |line: &CommandLine| line.argv().is_ok_and(|argv| argv == command.argv);
        if commands.iter().any(allowed) {
            return Ok(());
        }
        // As an array: nothing in it can be taken for something else.
        let line = CommandLine::from(command.argv.clone());
        Err(self.denied("command", &line.to_string(), "commands", commands, line.clone()))
    }

    /// # Errors
    /// `Denied` if a configuration may not refer to this secret of the machine.
    pub fn secret(&self, reference: &SecretRef) -> Result<()> {
        let wanted = match reference {
            SecretRef::Sealed(_) | SecretRef::Value(_) => return Ok(()),
            SecretRef::Env(name) if name.starts_with("CERTCTL_") => {
                return Err(never(&format!("the variable {name}"), "the agent's own settings"));
            }
            SecretRef::Env(name) => format!("env:{name}"),
            SecretRef::File(path) => {
                let real = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
                let inside = |closed: &&HostPath| {
                    let closed = std::fs::canonicalize(closed.as_str())
                        .unwrap_or_else(|_| PathBuf::from(closed.as_str()));
                    real.starts_with(closed)
                };
                if let Some(closed) = self.closed.iter().find(inside) {
                    return Err(never(path, closed.as_str()));
                }
                path.clone()
            }
        };
        let policy = self.policy();
        if !policy.is_restricted() {
            return Ok(());
        }
        let secrets = policy.secrets.as_deref().unwrap_or_default();
        if secrets.contains(&wanted) {
            return Ok(());
        }
        Err(self.denied("secret", &wanted, "secrets", secrets, wanted.clone()))
    }

    /// The refusal, with the very line that would allow it.
    fn denied<T: Serialize + Clone>(
        &self,
        what: &str,
        which: &str,
        list: &str,
        allowed: &[T],
        missing: T,
    ) -> Error {
        let mut wider = allowed.to_vec();
        wider.push(missing);
        // TOML's strings and arrays are written as JSON's.
        let line = format!("{list} = {}", serde_json::to_string(&wider).unwrap_or_default());
        let file = self.file.as_ref().map_or("agent.toml".into(), |file| file.display().to_string());
        Error::new(
            ErrorKind::Denied,
            format!(
                "this agent's own rules do not allow the {what} {which}; the line that would, below [allow] in {file} on \
                 the agent's machine: {line}"
            ),
        )
        .with("reason", "policy")
        .with(what, which)
        .with("allow", line)
    }
}

/// What no line would allow.
fn never(what: &str, whose: &str) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!("{what} belongs to {whose}, the agent's own, which no configuration may name"),
    )
    .with("reason", "policy")
}
