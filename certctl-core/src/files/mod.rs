//! The file engine: puts the files of a [`FileTarget`] in place on a [`Host`].
//!
//! Every destination is looked up anew in each step, symlinks followed; what the engine does not touch for safety's sake is
//! refused before the first write. Files wait beside their destinations as dot-files (a server that loads a whole
//! directory passes over those), and are swapped in only when all of them are there. One deployment at a time per target
//! is the caller's business.

mod change;
mod commands;
mod leftovers;
mod look;
mod observe;
mod snapshot;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use crate::{
    Bundle, Context, FileTarget, Result, Target, WriteMode,
    host::Host,
    target::{FileRole, Observed, Plan, Snapshot},
};

/// The largest file that is read, in bytes: far above any chain.
const MAX_FILE: u64 = 1 << 20;

/// A file-based target on a host.
#[derive(Debug)]
pub struct OnHost<T> {
    target: T,
    host: Arc<dyn Host>,
    write: WriteMode,
    /// Whether no staged file of an interrupted predecessor can be about: saves the listing of large directories.
    swept: AtomicBool,
}

impl<T: FileTarget> OnHost<T> {
    /// Puts `target` on `host`.
    pub fn new(target: T, host: Arc<dyn Host>, write: WriteMode) -> Self {
        Self { target, host, write, swept: AtomicBool::new(false) }
    }

    fn is_swept(&self) -> bool {
        self.swept.load(Ordering::Acquire)
    }

    fn set_swept(&self, swept: bool) {
        self.swept.store(swept, Ordering::Release);
    }
}

#[async_trait]
impl<T: FileTarget + 'static> Target for OnHost<T> {
    fn kind(&self) -> &str {
        self.target.kind()
    }

    fn unit(&self) -> Option<String> {
        self.target.unit()
    }

    fn address(&self) -> String {
        let files = self.target.layout().files;
        let certificate = files.iter().find(|f| matches!(f.role, FileRole::FullChain | FileRole::Combined));
        certificate.or(files.first()).map(|f| f.path.to_string()).unwrap_or_default()
    }

    fn host(&self) -> Option<Arc<dyn Host>> {
        Some(self.host.clone())
    }

    async fn permitted(&self) -> Result<()> {
        let layout = self.target.layout();
        let files: Vec<_> = layout.files.into_iter().map(|file| file.path).collect();
        let commands: Vec<_> = [layout.validate, layout.reload, layout.start].into_iter().flatten().collect();
        self.host.permits(&files, &commands).await
    }

    async fn observe(&self, _: &Context) -> Result<Observed> {
        self.observe_files().await
    }

    async fn plan(&self, _: &Context, bundle: &Bundle) -> Result<Plan> {
        self.permitted().await?;
        self.plan_files(bundle).await
    }

    async fn snapshot(&self, _: &Context, name: &str) -> Result<Snapshot> {
        self.keep_files(name).await
    }

    async fn apply(&self, _: &Context, bundle: &Bundle) -> Result<()> {
        self.write_files(bundle).await
    }

    async fn validate(&self, _: &Context) -> Result<()> {
        self.run("validate", self.target.layout().validate).await.map(drop)
    }

    async fn reload(&self, _: &Context) -> Result<()> {
        self.run("reload", self.target.layout().reload).await.map(drop)
    }

    async fn start(&self, _: &Context) -> Result<bool> {
        self.run("start", self.target.layout().start).await
    }

    async fn restore(&self, _: &Context, snapshot: &Snapshot) -> Result<()> {
        self.put_back(snapshot).await
    }

    async fn holds(&self, _: &Context, snapshot: &Snapshot) -> Result<bool> {
        self.keeps(snapshot).await
    }

    async fn discard(&self, _: &Context, snapshot: &Snapshot) -> Result<()> {
        self.forget(snapshot).await
    }
}
