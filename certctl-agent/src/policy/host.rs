//! A host of which only what the policy allows can be reached.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use certctl_core::{
    Result, Secret,
    host::{
        Command, Endpoint, Entry, FileSpec, Host, HostCapabilities, HostPath, Hosts, Io, Output, Staged, Stat,
    },
};

use super::{Guard, never};

/// Checks every path, as it is written and where it really leads, and every command, before the host behind it sees it.
#[derive(Clone, Debug)]
pub struct GuardedHost {
    inner: Arc<dyn Host>,
    guard: Arc<Guard>,
}

impl GuardedHost {
    /// `inner`, as far as `guard` lets anybody.
    pub fn new(inner: Arc<dyn Host>, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }

    /// For what concerns the thing itself, symlink or not.
    async fn entry(&self, path: &HostPath) -> Result<()> {
        let real = self.resolve(&path.parent()).await?;
        let real = if path.file_name().is_empty() { real } else { real.join(path.file_name())? };
        self.allow(path, &real).await
    }

    /// For what goes to where symlinks lead.
    async fn follow(&self, path: &HostPath) -> Result<()> {
        self.entry(path).await?;
        let real = self.resolve(path).await?;
        self.allow(path, &real).await
    }

    async fn follow_all<'a>(&self, paths: impl IntoIterator<Item = &'a HostPath> + Send) -> Result<()> {
        let paths: Vec<&HostPath> = paths.into_iter().collect();
        for path in paths {
            self.follow(path).await?;
        }
        Ok(())
    }

    /// Where a path really leads. What is below something that does not exist yet is taken as it is written.
    async fn resolve(&self, path: &HostPath) -> Result<HostPath> {
        let mut here = path.clone();
        let mut missing = Vec::new();
        while here.as_str() != "/" && self.inner.stat(&here.parent()).await?.is_none() {
            missing.push(here.file_name().to_owned());
            here = here.parent();
        }
        let mut real = self.inner.real_path(&here).await?;
        while let Some(name) = missing.pop() {
            real = real.join(&name)?;
        }
        Ok(real)
    }

    async fn allow(&self, path: &HostPath, real: &HostPath) -> Result<()> {
        for closed in &self.guard.closed {
            let really = self.resolve(closed).await?;
            if is_in(path, closed) || is_in(real, closed) || is_in(real, &really) {
                return Err(never(path.as_str(), closed.as_str()).with("file", path));
            }
        }
        let policy = self.guard.policy();
        let Some(roots) = &policy.paths else { return Ok(()) };
        let (mut written, mut found) = (false, false);
        for root in roots {
            // A root may be a symlink, or behind one, itself.
            let really = self.resolve(root).await?;
            let itself = self.resolve(&root.parent()).await?;
            let itself = if root.file_name().is_empty() { itself } else { itself.join(root.file_name())? };
            written |= is_in(path, root) || is_in(path, &really);
            found |= is_in(real, &really) || *real == itself;
        }
        if written && found {
            return Ok(());
        }
        let outside = if written { real } else { path };
        let directory = outside.parent();
        let error = self.guard.denied("path", outside.as_str(), "paths", roots, directory);
        Err(if outside == path { error } else { error.during(format!("{path} leads there")) }
            .with("file", path))
    }
}

#[async_trait]
impl Host for GuardedHost {
    fn capabilities(&self) -> HostCapabilities {
        self.inner.capabilities()
    }

    async fn stat(&self, path: &HostPath) -> Result<Option<Stat>> {
        self.entry(path).await?;
        self.inner.stat(path).await
    }

    async fn real_path(&self, path: &HostPath) -> Result<HostPath> {
        self.entry(path).await?;
        let real = self.inner.real_path(path).await?;
        self.allow(path, &real).await?;
        Ok(real)
    }

    async fn list(&self, dir: &HostPath) -> Result<Vec<Entry>> {
        self.follow(dir).await?;
        self.inner.list(dir).await
    }

    async fn read(&self, path: &HostPath, max: u64) -> Result<Secret> {
        self.follow(path).await?;
        self.inner.read(path, max).await
    }

    async fn stage(&self, path: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged> {
        self.follow(path).await?;
        // The file waits beside it.
        self.entry(&path.parent().join(&format!(".{}", path.file_name()))?).await?;
        self.inner.stage(path, spec, bytes).await
    }

    async fn swap(&self, staged: &Staged) -> Result<()> {
        self.entry(&staged.path).await?;
        self.entry(&staged.destination).await?;
        self.inner.swap(staged).await
    }

    async fn swap_all(&self, staged: &[Staged]) -> Result<()> {
        for one in staged {
            self.entry(&one.path).await?;
            self.entry(&one.destination).await?;
        }
        self.inner.swap_all(staged).await
    }

    async fn overwrite(&self, path: &HostPath, bytes: &Secret) -> Result<()> {
        self.follow(path).await?;
        self.inner.overwrite(path, bytes).await
    }

    async fn copy(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        self.follow(from).await?;
        self.follow(to).await?;
        self.inner.copy(from, to).await
    }

    async fn keep(&self, dir: &HostPath, files: &[HostPath], replaced: bool) -> Result<()> {
        self.follow(dir).await?;
        self.follow_all(files).await?;
        self.inner.keep(dir, files, replaced).await
    }

    async fn remove_dir(&self, dir: &HostPath) -> Result<()> {
        self.follow(dir).await?;
        self.inner.remove_dir(dir).await
    }

    async fn rename(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        self.entry(from).await?;
        self.entry(to).await?;
        self.inner.rename(from, to).await
    }

    async fn make_dir(&self, dir: &HostPath) -> Result<()> {
        self.follow(dir).await?;
        self.inner.make_dir(dir).await
    }

    async fn make_public_dir(&self, dir: &HostPath) -> Result<()> {
        self.follow(dir).await?;
        self.inner.make_public_dir(dir).await
    }

    async fn remove(&self, path: &HostPath) -> Result<()> {
        self.entry(path).await?;
        self.inner.remove(path).await
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        self.guard.command(command)?;
        self.inner.run(command).await
    }

    async fn permits(&self, files: &[HostPath], commands: &[Command]) -> Result<()> {
        self.follow_all(files).await?;
        for command in commands {
            self.guard.command(command)?;
        }
        self.inner.permits(files, commands).await
    }

    async fn connect(&self, endpoint: &Endpoint, deadline: Duration) -> Result<Box<dyn Io>> {
        self.inner.connect(endpoint, deadline).await
    }
}

fn is_in(path: &HostPath, dir: &HostPath) -> bool {
    let rest = match dir.as_str() {
        "/" => return true,
        dir => path.as_str().strip_prefix(dir),
    };
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// [`Hosts`] of which each is a [`GuardedHost`].
#[derive(Clone, Debug)]
pub struct GuardedHosts {
    inner: Arc<dyn Hosts>,
    guard: Arc<Guard>,
}

impl GuardedHosts {
    /// `inner`, as far as `guard` lets anybody.
    pub fn new(inner: Arc<dyn Hosts>, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }
}

#[async_trait]
impl Hosts for GuardedHosts {
    async fn host(&self, id: Option<&str>) -> Result<Arc<dyn Host>> {
        Ok(Arc::new(GuardedHost::new(self.inner.host(id).await?, self.guard.clone())))
    }
}
