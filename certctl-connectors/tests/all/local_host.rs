use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command as Program,
    sync::Arc,
    time::Duration,
};

use certctl_connectors::hosts::{LocalHost, LocalHosts};
use certctl_core::{
    Effect, Error, ErrorKind, Result, Secret,
    host::{Command, FileSpec, Host, HostPath, Hosts, Staged},
    testkit::host::conformance,
};
use rustix::{
    fs::{IFlags, XattrFlags, ioctl_getflags, ioctl_setflags, lgetxattr_query, lsetxattr},
    process::{Pid, test_kill_process},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance(Arc::new(LocalHost), &path(dir.path())).await;
}

#[tokio::test]
async fn remote_hosts_are_refused() {
    LocalHosts.host(None).await.unwrap();
    let error = LocalHosts.host(Some("host-a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("host-a"));
}

#[tokio::test]
async fn a_staged_file_is_private_until_it_is_dressed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.key");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let staged = stage(&file, 0o640).await.unwrap();
    let facts = fs::metadata(staged.path.as_str()).unwrap();
    assert_eq!(facts.mode() & 0o7777, 0o640);
    assert_eq!(facts.nlink(), 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
}

#[tokio::test]
async fn a_long_name_still_has_room_for_the_suffix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ü".repeat(127));
    let staged = stage(&file, 0o600).await.unwrap();
    LocalHost.swap(&staged).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
}

#[tokio::test]
async fn a_bind_mounted_file_is_seen_and_overwritten_but_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (source, file) = (dir.path().join("source"), dir.path().join("web.crt"));
    fs::write(&source, "old").unwrap();
    fs::write(&file, "below").unwrap();
    let Some(_mount) = Mount::new(&["--bind", source.to_str().unwrap()], &file) else { return };

    // The same file system, so that the device number tells nothing.
    assert_eq!(fs::metadata(&file).unwrap().dev(), fs::metadata(dir.path()).unwrap().dev());
    assert!(LocalHost.stat(&path(&file)).await.unwrap().unwrap().mount_point);
    assert!(!LocalHost.stat(&path(&source)).await.unwrap().unwrap().mount_point);
    let staged = stage(&file, 0o644).await.unwrap();
    let error = LocalHost.swap(&staged).await.unwrap_err();
    refused(&error, "swap", "busy", &file);
    LocalHost.remove(&staged.path).await.unwrap();
    LocalHost.overwrite(&path(&file), &Secret::new(*b"new")).await.unwrap();
    assert_eq!(fs::read_to_string(&source).unwrap(), "new");
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], dir.path()) else { return };
    let file = dir.path().join("web.crt");
    fs::write(&file, "old").unwrap();
    let big = Secret::new(vec![b'x'; 100 << 10]);
    let spec = FileSpec { mode: 0o644, owner: None };
    let error = LocalHost.stage(&path(&file), &spec, &big).await.unwrap_err();
    refused(&error, "stage", "disk_full", &file);
    assert_eq!(names(dir.path()), ["web.crt"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");

    // Room for one such file, not for its copy.
    fs::write(&file, vec![b'x'; 40 << 10]).unwrap();
    let copy = dir.path().join("copy");
    let error = LocalHost.copy(&path(&file), &path(&copy)).await.unwrap_err();
    refused(&error, "copy", "disk_full", &copy);
    assert_eq!(names(dir.path()), ["web.crt"]);
}

#[tokio::test]
async fn a_read_only_file_system_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.crt");
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "ro,size=64k", "tmpfs"], dir.path()) else { return };
    let error = stage(&file, 0o644).await.unwrap_err();
    refused(&error, "stage", "read_only", &file);
    let error = LocalHost.make_dir(&path(dir.path().join("below"))).await.unwrap_err();
    refused(&error, "make_dir", "read_only", &dir.path().join("below"));
}

#[tokio::test]
async fn a_directory_without_permission_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.crt");
    // Root may write everywhere, except where nobody may.
    let handle = fs::File::open(dir.path()).unwrap();
    let flags = if is_root() { ioctl_getflags(&handle) } else { Ok(IFlags::empty()) };
    if is_root() {
        let immutable = flags.and_then(|flags| ioctl_setflags(&handle, flags | IFlags::IMMUTABLE));
        if let Err(errno) = immutable {
            return skip("immutable directory", &errno.to_string());
        }
    } else {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    }
    let staged = stage(&file, 0o644).await;
    if is_root() {
        ioctl_setflags(&handle, flags.unwrap()).unwrap();
    } else {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
    refused(&staged.unwrap_err(), "stage", "permission", &file);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_is_no_regular_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    refused(&stage(&fifo, 0o644).await.unwrap_err(), "stage", "not_a_file", &fifo);
    // Opening it would wait for a writer.
    let error = LocalHost.read(&path(&fifo), 10).await.unwrap_err();
    refused(&error, "read", "not_a_file", &fifo);
    refused(&stage(dir.path(), 0o644).await.unwrap_err(), "stage", "is_a_directory", dir.path());
    let link = dir.path().join("link");
    symlink("elsewhere", &link).unwrap();
    refused(&stage(&link, 0o644).await.unwrap_err(), "stage", "symlink", &link);
    assert_eq!(names(dir.path()), ["fifo", "link"]);
}

#[tokio::test]
async fn extended_attributes_survive() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.crt");
    fs::write(&file, "old").unwrap();
    if let Err(errno) = lsetxattr(&file, "user.owner", b"web team", XattrFlags::empty()) {
        return skip("extended attributes", &errno.to_string());
    }
    lsetxattr(&file, "user.empty", b"", XattrFlags::empty()).unwrap();
    let staged = stage(&file, 0o644).await.unwrap();
    let copy = dir.path().join("copy");
    LocalHost.copy(&path(&file), &path(&copy)).await.unwrap();
    LocalHost.swap(&staged).await.unwrap();
    for file in [&file, &copy] {
        assert_eq!(attribute(file, "user.owner").unwrap(), b"web team");
        assert_eq!(attribute(file, "user.empty").unwrap(), b"");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
}

#[tokio::test]
async fn an_acl_survives_and_the_mode_narrows_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.key");
    fs::write(&file, "old").unwrap();
    // owner rw-, user 4242 r--, group r--, mask r--, other ---
    let acl = acl(&[(1, 6, NOBODY), (2, 4, 4_242), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
    if let Err(errno) = lsetxattr(&file, ACL, &acl, XattrFlags::empty()) {
        return skip("ACL", &errno.to_string());
    }
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    let staged = stage(&file, 0o640).await.unwrap();
    LocalHost.swap(&staged).await.unwrap();
    assert_eq!(attribute(&file, ACL).unwrap(), acl);

    let staged = stage(&file, 0o600).await.unwrap();
    LocalHost.swap(&staged).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "the mask shuts user 4242 out");
}

#[tokio::test]
async fn an_acl_of_the_directory_is_not_inherited_by_a_file_that_had_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.key");
    fs::write(&file, "old").unwrap();
    let default = acl(&[(1, 7, NOBODY), (2, 4, 4_242), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY)]);
    if let Err(errno) = lsetxattr(dir.path(), "system.posix_acl_default", &default, XattrFlags::empty()) {
        return skip("ACL", &errno.to_string());
    }
    let staged = stage(&file, 0o640).await.unwrap();
    LocalHost.swap(&staged).await.unwrap();
    assert!(attribute(&file, ACL).is_none());
}

#[tokio::test]
async fn an_attribute_that_cannot_be_kept_refuses_the_write() {
    let dir = tempfile::tempdir().unwrap();
    // A file system that knows trusted attributes but no user ones would do; ramfs has none, its bind mount some.
    let file = dir.path().join("web.crt");
    let source = tempfile::NamedTempFile::new().unwrap();
    if let Err(errno) = lsetxattr(source.path(), "user.owner", b"web", XattrFlags::empty()) {
        return skip("extended attributes", &errno.to_string());
    }
    let Some(_ramfs) = Mount::new(&["-t", "ramfs", "ramfs"], dir.path()) else { return };
    fs::write(&file, "below").unwrap();
    let Some(_mount) = Mount::new(&["--bind", source.path().to_str().unwrap()], &file) else { return };
    let error = stage(&file, 0o644).await.unwrap_err();
    refused(&error, "stage", "attribute", &file);
    assert_eq!(error.context_value("attribute"), Some("user.owner"));
    assert!(error.message().contains("user.owner"), "{error}");
    assert_eq!(names(dir.path()), ["web.crt"]);
}

#[tokio::test]
async fn a_symlink_through_a_directory_of_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (open, real) = (dir.path().join("open"), dir.path().join("real"));
    fs::create_dir(&open).unwrap();
    fs::create_dir(&real).unwrap();
    fs::write(real.join("web.crt"), "x").unwrap();
    symlink("../real/web.crt", open.join("link")).unwrap();
    let link = path(open.join("link"));
    for (mode, allowed) in [(0o755, true), (0o777, false), (0o775, true), (0o1777, true)] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        match LocalHost.real_path(&link).await {
            Ok(real_path) => {
                assert!(allowed, "mode {mode:o} must be refused");
                assert_eq!(real_path, path(fs::canonicalize(&real).unwrap().join("web.crt")));
            }
            Err(error) => {
                assert!(!allowed, "mode {mode:o} must be allowed: {error}");
                refused(&error, "real_path", "untrusted_directory", &open.join("link"));
                assert!(error.message().contains(open.to_str().unwrap()), "it names the directory: {error}");
            }
        }
    }

    // Where the symlink leads to matters as much; without a symlink nothing is asked.
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o757)).unwrap();
    let error = LocalHost.real_path(&link).await.unwrap_err();
    refused(&error, "real_path", "untrusted_directory", &open.join("link"));
    LocalHost.real_path(&path(real.join("web.crt"))).await.unwrap();
}

#[tokio::test]
async fn a_symlink_of_another_user_is_refused() {
    if !is_root() {
        return skip("symlink of another user", "only root can give one away");
    }
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(dir.path().join("web.crt"), "x").unwrap();
    let link = own.join("link");
    symlink("../web.crt", &link).unwrap();
    LocalHost.real_path(&path(&link)).await.unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::lchown(&link, Some(4_242), None).unwrap();
    let error = LocalHost.real_path(&path(&link)).await.unwrap_err();
    refused(&error, "real_path", "untrusted_directory", &link);
    std::os::unix::fs::lchown(&link, Some(0), None).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&own, Some(4_242), None).unwrap();
    let error = LocalHost.real_path(&path(&link)).await.unwrap_err();
    refused(&error, "real_path", "untrusted_directory", &link);
    std::os::unix::fs::chown(&own, Some(0), Some(4_242)).unwrap();
    LocalHost.real_path(&path(&link)).await.unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o775)).unwrap();
    let error = LocalHost.real_path(&path(&link)).await.unwrap_err();
    refused(&error, "real_path", "untrusted_directory", &link);
}

#[tokio::test]
async fn a_long_chain_of_symlinks_ends() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0"), "x").unwrap();
    for number in 1..=41 {
        symlink((number - 1).to_string(), dir.path().join(number.to_string())).unwrap();
    }
    LocalHost.real_path(&path(dir.path().join("40"))).await.unwrap();
    let error = LocalHost.real_path(&path(dir.path().join("41"))).await.unwrap_err();
    refused(&error, "real_path", "symlink", &dir.path().join("41"));
}

#[tokio::test]
async fn a_deadline_kills_the_whole_process_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let mut slow = command(&[
        "sh",
        "-c",
        "echo begun; sleep 600 & echo $! > $PID_FILE.new; mv $PID_FILE.new $PID_FILE; wait",
    ]);
    slow.environment.insert("PID_FILE".into(), pid_file.to_str().unwrap().into());
    slow.deadline = Duration::from_millis(250);
    // On a busy machine the shell may need longer to get so far.
    while !pid_file.exists() {
        slow.deadline *= 2;
        assert!(slow.deadline < Duration::from_secs(60), "the grandchild never began");
        let error = LocalHost.run(&slow).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown));
        if pid_file.exists() {
            assert_eq!(error.context_value("output"), Some("begun\n"));
        }
    }
    gone(&pid_file).await;
}

#[tokio::test]
async fn a_run_that_is_given_up_kills_its_process_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let mut slow =
        command(&["sh", "-c", "sleep 600 & echo $! > $PID_FILE.new; mv $PID_FILE.new $PID_FILE; wait"]);
    slow.environment.insert("PID_FILE".into(), pid_file.to_str().unwrap().into());
    let task = tokio::spawn(async move { LocalHost.run(&slow).await });
    until(|| pid_file.exists()).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    gone(&pid_file).await;
}

#[tokio::test]
async fn a_daemon_that_is_left_behind_does_not_hold_up_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    // It inherits the pipe, and goes on for ten minutes.
    let mut start = command(&["sh", "-c", "sleep 600 & echo $! > $PID_FILE; echo started; echo odd >&2"]);
    start.environment.insert("PID_FILE".into(), pid_file.to_str().unwrap().into());
    start.deadline = Duration::from_secs(300);
    let run = tokio::time::timeout(Duration::from_secs(60), LocalHost.run(&start)).await;
    let output = run.expect("it does not wait for the daemon").unwrap();
    assert_eq!((output.code, output.text.as_str()), (Some(0), "started\nodd\n"));

    let daemon = pid(&pid_file);
    test_kill_process(daemon).expect("the daemon lives on");
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_signal_is_no_exit_code_and_output_is_cut_between_characters() {
    let output = LocalHost.run(&command(&["sh", "-c", "kill -9 $$"])).await.unwrap();
    assert_eq!(output.code, None);
    assert!(!output.ok());
    let mut cut = command(&["printf", "aüüü"]);
    cut.output_cap = 5;
    assert_eq!(LocalHost.run(&cut).await.unwrap().text, "üü");
    cut.output_cap = 0;
    assert_eq!(LocalHost.run(&cut).await.unwrap().text, "");
}

#[tokio::test]
async fn arguments_pass_no_shell_and_a_program_must_be_runnable() {
    let output = LocalHost.run(&command(&["printf", "%s|", "a b", "$HOME", "; false", "*"])).await.unwrap();
    assert_eq!(output.text, "a b|$HOME|; false|*|");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = LocalHost.run(&command(&[file.path().to_str().unwrap()])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    let error = LocalHost.run(&command(&["printf", "a\0b"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert_eq!(LocalHost.run(&command(&["pwd"])).await.unwrap().text, "/\n");
}

#[tokio::test]
async fn a_connection_has_a_deadline_and_a_name_must_exist() {
    let error = LocalHost
        .connect(&"no-such-name.invalid:443".parse().unwrap(), Duration::from_secs(20))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.context_value("endpoint"), Some("no-such-name.invalid:443"));
    let error = LocalHost.connect(&"127.0.0.1:443".parse().unwrap(), Duration::ZERO).await;
    assert!(error.is_err());
}

#[tokio::test]
async fn keys_stay_out_of_errors() {
    let dir = tempfile::tempdir().unwrap();
    let spec = FileSpec { mode: 0o600, owner: None };
    let secret = Secret::new(*b"CANARY");
    let missing = path(dir.path().join("absent/web.key"));
    let error = LocalHost.stage(&missing, &spec, &secret).await.unwrap_err();
    assert!(!format!("{error:?} {:?}", error.report()).contains("CANARY"));
}

/// A mount that goes when it is dropped.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(what: &[&str], at: &'a Path) -> Option<Self> {
        #[allow(clippy::disallowed_methods)]
        let output = Program::new("mount").args(what).arg(at).output();
        match output {
            Ok(output) if output.status.success() => return Some(Self(at)),
            Ok(output) => skip("mount", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => skip("mount", &error.to_string()),
        }
        None
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        #[allow(clippy::disallowed_methods)]
        let _ = Program::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Says that a test could not be run; where everything must run, that is a failure.
fn skip(what: &str, why: &str) {
    eprintln!("skipped: {what}: {why}");
    #[allow(clippy::disallowed_methods)]
    let required = std::env::var_os("CERTCTL_TEST_REQUIRE_PEERS").is_some();
    assert!(!required, "{what} is required here: {why}");
}

const ACL: &str = "system.posix_acl_access";
const NOBODY: u32 = u32::MAX;

/// An ACL as Linux stores it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn attribute(file: &Path, name: &str) -> Option<Vec<u8>> {
    let size = lgetxattr_query(file, name).ok()?;
    let mut value = vec![0; size];
    if size > 0 {
        rustix::fs::lgetxattr(file, name, &mut value[..]).unwrap();
    }
    Some(value)
}

async fn stage(file: &Path, mode: u32) -> Result<Staged> {
    LocalHost.stage(&path(file), &FileSpec { mode, owner: None }, &Secret::new(*b"new")).await
}

#[track_caller]
fn refused(error: &Error, step: &str, reason: &str, file: &Path) {
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
    assert_eq!(error.context_value("step"), Some(step), "{error:?}");
    assert_eq!(error.context_value("reason"), Some(reason), "{error:?}");
    assert_eq!(error.context_value("file"), file.to_str(), "{error:?}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pid(file: &Path) -> Pid {
    Pid::from_raw(fs::read_to_string(file).unwrap().trim().parse().unwrap()).unwrap()
}

/// Waits until the process has ended; a zombie that nobody reaps has ended too.
pub(super) async fn gone(pid_file: &Path) {
    let pid = pid(pid_file);
    until(|| {
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        state.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
    })
    .await;
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        #[allow(clippy::disallowed_methods)]
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 10 s");
}

fn command(argv: &[&str]) -> Command {
    Command::new(argv.iter().map(|&word| word.to_owned()).collect())
}

fn path(path: impl AsRef<Path>) -> HostPath {
    HostPath::parse(path.as_ref().to_str().unwrap()).unwrap()
}
