//! http-01 (RFC 8555 section 8.3) as files of a web server that runs already.

use std::sync::Arc;

use async_trait::async_trait;
use certctl_core::{
    Challenge, ChallengeKind, Context, Env, Error, ErrorKind, Result, Secret, Solver, Violation,
    connectors::SolverConfig,
    host::{FileKind, FileSpec, Host, HostPath},
};
use certctl_protocols::acme::wire::check_token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Puts the answers to http-01 challenges where a web server on port 80 finds them: as
/// `.well-known/acme-challenge/<token>` below its document root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http01Webroot {
    /// The web server's document root, an absolute path.
    pub path: String,
    /// The id of the host that it is on; by default the machine that the work is done on.
    pub host: Option<String>,
}

#[async_trait]
impl SolverConfig for Http01Webroot {
    const KIND: &'static str = "http01_webroot";
    const SHARED: bool = true;

    fn check(&self) -> Vec<Violation> {
        if self.path.is_empty() {
            let remedy = "give the document root of the web server, such as /var/www/html";
            return vec![Violation::new("/path", "the path is missing", remedy)];
        }
        HostPath::parse(&self.path).err().map_or_else(Vec::new, |e| e.below("/path").violations().to_vec())
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Solver>> {
        let root = HostPath::parse(&self.path)?;
        let host = env.hosts.host(self.host.as_deref()).await?;
        Ok(Arc::new(Webroot { root, host }))
    }
}

#[derive(Debug)]
struct Webroot {
    root: HostPath,
    host: Arc<dyn Host>,
}

impl Webroot {
    fn directory(&self) -> Result<HostPath> {
        self.root.join(".well-known/acme-challenge")
    }

    /// It becomes part of a path.
    fn file(&self, token: &str) -> Result<HostPath> {
        check_token(token)?;
        self.directory()?.join(token)
    }
}

#[async_trait]
impl Solver for Webroot {
    fn solves(&self, challenge: &Challenge) -> bool {
        challenge.kind == ChallengeKind::Http01
    }

    async fn present(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        let file = self.file(&challenge.token)?;
        let there = self.host.stat(&self.root).await?.map(|stat| stat.kind);
        if !matches!(there, Some(FileKind::Directory | FileKind::Symlink)) {
            let message =
                format!("the document root {} is not there; create it, or correct the path", self.root);
            return Err(Error::new(ErrorKind::Precondition, message)
                .with("step", "present")
                .with("file", &self.root)
                .with("name", &challenge.name));
        }
        self.host.make_public_dir(&self.directory()?).await?;
        let spec = FileSpec { mode: 0o644, owner: None };
        let content = Secret::new(challenge.key_authorization.as_bytes());
        let staged = self.host.stage(&file, &spec, &content).await?;
        self.host.swap(&staged).await
    }

    async fn retract(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        self.host.remove(&self.file(&challenge.token)?).await
    }
}
