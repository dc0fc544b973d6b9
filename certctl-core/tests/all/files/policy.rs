//! Which files the engine takes, with which owner and mode, and what it says about that.

use std::sync::Arc;

use certctl_core::{
    Error, ErrorKind, Target, WriteMode,
    host::{Command, Host, HostPath},
    target::{FileRole, Plan, PlannedChange},
    testkit::host::{FaultHost, MemoryHost},
};

use super::{Server, assert_holds, context, memory, two_bundles};

const PAIR: [(&str, FileRole); 2] = [("/tls/web.crt", FileRole::FullChain), ("/tls/web.key", FileRole::Key)];

#[tokio::test]
async fn a_plan_says_what_would_be_done_and_touches_nothing() {
    let [old, new] = two_bundles().await;
    let memory = memory();
    let host = Arc::new(FaultHost::new(Arc::new(memory.clone())));
    let target = Server::with(PAIR).on(host.clone(), WriteMode::Atomic);
    let change = |path: &str,
                  action: &str,
                  before: Option<&str>,
                  mode: &str,
                  owner: Option<&str>,
                  note: Option<&str>| {
        PlannedChange {
            what: path.into(),
            action: action.into(),
            mode_before: before.map(Into::into),
            mode: Some(mode.into()),
            owner: owner.map(Into::into),
            note: note.map(Into::into),
        }
    };
    let first = target.plan(&context(), &old).await.unwrap();
    let expected = Plan {
        old: None,
        new: Some(old.chain.leaf().fingerprint()),
        changes: vec![
            change("/tls/web.crt", "create", None, "0644", None, None),
            change("/tls/web.key", "create", None, "0600", None, None),
        ],
        commands: vec!["true".into(), "env".into()],
    };
    assert_eq!(first, expected);

    target.apply(&context(), &old).await.unwrap();
    memory.set_owner("/tls/web.crt", 0o640, 7, 8);
    memory.set_owner("/tls/web.key", 0o644, 33, 34);
    host.reset();
    let second = target.plan(&context(), &new).await.unwrap();
    let expected = Plan {
        old: Some(old.chain.leaf().fingerprint()),
        new: Some(new.chain.leaf().fingerprint()),
        changes: vec![
            change("/tls/web.crt", "replace", Some("0640"), "0640", Some("7:8"), None),
            change(
                "/tls/web.key",
                "replace",
                Some("0644"),
                "0600",
                Some("33:34"),
                Some("the key was readable by others"),
            ),
        ],
        commands: vec!["true".into(), "env".into()],
    };
    assert_eq!(second, expected);
    let looks = ["real_path", "stat", "read"];
    let operations = host.operations();
    assert!(operations.iter().all(|operation| looks.contains(&operation.name)), "{operations:?}");
    assert!(operations.len() <= 3 * PAIR.len(), "each file is looked at once: {operations:?}");

    // Right content, wrong mode.
    let third = target.plan(&context(), &old).await.unwrap();
    let actions: Vec<&str> = third.changes.iter().map(|change| change.action.as_str()).collect();
    assert_eq!(actions, ["set mode"], "the certificate is as it should be");
}

#[tokio::test]
async fn owner_and_mode_survive_but_an_open_key_is_closed() {
    let [old, new] = two_bundles().await;
    for (before, after) in [
        (0o600, 0o600),
        (0o400, 0o400),
        (0o640, 0o640),
        (0o660, 0o660),
        (0o644, 0o600),
        (0o604, 0o600),
        (0o666, 0o600),
        (0o602, 0o600),
    ] {
        for same_content in [true, false] {
            let memory = memory();
            let target = Server::with(PAIR).on(Arc::new(memory.clone()), WriteMode::Atomic);
            target.apply(&context(), &old).await.unwrap();
            memory.set_owner("/tls/web.crt", 0o664, 1, 2);
            memory.set_owner("/tls/web.key", before, 3, 4);
            target.apply(&context(), if same_content { &old } else { &new }).await.unwrap();
            assert_eq!(facts(&memory, "/tls/web.crt").await, (0o664, 1, 2));
            assert_eq!(facts(&memory, "/tls/web.key").await, (after, 3, 4), "{before:o} {same_content}");
            let plan = target.plan(&context(), if same_content { &old } else { &new }).await.unwrap();
            assert!(plan.changes.is_empty(), "{plan:?}");
        }
    }
}

#[tokio::test]
async fn a_restored_file_has_its_owner_and_mode_again() {
    let [old, new] = two_bundles().await;
    let memory = memory();
    let target = Server::with(PAIR).on(Arc::new(memory.clone()), WriteMode::Atomic);
    target.apply(&context(), &old).await.unwrap();
    memory.set_owner("/tls/web.key", 0o644, 3, 4);
    let snapshot = target.snapshot(&context(), "dep-1").await.unwrap();
    let dir = memory.stat(&HostPath::parse(&snapshot.place).unwrap()).await.unwrap().unwrap();
    assert_eq!(dir.mode, 0o700, "the copies are for nobody else");
    target.apply(&context(), &new).await.unwrap();
    target.restore(&context(), &snapshot).await.unwrap();
    assert_eq!(facts(&memory, "/tls/web.key").await, (0o644, 3, 4));
}

#[tokio::test]
async fn a_symlink_is_followed_and_stays() {
    let [old, new] = two_bundles().await;
    let memory = memory();
    memory.put_dir("/srv/versions");
    memory.symlink("/tls/web.crt", "/srv/versions/web.crt");
    memory.symlink("/tls/web.key", "../srv/versions/web.key");
    let target = Server::with(PAIR).on(Arc::new(memory.clone()), WriteMode::Atomic);
    for bundle in [&old, &new] {
        let plan = target.plan(&context(), bundle).await.unwrap();
        let notes: Vec<_> = plan.changes.iter().filter_map(|change| change.note.as_deref()).collect();
        assert_eq!(
            notes,
            ["a symlink leads to /srv/versions/web.crt", "a symlink leads to /srv/versions/web.key",]
        );
        let snapshot = target.snapshot(&context(), "dep-1").await.unwrap();
        assert_eq!(snapshot.place, "/srv/versions/.certctl-dep-1", "beside the real file");
        target.apply(&context(), bundle).await.unwrap();
        target.discard(&context(), &snapshot).await.unwrap();
        assert_holds(&target, bundle, "through symlinks").await;
    }
    assert_eq!(
        memory.files(),
        ["/srv/versions/web.crt", "/srv/versions/web.key", "/tls/web.crt", "/tls/web.key"]
    );
    assert_eq!(memory.content("/tls/web.crt"), None, "it is still a symlink");
}

#[tokio::test]
async fn what_is_not_ours_is_refused_before_anything_is_written() {
    let [bundle, _] = two_bundles().await;
    type Prepare = fn(&MemoryHost);
    let cases: [(&str, Prepare, &str, &str); 9] = [
        (
            "certbot",
            |m| m.symlink("/tls/web.crt", "/etc/letsencrypt/live/www/fullchain.pem"),
            "/tls/web.crt",
            "outside of live",
        ),
        (
            "certbot",
            |m| m.symlink("/tls/web.crt", "/etc/letsencrypt/archive/www/fullchain1.pem"),
            "/tls/web.crt",
            "certbot",
        ),
        (
            "not_a_file",
            |m| m.put_dir("/tls/web.crt"),
            "/tls/web.crt",
            "is a directory; give the path of a file",
        ),
        ("not_a_file", |m| m.put_dir("/tls/web.key"), "/tls/web.key", "is a directory"),
        ("same_file", |m| m.symlink("/tls/web.key", "web.crt"), "/tls/web.key", "give each its own"),
        (
            "untrusted_directory",
            |m| {
                m.put_dir("/tls/open");
                m.set_owner("/tls/open", 0o777, 0, 0);
                m.symlink("/tls/web.crt", "/tls/open/web.crt");
            },
            "/tls/web.crt",
            "others can write",
        ),
        (
            "mount_point",
            |m| {
                m.put("/tls/web.key", "");
                m.mount("/tls/web.key");
            },
            "/tls/web.key",
            "set write to in_place",
        ),
        ("absent", |m| m.symlink("/tls/web.key", "/nowhere/web.key"), "/tls/web.key", "not there"),
        ("symlink", |m| m.symlink("/tls/web.key", "web.key"), "/tls/web.key", "circle"),
    ];
    for (reason, prepare, file, says) in cases {
        let memory = memory();
        memory.put_dir("/etc/letsencrypt/live/www");
        memory.put_dir("/etc/letsencrypt/archive/www");
        prepare(&memory);
        let before = memory.files();
        let target = Server::with(PAIR).on(Arc::new(memory.clone()), WriteMode::Atomic);
        let errors = [
            target.plan(&context(), &bundle).await.unwrap_err(),
            target.snapshot(&context(), "dep-1").await.unwrap_err(),
            target.apply(&context(), &bundle).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
            assert_eq!(error.context_value("reason"), Some(reason), "{error:?}");
            assert_eq!(error.context_value("file"), Some(file), "{error:?}");
            assert!(error.context_value("step").is_some(), "{error:?}");
            assert!(error.message().contains(says), "{error:?} should say {says:?}");
        }
        assert_eq!(memory.files(), before, "{reason}: nothing was written");
    }
}

#[tokio::test]
async fn a_read_only_directory_is_refused_before_anything_is_written() {
    let [old, new] = two_bundles().await;
    let memory = memory();
    let server = Server::with([("/tls/web.crt", FileRole::FullChain), ("/keys/web.key", FileRole::Key)]);
    memory.put_dir("/keys");
    let target = server.on(Arc::new(memory.clone()), WriteMode::Atomic);
    target.apply(&context(), &old).await.unwrap();
    for (dir, file) in [("/keys", "/keys/web.key"), ("/tls", "/tls/web.crt")] {
        memory.set_owner(dir, 0o555, 0, 0);
        let error = target.apply(&context(), &new).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert_eq!(error.context_value("step"), Some("stage"), "{error:?}");
        assert_eq!(error.context_value("file"), Some(file), "{error:?}");
        assert_eq!(error.context_value("written"), Some("0"), "{error:?}");
        assert_holds(&target, &old, "nothing was written").await;
        assert_eq!(memory.files(), ["/keys/web.key", "/tls/web.crt"], "nothing is left");
    }
}

#[tokio::test]
async fn a_path_with_live_in_it_is_fine_outside_of_certbot() {
    let [bundle, _] = two_bundles().await;
    for path in ["/srv/live/web.crt", "/live/letsencrypt/web.crt", "/etc/letsencrypt/own/live"] {
        let memory = memory();
        memory.put_dir(HostPath::parse(path).unwrap().parent().as_str());
        let server = Server::with([(path, FileRole::FullChain), ("/tls/web.key", FileRole::Key)]);
        let target = server.on(Arc::new(memory), WriteMode::Atomic);
        target.apply(&context(), &bundle).await.unwrap();
    }
}

#[tokio::test]
async fn mounted_files_are_overwritten_in_place() {
    let [old, new] = two_bundles().await;
    let memory = memory();
    let target = Server::with(PAIR).on(Arc::new(memory.clone()), WriteMode::InPlace);
    target.apply(&context(), &old).await.unwrap();
    for (path, _) in PAIR {
        memory.mount(path);
    }
    let plan = target.plan(&context(), &new).await.unwrap();
    assert!(
        plan.changes.iter().all(|change| change.action == "overwrite" && change.note.is_some()),
        "{plan:?}"
    );
    let snapshot = target.snapshot(&context(), "dep-1").await.unwrap();
    target.apply(&context(), &new).await.unwrap();
    assert_holds(&target, &new, "in place").await;
    target.restore(&context(), &snapshot).await.unwrap();
    assert_holds(&target, &old, "restored in place").await;
    target.discard(&context(), &snapshot).await.unwrap();
    assert_eq!(memory.files(), ["/tls/web.crt", "/tls/web.key"]);

    memory.set_owner("/tls/web.key", 0o644, 0, 0);
    let error = target.plan(&context(), &new).await.unwrap_err();
    assert!(error.message().contains("chmod it to 0600"), "{error:?}");
}

#[tokio::test]
async fn a_regular_deployment_never_lists_a_directory_but_its_own() {
    let [old, new] = two_bundles().await;
    let host = Arc::new(FaultHost::new(Arc::new(memory())));
    let target = Server::with(PAIR).on(host.clone(), WriteMode::Atomic);
    for bundle in [&old, &new] {
        host.reset();
        target.plan(&context(), bundle).await.unwrap();
        let snapshot = target.snapshot(&context(), "dep-1").await.unwrap();
        target.apply(&context(), bundle).await.unwrap();
        target.discard(&context(), &snapshot).await.unwrap();
        let lists: Vec<String> =
            host.operations().iter().filter(|o| o.name == "list").map(ToString::to_string).collect();
        assert!(
            lists.iter().all(|list| list.contains(".certctl-dep-1")),
            "with 10,000 certificates in one directory, that is slow: {lists:?}"
        );
    }
}

#[tokio::test]
async fn only_files_that_differ_are_written() {
    let [old, _] = two_bundles().await;
    let memory = memory();
    let host = Arc::new(FaultHost::new(Arc::new(memory.clone())));
    let target = Server::default().on(host.clone(), WriteMode::Atomic);
    target.apply(&context(), &old).await.unwrap();
    memory.put("/tls/chain.pem", "something else");
    host.reset();
    target.apply(&context(), &old).await.unwrap();
    let written: Vec<String> = host
        .operations()
        .iter()
        .filter(|o| ["stage", "swap"].contains(&o.name))
        .map(ToString::to_string)
        .collect();
    assert_eq!(written, ["stage /tls/chain.pem", "swap /tls/chain.pem"]);
}

#[tokio::test]
async fn a_file_far_too_large_is_replaced_unread() {
    let [old, _] = two_bundles().await;
    let memory = memory();
    memory.put("/tls/web.crt", vec![b'x'; (1 << 20) + 1]);
    let target = Server::with(PAIR).on(Arc::new(memory), WriteMode::Atomic);
    let plan = target.plan(&context(), &old).await.unwrap();
    assert_eq!((plan.old, plan.changes.len()), (None, 2));
    target.apply(&context(), &old).await.unwrap();
    assert_holds(&target, &old, "replaced").await;
}

#[tokio::test]
async fn a_command_that_fails_says_what_it_printed() {
    let memory = memory();
    memory.on_run(|_, command| match command.argv[0].as_str() {
        "check" => Some(Ok(certctl_core::host::Output { code: Some(1), text: "unknown directive\n".into() })),
        "killed" => Some(Ok(certctl_core::host::Output { code: None, text: String::new() })),
        _ => None,
    });
    let command = |argv: &str| Some(Command::new(vec![argv.to_owned()]));
    let mut server = Server::with(PAIR);
    server.layout.validate = command("check");
    server.layout.reload = command("killed");
    server.layout.start = command("absent");
    let target = server.on(Arc::new(memory.clone()), WriteMode::Atomic);

    let error = target.validate(&context()).await.unwrap_err();
    assert_eq!(error.message(), "validate failed: `check` ended with exit code 1: unknown directive");
    assert_step(&error, ErrorKind::Precondition, "validate", "check");
    let error = target.reload(&context()).await.unwrap_err();
    assert_eq!(error.message(), "reload failed: `killed` ended with a signal: it printed nothing");
    assert_step(&error, ErrorKind::Precondition, "reload", "killed");
    let error = target.start(&context()).await.unwrap_err();
    assert_eq!(error.message(), "start failed: there is no program absent");
    assert_step(&error, ErrorKind::NotFound, "start", "absent");

    let quiet = Server::with(PAIR).on(Arc::new(memory), WriteMode::Atomic);
    assert!(!quiet.start(&context()).await.unwrap(), "there is no way to start it");
}

#[tokio::test]
async fn a_snapshots_name_cannot_leave_its_directory() {
    let target = Server::with(PAIR).on(Arc::new(memory()), WriteMode::Atomic);
    for name in ["", "../x", "a/b", "a\\b", "a\nb"] {
        let error = target.snapshot(&context(), name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
    }
}

async fn facts(memory: &MemoryHost, path: &str) -> (u32, u32, u32) {
    let stat = memory.stat(&HostPath::parse(path).unwrap()).await.unwrap().unwrap();
    (stat.mode, stat.uid, stat.gid)
}

fn assert_step(error: &Error, kind: ErrorKind, step: &str, command: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.context_value("step"), Some(step), "{error:?}");
    assert_eq!(error.context_value("command"), Some(command), "{error:?}");
}
