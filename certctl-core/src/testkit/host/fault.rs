//! A host between the engine and a real one that breaks where a test says.

use std::{
    fmt,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Error, ErrorKind, Result, Secret,
    host::{Command, Endpoint, Entry, FileSpec, Host, HostCapabilities, HostPath, Io, Output, Staged, Stat},
};

/// A [`Host`] that passes everything on to another one, writes it down, and fails or dies where it is told to.
///
/// ```
/// # use std::sync::Arc;
/// # use certctl_core::{Secret, host::{FileSpec, Host, HostPath}, testkit::host::{FaultHost, MemoryHost, When}};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let memory = MemoryHost::default();
/// memory.put("/tls/web.crt", "old");
/// let host = FaultHost::new(Arc::new(memory.clone()));
/// host.fail_nth(2, When::After, FaultHost::disk_full());
///
/// let path = HostPath::parse("/tls/web.crt")?;
/// host.stat(&path).await?;
/// let spec = FileSpec { mode: 0o644, owner: None };
/// let error = host.stage(&path, &spec, &Secret::new(*b"new")).await.unwrap_err();
/// assert_eq!(error.context_value("reason"), Some("disk_full"));
/// assert_eq!(host.operations()[1].to_string(), "stage /tls/web.crt");
/// # Ok::<(), certctl_core::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FaultHost {
    inner: Arc<dyn Host>,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

/// One call of a [`Host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The method, such as `stage`.
    pub name: &'static str,
    /// The path (of two, the one that changes), the command line or the endpoint.
    pub subject: String,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.subject)
    }
}

/// Whether a fault comes before the operation, so that it does not happen, or after it, so that only its answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It does not happen.
    Before,
    /// It happens, and nobody hears of it.
    After,
}

impl FaultHost {
    /// In front of `inner`, without any fault yet.
    pub fn new(inner: Arc<dyn Host>) -> Self {
        Self { inner, state: Mutex::default(), ended: watch::Sender::new(false) }
    }

    /// Fails the `nth` operation (the first is 1), once.
    pub fn fail_nth(&self, nth: usize, when: When, error: Error) {
        self.state().faults.push(Fault { at: At::Nth(nth), when, action: Action::Fail(error) });
    }

    /// Fails every operation for which `which` is true.
    pub fn fail_if(&self, which: impl Fn(&Operation) -> bool + Send + 'static, when: When, error: Error) {
        self.state().faults.push(Fault { at: At::Each(Box::new(which)), when, action: Action::Fail(error) });
    }

    /// From the `nth` operation on everything fails, and nothing happens any more: what a killed process leaves.
    pub fn kill_nth(&self, nth: usize, when: When) {
        self.state().faults.push(Fault { at: At::Nth(nth), when, action: Action::Kill });
    }

    /// As [`FaultHost::kill_nth`], but the calls never return: not even the caller's error handling runs. The test waits
    /// for [`FaultHost::ended`] and drops the caller.
    pub fn halt_nth(&self, nth: usize, when: When) {
        self.state().faults.push(Fault { at: At::Nth(nth), when, action: Action::Halt });
    }

    /// As [`FaultHost::halt_nth`], at the first operation for which `which` is true.
    pub fn halt_if(&self, which: impl Fn(&Operation) -> bool + Send + 'static, when: When) {
        self.state().faults.push(Fault { at: At::Each(Box::new(which)), when, action: Action::Halt });
    }

    /// Called when a kill or a halt comes, so that the rest of the process (its store) can die as well.
    pub fn on_kill(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.state().hook = Some(Arc::new(hook));
    }

    /// Changes what commands answer.
    pub fn map_run(&self, map: impl Fn(&Command, Result<Output>) -> Result<Output> + Send + Sync + 'static) {
        self.state().map_run = Some(Arc::new(map));
    }

    /// Changes what connections become.
    pub fn map_connect(
        &self,
        map: impl Fn(&Endpoint, Result<Box<dyn Io>>) -> Result<Box<dyn Io>> + Send + Sync + 'static,
    ) {
        self.state().map_connect = Some(Arc::new(map));
    }

    /// What was asked for since the beginning or the last [`FaultHost::reset`], with what failed.
    pub fn operations(&self) -> Vec<Operation> {
        self.state().log.clone()
    }

    /// How many operations that were.
    pub fn count(&self) -> usize {
        self.state().log.len()
    }

    /// Whether a kill or a halt has come.
    pub fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for a kill or a halt.
    pub async fn ended(&self) {
        // Fails only without a sender, and this host has it.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// As a new process finds it: no faults, nothing counted, alive. What maps commands and connections stays.
    pub fn reset(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.log.clear();
        state.end = None;
        self.ended.send_replace(false);
    }

    /// What a full disk answers.
    pub fn disk_full() -> Error {
        let message = "the disk is full; free some space on its file system and try again";
        Error::new(ErrorKind::Precondition, message).with("reason", "disk_full")
    }

    /// What a read-only file system answers.
    pub fn read_only() -> Error {
        let message = "the file system is read-only; mount it writable, or use a path on one that is";
        Error::new(ErrorKind::Precondition, message).with("reason", "read_only")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn through<T: Send>(
        &self,
        name: &'static str,
        subject: &impl fmt::Display,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let operation = Operation { name, subject: subject.to_string() };
        self.alive(&operation).await?;
        let (before, after) = {
            let mut state = self.state();
            state.log.push(operation.clone());
            let nth = state.log.len();
            (state.find(nth, When::Before, &operation), state.find(nth, When::After, &operation))
        };
        self.strike(before, &operation).await?;
        let done = work.await;
        // Whatever came meanwhile: a dead process hears no answer.
        self.alive(&operation).await?;
        self.strike(after, &operation).await?;
        done
    }

    async fn alive(&self, operation: &Operation) -> Result<()> {
        let end = self.state().end;
        match end {
            None => Ok(()),
            Some(End::Killed) => Err(killed(operation)),
            Some(End::Halted) => pending().await,
        }
    }

    async fn strike(&self, action: Option<Action>, operation: &Operation) -> Result<()> {
        let end = match action {
            None => return Ok(()),
            Some(Action::Fail(error)) => return Err(located(error, operation)),
            Some(Action::Kill) => End::Killed,
            Some(Action::Halt) => End::Halted,
        };
        let hook = {
            let mut state = self.state();
            state.end = Some(end);
            state.hook.clone()
        };
        if let Some(hook) = hook {
            hook();
        }
        self.ended.send_replace(true);
        self.alive(operation).await
    }
}

#[async_trait]
impl Host for FaultHost {
    fn capabilities(&self) -> HostCapabilities {
        self.inner.capabilities()
    }

    async fn stat(&self, path: &HostPath) -> Result<Option<Stat>> {
        self.through("stat", path, self.inner.stat(path)).await
    }

    async fn real_path(&self, path: &HostPath) -> Result<HostPath> {
        self.through("real_path", path, self.inner.real_path(path)).await
    }

    async fn list(&self, dir: &HostPath) -> Result<Vec<Entry>> {
        self.through("list", dir, self.inner.list(dir)).await
    }

    async fn read(&self, path: &HostPath, max: u64) -> Result<Secret> {
        self.through("read", path, self.inner.read(path, max)).await
    }

    async fn stage(&self, path: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged> {
        self.through("stage", path, self.inner.stage(path, spec, bytes)).await
    }

    async fn swap(&self, staged: &Staged) -> Result<()> {
        self.through("swap", &staged.destination, self.inner.swap(staged)).await
    }

    async fn overwrite(&self, path: &HostPath, bytes: &Secret) -> Result<()> {
        self.through("overwrite", path, self.inner.overwrite(path, bytes)).await
    }

    async fn copy(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        self.through("copy", to, self.inner.copy(from, to)).await
    }

    async fn rename(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        self.through("rename", to, self.inner.rename(from, to)).await
    }

    async fn make_dir(&self, dir: &HostPath) -> Result<()> {
        self.through("make_dir", dir, self.inner.make_dir(dir)).await
    }

    async fn make_public_dir(&self, dir: &HostPath) -> Result<()> {
        self.through("make_dir", dir, self.inner.make_public_dir(dir)).await
    }

    async fn remove(&self, path: &HostPath) -> Result<()> {
        self.through("remove", path, self.inner.remove(path)).await
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        let map = self.state().map_run.clone();
        let work = async {
            let output = self.inner.run(command).await;
            match map {
                Some(map) => map(command, output),
                None => output,
            }
        };
        self.through("run", command, work).await
    }

    async fn connect(&self, endpoint: &Endpoint, deadline: Duration) -> Result<Box<dyn Io>> {
        let map = self.state().map_connect.clone();
        let work = async {
            let io = self.inner.connect(endpoint, deadline).await;
            match map {
                Some(map) => map(endpoint, io),
                None => io,
            }
        };
        self.through("connect", endpoint, work).await
    }
}

impl fmt::Debug for FaultHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultHost").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[derive(Default)]
#[allow(clippy::type_complexity)]
struct State {
    faults: Vec<Fault>,
    log: Vec<Operation>,
    end: Option<End>,
    hook: Option<Arc<dyn Fn() + Send + Sync>>,
    map_run: Option<Arc<dyn Fn(&Command, Result<Output>) -> Result<Output> + Send + Sync>>,
    map_connect: Option<Arc<dyn Fn(&Endpoint, Result<Box<dyn Io>>) -> Result<Box<dyn Io>> + Send + Sync>>,
}

impl State {
    fn find(&self, nth: usize, when: When, operation: &Operation) -> Option<Action> {
        let hit = |fault: &&Fault| {
            fault.when == when
                && match &fault.at {
                    At::Nth(at) => *at == nth,
                    At::Each(which) => which(operation),
                }
        };
        self.faults.iter().find(hit).map(|fault| fault.action.clone())
    }
}

struct Fault {
    at: At,
    when: When,
    action: Action,
}

enum At {
    Nth(usize),
    Each(Box<dyn Fn(&Operation) -> bool + Send>),
}

#[derive(Clone)]
enum Action {
    Fail(Error),
    Kill,
    Halt,
}

#[derive(Clone, Copy)]
enum End {
    Killed,
    Halted,
}

fn killed(operation: &Operation) -> Error {
    located(Error::internal("the process was killed"), operation)
}

fn located(error: Error, operation: &Operation) -> Error {
    let key = match operation.name {
        "run" => "command",
        "connect" => "endpoint",
        _ => "file",
    };
    error.with("step", operation.name).with(key, &operation.subject)
}
