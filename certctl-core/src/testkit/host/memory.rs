//! A host that is nowhere: files in a map, commands and connections as the test says.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::{
    Effect, Error, ErrorKind, Result, Secret, Timestamp,
    host::{
        Command, Endpoint, Entry, FileKind, FileSpec, Host, HostCapabilities, HostPath, Io, Output, Staged,
        Stat,
    },
};

/// A [`Host`] in memory. Clones share everything.
///
/// Commands are `true`, `false`, `env`, `seq`, `sleep` (which takes no time) and `ln -s`, and whatever
/// [`MemoryHost::on_run`] adds; connections are refused until [`MemoryHost::on_connect`] says otherwise. It works as root,
/// but a directory without write permission for its owner can't be written to.
#[derive(Clone)]
pub struct MemoryHost(Arc<Mutex<State>>);

impl Default for MemoryHost {
    fn default() -> Self {
        let mut state = State::default();
        state.nodes.insert(root(), Node::new(Content::Directory, 0o755, Timestamp::EPOCH));
        Self(Arc::new(Mutex::new(state)))
    }
}

/// The tests of an embedder are the callers: a wrong path in one of them is a mistake to stop at.
#[allow(clippy::expect_used, clippy::panic)]
impl MemoryHost {
    /// Puts a file with mode 0644 there, and its directories with 0755.
    ///
    /// # Panics
    /// If the path is not valid, or something else is there.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, Content::File(Secret::new(content)), 0o644);
    }

    /// Makes a directory with mode 0755, and its parents.
    ///
    /// # Panics
    /// If the path is not valid, or something else is there.
    pub fn put_dir(&self, path: &str) {
        self.insert(path, Content::Directory, 0o755);
    }

    /// Makes a symlink to `target`, which need not exist.
    ///
    /// # Panics
    /// If the path is not valid, or something else is there.
    pub fn symlink(&self, path: &str, target: &str) {
        self.insert(path, Content::Symlink(target.to_owned()), 0o777);
    }

    /// Sets mode and owner of what is there.
    ///
    /// # Panics
    /// If nothing is there.
    pub fn set_owner(&self, path: &str, mode: u32, uid: u32, gid: u32) {
        self.change(path, |node| (node.mode, node.uid, node.gid) = (mode, uid, gid));
    }

    /// Makes it a mount point of its own, which can't be replaced.
    ///
    /// # Panics
    /// If nothing is there.
    pub fn mount(&self, path: &str) {
        self.change(path, |node| node.mount_point = true);
    }

    /// The content of a file, if it is one.
    ///
    /// # Panics
    /// If the path is not valid.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        match &self.state().nodes.get(&parse(path))?.content {
            Content::File(bytes) => Some(bytes.expose().to_vec()),
            Content::Directory | Content::Symlink(_) => None,
        }
    }

    /// The paths of all files and symlinks, in order: to see that nothing was left behind.
    pub fn files(&self) -> Vec<String> {
        let state = self.state();
        let files = state.nodes.iter().filter(|(_, node)| !matches!(node.content, Content::Directory));
        files.map(|(path, _)| path.to_string()).collect()
    }

    /// Answers commands; none goes on to the ones that are built in. The closure may look at the files.
    pub fn on_run(
        &self,
        run: impl Fn(&MemoryHost, &Command) -> Option<Result<Output>> + Send + Sync + 'static,
    ) {
        self.state().run = Some(Arc::new(run));
    }

    /// Opens connections.
    pub fn on_connect<F, C>(&self, connect: F)
    where
        F: Fn(Endpoint) -> C + Send + Sync + 'static,
        C: Future<Output = Result<Box<dyn Io>>> + Send + 'static,
    {
        self.state().connect = Some(Arc::new(move |endpoint| Box::pin(connect(endpoint))));
    }

    fn insert(&self, path: &str, content: Content, mode: u32) {
        let path = parse(path);
        let mut state = self.state();
        state.parents(&path, 0o755).expect("the parents are directories");
        let now = state.tick();
        match state.nodes.get(&path).map(|node| &node.content) {
            Some(Content::Directory) if matches!(content, Content::Directory) => {}
            Some(Content::Directory) => panic!("{path} is a directory"),
            _ => {
                state.nodes.insert(path, Node::new(content, mode, now));
            }
        }
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Node)) {
        let path = parse(path);
        change(self.state().nodes.get_mut(&path).expect("something is there"));
    }
}

impl MemoryHost {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Host for MemoryHost {
    fn capabilities(&self) -> HostCapabilities {
        HostCapabilities { atomic_rename: true, owner: true, exec: true, connect: true }
    }

    async fn stat(&self, path: &HostPath) -> Result<Option<Stat>> {
        let state = self.state();
        let Ok(path) = state.locate("stat", path) else { return Ok(None) };
        Ok(state.nodes.get(&path).map(|node| Stat {
            kind: node.content.kind(),
            size: node.content.size(),
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            modified: node.modified,
            mount_point: node.mount_point,
        }))
    }

    async fn real_path(&self, path: &HostPath) -> Result<HostPath> {
        self.state().real_path(path, true)
    }

    async fn list(&self, dir: &HostPath) -> Result<Vec<Entry>> {
        let state = self.state();
        let dir = state.locate("list", dir)?;
        match state.nodes.get(&dir) {
            None => Err(absent("list", &dir)),
            Some(node) if !matches!(node.content, Content::Directory) => {
                Err(refusal("list", &dir, "not_a_directory", "is not a directory"))
            }
            Some(_) => Ok(state
                .nodes
                .iter()
                .filter(|(path, _)| **path != dir && path.parent() == dir)
                .map(|(path, node)| Entry { name: path.file_name().into(), kind: node.content.kind() })
                .collect()),
        }
    }

    async fn read(&self, path: &HostPath, max: u64) -> Result<Secret> {
        let state = self.state();
        let path = state.locate("read", path)?;
        let bytes = state.file("read", &path)?;
        if bytes.expose().len() as u64 > max {
            return Err(refusal("read", &path, "too_large", "is larger than what is read at most"));
        }
        Ok(bytes.clone())
    }

    async fn stage(&self, path: &HostPath, spec: &FileSpec, bytes: &Secret) -> Result<Staged> {
        let mut state = self.state();
        let destination = state.locate("stage", path)?;
        state.writable("stage", &destination)?;
        if state.nodes.contains_key(&destination) {
            state.file("stage", &destination)?;
        }
        let now = state.tick();
        let name = format!(".{}.certctl-{}", destination.file_name(), now.as_millis());
        let staged = destination.parent().join(&name)?;
        let mut node = Node::new(Content::File(bytes.clone()), spec.mode & 0o7777, now);
        (node.uid, node.gid) = spec.owner.unwrap_or_default();
        state.nodes.insert(staged.clone(), node);
        Ok(Staged { path: staged, destination: path.clone() })
    }

    async fn swap(&self, staged: &Staged) -> Result<()> {
        self.state().replace("swap", &staged.path, &staged.destination)
    }

    async fn overwrite(&self, path: &HostPath, bytes: &Secret) -> Result<()> {
        let mut state = self.state();
        let path = state.locate("overwrite", path)?;
        state.file("overwrite", &path)?;
        let now = state.tick();
        if let Some(node) = state.nodes.get_mut(&path) {
            (node.content, node.modified) = (Content::File(bytes.clone()), now);
        }
        Ok(())
    }

    async fn copy(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        let mut state = self.state();
        let (from, to) = (state.locate("copy", from)?, state.locate("copy", to)?);
        state.file("copy", &from)?;
        state.writable("copy", &to)?;
        if state.nodes.contains_key(&to) {
            return Err(refusal("copy", &to, "exists", "exists already"));
        }
        if let Some(mut node) = state.nodes.get(&from).cloned() {
            node.mount_point = false;
            node.modified = state.tick();
            state.nodes.insert(to, node);
        }
        Ok(())
    }

    async fn rename(&self, from: &HostPath, to: &HostPath) -> Result<()> {
        self.state().replace("rename", from, to)
    }

    async fn make_dir(&self, dir: &HostPath) -> Result<()> {
        let mut state = self.state();
        let dir = state.real_path(dir, false).unwrap_or_else(|_| dir.clone());
        state.parents(&dir, 0o700)?;
        state.directory(&dir, 0o700)
    }

    async fn make_public_dir(&self, dir: &HostPath) -> Result<()> {
        let mut state = self.state();
        let dir = state.real_path(dir, false).unwrap_or_else(|_| dir.clone());
        state.parents(&dir, 0o755)?;
        state.directory(&dir, 0o755)
    }

    async fn remove(&self, path: &HostPath) -> Result<()> {
        let mut state = self.state();
        let Ok(path) = state.locate("remove", path) else { return Ok(()) };
        let Some(node) = state.nodes.get(&path) else { return Ok(()) };
        if node.mount_point {
            return Err(busy("remove", &path));
        }
        if state.nodes.keys().any(|other| *other != path && other.parent() == path) {
            return Err(refusal("remove", &path, "not_empty", "is a directory with something in it"));
        }
        state.writable("remove", &path)?;
        state.nodes.remove(&path);
        Ok(())
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        // Not under the lock: the closure looks at the files.
        let run = self.state().run.clone();
        let answer = match run.and_then(|run| run(self, command)) {
            Some(answer) => answer,
            None => built_in(self, command),
        };
        let mut output = answer.map_err(|error| error.with("step", "run").with("command", command))?;
        let from = output.text.len().saturating_sub(command.output_cap);
        output.text.drain(..output.text.ceil_char_boundary(from));
        Ok(output)
    }

    async fn connect(&self, endpoint: &Endpoint, deadline: Duration) -> Result<Box<dyn Io>> {
        let connect = self.state().connect.clone();
        let refused = |why: &str| {
            Error::unavailable(format!("can't connect to {endpoint}: {why}"))
                .with("step", "connect")
                .with("endpoint", endpoint)
        };
        match connect {
            None => Err(refused("nobody listens")),
            Some(connect) => match tokio::time::timeout(deadline, connect(endpoint.clone())).await {
                Ok(io) => io.map_err(|error| error.with("step", "connect").with("endpoint", endpoint)),
                Err(_) => Err(refused("no answer before the deadline")),
            },
        }
    }
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryHost").field(&self.files()).finish()
    }
}

#[derive(Default)]
#[allow(clippy::type_complexity)]
struct State {
    nodes: BTreeMap<HostPath, Node>,
    ticks: i64,
    run: Option<Arc<dyn Fn(&MemoryHost, &Command) -> Option<Result<Output>> + Send + Sync>>,
    connect: Option<Arc<dyn Fn(Endpoint) -> BoxFuture<'static, Result<Box<dyn Io>>> + Send + Sync>>,
}

#[derive(Clone)]
struct Node {
    content: Content,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timestamp,
    mount_point: bool,
}

impl Node {
    fn new(content: Content, mode: u32, modified: Timestamp) -> Self {
        Self { content, mode, uid: 0, gid: 0, modified, mount_point: false }
    }
}

#[derive(Clone)]
enum Content {
    File(Secret),
    Directory,
    Symlink(String),
}

impl Content {
    fn kind(&self) -> FileKind {
        match self {
            Self::File(_) => FileKind::File,
            Self::Directory => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::File(bytes) => bytes.expose().len() as u64,
            Self::Directory => 0,
            Self::Symlink(target) => target.len() as u64,
        }
    }
}

impl State {
    /// A later time at each change: it says in which order things were written.
    fn tick(&mut self) -> Timestamp {
        self.ticks += 1;
        Timestamp::from_millis(self.ticks)
    }

    /// The path with the symlinks of its directory followed, as an operating system does for every call.
    fn locate(&self, step: &str, path: &HostPath) -> Result<HostPath> {
        let root = root();
        if *path == root {
            return Ok(root);
        }
        let dir = self.real_path(&path.parent(), false).map_err(|_| absent(step, path))?;
        match self.nodes.get(&dir).map(|node| &node.content) {
            Some(Content::Directory) => dir.join(path.file_name()),
            _ => Err(absent(step, path)),
        }
    }

    fn real_path(&self, path: &HostPath, distrust: bool) -> Result<HostPath> {
        let parts =
            |path: &str| path.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let mut rest = VecDeque::from(parts(path.as_str()));
        let mut here = root();
        let mut symlinks = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                here = here.parent();
                continue;
            }
            let next = here.join(&part)?;
            match self.nodes.get(&next).map(|node| &node.content) {
                Some(Content::Symlink(target)) => {
                    symlinks += 1;
                    if symlinks > 40 {
                        return Err(refusal(
                            "real_path",
                            path,
                            "symlink",
                            "leads through symlinks in a circle",
                        ));
                    }
                    self.trusted(path, &here, distrust)?;
                    if target.starts_with('/') {
                        here = root();
                    }
                    for part in parts(target).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                None if !rest.is_empty() => {
                    return Err(refusal(
                        "real_path",
                        path,
                        "absent",
                        "leads through a directory that is not there",
                    ));
                }
                Some(Content::File(_)) if !rest.is_empty() => {
                    return Err(refusal("real_path", path, "not_a_directory", "leads through a file"));
                }
                _ => here = next,
            }
        }
        if symlinks > 0 {
            self.trusted(path, &here.parent(), distrust)?;
        }
        Ok(here)
    }

    fn trusted(&self, path: &HostPath, dir: &HostPath, distrust: bool) -> Result<()> {
        let open = |node: &Node| node.uid != 0 || (node.mode & 0o002 != 0 && node.mode & 0o1000 == 0);
        if distrust && self.nodes.get(dir).is_some_and(open) {
            let why = "leads through a symlink and a directory that others can write to";
            return Err(refusal("real_path", path, "untrusted_directory", why));
        }
        Ok(())
    }

    fn file(&self, step: &str, path: &HostPath) -> Result<&Secret> {
        match self.nodes.get(path).map(|node| &node.content) {
            Some(Content::File(bytes)) => Ok(bytes),
            Some(Content::Directory) => Err(refusal(step, path, "is_a_directory", "is a directory")),
            Some(Content::Symlink(_)) => Err(refusal(step, path, "symlink", "is a symlink")),
            None => Err(absent(step, path)),
        }
    }

    fn writable(&self, step: &str, path: &HostPath) -> Result<()> {
        match self.nodes.get(&path.parent()) {
            Some(dir) if dir.mode & 0o200 != 0 => Ok(()),
            _ => Err(refusal(step, path, "permission", "is in a directory that can't be written to")),
        }
    }

    fn replace(&mut self, step: &str, from: &HostPath, to: &HostPath) -> Result<()> {
        let (from, to) = (self.locate(step, from)?, self.locate(step, to)?);
        self.writable(step, &from)?;
        self.writable(step, &to)?;
        let node = self.nodes.get(&from).cloned().ok_or_else(|| absent(step, &from))?;
        match self.nodes.get(&to) {
            Some(there) if there.mount_point => return Err(busy(step, &to)),
            Some(there) if matches!(there.content, Content::Directory) => {
                return Err(refusal(step, &to, "is_a_directory", "is a directory"));
            }
            _ => {}
        }
        self.nodes.remove(&from);
        self.nodes.insert(to, node);
        Ok(())
    }

    fn parents(&mut self, path: &HostPath, mode: u32) -> Result<()> {
        let dir = path.parent();
        if dir != *path {
            self.parents(&dir, mode)?;
            self.directory(&dir, mode)?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: &HostPath, mode: u32) -> Result<()> {
        match self.nodes.get(dir).map(|node| &node.content) {
            Some(Content::Directory) => Ok(()),
            Some(_) => Err(refusal("make_dir", dir, "not_a_directory", "is no directory")),
            None => {
                self.writable("make_dir", dir)?;
                let now = self.tick();
                self.nodes.insert(dir.clone(), Node::new(Content::Directory, mode, now));
                Ok(())
            }
        }
    }
}

fn absent(step: &str, path: &HostPath) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is nothing at {path}"))
        .with("step", step)
        .with("file", path)
}

fn busy(step: &str, path: &HostPath) -> Error {
    refusal(step, path, "busy", "is a mount point of its own")
}

fn refusal(step: &str, path: &HostPath, reason: &str, message: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("{path} {message}"))
        .with("step", step)
        .with("file", path)
        .with("reason", reason)
}

#[allow(clippy::expect_used)]
fn parse(path: &str) -> HostPath {
    HostPath::parse(path).expect("the path is valid")
}

#[allow(clippy::expect_used)]
fn root() -> HostPath {
    HostPath::parse("/").expect("the root is a path")
}

/// The few programs that every Unix has and the conformance suite calls.
fn built_in(host: &MemoryHost, command: &Command) -> Result<Output> {
    let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
    let mut code = 0;
    let mut text = String::new();
    match argv.as_slice() {
        ["true"] => {}
        ["false"] => code = 1,
        ["env"] => {
            text.push_str("PATH=/usr/bin:/bin\nLANG=C\n");
            for (name, value) in &command.environment {
                text.push_str(&format!("{name}={value}\n"));
            }
        }
        ["seq", last] => {
            for number in 1..=last.parse::<u32>().unwrap_or(0) {
                text.push_str(&format!("{number}\n"));
            }
        }
        ["sleep", seconds] => {
            if Duration::from_secs(seconds.parse().unwrap_or(0)) > command.deadline {
                return Err(Error::unavailable(format!("`{command}` was killed after its deadline"))
                    .with("reason", "deadline")
                    .with_effect(Effect::Unknown));
            }
        }
        ["ln", "-s", target, path] => {
            let path = host.state().locate("run", &HostPath::parse(path)?)?;
            host.symlink(path.as_str(), target);
        }
        [program, ..] => {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no program {program}"))
                .with("program", program));
        }
        [] => {
            return Err(Error::invalid_field(
                "/argv",
                "the command is empty",
                "give a program and its arguments",
            ));
        }
    }
    Ok(Output { code: Some(code), text })
}
