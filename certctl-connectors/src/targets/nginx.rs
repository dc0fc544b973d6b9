use std::sync::Arc;

use certctl_core::{
    CommandLine, Error, Result, Target, Violation,
    connectors::{Site, TargetConfig},
    host::Endpoint,
    target::{FileLayout, FileRole},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::described::{Described, Paths};

/// nginx: certificate and key in files, checked with `nginx -t` before each reload.
///
/// ```
/// use certctl_connectors::targets::Nginx;
/// use certctl_core::connectors::TargetConfig;
/// let nginx = Nginx {
///     cert_path: "/etc/nginx/tls/web.crt".into(),
///     key_path: "/etc/nginx/tls/web.key".into(),
///     reload_command: "nginx -s reload".into(),
///     ..Default::default()
/// };
/// assert!(nginx.check().is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nginx {
    /// The file of `ssl_certificate`: it gets the whole chain, leaf first.
    pub cert_path: String,
    /// A file that gets the chain without the leaf, for `ssl_trusted_certificate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_path: Option<String>,
    /// The file of `ssl_certificate_key`.
    pub key_path: String,
    /// Checks the configuration, together with the new files, before the reload.
    pub validate_command: CommandLine,
    /// Makes nginx read the files.
    pub reload_command: CommandLine,
    /// Starts nginx if a reload has killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_command: Option<CommandLine>,
}

impl Default for Nginx {
    /// No paths; `nginx -t` and `systemctl reload nginx`.
    fn default() -> Self {
        Self {
            cert_path: String::new(),
            chain_path: None,
            key_path: String::new(),
            validate_command: "nginx -t".into(),
            reload_command: "systemctl reload nginx".into(),
            start_command: None,
        }
    }
}

impl TargetConfig for Nginx {
    const KIND: &'static str = "nginx";
    const ALIASES: &'static [&'static str] = &["NGINX"];

    fn check(&self) -> Vec<Violation> {
        let mut violations = self.paths().violations;
        violations.extend(self.validate_command.check("/validate_command"));
        violations.extend(self.reload_command.check("/reload_command"));
        violations.extend(self.start_command.iter().flat_map(|command| command.check("/start_command")));
        violations
    }

    fn default_probe() -> Vec<Endpoint> {
        vec![Endpoint { host: "127.0.0.1".into(), port: 443 }]
    }

    fn connect(self, site: Site) -> Result<Arc<dyn Target>> {
        let violations = self.check();
        if !violations.is_empty() {
            return Err(Error::invalid(violations));
        }
        let layout = FileLayout {
            files: self.paths().files,
            validate: Some(self.validate_command.command()?),
            reload: Some(self.reload_command.command()?),
            start: self.start_command.map(|command| command.command()).transpose()?,
        };
        Ok(site.files(Described { kind: Self::KIND, layout }))
    }
}

impl Nginx {
    fn paths(&self) -> Paths {
        let mut paths = Paths::default();
        paths.required("/cert_path", &self.cert_path, FileRole::FullChain);
        paths.optional("/chain_path", self.chain_path.as_deref(), FileRole::Issuers);
        paths.required("/key_path", &self.key_path, FileRole::Key);
        paths
    }
}
