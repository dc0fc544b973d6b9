//! What every host must do alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncReadExt;

use crate::{
    Effect, Error, ErrorKind, Secret,
    host::{Command, Endpoint, FileKind, FileSpec, Host, HostPath},
};

/// Checks that a host keeps the contract of [`Host`]. `dir` is an existing, empty directory on it.
///
/// What the host says it can't do is left out. For commands it must have `true`, `false`, `env`, `seq`, `sleep` and `ln`;
/// for connections it must reach the loopback interface of the machine that the test runs on.
///
/// # Panics
/// At the first thing that is not as it should be.
pub async fn conformance(host: Arc<dyn Host>, dir: &HostPath) {
    stat_says_what_is_there(&*host, &fresh(&*host, dir, "stat").await).await;
    staging_changes_nothing(&*host, &fresh(&*host, dir, "stage").await).await;
    owner_and_mode_are_set(&*host, &fresh(&*host, dir, "owner").await).await;
    a_swap_is_atomic(host.clone(), &fresh(&*host, dir, "swap").await).await;
    overwriting_needs_a_file(&*host, &fresh(&*host, dir, "overwrite").await).await;
    copies_are_exclusive(&*host, &fresh(&*host, dir, "copy").await).await;
    a_rename_replaces(&*host, &fresh(&*host, dir, "rename").await).await;
    directories_are_private(&*host, &fresh(&*host, dir, "make_dir").await).await;
    removing_is_idempotent(&*host, &fresh(&*host, dir, "remove").await).await;
    reading_has_a_limit(&*host, &fresh(&*host, dir, "read").await).await;
    kept_files_stay_as_they_were(&*host, &fresh(&*host, dir, "keep").await).await;
    several_are_swapped(&*host, &fresh(&*host, dir, "swap_all").await).await;
    if host.capabilities().exec {
        commands_run(&*host).await;
        symlinks_are_followed(&*host, &fresh(&*host, dir, "symlink").await).await;
    }
    if host.capabilities().connect {
        connections_open(&*host).await;
    }
}

async fn stat_says_what_is_there(host: &dyn Host, dir: &HostPath) {
    assert_eq!(host.stat(&at(dir, "absent")).await.unwrap(), None, "an absent file has no stat");
    assert_eq!(
        host.stat(&at(dir, "absent/below")).await.unwrap(),
        None,
        "nor has one in an absent directory"
    );
    let there = host.stat(dir).await.unwrap().expect("the directory is there");
    assert_eq!(there.kind, FileKind::Directory);

    let path = at(dir, "file");
    write(host, &path, 0o640, b"12345").await;
    let stat = host.stat(&path).await.unwrap().expect("the file is there");
    assert_eq!((stat.kind, stat.size, stat.mode), (FileKind::File, 5, 0o640));
    assert!(!stat.mount_point, "an ordinary file is no mount point");
    assert_eq!(host.stat(&at(dir, "file/below")).await.unwrap(), None, "there is nothing below a file");
    let listed = host.list(dir).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&*listed[0].name, listed[0].kind), ("file", FileKind::File));
    has_kind(host.list(&at(dir, "absent")).await, ErrorKind::NotFound);
    has_kind(host.list(&path).await, ErrorKind::Precondition);
    assert_eq!(
        host.real_path(&path).await.unwrap(),
        host.real_path(dir).await.unwrap().join("file").unwrap()
    );
    host.real_path(&at(dir, "absent")).await.expect("the last component need not exist");
    has_kind(host.real_path(&at(dir, "absent/below")).await, ErrorKind::Precondition);
}

async fn kept_files_stay_as_they_were(host: &dyn Host, dir: &HostPath) {
    let (crt, key, kept) = (at(dir, "web.crt"), at(dir, "web.key"), at(dir, ".kept"));
    write(host, &crt, 0o644, b"old certificate").await;
    write(host, &key, 0o600, b"old key").await;
    for replaced in [true, false] {
        host.keep(&kept, &[crt.clone(), key.clone()], replaced).await.unwrap();
        assert_eq!(host.stat(&kept).await.unwrap().unwrap().mode, 0o700);
        assert_eq!(host.stat(&at(&kept, "1")).await.unwrap().unwrap().mode, 0o600);
        if replaced {
            let staged = host.stage(&key, &spec(0o600), &Secret::new(b"new key".to_vec())).await.unwrap();
            host.swap(&staged).await.unwrap();
        } else {
            host.overwrite(&key, &Secret::new(b"NEW key".to_vec())).await.unwrap();
        }
        let was: &[u8] = if replaced { b"old key" } else { b"new key" };
        assert_eq!(host.read(&at(&kept, "0"), 100).await.unwrap().expose(), b"old certificate");
        assert_eq!(host.read(&at(&kept, "1"), 100).await.unwrap().expose(), was, "it stays as it was");
        host.remove_dir(&kept).await.unwrap();
        assert_eq!(host.stat(&kept).await.unwrap(), None);
        host.remove_dir(&kept).await.expect("what is not there is fine");
    }
    has_kind(host.keep(&kept, &[at(dir, "absent")], true).await, ErrorKind::NotFound);
}

async fn several_are_swapped(host: &dyn Host, dir: &HostPath) {
    let (crt, key) = (at(dir, "web.crt"), at(dir, "web.key"));
    let first = host.stage(&crt, &spec(0o644), &Secret::new(b"crt".to_vec())).await.unwrap();
    let second = host.stage(&key, &spec(0o600), &Secret::new(b"key".to_vec())).await.unwrap();
    host.swap_all(&[first.clone(), second]).await.unwrap();
    assert_eq!(host.read(&crt, 10).await.unwrap().expose(), b"crt");
    assert_eq!(host.read(&key, 10).await.unwrap().expose(), b"key");
    assert_eq!(host.list(dir).await.unwrap().len(), 2, "nothing waits any more");
    let fresh = host.stage(&key, &spec(0o600), &Secret::new(b"KEY".to_vec())).await.unwrap();
    let error = host.swap_all(&[fresh, first]).await.expect_err("what waited is gone");
    assert_eq!(error.context_value("written"), Some("1"));
    assert_eq!(host.read(&key, 10).await.unwrap().expose(), b"KEY", "those before it are in place");
}

async fn staging_changes_nothing(host: &dyn Host, dir: &HostPath) {
    let path = at(dir, "web.key");
    let staged =
        host.stage(&path, &spec(0o600), &Secret::new(*b"first")).await.expect("a new file can be staged");
    assert_eq!(host.stat(&path).await.unwrap(), None, "staging does not create the destination");
    host.swap(&staged).await.expect("a staged file can be swapped in");
    let before = host.stat(&path).await.unwrap();

    let staged = host.stage(&path, &spec(0o644), &Secret::new(*b"second")).await.unwrap();
    assert_eq!(staged.destination, path);
    assert_eq!(staged.path.parent(), path.parent(), "a staged file is in the directory of its destination");
    assert!(
        staged.path.file_name().starts_with(".web.key.certctl-"),
        "its name says whose it is: {}",
        staged.path
    );
    assert_eq!(host.stat(&path).await.unwrap(), before, "the destination is as it was");
    assert_eq!(content(host, &path).await, b"first");
    assert_eq!(content(host, &staged.path).await, b"second");
    let other = host.stage(&path, &spec(0o644), &Secret::new(*b"third")).await.unwrap();
    assert_ne!(other.path, staged.path, "two staged files don't collide");
    host.remove(&staged.path).await.unwrap();
    host.remove(&other.path).await.unwrap();
    has_kind(host.swap(&staged).await, ErrorKind::NotFound);
    assert_eq!(content(host, &path).await, b"first", "a failed swap leaves the destination");

    let error = host.stage(dir, &spec(0o644), &Secret::new(*b"x")).await;
    has_kind(error, ErrorKind::Precondition);
    let error = host.stage(&at(dir, "absent/web.key"), &spec(0o644), &Secret::new(*b"x")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Precondition), "{error:?}");
    assert_eq!(error.context_value("step"), Some("stage"));
    assert!(error.context_value("file").is_some_and(|file| file.ends_with("absent/web.key")), "{error:?}");
    assert_eq!(names(host, dir).await, ["web.key"], "nothing is left behind");
}

async fn owner_and_mode_are_set(host: &dyn Host, dir: &HostPath) {
    let path = at(dir, "file");
    for mode in [0o600, 0o640, 0o644] {
        write(host, &path, mode, b"x").await;
        assert_eq!(host.stat(&path).await.unwrap().unwrap().mode, mode);
    }
    let own = host.stat(&path).await.unwrap().unwrap();
    let owner = if host.capabilities().owner { (54_321, 54_322) } else { (own.uid, own.gid) };
    let given = FileSpec { mode: 0o640, owner: Some(owner) };
    let staged = host.stage(&path, &given, &Secret::new(*b"y")).await.unwrap();
    host.swap(&staged).await.unwrap();
    let stat = host.stat(&path).await.unwrap().unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (owner.0, owner.1, 0o640));

    let copy = at(dir, "copy");
    host.copy(&path, &copy).await.unwrap();
    let copied = host.stat(&copy).await.unwrap().unwrap();
    assert_eq!((copied.uid, copied.gid, copied.mode), (stat.uid, stat.gid, stat.mode), "a copy keeps them");
    host.overwrite(&path, &Secret::new(*b"z")).await.unwrap();
    let written = host.stat(&path).await.unwrap().unwrap();
    assert_eq!(
        (written.uid, written.gid, written.mode),
        (stat.uid, stat.gid, stat.mode),
        "so does overwriting"
    );
}

async fn a_swap_is_atomic(host: Arc<dyn Host>, dir: &HostPath) {
    let path = at(dir, "web.crt");
    let versions = [vec![b'a'; 20_000], vec![b'b'; 9_000]];
    write(&*host, &path, 0o644, &versions[0]).await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (host, path, versions, done) = (host.clone(), path.clone(), versions.clone(), done.clone());
        async move {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let seen = host.read(&path, 1 << 20).await.expect("the file is there all the time");
                assert!(versions.iter().any(|version| *version == seen.expose()), "a reader saw a torn file");
                reads += 1;
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 1..=50 {
        write(&*host, &path, 0o644, &versions[round % 2]).await;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Relaxed);
    reader.await.expect("the reader saw only whole files");
    assert_eq!(names(&*host, dir).await, ["web.crt"]);
}

async fn overwriting_needs_a_file(host: &dyn Host, dir: &HostPath) {
    let path = at(dir, "file");
    has_kind(host.overwrite(&path, &Secret::new(*b"x")).await, ErrorKind::NotFound);
    assert_eq!(host.stat(&path).await.unwrap(), None, "overwriting creates nothing");
    write(host, &path, 0o600, b"a long content").await;
    host.overwrite(&path, &Secret::new(*b"short")).await.unwrap();
    assert_eq!(content(host, &path).await, b"short", "nothing of the longer content is left");
    host.overwrite(&path, &Secret::new(*b"longer again")).await.unwrap();
    assert_eq!(content(host, &path).await, b"longer again");
    has_kind(host.overwrite(dir, &Secret::new(*b"x")).await, ErrorKind::Precondition);
}

async fn copies_are_exclusive(host: &dyn Host, dir: &HostPath) {
    let (from, to) = (at(dir, "from"), at(dir, "to"));
    has_kind(host.copy(&from, &to).await, ErrorKind::NotFound);
    assert_eq!(host.stat(&to).await.unwrap(), None, "a copy that failed leaves nothing");
    let long = vec![b'c'; 200_000];
    write(host, &from, 0o600, &long).await;
    host.copy(&from, &to).await.unwrap();
    assert_eq!(content(host, &to).await, long);
    write(host, &from, 0o600, b"new").await;
    has_kind(host.copy(&from, &to).await, ErrorKind::Precondition);
    assert_eq!(content(host, &to).await, long, "what is there stays");
    has_kind(host.copy(dir, &at(dir, "other")).await, ErrorKind::Precondition);
}

async fn a_rename_replaces(host: &dyn Host, dir: &HostPath) {
    let (from, to) = (at(dir, "from"), at(dir, "to"));
    has_kind(host.rename(&from, &to).await, ErrorKind::NotFound);
    for text in ["one", "two"] {
        write(host, &from, 0o600, text.as_bytes()).await;
        host.rename(&from, &to).await.unwrap();
        assert_eq!(content(host, &to).await, text.as_bytes());
        assert_eq!(host.stat(&from).await.unwrap(), None);
    }
    let below = at(dir, "below");
    host.make_dir(&below).await.unwrap();
    has_kind(host.rename(&to, &below).await, ErrorKind::Precondition);
    host.rename(&to, &at(&below, "to")).await.unwrap();
    assert_eq!(content(host, &at(&below, "to")).await, b"two");
}

async fn directories_are_private(host: &dyn Host, dir: &HostPath) {
    let deep = at(dir, "a/b/c");
    host.make_dir(&deep).await.unwrap();
    host.make_dir(&deep).await.expect("a directory that is there is fine");
    for path in [at(dir, "a"), at(dir, "a/b"), deep.clone()] {
        let stat = host.stat(&path).await.unwrap().unwrap();
        assert_eq!((stat.kind, stat.mode), (FileKind::Directory, 0o700), "{path}");
    }
    write(host, &at(&deep, "z"), 0o600, b"").await;
    write(host, &at(&deep, "y"), 0o600, b"").await;
    assert_eq!(names(host, &deep).await, ["y", "z"], "entries come by name");
    has_kind(host.make_dir(&at(&deep, "y")).await, ErrorKind::Precondition);
    has_kind(host.make_dir(&at(&deep, "y/below")).await, ErrorKind::Precondition);
    let public = at(dir, "a/p/q");
    host.make_public_dir(&public).await.unwrap();
    host.make_public_dir(&public).await.expect("a directory that is there is fine");
    for (path, mode) in [(at(dir, "a"), 0o700), (at(dir, "a/p"), 0o755), (public, 0o755)] {
        let stat = host.stat(&path).await.unwrap().unwrap();
        assert_eq!((stat.kind, stat.mode), (FileKind::Directory, mode), "{path}");
    }
    has_kind(host.make_public_dir(&at(&deep, "y")).await, ErrorKind::Precondition);
}

async fn removing_is_idempotent(host: &dyn Host, dir: &HostPath) {
    let path = at(dir, "a/file");
    host.remove(&path).await.expect("what is not there is fine, nor its directory");
    host.make_dir(&path.parent()).await.unwrap();
    write(host, &path, 0o600, b"x").await;
    has_kind(host.remove(&path.parent()).await, ErrorKind::Precondition);
    assert_eq!(content(host, &path).await, b"x", "a directory with something in it stays");
    for _ in 0..2 {
        host.remove(&path).await.unwrap();
        assert_eq!(host.stat(&path).await.unwrap(), None);
    }
    host.remove(&path.parent()).await.unwrap();
    assert_eq!(names(host, dir).await, [""; 0]);
}

async fn reading_has_a_limit(host: &dyn Host, dir: &HostPath) {
    let path = at(dir, "file");
    has_kind(host.read(&path, 10).await, ErrorKind::NotFound);
    for bytes in [&b""[..], b"0123456789"] {
        write(host, &path, 0o600, bytes).await;
        assert_eq!(host.read(&path, 10).await.unwrap().expose(), bytes);
    }
    has_kind(host.read(&path, 9).await, ErrorKind::Precondition);
    has_kind(host.read(dir, 9).await, ErrorKind::Precondition);
}

async fn commands_run(host: &dyn Host) {
    let output = host.run(&command(&["true"])).await.unwrap();
    assert!(output.ok() && output.text.is_empty(), "{output:?}");
    let output = host.run(&command(&["false"])).await.expect("a non-zero exit is no error");
    assert_eq!(output.code, Some(1));

    let mut env = command(&["env"]);
    env.environment.insert("CERTCTL_TEST".into(), "a b $HOME".into());
    let text = host.run(&env).await.unwrap().text;
    let mut variables: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    variables.sort_unstable();
    let names: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["CERTCTL_TEST", "LANG", "PATH"], "a command sees no other environment");
    assert_eq!(variables[0].1, "a b $HOME", "no shell reads the values");

    let mut long = command(&["seq", "20000"]);
    long.output_cap = 100;
    let text = host.run(&long).await.unwrap().text;
    assert!(text.ends_with("19999\n20000\n"), "the end of the output is kept: {text:?}");
    assert!(text.len() <= 100, "and no more than the cap");

    let mut slow = command(&["sleep", "60"]);
    slow.deadline = Duration::from_millis(200);
    let killed = tokio::time::timeout(Duration::from_secs(30), host.run(&slow)).await;
    let error = killed.expect("the deadline is kept").unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    assert_eq!(error.context_value("step"), Some("run"));
    assert_eq!(error.context_value("command"), Some("sleep 60"));

    let error = host.run(&command(&["certctl-no-such-program", "x"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.message().contains("certctl-no-such-program"), "the error names the program: {error}");
    has_kind(host.run(&command(&[])).await, ErrorKind::Invalid);
}

async fn symlinks_are_followed(host: &dyn Host, dir: &HostPath) {
    let (real, link) = (at(dir, "real/web.crt"), at(dir, "link"));
    host.make_dir(&real.parent()).await.unwrap();
    let ln = |target: String, path: HostPath| async move {
        let made = host.run(&command(&["ln", "-s", &target, path.as_str()])).await.unwrap();
        assert!(made.ok(), "{made:?}");
    };
    ln("real/web.crt".into(), link.clone()).await;
    let stat = host.stat(&link).await.unwrap().expect("the symlink itself is there");
    assert_eq!(stat.kind, FileKind::Symlink);
    let resolved = host.real_path(&real).await.unwrap();
    assert_eq!(host.real_path(&link).await.unwrap(), resolved, "also where the file is absent");
    write(host, &resolved, 0o644, b"x").await;
    assert_eq!(host.real_path(&link).await.unwrap(), resolved);
    has_kind(host.read(&link, 10).await, ErrorKind::Precondition);
    has_kind(host.stage(&link, &spec(0o600), &Secret::new(*b"y")).await, ErrorKind::Precondition);

    ln(real.parent().to_string(), at(dir, "absolute")).await;
    assert_eq!(host.real_path(&at(dir, "absolute/web.crt")).await.unwrap(), resolved);
    ln("../real/web.crt".into(), at(dir, "real/up")).await;
    assert_eq!(host.real_path(&at(dir, "real/up")).await.unwrap(), resolved);
    ln("loop".into(), at(dir, "loop")).await;
    has_kind(host.real_path(&at(dir, "loop")).await, ErrorKind::Precondition);
    ln("absent/web.crt".into(), at(dir, "dangling")).await;
    has_kind(host.real_path(&at(dir, "dangling")).await, ErrorKind::Precondition);

    host.remove(&link).await.unwrap();
    assert_eq!(content(host, &resolved).await, b"x", "removing a symlink leaves what it leads to");
}

async fn connections_open(host: &dyn Host) {
    let deadline = Duration::from_secs(10);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
    });
    let mut io = host.connect(&endpoint, deadline).await.expect("somebody listens");
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    server.join().unwrap();
    // The listener is gone with its thread.
    has_kind(host.connect(&endpoint, deadline).await, ErrorKind::Unavailable);
}

async fn fresh(host: &dyn Host, dir: &HostPath, name: &str) -> HostPath {
    let dir = at(dir, name);
    host.make_dir(&dir).await.expect("a directory can be made");
    dir
}

async fn write(host: &dyn Host, path: &HostPath, mode: u32, bytes: &[u8]) {
    let staged = host.stage(path, &spec(mode), &Secret::new(bytes)).await.expect("a file can be staged");
    host.swap(&staged).await.expect("a staged file can be swapped in");
}

async fn content(host: &dyn Host, path: &HostPath) -> Vec<u8> {
    host.read(path, 1 << 20).await.expect("the file is there").expose().to_vec()
}

async fn names(host: &dyn Host, dir: &HostPath) -> Vec<String> {
    host.list(dir).await.unwrap().into_iter().map(|entry| entry.name.into()).collect()
}

fn at(dir: &HostPath, name: &str) -> HostPath {
    dir.join(name).unwrap()
}

fn spec(mode: u32) -> FileSpec {
    FileSpec { mode, owner: None }
}

fn command(argv: &[&str]) -> Command {
    Command::new(argv.iter().map(|&word| word.to_owned()).collect())
}

#[track_caller]
fn has_kind<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) {
    match result {
        Ok(value) => panic!("{kind:?} was expected, not {value:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error:?}"),
    }
}
