//! Keeping what is there, and bringing it back.

use serde::{Deserialize, Serialize};

use super::{
    MAX_FILE, OnHost,
    leftovers::restoring,
    look::{Found, noun},
};
use crate::{
    Error, ErrorKind, FileTarget, Result, WriteMode,
    host::{FileKind, HostPath},
    target::Snapshot,
};

/// What a snapshot holds: [`Snapshot::state`].
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    dir: HostPath,
    files: Vec<KeptFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFile {
    destination: HostPath,
    /// None if there was no file.
    copy: Option<KeptCopy>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptCopy {
    path: HostPath,
    /// For people: the copy itself has them too.
    mode: u32,
    owner: (u32, u32),
}

impl<T: FileTarget> OnHost<T> {
    /// Copies what is there into a directory beside the first file; a leftover of that name is replaced.
    pub(super) async fn keep_files(&self, name: &str) -> Result<Snapshot> {
        if name.is_empty() || name.len() > 200 || name.contains(['/', '\\']) {
            let remedy = "use an id: letters, digits, '-', '_' and '.'";
            return Err(Error::invalid_field("", format!("{name:?} can't name a snapshot"), remedy));
        }
        let files = self.look_to_write(self.target.layout().files).await?;
        let first = files.first().ok_or_else(|| Error::internal("the target has no files"))?;
        let dir = first.destination.parent().join(&format!(".certctl-{name}"))?;
        // Files are staged only while there is a snapshot: without one, nobody was interrupted in that.
        self.set_swept(!self.throw_away(&dir).await?);
        match self.keep_all(&dir, files).await {
            Ok(files) => Kept { dir, files }.into_snapshot(),
            Err(error) => {
                // Nobody learns of it, and nobody would remove it. If that fails as well, the next one replaces it.
                let _ = self.host.remove_dir(&dir).await;
                Err(error)
            }
        }
    }

    async fn keep_all(&self, dir: &HostPath, files: Vec<Found>) -> Result<Vec<KeptFile>> {
        let there: Vec<HostPath> = files
            .iter()
            .filter(|found| found.stat.is_some())
            .map(|found| found.destination.clone())
            .collect();
        // Whoever overwrites one file overwrites its other names.
        let replaced = files.iter().all(|found| !found.in_place(self.write));
        self.host.keep(dir, &there, replaced).await?;
        let mut number = 0;
        let mut kept = Vec::with_capacity(files.len());
        for found in files {
            let copy = match found.stat {
                Some(stat) => {
                    let path = dir.join(&number.to_string())?;
                    number += 1;
                    Some(KeptCopy { path, mode: stat.mode, owner: (stat.uid, stat.gid) })
                }
                None => None,
            };
            kept.push(KeptFile { destination: found.destination, copy });
        }
        Ok(kept)
    }

    /// Brings every file back, as far as possible; the snapshot stays, so that this may be repeated.
    pub(super) async fn put_back(&self, snapshot: &Snapshot) -> Result<()> {
        let kept = Kept::read(snapshot)?;
        // What can't be swept away now is no reason to leave the wrong pair in place.
        let swept = self.sweep(kept.destinations()).await;
        let mut failed = Vec::new();
        for file in &kept.files {
            if let Err(error) = self.put_back_one(file).await {
                failed.push((&file.destination, error));
            }
        }
        let Some((first, error)) = failed.first() else { return swept };
        let reasons: Vec<String> =
            failed.iter().map(|(path, error)| format!("{path}: {}", error.message())).collect();
        let message = format!(
            "{} of {} files could not be restored; what was there before is in {}: {}",
            failed.len(),
            kept.files.len(),
            kept.dir,
            reasons.join(" | ")
        );
        Err(Error::new(error.kind(), message)
            .with_retry(error.retry())
            .with_effect(error.effect())
            .with("step", "restore")
            .with("file", first)
            .with("snapshot", &kept.dir)
            .with_source(error.clone()))
    }

    /// Whether every copy is there. One that is not was removed by [`Self::forget`], or is about to be made anew: neither
    /// happens while the files are half written.
    pub(super) async fn keeps(&self, snapshot: &Snapshot) -> Result<bool> {
        let kept = Kept::read(snapshot)?;
        let copies = kept.files.iter().filter_map(|file| file.copy.as_ref()).map(|copy| &copy.path);
        for path in [&kept.dir].into_iter().chain(copies) {
            if self.host.stat(path).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn put_back_one(&self, file: &KeptFile) -> Result<()> {
        let Some(copy) = &file.copy else {
            return self.host.remove(&file.destination).await;
        };
        // What was never replaced needs no space on a disk that is full, and keeps its inode.
        if self.is_back(file, copy).await.unwrap_or(false) {
            return Ok(());
        }
        if self.write == WriteMode::InPlace && self.host.stat(&file.destination).await?.is_some() {
            let content = self.host.read(&copy.path, MAX_FILE).await?;
            return self.host.overwrite(&file.destination, &content).await;
        }
        let waiting = restoring(&file.destination)?;
        // Another process may have been killed here while this one thought that it had swept.
        self.host.remove(&waiting).await?;
        let put = match self.host.copy(&copy.path, &waiting).await {
            Ok(()) => self.host.rename(&waiting, &file.destination).await,
            failed => failed,
        };
        if put.is_err() && self.host.remove(&waiting).await.is_err() {
            self.set_swept(false);
        }
        put
    }

    async fn is_back(&self, file: &KeptFile, copy: &KeptCopy) -> Result<bool> {
        let Some(stat) = self.host.stat(&file.destination).await? else { return Ok(false) };
        if stat.kind != FileKind::File || (stat.mode, (stat.uid, stat.gid)) != (copy.mode, copy.owner) {
            return Ok(false);
        }
        let there = self.host.read(&file.destination, MAX_FILE).await?;
        Ok(there == self.host.read(&copy.path, MAX_FILE).await?)
    }

    /// Removes the snapshot, and what an interrupted run left beside the destinations.
    pub(super) async fn forget(&self, snapshot: &Snapshot) -> Result<()> {
        let kept = Kept::read(snapshot)?;
        // The directory goes last: it says that there may be something to sweep.
        self.sweep(kept.destinations()).await?;
        self.host.remove_dir(&kept.dir).await?;
        // From here on, somebody else may have a turn.
        self.set_swept(false);
        Ok(())
    }

    /// Removes a snapshot that somebody left in `dir`; whether there was one.
    async fn throw_away(&self, dir: &HostPath) -> Result<bool> {
        match self.host.stat(dir).await? {
            None => Ok(false),
            Some(stat) if stat.kind == FileKind::Directory => self.host.remove_dir(dir).await.map(|()| true),
            Some(stat) => {
                let message = format!("{dir} is {}; move it away: snapshots belong there", noun(stat.kind));
                Err(Error::new(ErrorKind::Precondition, message).with("step", "snapshot").with("file", dir))
            }
        }
    }
}

impl Kept {
    fn read(snapshot: &Snapshot) -> Result<Self> {
        Self::deserialize(&snapshot.state).map_err(|error| {
            Error::internal(format!("the record of the snapshot {} does not read", snapshot.place))
                .with("snapshot", &snapshot.place)
                .with_source(error)
        })
    }

    fn destinations(&self) -> impl Iterator<Item = &HostPath> {
        self.files.iter().map(|file| &file.destination)
    }

    fn into_snapshot(self) -> Result<Snapshot> {
        let state = serde_json::to_value(&self).map_err(|error| {
            Error::internal("a snapshot's list of files has no JSON form").with_source(error)
        })?;
        Ok(Snapshot { place: self.dir.to_string(), state })
    }
}
