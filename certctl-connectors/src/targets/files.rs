use std::sync::Arc;

use certctl_core::{
    CommandLine, Error, Result, Target, Violation,
    connectors::{Site, TargetConfig},
    target::{FileLayout, FileRole},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::described::{Described, Paths};

/// Plain files, and a command to run when they have changed.
///
/// Either `cert_path` and `key_path`, or `combined_path`, or all three.
///
/// ```
/// use certctl_connectors::targets::Files;
/// use certctl_core::connectors::TargetConfig;
/// let files = Files {
///     cert_path: "/srv/app/tls.crt".into(),
///     key_path: "/srv/app/tls.key".into(),
///     command: Some("systemctl reload app".into()),
///     ..Default::default()
/// };
/// assert!(files.check().is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// Gets the whole chain, leaf first.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_path: String,
    /// Gets the private key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_path: String,
    /// Gets the chain without the leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_path: Option<String>,
    /// Gets the whole chain and then the private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub combined_path: Option<String>,
    /// Makes whoever reads the files read them again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// Checks the files before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_command: Option<CommandLine>,
    /// Starts whoever reads the files, if `command` has killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<CommandLine>,
}

impl TargetConfig for Files {
    const KIND: &'static str = "files";
    const ALIASES: &'static [&'static str] = &["Files"];

    fn check(&self) -> Vec<Violation> {
        let mut violations = self.paths().violations;
        let commands = [
            ("/command", &self.command),
            ("/validate_command", &self.validate_command),
            ("/start_command", &self.start_command),
        ];
        for (pointer, command) in commands {
            violations.extend(command.iter().flat_map(|command| command.check(pointer)));
        }
        violations
    }

    fn connect(self, site: Site) -> Result<Arc<dyn Target>> {
        let violations = self.check();
        if !violations.is_empty() {
            return Err(Error::invalid(violations));
        }
        let command = |line: Option<CommandLine>| line.map(|line| line.command()).transpose();
        let layout = FileLayout {
            files: self.paths().files,
            validate: command(self.validate_command)?,
            reload: command(self.command)?,
            start: command(self.start_command)?,
        };
        Ok(site.files(Described { kind: Self::KIND, layout }))
    }
}

impl Files {
    fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        let pair = !self.cert_path.is_empty() || !self.key_path.is_empty() || self.combined_path.is_none();
        if pair {
            paths.required("/cert_path", &self.cert_path, FileRole::FullChain);
        }
        paths.optional("/chain_path", self.chain_path.as_deref(), FileRole::Issuers);
        if pair {
            paths.required("/key_path", &self.key_path, FileRole::Key);
        }
        paths.optional("/combined_path", self.combined_path.as_deref(), FileRole::Combined);
        paths
    }
}
