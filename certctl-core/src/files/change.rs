//! What has to be written, and writing it.

use super::{
    MAX_FILE, OnHost,
    look::{Found, is_wide},
};
use crate::{
    Bundle, Chain, Error, ErrorKind, FileTarget, Fingerprint, Result, Secret,
    host::{FileSpec, Staged},
    target::{FileRole, Plan, PlannedChange},
};

/// A file that is not as it should be.
struct Change {
    found: Found,
    content: Secret,
    spec: FileSpec,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Replace,
    Overwrite,
    /// The content is right.
    SetMode,
}

impl<T: FileTarget> OnHost<T> {
    /// What [`Self::write_files`] would do.
    pub(super) async fn plan_files(&self, bundle: &Bundle) -> Result<Plan> {
        let layout = self.target.layout();
        let commands: Vec<String> =
            layout.validate.iter().chain(&layout.reload).map(ToString::to_string).collect();
        if !commands.is_empty() && !self.host.capabilities().exec {
            let message =
                format!("the host can't run commands, and `{}` is asked for", commands.join("`, `"));
            return Err(Error::new(ErrorKind::Precondition, message).with("step", "plan"));
        }
        let mut plan = Plan { new: Some(bundle.chain.leaf().fingerprint()), ..Plan::default() };
        for found in self.look_to_write(layout.files).await? {
            // Of the file with the leaf the old content matters, whether it can be told by its size or not.
            let old = match found.file.role {
                FileRole::FullChain | FileRole::Combined if plan.old.is_none() => {
                    self.content(&found).await?
                }
                _ => None,
            };
            plan.old = plan.old.or_else(|| old.as_ref().and_then(leaf_of));
            plan.changes.extend(self.change(found, bundle, old).await?.map(|change| change.describe()));
        }
        if !plan.changes.is_empty() {
            plan.commands = commands;
        }
        Ok(plan)
    }

    /// Puts the bundle in place: all files wait beside their destinations before the first is swapped in.
    pub(super) async fn write_files(&self, bundle: &Bundle) -> Result<()> {
        // Until the first swap nothing can have been changed, and the error says so.
        let untouched = |error: Error| error.with("written", 0).with("untouched", true);
        let changes = self.changes(bundle).await.map_err(untouched)?;
        if changes.is_empty() {
            return Ok(());
        }
        self.sweep(changes.iter().map(|change| &change.found.destination)).await.map_err(untouched)?;
        self.set_swept(false);
        let staged = self.stage(&changes).await.map_err(untouched)?;
        if let Err(error) = self.put(&changes, &staged).await {
            // Those that were swapped are gone from where they waited, which is fine.
            self.unstage(&staged).await;
            return Err(error);
        }
        self.set_swept(true);
        Ok(())
    }

    async fn changes(&self, bundle: &Bundle) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for found in self.look_to_write(self.target.layout().files).await? {
            changes.extend(self.change(found, bundle, None).await?);
        }
        Ok(changes)
    }

    async fn put(&self, changes: &[Change], staged: &[Staged]) -> Result<()> {
        if staged.len() == changes.len() {
            return self.host.swap_all(staged).await.map_err(|error| error.with("step", "swap"));
        }
        for (written, change) in changes.iter().enumerate() {
            let destination = &change.found.destination;
            let (step, put) = match staged.iter().find(|one| one.destination == *destination) {
                Some(one) => ("swap", self.host.swap(one).await),
                None => ("overwrite", self.host.overwrite(destination, &change.content).await),
            };
            put.map_err(|error| error.with("step", step).with("file", destination).with("written", written))?;
        }
        Ok(())
    }

    async fn stage(&self, changes: &[Change]) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        for change in changes.iter().filter(|change| change.action != Action::Overwrite) {
            let destination = &change.found.destination;
            match self.host.stage(destination, &change.spec, &change.content).await {
                Ok(one) => staged.push(one),
                Err(error) => {
                    self.unstage(&staged).await;
                    return Err(error.with("step", "stage").with("file", destination));
                }
            }
        }
        Ok(staged)
    }

    /// What can't be removed now, or what the host staged without our hearing of it, is swept away later.
    async fn unstage(&self, staged: &[Staged]) {
        for one in staged {
            let _ = self.host.remove(&one.path).await;
        }
    }

    /// What has to be done to this file, if anything. `known` is its content, where somebody has read it already.
    async fn change(&self, found: Found, bundle: &Bundle, known: Option<Secret>) -> Result<Option<Change>> {
        let content = self.target.render(&found.file, bundle)?;
        let Some(stat) = &found.stat else {
            let spec = FileSpec { mode: found.file.mode, owner: None };
            return Ok(Some(Change { found, content, spec, action: Action::Create }));
        };
        let narrow = found.file.role.is_private() && is_wide(stat.mode);
        let spec =
            FileSpec { mode: if narrow { 0o600 } else { stat.mode }, owner: Some((stat.uid, stat.gid)) };
        let same = stat.size == content.expose().len() as u64
            && match known {
                Some(known) => known == content,
                None => self.content(&found).await?.is_some_and(|known| known == content),
            };
        let action = match (same, narrow) {
            (true, false) => return Ok(None),
            (true, true) => Action::SetMode,
            (false, _) if found.in_place(self.write) => Action::Overwrite,
            (false, _) => Action::Replace,
        };
        Ok(Some(Change { found, content, spec, action }))
    }

    /// The content of the file that is there; none if there is none, or it is far too large to be one of ours.
    pub(super) async fn content(&self, found: &Found) -> Result<Option<Secret>> {
        match &found.stat {
            Some(stat) if stat.size <= MAX_FILE => {
                self.host.read(&found.destination, MAX_FILE).await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Change {
    fn describe(&self) -> PlannedChange {
        let Found { file, destination, stat } = &self.found;
        let mut notes = Vec::new();
        if file.path != *destination {
            notes.push(format!("a symlink leads to {destination}"));
        }
        if let Some(stat) = stat
            && stat.mode != self.spec.mode
        {
            notes.push(if file.role.is_private() && stat.mode & 0o004 != 0 {
                "the key was readable by others".to_owned()
            } else {
                "the key was open to others".to_owned()
            });
        }
        if self.action == Action::Overwrite {
            notes.push(
                "not in one step: a crash in the middle leaves it torn until the next start".to_owned(),
            );
        }
        PlannedChange {
            what: file.path.to_string(),
            action: self.action.words().to_owned(),
            mode_before: stat.as_ref().map(|stat| octal(stat.mode)),
            mode: Some(octal(self.spec.mode)),
            owner: self.spec.owner.map(|(uid, gid)| format!("{uid}:{gid}")),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        }
    }
}

impl Action {
    fn words(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Overwrite => "overwrite",
            Self::SetMode => "set mode",
        }
    }
}

fn leaf_of(content: &Secret) -> Option<Fingerprint> {
    Chain::from_pem(content.expose()).ok().map(|chain| chain.leaf().fingerprint())
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}
