//! This machine, where it is a Unix.

mod attributes;
mod command;
pub(crate) mod fault;
pub(crate) mod files;
mod path;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use certctl_core::{
    Error, ErrorKind, Result, Secret,
    host::{
        Command, Endpoint, Entry, FileSpec, Host, HostCapabilities, HostPath, Hosts, Io, Output, Staged, Stat,
    },
};
use tokio::net::TcpStream;

/// The machine that the program runs on.
///
/// ```
/// use certctl_connectors::hosts::LocalHost;
/// use certctl_core::host::{FileSpec, Host, HostPath};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # let path = HostPath::parse(&format!("{}/web.crt", dir.path().display()))?;
/// let host = LocalHost;
/// let staged = host.stage(&path, &FileSpec { mode: 0o644, owner: None }, &certctl_core::Secret::new(*b"new")).await?;
/// assert!(host.stat(&path).await?.is_none(), "the destination is untouched until the swap");
/// host.swap(&staged).await?;
/// assert_eq!(host.read(&path, 1024).await?.expose(), b"new");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHost;

#[async_trait]
impl Host for LocalHost {
    fn capabilities(&self) -> HostCapabilities {
        HostCapabilities {
            atomic_rename: true,
            owner: rustix::process::geteuid().is_root(),
            exec: true,
            connect: true,
        }
    }

    // Looking at metadata takes a microsecond, less than the way to another thread and back.
    async fn stat(&self, path: &HostPath) -> Result<Option<Stat>> {
        path::stat(path)
    }

    async fn real_path(&self, path: &HostPath) -> Result<HostPath> {
        path::real_path(path)
    }

    async fn list(&self, dir: &HostPath) -> Result<Vec<Entry>> {
        let dir = dir.clone();
        blocking(move || files::list(&dir)).await
    }

    async fn read(&self, path: &HostPath, max: u64) -> Result<Secret> {
        let path = path.clone();
        blocking(move || files::read(&path, max)).await
    }

    async fn stage(&self, path: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged> {
        let (path, spec, bytes) = (path.clone(), *spec, bytes.clone());
        blocking(move || files::stage(&path, &spec, &bytes)).await
    }

    async fn swap(&self, staged: &Staged) -> Result<()> {
        let staged = staged.clone();
        blocking(move || files::replace("swap", &staged.path, &staged.destination)).await
    }

    async fn swap_all(&self, staged: &[Staged]) -> Result<()> {
        let staged = staged.to_vec();
        blocking(move || files::swap_all(&staged)).await
    }

    async fn keep(&self, dir: &HostPath, files: &[HostPath], replaced: bool) -> Result<()> {
        let (dir, files) = (dir.clone(), files.to_vec());
        blocking(move || files::keep(&dir, &files, replaced)).await
    }

    async fn remove_dir(&self, dir: &HostPath) -> Result<()> {
        let dir = dir.clone();
        blocking(move || files::remove_dir(&dir)).await
    }

    async fn overwrite(&self, path: &HostPath, bytes: &Secret) -> Result<()> {
        let (path, bytes) = (path.clone(), bytes.clone());
        blocking(move || files::overwrite(&path, &bytes)).await
    }

    async fn copy(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        blocking(move || files::copy(&from, &to)).await
    }

    async fn rename(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        blocking(move || files::replace("rename", &from, &to)).await
    }

    async fn make_dir(&self, dir: &HostPath) -> Result<()> {
        let dir = dir.clone();
        blocking(move || files::make_dir(&dir)).await
    }

    async fn make_public_dir(&self, dir: &HostPath) -> Result<()> {
        let dir = dir.clone();
        blocking(move || files::make_public_dir(&dir)).await
    }

    async fn remove(&self, path: &HostPath) -> Result<()> {
        let path = path.clone();
        blocking(move || files::remove(&path)).await
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        command::run(command).await
    }

    async fn connect(&self, endpoint: &Endpoint, deadline: Duration) -> Result<Box<dyn Io>> {
        let failed = |why: String| {
            Error::unavailable(format!("can't connect to {endpoint}: {why}"))
                .with("step", "connect")
                .with("endpoint", endpoint)
        };
        match tokio::time::timeout(deadline, TcpStream::connect((&*endpoint.host, endpoint.port))).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} ms", deadline.as_millis()))),
        }
    }
}

/// [`Hosts`] for a program that works on its own machine only.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalHosts;

#[async_trait]
impl Hosts for LocalHosts {
    async fn host(&self, id: Option<&str>) -> Result<Arc<dyn Host>> {
        match id {
            None => Ok(Arc::new(LocalHost)),
            Some(id) => Err(Error::new(
                ErrorKind::Precondition,
                format!(
                    "the host {id} is remote, and this program reaches no remote hosts; leave the host away, \
                     or let a program do the work that does"
                ),
            )
            .with("host", id)),
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the file work was interrupted").with_source(error))?
}
