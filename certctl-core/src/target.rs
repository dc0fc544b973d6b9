//! What a server that uses certificates looks like to the engine.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Bundle, Context, Fingerprint, Result,
    host::{Command, Host, HostPath},
};

/// A server that can be given a certificate. Every step may run twice; the order of the steps, and what happens when one
/// fails, is the deployer's business ([`crate::worker::deploy`]), not the target's.
///
/// File-based servers implement [`FileTarget`] instead and are put on a host with [`crate::OnHost`].
#[async_trait]
pub trait Target: Send + Sync + Debug {
    /// The connector's kind, such as `nginx`.
    fn kind(&self) -> &str;

    /// What reloads together with this: one lock and one reload for all of a unit. None stands alone.
    fn unit(&self) -> Option<String> {
        None
    }

    /// Where it is, for people: a path, a URL.
    fn address(&self) -> String;

    /// The host that its probe goes out from; none if it can't be probed.
    fn host(&self) -> Option<Arc<dyn Host>>;

    /// Whether whoever owns the place lets this target be deployed to at all; touches nothing.
    ///
    /// # Errors
    /// `Denied`, with what would allow it.
    async fn permitted(&self) -> Result<()> {
        Ok(())
    }

    /// What is there now.
    async fn observe(&self, cx: &Context) -> Result<Observed>;

    /// What `apply` would change; nothing is touched. An empty plan means that everything is in place.
    ///
    /// # Errors
    /// Whatever `apply` would refuse for sure: a destination that is a directory, a missing parent.
    async fn plan(&self, cx: &Context, bundle: &Bundle) -> Result<Plan>;

    /// Keeps what is there under this name, so that [`Target::restore`] can bring it back; also what is absent. A leftover
    /// of the same name is replaced: a snapshot that counts is in the journal, and is not taken again.
    async fn snapshot(&self, cx: &Context, name: &str) -> Result<Snapshot>;

    /// Puts the bundle in place, as a whole or not at all as far as the server allows.
    ///
    /// # Errors
    /// With `untouched` in the context where it is certain that nothing was changed, so that there is nothing to restore.
    async fn apply(&self, cx: &Context, bundle: &Bundle) -> Result<()>;

    /// Asks the server whether it would take what is in place.
    async fn validate(&self, cx: &Context) -> Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Makes the server use what is in place.
    async fn reload(&self, cx: &Context) -> Result<()> {
        let _ = cx;
        Ok(())
    }

    /// Starts a server that is down. `false` if there is no way to.
    async fn start(&self, cx: &Context) -> Result<bool> {
        let _ = cx;
        Ok(false)
    }

    /// Brings back what the snapshot holds, including absence.
    async fn restore(&self, cx: &Context, snapshot: &Snapshot) -> Result<()>;

    /// Whether the snapshot can still be restored. It can't once [`Target::discard`] has begun, even if it never ended.
    ///
    /// # Errors
    /// If that can't be seen now.
    async fn holds(&self, cx: &Context, snapshot: &Snapshot) -> Result<bool> {
        let (_, _) = (cx, snapshot);
        Ok(true)
    }

    /// Forgets a snapshot, and what an interrupted `apply` left beside it; what is not there is fine.
    async fn discard(&self, cx: &Context, snapshot: &Snapshot) -> Result<()> {
        let (_, _) = (cx, snapshot);
        Ok(())
    }
}

/// What a target holds at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// SHA-256 of the leaf that is in place.
    pub certificate: Option<Fingerprint>,
    /// How the pair is.
    pub pair: Pair,
}

/// The state of a certificate and its key at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pair {
    /// Both are there and match.
    Whole,
    /// Neither is there.
    Absent,
    /// One is missing or unreadable, or they do not match: what, in words.
    Torn(String),
}

/// What a deployment would change, for a person and a machine to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// The leaf that is in place now (SHA-256).
    pub old: Option<Fingerprint>,
    /// The leaf that would be (SHA-256).
    pub new: Option<Fingerprint>,
    /// What would be written; empty if everything is in place.
    pub changes: Vec<PlannedChange>,
    /// What would be run afterwards, in this order.
    pub commands: Vec<String>,
}

/// One thing that would be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedChange {
    /// A path, or what the server calls the thing.
    pub what: String,
    /// In words: `create`, `replace`, `set mode`.
    pub action: String,
    /// Permission bits before, in octal; none if it is not there.
    pub mode_before: Option<String>,
    /// Permission bits after, in octal.
    pub mode: Option<String>,
    /// `uid:gid` afterwards.
    pub owner: Option<String>,
    /// What a person should know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A reference to what was in place; the content stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is, for people.
    pub place: String,
    /// The target's own.
    pub state: serde_json::Value,
}

/// Whether files are replaced or overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Each file is replaced in one step.
    #[default]
    Atomic,
    /// Files keep their inode: for bind-mounted files, which can't be replaced. A crash in the middle leaves a torn file
    /// until the next start mends it.
    InPlace,
}

/// A server that reads its certificate from files: a pure description. The file engine, [`crate::OnHost`], does the rest
/// on whatever host it is given.
pub trait FileTarget: Send + Sync + Debug {
    /// The connector's kind, such as `nginx`.
    fn kind(&self) -> &str;

    /// Which files there are and which commands make the server use them.
    fn layout(&self) -> FileLayout;

    /// The content of one file. The roles with a meaning of their own need no code.
    ///
    /// # Errors
    /// `Unsupported` for [`FileRole::Other`], which is the target's to render.
    fn render(&self, file: &TargetFile, bundle: &Bundle) -> Result<crate::Secret> {
        file.role.render(bundle)
    }

    /// What reloads together: by default, targets of one kind with the same commands.
    fn unit(&self) -> Option<String> {
        let layout = self.layout();
        let reload = layout.reload?;
        let validate = layout.validate.map(|command| command.to_string()).unwrap_or_default();
        let start = layout.start.map(|command| command.to_string()).unwrap_or_default();
        Some(format!("{}: {validate}; {reload}; {start}", self.kind()))
    }
}

/// The files and commands of a [`FileTarget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// In the order in which they are put in place.
    pub files: Vec<TargetFile>,
    /// Checks what is in place.
    pub validate: Option<Command>,
    /// Makes the server use what is in place.
    pub reload: Option<Command>,
    /// Starts the server.
    pub start: Option<Command>,
}

/// One file of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFile {
    /// Where it is.
    pub path: HostPath,
    /// What is in it.
    pub role: FileRole,
    /// Permission bits of a file that is made anew; an existing one keeps its own, but a file with a key never stays
    /// readable wider than 0640.
    pub mode: u32,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// The whole chain, leaf first.
    FullChain,
    /// The chain without the leaf.
    Issuers,
    /// The private key (PKCS#8 PEM).
    Key,
    /// The whole chain, then the private key.
    Combined,
    /// Something of the target's own, without a key in it.
    Other,
}

impl FileRole {
    /// Whether the file has a private key in it.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Key | Self::Combined)
    }

    fn render(self, bundle: &Bundle) -> Result<crate::Secret> {
        let chain = || bundle.chain.to_pem();
        Ok(match self {
            Self::FullChain => crate::Secret::new(chain()),
            Self::Issuers => crate::Secret::new(bundle.chain.issuers_pem()),
            Self::Key => bundle.key.to_pem(),
            Self::Combined => {
                let mut whole = chain().into_bytes();
                whole.extend_from_slice(bundle.key.to_pem().expose());
                crate::Secret::new(whole)
            }
            Self::Other => {
                return Err(crate::Error::unsupported("the target does not say what goes into this file"));
            }
        })
    }
}
