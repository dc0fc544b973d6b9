//! What a server that was taken over asks for, and does not get.

use std::{os::unix::fs::symlink, path::Path, sync::Arc};

use certctl_agent::policy::{Guard, GuardedHost, Policy};
use certctl_connectors::hosts::LocalHost;
use certctl_core::{
    CommandLine, Error, ErrorKind, Secret, SecretRef,
    host::{Command, FileSpec, Host, HostPath},
    testkit::host::conformance,
};
use tempfile::TempDir;

const SPEC: FileSpec = FileSpec { mode: 0o600, owner: None };

fn path(dir: &Path, name: &str) -> HostPath {
    HostPath::parse(&dir.join(name).to_string_lossy()).unwrap()
}

/// `in/` is allowed, `out/` is not.
struct Dirs {
    dir: TempDir,
    host: GuardedHost,
}

impl Dirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("secret"), "old").unwrap();
        }
        let policy = Policy { paths: Some(vec![path(dir.path(), "in")]), ..Policy::default() };
        let guard = Guard::new(policy, Some("/etc/certctl/agent.toml".into()));
        Self { host: GuardedHost::new(Arc::new(LocalHost), Arc::new(guard)), dir }
    }

    fn path(&self, name: &str) -> HostPath {
        path(self.dir.path(), name)
    }

    /// Each operation that names this path, and what became of it.
    async fn everything(&self, at: &HostPath) -> Vec<(&'static str, Result<(), Error>)> {
        let (host, content) = (&self.host, Secret::new(*b"hostile"));
        let inside = self.path("in/other");
        let staged = |path: &HostPath, destination: &HostPath| certctl_core::host::Staged {
            path: path.clone(),
            destination: destination.clone(),
        };
        vec![
            ("stat", host.stat(at).await.map(drop)),
            ("real_path", host.real_path(at).await.map(drop)),
            ("list", host.list(at).await.map(drop)),
            ("read", host.read(at, 100).await.map(drop)),
            ("stage", host.stage(at, &SPEC, &content).await.map(drop)),
            ("swap from", host.swap(&staged(at, &inside)).await),
            ("swap to", host.swap(&staged(&inside, at)).await),
            ("swap_all", host.swap_all(&[staged(&inside, at)]).await),
            ("overwrite", host.overwrite(at, &content).await),
            ("copy from", host.copy(at, &inside).await),
            ("copy to", host.copy(&inside, at).await),
            ("keep in", host.keep(at, &[], true).await),
            ("keep", host.keep(&inside, std::slice::from_ref(at), true).await),
            ("remove_dir", host.remove_dir(at).await),
            ("rename from", host.rename(at, &inside).await),
            ("rename to", host.rename(&inside, at).await),
            ("make_dir", host.make_dir(at).await),
            ("make_public_dir", host.make_public_dir(at).await),
            ("remove", host.remove(at).await),
        ]
    }

    fn outside_is_untouched(&self) {
        let out = self.dir.path().join("out");
        assert_eq!(std::fs::read(out.join("secret")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(out).unwrap().count(), 1, "nothing came, and nothing went");
    }
}

#[tokio::test]
async fn a_host_within_its_roots_is_a_host() {
    let dirs = Dirs::new();
    conformance(Arc::new(dirs.host.clone()), &dirs.path("in")).await;
    dirs.outside_is_untouched();
}

#[tokio::test]
async fn no_operation_reaches_a_path_outside() {
    let dirs = Dirs::new();
    for outside in ["out/secret", "out", "out/new/below", "in-similar", "."] {
        let at = if outside == "." {
            HostPath::parse(&dirs.dir.path().to_string_lossy()).unwrap()
        } else {
            dirs.path(outside)
        };
        for (operation, result) in dirs.everything(&at).await {
            let error = result.expect_err(&format!("{operation} of {at} went through"));
            assert_eq!(error.kind(), ErrorKind::Denied, "{operation} of {at}: {error:?}");
        }
    }
    dirs.outside_is_untouched();
}

#[tokio::test]
async fn a_refusal_says_the_line_that_would_allow_it() {
    let dirs = Dirs::new();
    let error = dirs.host.read(&dirs.path("out/secret"), 100).await.unwrap_err();
    let line = error.context_value("allow").unwrap().to_owned();
    assert!(
        error.message().contains(&line) && error.message().contains("/etc/certctl/agent.toml"),
        "{error}"
    );

    // It is what it says it is.
    let policy: Policy = toml::from_str(&line).unwrap();
    let guard = Guard::new(policy, None);
    let host = GuardedHost::new(Arc::new(LocalHost), Arc::new(guard));
    assert_eq!(host.read(&dirs.path("out/secret"), 100).await.unwrap().expose(), b"old");
    assert_eq!(host.read(&dirs.path("in/secret"), 100).await.unwrap().expose(), b"old", "the others stay");
}

#[tokio::test]
async fn symlinks_do_not_lead_out() {
    let dirs = Dirs::new();
    symlink(dirs.dir.path().join("out"), dirs.dir.path().join("in/door")).unwrap();
    symlink("../out/secret", dirs.dir.path().join("in/link")).unwrap();
    symlink("../out/absent", dirs.dir.path().join("in/dangling")).unwrap();

    for (operation, result) in dirs.everything(&dirs.path("in/door/secret")).await {
        let error = result.expect_err(&format!("{operation} went through the door"));
        assert_eq!(error.kind(), ErrorKind::Denied, "{operation}: {error:?}");
    }
    for name in ["in/link", "in/dangling"] {
        // What is about the link itself stays within the root; what follows it does not.
        let follows = ["real_path", "list", "read", "stage", "overwrite", "copy from", "keep in", "make_dir"];
        let fresh = Dirs::new();
        for link in ["link", "dangling"] {
            let to = if link == "link" { "../out/secret" } else { "../out/absent" };
            symlink(to, fresh.dir.path().join("in").join(link)).unwrap();
        }
        for (operation, result) in fresh.everything(&fresh.path(name)).await {
            if follows.contains(&operation) {
                let error = result.expect_err(&format!("{operation} followed {name}"));
                assert_eq!(error.kind(), ErrorKind::Denied, "{operation}: {error:?}");
            }
        }
        fresh.outside_is_untouched();
    }
    dirs.outside_is_untouched();

    // Within the root they may lead where they like.
    symlink("secret", dirs.dir.path().join("in/alias")).unwrap();
    assert_eq!(dirs.host.real_path(&dirs.path("in/alias")).await.unwrap().file_name(), "secret");
}

#[tokio::test]
async fn a_root_may_be_a_symlink_itself() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("tls")).unwrap();
    let policy = Policy { paths: Some(vec![path(dir.path(), "tls")]), ..Policy::default() };
    let host = GuardedHost::new(Arc::new(LocalHost), Arc::new(Guard::new(policy, None)));
    let real = host.real_path(&path(dir.path(), "tls/web.crt")).await.unwrap();
    assert!(real.as_str().ends_with("/real/web.crt"), "{real}");
    let staged = host.stage(&real, &SPEC, &Secret::new(*b"new")).await.unwrap();
    host.swap(&staged).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("real/web.crt")).unwrap(), b"new");
}

#[tokio::test]
async fn only_the_exact_commands_run() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark").to_string_lossy().into_owned();
    let policy = Policy {
        commands: Some(vec![
            CommandLine::from("true now"),
            ["touch".to_owned(), mark.clone()].to_vec().into(),
        ]),
        ..Policy::default()
    };
    let host = GuardedHost::new(Arc::new(LocalHost), Arc::new(Guard::new(policy, None)));
    let run = async |argv: &[&str]| {
        host.run(&Command::new(argv.iter().map(|part| (*part).to_owned()).collect())).await
    };
    assert!(run(&["true", "now"]).await.unwrap().ok());
    let hostile: [&[&str]; 8] = [
        &["true"],
        &["true", "now", "then"],
        &["true now"],
        &["true", "now;", "touch", &mark],
        &["/bin/true", "now"],
        &["sh", "-c", "true now"],
        &["true", "now\n"],
        &["touch", "/etc/cron.d/x"],
    ];
    for argv in hostile {
        let error = run(argv).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{argv:?}: {error:?}");
        let wider: Policy = toml::from_str(error.context_value("allow").unwrap()).unwrap();
        let wanted = argv.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_eq!(wider.commands.unwrap().last().unwrap().argv().unwrap_or(wanted.clone()), wanted);
    }
    assert!(!Path::new(&mark).exists());
    assert!(run(&["touch", &mark]).await.unwrap().ok());
}

#[tokio::test]
async fn an_empty_list_allows_nothing_and_an_absent_one_everything() {
    let nothing: Policy = toml::from_str("kinds = []\npaths = []\ncommands = []").unwrap();
    let guard = Arc::new(Guard::new(nothing, None));
    assert_eq!(guard.kind("nginx").unwrap_err().context_value("allow"), Some(r#"kinds = ["nginx"]"#));
    let host = GuardedHost::new(Arc::new(LocalHost), guard);
    assert_eq!(host.stat(&HostPath::parse("/etc").unwrap()).await.unwrap_err().kind(), ErrorKind::Denied);
    let command = Command::new(vec!["true".to_owned()]);
    assert_eq!(host.run(&command).await.unwrap_err().kind(), ErrorKind::Denied);

    let guard = Arc::new(Guard::default());
    guard.kind("nginx").unwrap();
    let host = GuardedHost::new(Arc::new(LocalHost), guard);
    host.stat(&HostPath::parse("/etc").unwrap()).await.unwrap();
    assert!(host.run(&command).await.unwrap().ok());
}

#[tokio::test]
async fn the_agents_own_files_are_nobodys_business() {
    let dirs = Dirs::new();
    let own = dirs.dir.path().join("in/state");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("identity.key"), "key").unwrap();
    symlink("state", dirs.dir.path().join("in/alias")).unwrap();
    for policy in [Policy::default(), Policy { paths: Some(vec![dirs.path("in")]), ..Policy::default() }] {
        let guard = Arc::new(Guard::new(policy, None).close(&own).unwrap());
        let host = GuardedHost::new(Arc::new(LocalHost), guard.clone());
        for inside in ["in/state", "in/state/identity.key", "in/state/new", "in/alias/identity.key"] {
            let error = host.read(&dirs.path(inside), 100).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{inside}: {error:?}");
            assert_eq!(error.context_value("allow"), None, "no line would allow it");
            let error = host.stage(&dirs.path(inside), &SPEC, &Secret::new(*b"x")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{inside}: {error:?}");
            let reference = SecretRef::file(dirs.path(inside).as_str());
            assert_eq!(guard.secret(&reference).unwrap_err().kind(), ErrorKind::Denied, "{inside}");
        }
        host.read(&dirs.path("in/secret"), 100).await.unwrap();
    }
}

#[tokio::test]
async fn rules_that_were_named_by_a_relative_path_are_closed_as_well() {
    let guard = Arc::new(Guard::new(Policy::default(), None).close(Path::new("Cargo.toml")).unwrap());
    let host = GuardedHost::new(Arc::new(LocalHost), guard);
    let path = std::path::absolute("Cargo.toml").unwrap();
    let path = HostPath::parse(path.to_str().unwrap()).unwrap();
    assert_eq!(host.read(&path, 10_000).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn secrets_of_the_machine_have_to_be_listed_where_anything_is_restricted() {
    let free = Guard::default();
    free.secret(&SecretRef::env("F5_PASSWORD")).unwrap();
    free.secret(&SecretRef::file("/run/secrets/f5")).unwrap();
    assert_eq!(free.secret(&SecretRef::env("CERTCTL_ENROLL_TOKEN")).unwrap_err().kind(), ErrorKind::Denied);

    let policy: Policy = toml::from_str(r#"kinds = ["nginx"]"#).unwrap();
    let strict = Guard::new(policy, None);
    for reference in [SecretRef::env("F5_PASSWORD"), SecretRef::file("/run/secrets/f5")] {
        let error = strict.secret(&reference).unwrap_err();
        let line = error.context_value("allow").unwrap();
        let wider = Guard::new(toml::from_str(&format!("kinds = []\n{line}")).unwrap(), None);
        wider.secret(&reference).unwrap();
        assert!(wider.secret(&SecretRef::file("/etc/shadow")).is_err());
    }
    strict.secret(&SecretRef::Value(Secret::new(*b"x"))).unwrap();
}

#[test]
fn what_is_wrong_with_a_policy_is_said_with_its_place() {
    let policy: Policy =
        toml::from_str("commands = ['nginx -t; rm x']\nsecrets = ['run/x', 'env:', 'env:X']").unwrap();
    let pointers: Vec<String> = policy.check().into_iter().map(|wrong| wrong.pointer).collect();
    assert_eq!(pointers, ["/allow/commands/0", "/allow/secrets/0", "/allow/secrets/1"]);
    assert!(toml::from_str::<Policy>("path = ['/etc']").unwrap_err().message().contains("path"));
    assert!(toml::from_str::<Policy>("paths = ['etc/../x']").is_err());
}
