//! A [`Host`] is where files, commands and sockets are: this machine, a remote one, or a test's.

use std::{collections::BTreeMap, fmt, fmt::Debug, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Error, Result, Secret, Timestamp};

/// Files, commands and sockets of one machine. Each call is one bounded step; none of them waits for a person.
///
/// Errors carry `step` (the operation) and `file` or `command` in their context. What is not there is `NotFound`, a full
/// disk, a read-only file system or a missing permission `Precondition`, an unreachable machine `Unavailable`.
#[async_trait]
pub trait Host: Send + Sync + Debug {
    /// What this host can do.
    fn capabilities(&self) -> HostCapabilities;

    /// The thing itself (a symlink is not followed), or none.
    async fn stat(&self, path: &HostPath) -> Result<Option<Stat>>;

    /// Follows symlinks to the place where the file really is; its last component need not exist.
    ///
    /// # Errors
    /// `Precondition` for a loop, a dangling directory, or a directory on the way that another user can write to.
    async fn real_path(&self, path: &HostPath) -> Result<HostPath>;

    /// The entries of a directory, by name.
    async fn list(&self, dir: &HostPath) -> Result<Vec<Entry>>;

    /// The content of a file of at most `max` bytes.
    ///
    /// # Errors
    /// `Precondition` if it is larger.
    async fn read(&self, path: &HostPath, max: u64) -> Result<Secret>;

    /// Writes a dot-file beside `path`, with owner and mode as `spec` says and extended attributes and ACL of the file
    /// that is there now, and makes it durable. `path` itself stays as it is.
    ///
    /// # Errors
    /// `Precondition` if the disk is full or the directory read-only; nothing is left behind then.
    async fn stage(&self, path: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged>;

    /// Puts the staged file in its place, atomically and durably.
    ///
    /// # Errors
    /// `Precondition` with `reason` = `busy` where the destination is a mount point of its own.
    async fn swap(&self, staged: &Staged) -> Result<()>;

    /// Puts several staged files in their places, one after the other, and makes that durable. Hosts that can wait for the
    /// disk once, for all of them, do.
    ///
    /// # Errors
    /// As for [`Host::swap`], with `file`, and `written` = how many are in place. The others still wait.
    async fn swap_all(&self, staged: &[Staged]) -> Result<()> {
        for (written, one) in staged.iter().enumerate() {
            self.swap(one).await.map_err(|e| e.with("file", &one.destination).with("written", written))?;
        }
        Ok(())
    }

    /// Overwrites the content of an existing file without replacing it: for bind-mounted files. Not atomic.
    async fn overwrite(&self, path: &HostPath, bytes: &Secret) -> Result<()>;

    /// Copies a file with its owner, mode and extended attributes, durably; `to` must not exist. For snapshots, so that
    /// the content does not leave the host.
    async fn copy(&self, from: &HostPath, to: &HostPath) -> Result<()>;

    /// Makes the directory `dir` (0700) and keeps each of these files there, as 0, 1, and so on: durably, with owner, mode
    /// and extended attributes. `replaced` says that the originals will be replaced, if anything, and never overwritten, so
    /// that a second name for the same file is as good as a copy.
    ///
    /// # Errors
    /// As for [`Host::copy`]; `dir` may be left behind half filled.
    async fn keep(&self, dir: &HostPath, files: &[HostPath], replaced: bool) -> Result<()> {
        let _ = replaced;
        self.make_dir(dir).await?;
        for (number, file) in files.iter().enumerate() {
            self.copy(file, &dir.join(&number.to_string())?).await?;
        }
        Ok(())
    }

    /// Removes a directory and the files in it, durably; what is not there is fine. Directories in it are not entered.
    async fn remove_dir(&self, dir: &HostPath) -> Result<()> {
        let entries = match self.list(dir).await {
            Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            self.remove(&dir.join(&entry.name)?).await?;
        }
        self.remove(dir).await
    }

    /// Puts `from` in the place of `to`, atomically and durably; `from` is gone afterwards.
    async fn rename(&self, from: &HostPath, to: &HostPath) -> Result<()>;

    /// Makes a directory with mode 0700, and its parents as needed; one that exists is left as it is.
    async fn make_dir(&self, dir: &HostPath) -> Result<()>;

    /// Makes a directory that everybody may look into (0755), and its parents as needed; one that exists is left as it is.
    async fn make_public_dir(&self, dir: &HostPath) -> Result<()>;

    /// Removes a file or an empty directory, durably; what is not there is fine.
    async fn remove(&self, path: &HostPath) -> Result<()>;

    /// Runs a command to its end or its deadline. A non-zero exit is no error here. No shell is involved.
    ///
    /// # Errors
    /// `NotFound` if there is no such program, `Unavailable` (with effect `Unknown`) if the deadline passed: its whole
    /// process group is killed then.
    async fn run(&self, command: &Command) -> Result<Output>;

    /// Whether the host's owner lets these files be read and written and these commands be run, apart from whether that works
    /// now: asked before the first write, so that nothing has to be taken back.
    ///
    /// # Errors
    /// `Denied`, with what would allow it.
    async fn permits(&self, files: &[HostPath], commands: &[Command]) -> Result<()> {
        let (_, _) = (files, commands);
        Ok(())
    }

    /// Opens a TCP connection from this host, for the probe.
    ///
    /// # Errors
    /// `Unavailable` if nobody listens or answers within the deadline.
    async fn connect(&self, endpoint: &Endpoint, deadline: Duration) -> Result<Box<dyn Io>>;
}

/// Hosts by id, for connectors.
#[async_trait]
pub trait Hosts: Send + Sync + Debug {
    /// The host with this id; none is the machine that the work is done on.
    ///
    /// # Errors
    /// `NotFound`, or `Precondition` if this program can't reach hosts of that kind.
    async fn host(&self, id: Option<&str>) -> Result<std::sync::Arc<dyn Host>>;

    /// Checks what somebody wants to store about a host: its kind, and its configuration below `/config`.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong; by default for every kind.
    fn check(&self, kind: &str, config: &serde_json::Value) -> Result<()> {
        let _ = config;
        let message = format!("this program reaches no hosts of the kind {}", crate::x509::shown(kind));
        let remedy = "run an agent there, and name it in the target's place";
        Err(Error::invalid_field("/kind", message, remedy))
    }
}

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Debug for dyn Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

/// What a host can do; what it can't is refused before the first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCapabilities {
    /// A file replaces another in one step.
    pub atomic_rename: bool,
    /// Owner and group can be set.
    pub owner: bool,
    /// Commands can be run.
    pub exec: bool,
    /// Connections can be opened from there.
    pub connect: bool,
}

/// An absolute path on a host: no `.` or `..`, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostPath(Box<str>);

impl HostPath {
    /// Reads a path.
    ///
    /// # Errors
    /// `Invalid` if it is empty, relative, has `.` or `..` as a component, control characters, or over 4,000 bytes.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |message: String, remedy: &str| Err(Error::invalid_field("", message, remedy));
        if text.is_empty() {
            return bad("the path is empty".into(), "give an absolute path");
        }
        if text.len() > 4_000 {
            return bad(format!("the path has {} bytes", text.len()), "use at most 4000");
        }
        if text.chars().any(|c| c.is_control() || c == '\u{fffd}') {
            return bad(format!("the path {:?} has control characters", text), "use printable characters");
        }
        let windows = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
        if !text.starts_with('/') && !windows {
            return bad(
                format!("the path {text:?} is relative"),
                "give an absolute path, such as /etc/tls/web.crt",
            );
        }
        if text.split(['/', '\\']).any(|part| part == "." || part == "..") {
            return bad(format!("the path {text:?} has . or .. in it"), "write the path without them");
        }
        let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        Ok(Self(if trimmed.is_empty() { "/" } else { trimmed }.into()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in; `/` for the root.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.rfind(['/', '\\']) {
            Some(0) | None => Self("/".into()),
            Some(at) => Self(self.0[..at].into()),
        }
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit(['/', '\\']).next().unwrap_or_default()
    }

    /// A path in this directory.
    ///
    /// # Errors
    /// `Invalid`, as for [`HostPath::parse`].
    pub fn join(&self, name: &str) -> Result<Self> {
        Self::parse(&format!("{}/{name}", self.0.trim_end_matches('/')))
    }
}

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl Debug for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::str::FromStr for HostPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}
impl<'de> Deserialize<'de> for HostPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
impl JsonSchema for HostPath {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostPath".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "path" })
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// When the content changed last.
    pub modified: Timestamp,
    /// Whether it is a mount point of its own, so that it can't be replaced, only overwritten.
    pub mount_point: bool,
}

/// What kind of thing is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, without the directory.
    pub name: Box<str>,
    /// What it is.
    pub kind: FileKind,
}

/// Owner and mode of a file to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Permission bits, such as 0o600.
    pub mode: u32,
    /// Owner and group, or the process's own.
    pub owner: Option<(u32, u32)>,
}

/// A file that waits beside its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Where it waits.
    pub path: HostPath,
    /// Where it belongs.
    pub destination: HostPath,
}

/// A command: a program and its arguments, never a shell line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program, then its arguments.
    pub argv: Vec<String>,
    /// The whole environment that it gets, besides a fixed `PATH` and `LANG`.
    pub environment: BTreeMap<String, String>,
    /// How long it may take.
    pub deadline: Duration,
    /// How many bytes of its output, at the end, are kept.
    pub output_cap: usize,
}

impl Command {
    /// A command with a deadline of 60 s and 16 KiB of output.
    pub fn new(argv: Vec<String>) -> Self {
        Self { argv, environment: BTreeMap::new(), deadline: Duration::from_secs(60), output_cap: 16 << 10 }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argv.join(" "))
    }
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output and error together, as far as the cap allows.
    pub text: String,
}

impl Output {
    /// Whether the command ended with exit code 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// A name or address, and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

impl std::str::FromStr for Endpoint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid_field(
                "",
                format!("{text:?} is not an endpoint"),
                "write it like 127.0.0.1:443, [::1]:443 or www.example.com:443",
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?.to_string(),
            None if host.is_empty()
                || host.chars().any(|c| !(c.is_ascii_alphanumeric() || ".-_".contains(c))) =>
            {
                return Err(bad());
            }
            None => host.to_owned(),
        };
        let port: u16 = port.parse().map_err(|_| bad())?;
        if port == 0 {
            return Err(bad());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
impl Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "examples": ["127.0.0.1:443"] })
    }
}
