//! Keeping what is there, and bringing it back.

use serde::{Deserialize, Serialize};

use super::{MAX_FILE, OnHost, leftovers::restoring};
use crate::{
    Error, ErrorKind, FileTarget, Result, Secret, WriteMode,
    host::{FileKind, FileSpec, HostPath},
    target::Snapshot,
};

/// The file that says what a snapshot holds; written last, so that a snapshot without it is not whole.
const COMPLETE: &str = "complete";

/// What a snapshot holds: in [`Snapshot::state`] and in the snapshot's own directory.
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
    /// Copies what is there into a directory beside the first file.
    pub(super) async fn keep_files(&self, name: &str) -> Result<Snapshot> {
        if name.is_empty() || name.len() > 200 || name.contains(['/', '\\']) {
            let remedy = "use an id: letters, digits, '-', '_' and '.'";
            return Err(Error::invalid_field("", format!("{name:?} can't name a snapshot"), remedy));
        }
        let files = self.look_to_write(self.target.layout().files).await?;
        let first = files.first().ok_or_else(|| Error::internal("the target has no files"))?;
        let dir = first.destination.parent().join(&format!(".certctl-{name}"))?;
        if let Some(kept) = self.kept_before(&dir).await? {
            // Somebody was interrupted here, perhaps while files were staged.
            self.set_swept(false);
            return kept.into_snapshot();
        }
        self.host.make_dir(&dir).await?;
        let mut kept = Kept { dir, files: Vec::with_capacity(files.len()) };
        for (number, found) in files.into_iter().enumerate() {
            let copy = match found.stat {
                Some(stat) => {
                    let path = kept.dir.join(&number.to_string())?;
                    self.host.copy(&found.destination, &path).await?;
                    Some(KeptCopy { path, mode: stat.mode, owner: (stat.uid, stat.gid) })
                }
                None => None,
            };
            kept.files.push(KeptFile { destination: found.destination, copy });
        }
        let list = serde_json::to_vec(&kept).map_err(encoding_failed)?;
        let complete = kept.dir.join(COMPLETE)?;
        let spec = FileSpec { mode: 0o600, owner: None };
        let staged = self.host.stage(&complete, &spec, &Secret::new(list)).await?;
        self.host.swap(&staged).await?;
        // Nothing is staged under a name before its snapshot is whole, so nothing can have been left behind either.
        self.set_swept(true);
        kept.into_snapshot()
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

    async fn put_back_one(&self, file: &KeptFile) -> Result<()> {
        let Some(copy) = &file.copy else {
            return self.host.remove(&file.destination).await;
        };
        if self.write == WriteMode::InPlace && self.host.stat(&file.destination).await?.is_some() {
            let content = self.host.read(&copy.path, MAX_FILE).await?;
            return self.host.overwrite(&file.destination, &content).await;
        }
        let waiting = restoring(&file.destination)?;
        self.host.remove(&waiting).await?;
        let put = match self.host.copy(&copy.path, &waiting).await {
            Ok(()) => self.host.rename(&waiting, &file.destination).await,
            failed => failed,
        };
        if put.is_err() {
            // A key must not lie about; what is gone already is fine.
            let _ = self.host.remove(&waiting).await;
        }
        put
    }

    /// Removes the snapshot, and what an interrupted run left beside the destinations.
    pub(super) async fn forget(&self, snapshot: &Snapshot) -> Result<()> {
        let kept = Kept::read(snapshot)?;
        // First of all: what is half removed must not be taken for whole.
        self.host.remove(&kept.dir.join(COMPLETE)?).await?;
        for copy in kept.files.iter().filter_map(|file| file.copy.as_ref()) {
            self.host.remove(&copy.path).await?;
        }
        if self.host.remove(&kept.dir).await.is_err() {
            self.clear(&kept.dir).await?;
        }
        self.sweep(kept.destinations()).await?;
        // From here on, somebody else may have a turn.
        self.set_swept(false);
        Ok(())
    }

    /// The snapshot that is in `dir` already; one that is not whole is thrown away.
    async fn kept_before(&self, dir: &HostPath) -> Result<Option<Kept>> {
        let Some(stat) = self.host.stat(dir).await? else { return Ok(None) };
        let unusable = |why: &str| {
            let message = format!("{dir} {why}; look at it, and move it away");
            Error::new(ErrorKind::Precondition, message).with("step", "snapshot").with("file", dir)
        };
        if stat.kind != FileKind::Directory {
            return Err(unusable("is where a snapshot belongs, and no directory"));
        }
        let complete = dir.join(COMPLETE)?;
        if self.host.stat(&complete).await?.is_none() {
            self.clear(dir).await?;
            return Ok(None);
        }
        let list = self.host.read(&complete, MAX_FILE).await?;
        let kept: Kept = serde_json::from_slice(list.expose())
            .map_err(|error| unusable("is a snapshot whose list of files does not read").with_source(error))?;
        Ok(Some(kept))
    }

    async fn clear(&self, dir: &HostPath) -> Result<()> {
        let entries = match self.host.list(dir).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            self.host.remove(&dir.join(&entry.name)?).await?;
        }
        self.host.remove(dir).await
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
        let state = serde_json::to_value(&self).map_err(encoding_failed)?;
        Ok(Snapshot { place: self.dir.to_string(), state })
    }
}

fn encoding_failed(error: serde_json::Error) -> Error {
    Error::internal("writing a snapshot's list of files failed").with_source(error)
}
