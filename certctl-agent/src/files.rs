//! The agent's own files: private, durable, and written as a whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use certctl_core::{Error, ErrorKind, Result, Secret};

/// Makes a directory (0700) and its parents as needed. One of this user's that is there already becomes 0700.
///
/// # Errors
/// `Precondition` if it can't be made, or belongs to somebody else.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    let failed = |error| fault("make the directory", path, error);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let facts = fs::metadata(path).map_err(failed)?;
    if !is_own(facts.uid()) {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "{} belongs to user {}; give it to the user that this program runs as, or name another directory",
                path.display(),
                facts.uid()
            ),
        )
        .with("file", path.display()));
    }
    if facts.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// The content of a file of at most `max` bytes; none if there is none.
///
/// # Errors
/// `Precondition` if it can't be read, is larger, or others can get at it.
pub(crate) fn read_private(path: &Path, max: u64) -> Result<Option<Secret>> {
    let failed = |error| fault("read", path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    if facts.mode() & 0o077 != 0 || !is_own(facts.uid()) {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "others can get at {path} (mode {:04o}, owner {}); run chmod 600 {path}, as the user that this program \
                 runs as, and enrol anew if somebody may have read it",
                facts.mode() & 0o7777,
                facts.uid(),
                path = path.display(),
            ),
        )
        .with("file", path.display())
        .with("reason", "exposed"));
    }
    let mut content = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > max {
        let message = format!("{} is larger than {max} bytes", path.display());
        return Err(Error::new(ErrorKind::Precondition, message).with("file", path.display()));
    }
    Ok(Some(Secret::new(content)))
}

/// Writes a file (0600) durably, in the place of what was there.
///
/// # Errors
/// `Precondition` if it can't be written; what was there is there then.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |error| fault("write", path, error);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let waiting = path.with_added_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&waiting)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&waiting, path)?;
        sync_dir(directory)
    };
    write().map_err(failed)
}

/// Removes a file durably; what is not there is fine.
///
/// # Errors
/// `Precondition` if it can't be removed.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_file(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("/"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        failed => failed,
    };
    removed.map_err(|error| fault("remove", path, error))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) fn fault(what: &str, path: &Path, error: io::Error) -> Error {
    let message = format!("can't {what} {}: {error}", path.display());
    Error::new(ErrorKind::Precondition, message).with("file", path.display()).with_source(error)
}

fn is_own(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Does something that waits for the disk where it keeps nothing else waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the file work was interrupted").with_source(error))?
}
