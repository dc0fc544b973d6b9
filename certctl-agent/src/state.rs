//! The state directory: who this agent is, and its private keys.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use certctl_core::{
    Error, ErrorKind, Id, KeyAlgorithm, PrivateKey, RecipientKey, Result, Secret, records::Agent,
};
use serde::{Deserialize, Serialize};

use crate::files::{fault, private_dir, read_private, remove, write_private};

const IDENTITY: &str = "identity.json";
const SIGNING_KEY: &str = "identity.key";
const SEALING_KEY: &str = "sealing.key";
const LOCK: &str = "lock";
/// Far more than each of the files above has.
const MAX: u64 = 64 << 10;

/// A directory (0700) that belongs to one agent, and to one process at a time.
///
/// | | |
/// |---|---|
/// | `identity.json` | the agent's id and name, once it has enrolled |
/// | `identity.key` | signs the server's challenges: ECDSA on P-256, PKCS#8 in PEM (0600) |
/// | `sealing.key` | opens what the server seals for this agent: X25519, in base64 (0600) |
/// | `journal/` | what is being done, and what the server has not acknowledged yet |
/// | `keys/` | the private keys of certificates, where no other directory is named |
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    // Held as long as this is.
    lock: File,
}

/// Who an agent is, as the server said when it enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub agent: Id<Agent>,
    /// Its name.
    pub name: Box<str>,
    /// The server that it enrolled with, for people.
    #[serde(default)]
    pub server: String,
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Closing is not enough: a program that is being started at this moment holds a copy of the file until its `exec`,
        // and the lock with it.
        let _ = self.lock.unlock();
    }
}

impl StateDir {
    /// Opens the directory and makes it if it is not there. Blocks for a moment.
    ///
    /// # Errors
    /// `Precondition` if another process uses it, it can't be made, or it belongs to another user.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = std::path::absolute(path.as_ref())
            .map_err(|error| fault("find the state directory", path.as_ref(), error))?;
        private_dir(&path)?;
        let lock = path.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(|error| fault("open", &lock, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, lock: file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Precondition,
                format!(
                    "another agent uses the state directory {}: stop it, or give this one a directory and an enrolment \
                     of its own",
                    path.display()
                ),
            )
            .with("reason", "in_use")
            .with("file", lock.display())),
            Err(TryLockError::Error(error)) => Err(fault("lock", &lock, error)),
        }
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this is; none before the enrolment.
    ///
    /// # Errors
    /// `Precondition` if the file can't be read, is damaged, or others can get at it.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let path = self.path.join(IDENTITY);
        let Some(text) = read_private(&path, MAX)? else { return Ok(None) };
        serde_json::from_slice(text.expose()).map(Some).map_err(|error| damaged(&path).with_source(error))
    }

    /// Keeps who this is.
    ///
    /// # Errors
    /// `Precondition` if it can't be written.
    pub fn save_identity(&self, identity: &Identity) -> Result<()> {
        let text = serde_json::to_vec_pretty(identity)
            .map_err(|error| Error::internal("an identity has no JSON form").with_source(error))?;
        write_private(&self.path.join(IDENTITY), &text)
    }

    /// Forgets who this was, and its keys: for an agent that has to enrol anew.
    ///
    /// # Errors
    /// `Precondition` if a file can't be removed.
    pub fn forget_identity(&self) -> Result<()> {
        // The name goes first: keys without one are keys of an enrolment that was not finished.
        [IDENTITY, SIGNING_KEY, SEALING_KEY].iter().try_for_each(|name| remove(&self.path.join(name)))
    }

    /// The key that signs challenges; made on first use.
    ///
    /// # Errors
    /// `Precondition` if it can't be read or made, is damaged, or others can get at it.
    pub fn signing_key(&self) -> Result<PrivateKey> {
        let path = self.path.join(SIGNING_KEY);
        let text =
            self.read_or_make(&path, || Ok(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?.to_pem()))?;
        PrivateKey::from_pem(&text).map_err(|error| damaged(&path).with_source(error))
    }

    /// The key that opens what is sealed for this agent; made on first use.
    ///
    /// # Errors
    /// As for [`StateDir::signing_key`].
    pub fn sealing_key(&self) -> Result<RecipientKey> {
        let path = self.path.join(SEALING_KEY);
        let text = self.read_or_make(&path, || Ok(RecipientKey::generate()?.to_secret()))?;
        RecipientKey::from_secret(&text).map_err(|error| damaged(&path).with_source(error))
    }

    fn read_or_make(&self, path: &Path, make: impl FnOnce() -> Result<Secret>) -> Result<Secret> {
        if let Some(text) = read_private(path, MAX)? {
            return Ok(text);
        }
        if self.identity()?.is_some() {
            // A new one would be a stranger's.
            let message = format!(
                "{} is missing, and this agent has enrolled with it: put it back from a backup, or remove {} and enrol anew",
                path.display(),
                self.path.join(IDENTITY).display()
            );
            return Err(Error::new(ErrorKind::Precondition, message).with("file", path.display()));
        }
        let text = make()?;
        write_private(path, text.expose())?;
        Ok(text)
    }
}

fn damaged(path: &Path) -> Error {
    let message = format!(
        "{} is not as this program writes it; put it back from a backup, or enrol anew",
        path.display()
    );
    Error::new(ErrorKind::Precondition, message).with("file", path.display()).with("reason", "damaged")
}
