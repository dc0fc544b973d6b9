//! Where the files of a layout really are, and what is there.

use super::OnHost;
use crate::{
    Error, ErrorKind, FileTarget, Result, WriteMode,
    host::{FileKind, HostPath, Stat},
    target::TargetFile,
};

/// One file of a layout.
pub(super) struct Found {
    /// What the target asks for.
    pub(super) file: TargetFile,
    /// Where it really is.
    pub(super) destination: HostPath,
    /// What is there now.
    pub(super) stat: Option<Stat>,
}

impl Found {
    /// Whether it is overwritten rather than replaced.
    pub(super) fn in_place(&self, write: WriteMode) -> bool {
        write == WriteMode::InPlace && self.stat.is_some()
    }
}

impl<T: FileTarget> OnHost<T> {
    /// Looks every file up. Refuses paths that are not ours to write to, whatever is there.
    pub(super) async fn look(&self, files: Vec<TargetFile>) -> Result<Vec<Found>> {
        let mut found: Vec<Found> = Vec::with_capacity(files.len());
        for file in files {
            let destination = self.host.real_path(&file.path).await?;
            if is_certbots(&file.path) || is_certbots(&destination) {
                let message = format!(
                    "{} leads into a directory of certbot ({destination}), which would overwrite it or break; give a path \
                     outside of live and archive, and let the server's configuration name it",
                    file.path
                );
                return Err(refused(&file.path, "certbot", message));
            }
            if let Some(other) = found.iter().find(|other| other.destination == destination) {
                let message = format!(
                    "{} and {} are the same file, {destination}; give each its own",
                    other.file.path, file.path
                );
                return Err(refused(&file.path, "same_file", message));
            }
            let stat = self.host.stat(&destination).await?;
            found.push(Found { file, destination, stat });
        }
        Ok(found)
    }

    /// Looks every file up, and refuses what can't be written for sure.
    pub(super) async fn look_to_write(&self, files: Vec<TargetFile>) -> Result<Vec<Found>> {
        let found = self.look(files).await?;
        for one in &found {
            self.check_writable(one)?;
        }
        Ok(found)
    }

    fn check_writable(&self, found: &Found) -> Result<()> {
        let path = &found.file.path;
        if self.write == WriteMode::Atomic && !self.host.capabilities().atomic_rename {
            let message = "the host can't replace a file in one step; set write to in_place";
            return Err(refused(path, "not_atomic", message));
        }
        let Some(stat) = &found.stat else { return Ok(()) };
        if stat.kind != FileKind::File {
            let message = format!("{} is {}; give the path of a file", found.destination, noun(stat.kind));
            return Err(refused(path, "not_a_file", message));
        }
        if stat.mount_point && self.write == WriteMode::Atomic {
            let message = format!(
                "{} is a mount point of its own, which can't be replaced; mount its directory instead, or set write to \
                 in_place",
                found.destination
            );
            return Err(refused(path, "mount_point", message));
        }
        if found.in_place(self.write) && found.file.role.is_private() && is_wide(stat.mode) {
            let message = format!(
                "{} will hold a private key and is open to everybody (mode {:04o}), which overwriting it in place can't \
                 change; chmod it to 0600 first",
                found.destination, stat.mode
            );
            return Err(refused(path, "mode", message));
        }
        Ok(())
    }
}

/// Whether the mode of a file with a key lets everybody at it.
pub(super) fn is_wide(mode: u32) -> bool {
    mode & 0o007 != 0
}

/// What is at a path, with its article.
pub(super) fn noun(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a file",
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symlink",
        FileKind::Other => "a device, pipe or socket",
    }
}

/// What the engine itself refuses, before anything is written.
fn refused(path: &HostPath, reason: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Precondition, message)
        .with("step", "plan")
        .with("file", path)
        .with("reason", reason)
}

/// `live` holds symlinks into `archive`, and certbot renews both.
fn is_certbots(path: &HostPath) -> bool {
    let dir = path.parent();
    let mut below = dir.as_str().split(['/', '\\']).skip_while(|part| *part != "letsencrypt");
    below.any(|part| part == "live" || part == "archive")
}
