//! Staged files that a killed predecessor left behind.

use std::collections::BTreeSet;

use super::OnHost;
use crate::{
    ErrorKind, FileTarget, Result,
    host::{FileKind, HostPath},
};

const MARK: &str = ".certctl-";

/// The longest stem of a staged file's name for sure; hosts cut longer ones.
const STEM: usize = 200;

/// The name under which a snapshot's copy waits beside `destination` to be put back.
pub(super) fn restoring(destination: &HostPath) -> Result<HostPath> {
    let name = destination.file_name();
    let stem = &name[..name.floor_char_boundary(STEM)];
    destination.parent().join(&format!(".{stem}{MARK}restore"))
}

impl<T: FileTarget> OnHost<T> {
    /// Removes the staged files beside these destinations, unless there can't be any.
    pub(super) async fn sweep(&self, destinations: impl Iterator<Item = &HostPath>) -> Result<()> {
        if self.is_swept() {
            return Ok(());
        }
        let destinations: Vec<&HostPath> = destinations.collect();
        let dirs: BTreeSet<HostPath> = destinations.iter().map(|path| path.parent()).collect();
        for dir in dirs {
            let names: Vec<&str> = destinations
                .iter()
                .filter(|path| path.parent() == dir)
                .map(|path| path.file_name())
                .collect();
            let entries = match self.host.list(&dir).await {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                if entry.kind == FileKind::File
                    && names.iter().any(|name| is_staged(&entry.name, name))
                    && let Ok(path) = dir.join(&entry.name)
                {
                    self.host.remove(&path).await?;
                }
            }
        }
        self.set_swept(true);
        Ok(())
    }
}

/// Whether `entry` is what a host calls a file that waits for the place of `name`.
fn is_staged(entry: &str, name: &str) -> bool {
    let Some((stem, _)) = entry.strip_prefix('.').and_then(|rest| rest.rsplit_once(MARK)) else {
        return false;
    };
    stem == name || (stem.len() > STEM - 4 && name.starts_with(stem))
}
