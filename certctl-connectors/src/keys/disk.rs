//! Keys as files in a directory of this machine.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use certctl_core::{
    Error, ErrorKind, Id, Key, KeyAlgorithm, Keys, PrivateKey, PublicKey, Result, Retry, Secret, Signer,
    host::HostPath,
};

use crate::hosts::local::{
    blocking,
    fault::{fault, refusal},
    files,
};

const READ: &str = "read_key";
/// Larger than any key in PEM.
const MAX: u64 = 64 << 10;

/// A key store in a directory with mode 0700: each key is a file `<id>.key`, PKCS#8 in PEM (RFC 7468) with mode 0600,
/// written once and never changed.
///
/// ```
/// use certctl_connectors::keys::DiskKeys;
/// use certctl_core::{Id, Key, KeyAlgorithm, Keys};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let dir = tempfile::tempdir()?;
/// let keys = DiskKeys::open(dir.path().join("keys"))?;
/// let id: Id<Key> = Id::parse("key-web-1")?;
/// let public = keys.create(&id, KeyAlgorithm::EcdsaP256).await?;
/// assert_eq!(keys.export(&id).await?.public_key(), &public);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DiskKeys {
    dir: HostPath,
}

impl DiskKeys {
    /// Opens the store in `dir`, an absolute path, and makes the directory if it is not there. Blocks for a moment.
    ///
    /// # Errors
    /// `Invalid` if the path is relative; `Precondition` if it is no directory, can't be made, or others can write to it.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_str().ok_or_else(|| {
            Error::invalid_field("", "the directory's path is not UTF-8", "use another directory")
        })?;
        let dir = HostPath::parse(dir)?;
        files::make_dir(&dir)?;
        let facts = fs::metadata(dir.as_str()).map_err(|error| fault("open", &dir, error))?;
        if facts.mode() & 0o022 != 0 || !is_own(&facts) {
            return Err(exposed("open", &dir, &facts, "chmod 700"));
        }
        Ok(Self { dir })
    }

    fn path(&self, id: &Id<Key>) -> Result<HostPath> {
        self.dir.join(&format!("{id}.key"))
    }

    async fn load(&self, id: &Id<Key>) -> Result<PrivateKey> {
        let (id, path) = (id.clone(), self.path(id)?);
        blocking(move || load(&path)?.ok_or_else(|| Error::not_found("key", &id))).await
    }
}

#[async_trait]
impl Keys for DiskKeys {
    async fn create(&self, id: &Id<Key>, algorithm: KeyAlgorithm) -> Result<PublicKey> {
        let (id, path) = (id.clone(), self.path(id)?);
        blocking(move || {
            let key = match load(&path)? {
                Some(key) => key,
                None => create(&path, algorithm)?,
            };
            let kind = key.public_key().kind();
            if kind != algorithm.kind() {
                let message = format!("the key {id} exists and is of kind {kind}, not {algorithm}");
                return Err(Error::new(ErrorKind::Conflict, message)
                    .with_retry(Retry::Never)
                    .with("id", &id)
                    .with("file", &path));
            }
            Ok(key.public_key().clone())
        })
        .await
    }

    async fn signer(&self, id: &Id<Key>) -> Result<Arc<dyn Signer>> {
        Ok(Arc::new(self.load(id).await?))
    }

    async fn export(&self, id: &Id<Key>) -> Result<PrivateKey> {
        self.load(id).await
    }

    async fn forget(&self, id: &Id<Key>) -> Result<()> {
        let path = self.path(id)?;
        blocking(move || files::remove(&path)).await
    }
}

/// Writes a new key; if somebody else was faster, theirs is the key.
fn create(path: &HostPath, algorithm: KeyAlgorithm) -> Result<PrivateKey> {
    let key = PrivateKey::generate(algorithm)?;
    if write_once(path, key.to_pem().expose())? {
        return Ok(key);
    }
    load(path)?.ok_or_else(|| Error::not_found("key file", path))
}

/// Writes a file durably, unless there is one already; says whether it did.
fn write_once(path: &HostPath, bytes: &[u8]) -> Result<bool> {
    const STEP: &str = "create_key";
    let (staged, file) = files::create_beside(STEP, path)?;
    files::write(STEP, path, &file, bytes).map_err(|error| files::discard(error, &staged))?;
    // A link, unlike a rename, never replaces a key that is there.
    let linked = fs::hard_link(staged.as_str(), path.as_str());
    let removed = fs::remove_file(staged.as_str());
    let written = match linked {
        Ok(()) => {
            removed.map_err(|error| fault(STEP, &staged, error))?;
            true
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(fault(STEP, path, error)),
    };
    // Theirs may not be durable yet.
    files::sync_dir(STEP, &path.parent())?;
    Ok(written)
}

/// The sealing key in this file (0600), made on first use. Blocks for a moment.
#[cfg(feature = "sqlite")]
pub(super) fn sealing_key(path: &Path) -> Result<Secret> {
    let path = HostPath::parse(&path.to_string_lossy())?;
    loop {
        if let Some(key) = read_private(&path)? {
            return Ok(key);
        }
        write_once(&path, certctl_core::Sealer::generate_key().expose())?;
    }
}

fn load(path: &HostPath) -> Result<Option<PrivateKey>> {
    let damaged = |error: Error| {
        let message = format!("{path} is not a key as this program writes them; put it back from a backup");
        refusal(READ, path, "damaged", message).with_source(error)
    };
    read_private(path)?.map(|text| PrivateKey::from_pem(&text).map_err(damaged)).transpose()
}

/// The content of a file that nobody else can get at; none if there is no such file.
fn read_private(path: &HostPath) -> Result<Option<Secret>> {
    let private = |facts: &Metadata| match facts.mode() & 0o077 == 0 && is_own(facts) {
        true => Ok(()),
        false => Err(exposed(READ, path, facts, "chmod 600")),
    };
    match files::read_if(READ, path, MAX, private) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_own(facts: &Metadata) -> bool {
    facts.uid() == 0 || facts.uid() == rustix::process::geteuid().as_raw()
}

fn exposed(step: &str, path: &HostPath, facts: &Metadata, remedy: &str) -> Error {
    refusal(
        step,
        path,
        "exposed",
        format!(
            "others can get at {path} (mode {:04o}, owner {}); make it the property of the user that this program runs \
             as, then run {remedy} {path}, and replace the keys that others may have read",
            facts.mode() & 0o7777,
            facts.uid()
        ),
    )
}
