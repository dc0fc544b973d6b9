//! The targets that are files and commands, on this machine.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use certctl_connectors::{
    connectors,
    hosts::LocalHost,
    targets::{Files, Nginx},
};
use certctl_core::{
    Bundle, Context, Env, Error, ErrorKind, SubjectAltName, Target, WriteMode,
    connectors::{Site, TargetConfig, TargetDeclaration},
    testkit::{
        clock::TestClock,
        target::{bundles, conformance},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with an nginx target in it.
struct World {
    dir: TempDir,
    target: Arc<dyn Target>,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Nginx)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nginx = nginx(dir.path());
        change(&mut nginx);
        let target = nginx.connect(site()).unwrap();
        Self { dir, target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    async fn apply(&self, bundle: &Bundle) {
        self.target.apply(&context(), bundle).await.unwrap();
    }

    async fn refusal(&self, bundle: &Bundle) -> Error {
        let before = names(self.dir.path());
        let error = self.target.plan(&context(), bundle).await.unwrap_err();
        let applied = self.target.apply(&context(), bundle).await.unwrap_err();
        assert_eq!(applied.message(), error.message(), "the plan says what apply refuses");
        assert_eq!(names(self.dir.path()), before, "nothing was written");
        error
    }
}

fn nginx(dir: &Path) -> Nginx {
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Nginx {
        cert_path: at("web.crt"),
        chain_path: Some(at("chain.pem")),
        key_path: at("web.key"),
        validate_command: "true".into(),
        reload_command: "true".into(),
        start_command: None,
    }
}

fn site() -> Site {
    Site { env: Env::in_memory(), host: Arc::new(LocalHost), write: WriteMode::Atomic }
}

fn context() -> Context {
    Context::new(Arc::new(TestClock::default()))
}

async fn two_bundles() -> [Bundle; 2] {
    bundles(&[SubjectAltName::dns("www.example.com").unwrap()]).await
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn nginx_conforms() {
    let bundles = two_bundles().await;
    let world = World::new();
    conformance(&*world.target, &bundles).await;
    assert_eq!(names(world.dir.path()), ["chain.pem", "web.crt", "web.key"], "nothing else is left");
    let text = |name: &str| fs::read_to_string(world.path(name)).unwrap();
    let [_, new] = &bundles;
    assert_eq!(text("web.crt"), new.chain.to_pem(), "the whole chain");
    assert_eq!(text("chain.pem"), new.chain.issuers_pem(), "the chain alone");
    assert_eq!(text("web.key").as_bytes(), new.key.to_pem().expose());
    let modes = ["web.crt", "chain.pem", "web.key"].map(|name| mode(&world.path(name)));
    assert_eq!(modes, [0o644, 0o644, 0o600]);
}

#[tokio::test]
async fn files_conform() {
    let bundles = two_bundles().await;
    let shapes: [(&[&str], Value); 3] = [
        (&["tls.crt", "tls.key"], json!({ "cert_path": "tls.crt", "key_path": "tls.key" })),
        (&["all.pem"], json!({ "combined_path": "all.pem", "command": "true" })),
        (
            &["all.pem", "chain.pem", "tls.crt", "tls.key"],
            json!({
                "cert_path": "tls.crt", "key_path": "tls.key", "chain_path": "chain.pem",
                "combined_path": "all.pem", "command": ["true", "$x"], "validate_command": "true",
            }),
        ),
    ];
    for (expected, mut config) in shapes {
        let dir = tempfile::tempdir().unwrap();
        for (field, value) in config.as_object_mut().unwrap() {
            if field.ends_with("_path") {
                *value = dir.path().join(value.as_str().unwrap()).to_str().unwrap().into();
            }
        }
        let target = connectors().target("files").unwrap().connect(&config, site()).unwrap();
        conformance(&*target, &bundles).await;
        assert_eq!(names(dir.path()), expected, "nothing else is left");
        if expected.contains(&"all.pem") {
            assert_eq!(mode(&dir.path().join("all.pem")), 0o600, "there is a key in it");
        }
    }
}

#[tokio::test]
async fn owner_and_mode_survive_and_an_open_key_is_closed() {
    let [old, new] = two_bundles().await;
    let world = World::new();
    world.write("web.crt", old.chain.to_pem(), 0o664);
    world.write("web.key", old.key.to_pem().expose(), 0o644);
    let owner = if is_root() { (12_345, 54_321) } else { owner(&world.path("web.key")) };
    for name in ["web.crt", "web.key"] {
        chown(world.path(name), Some(owner.0), Some(owner.1)).unwrap();
    }
    let plan = world.target.plan(&context(), &new).await.unwrap();
    let key = plan.changes.iter().find(|change| change.what.ends_with("web.key")).unwrap();
    assert_eq!((key.mode_before.as_deref(), key.mode.as_deref()), (Some("0644"), Some("0600")));
    assert_eq!(key.owner.as_deref(), Some(&*format!("{}:{}", owner.0, owner.1)));
    assert_eq!(key.note.as_deref(), Some("the key was readable by others"));
    assert_eq!(plan.commands, ["true", "true"]);
    assert_eq!(mode(&world.path("web.key")), 0o644, "a plan touches nothing");

    world.apply(&new).await;
    assert_eq!(mode(&world.path("web.crt")), 0o664);
    assert_eq!(mode(&world.path("web.key")), 0o600);
    assert_eq!(owner_of_both(&world), [owner, owner]);
}

#[tokio::test]
async fn a_symlink_is_followed_and_stays() {
    let [bundle, _] = two_bundles().await;
    let world = World::new();
    fs::create_dir(world.path("real")).unwrap();
    symlink("real/www.crt", world.path("web.crt")).unwrap();
    world.apply(&bundle).await;
    assert!(world.path("web.crt").is_symlink());
    assert_eq!(fs::read_to_string(world.path("real/www.crt")).unwrap(), bundle.chain.to_pem());
}

#[tokio::test]
async fn certbots_directories_are_refused() {
    let [bundle, _] = two_bundles().await;
    let world = World::new();
    for dir in ["letsencrypt/live/www", "letsencrypt/archive/www"] {
        fs::create_dir_all(world.path(dir)).unwrap();
    }
    fs::write(world.path("letsencrypt/archive/www/cert1.pem"), "certbot's").unwrap();
    symlink("../../archive/www/cert1.pem", world.path("letsencrypt/live/www/cert.pem")).unwrap();
    symlink("letsencrypt/live/www/cert.pem", world.path("web.crt")).unwrap();
    let error = world.refusal(&bundle).await;
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("certbot"), "{error}");
    assert_eq!(error.context_value("file"), world.path("web.crt").to_str());
    assert_eq!(fs::read(world.path("letsencrypt/archive/www/cert1.pem")).unwrap(), b"certbot's");

    let direct = World::with(|nginx| {
        nginx.cert_path = world.path("letsencrypt/live/www/new.pem").to_str().unwrap().into();
    });
    assert!(direct.refusal(&bundle).await.message().contains("certbot"));
}

#[tokio::test]
async fn a_directory_and_a_missing_one_are_refused() {
    let [bundle, _] = two_bundles().await;
    let world = World::new();
    fs::create_dir(world.path("web.key")).unwrap();
    let error = world.refusal(&bundle).await;
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("is a directory"), "{error}");
    assert_eq!(error.context_value("step"), Some("plan"));
    assert_eq!(error.context_value("file"), world.path("web.key").to_str());

    let world = World::with(|nginx| nginx.key_path = nginx.key_path.replace("web.key", "missing/web.key"));
    let error = world.refusal(&bundle).await;
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("missing") && error.message().contains("create"), "{error}");
    assert_eq!(error.context_value("file"), world.path("missing/web.key").to_str());
}

#[tokio::test]
async fn what_a_killed_predecessor_staged_is_swept_away() {
    let [bundle, _] = two_bundles().await;
    let world = World::new();
    world.write(".web.key.certctl-0123456789abcdef", "an old key", 0o600);
    world.write(".web.key.swp", "an editor's", 0o600);
    world.write(".other.key.certctl-0123456789abcdef", "another target's", 0o600);
    world.apply(&bundle).await;
    assert_eq!(
        names(world.dir.path()),
        [".other.key.certctl-0123456789abcdef", ".web.key.swp", "chain.pem", "web.crt", "web.key"]
    );
}

#[tokio::test]
async fn a_failing_command_is_named_with_its_output() {
    let world = World::with(|nginx| {
        nginx.validate_command = "ls /does/not/exist".into();
        nginx.reload_command = "no-such-program-anywhere".into();
        nginx.start_command = Some("true".into());
    });
    let error = world.target.validate(&context()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("No such file or directory"), "{error}");
    assert_eq!(error.context_value("step"), Some("validate"));
    assert_eq!(error.context_value("command"), Some("ls /does/not/exist"));
    let error = world.target.reload(&context()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context_value("step"), Some("reload"));
    assert!(error.message().contains("no-such-program-anywhere; install it"), "{error}");
    assert!(world.target.start(&context()).await.unwrap());
}

#[tokio::test]
async fn servers_with_the_same_commands_reload_together() {
    let worlds = [World::new(), World::new()];
    assert_eq!(worlds[0].target.unit(), worlds[1].target.unit());
    assert!(worlds[0].target.unit().is_some());
    let other = World::with(|nginx| nginx.reload_command = "nginx -s reload".into());
    assert_ne!(other.target.unit(), worlds[0].target.unit());
    let files = Files { combined_path: Some("/srv/all.pem".into()), ..Files::default() };
    assert_eq!(files.connect(site()).unwrap().unit(), None, "nothing is reloaded");
}

#[test]
fn the_tables_know_both_by_name_and_alias() {
    let connectors = connectors();
    let nginx = connectors.target("NGINX").unwrap();
    assert_eq!(nginx.name, "nginx");
    assert_eq!(nginx.default_probe().iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:443"]);
    assert!(connectors.target("files").unwrap().default_probe().is_empty());
    for kind in ["nginx", "files"] {
        let schema = connectors.target(kind).unwrap().schema();
        let schema = schema.as_value();
        assert_eq!(schema["additionalProperties"], json!(false), "{kind}: unknown fields are refused");
        assert!(schema["properties"]["cert_path"]["description"].is_string(), "{kind}: {schema}");
    }
}

#[test]
fn the_seeds_configuration_is_read() {
    let config = json!({
        "cert_path": "/etc/nginx/certs/cert.pem",
        "chain_path": "/etc/nginx/certs/chain.pem",
        "key_path": "/etc/nginx/certs/key.pem",
        "reload_command": "systemctl reload nginx",
        "validate_command": "nginx -t"
    });
    let kind = *connectors().target("nginx").unwrap();
    kind.check(&config).unwrap();
    let read: Nginx = serde_json::from_value(config.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), config, "and written as it was");
    let short: Nginx = serde_json::from_value(json!({ "cert_path": "/a", "key_path": "/b" })).unwrap();
    assert_eq!(
        (short.reload_command, short.validate_command),
        ("systemctl reload nginx".into(), "nginx -t".into())
    );
    let target = kind.connect(&config, site()).unwrap();
    assert_eq!((target.kind(), &*target.address()), ("nginx", "/etc/nginx/certs/cert.pem"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let cases = [
        ("nginx", json!({}), vec!["/cert_path", "/key_path"]),
        (
            "nginx",
            json!({
                "cert_path": "web.crt", "key_path": "/etc/../web.key", "chain_path": "/etc/\nchain",
                "validate_command": "nginx -t; id", "reload_command": [], "start_command": "./start",
            }),
            vec![
                "/cert_path",
                "/chain_path",
                "/key_path",
                "/validate_command",
                "/reload_command",
                "/start_command",
            ],
        ),
        ("nginx", json!({ "cert_path": "/a", "key_path": "/a/" }), vec!["/key_path"]),
        ("nginx", json!({ "cert_path": "/a", "key_path": "/b", "chain_path": "/b" }), vec!["/key_path"]),
        (
            "nginx",
            json!({ "cert_path": "/", "key_path": "/b", "chain_path": "" }),
            vec!["/cert_path", "/chain_path"],
        ),
        ("nginx", json!({ "cert_path": "/a", "key_path": "/b", "certpath": "/c" }), vec!["/certpath"]),
        (
            "nginx",
            json!({ "cert_path": "/a", "key_path": "/b", "reload_command": 7 }),
            vec!["/reload_command"],
        ),
        ("files", json!({}), vec!["/cert_path", "/key_path"]),
        ("files", json!({ "chain_path": "/c" }), vec!["/cert_path", "/key_path"]),
        ("files", json!({ "cert_path": "/a" }), vec!["/key_path"]),
        ("files", json!({ "key_path": "/a", "combined_path": "/c" }), vec!["/cert_path"]),
        ("files", json!({ "combined_path": "c" }), vec!["/combined_path"]),
        (
            "files",
            json!({ "cert_path": "/a", "key_path": "/b", "combined_path": "/a", "command": "a | b" }),
            vec!["/combined_path", "/command"],
        ),
    ];
    for (kind, config, expected) in cases {
        let error = connectors().target(kind).unwrap().check(&config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let pointers: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
        assert_eq!(pointers, expected, "{kind} {config}");
        assert!(error.violations().iter().all(|violation| !violation.remedy.is_empty()), "{error}");
        let connected = connectors().target(kind).unwrap().connect(&config, site());
        assert_eq!(connected.unwrap_err().message(), error.message(), "nothing is built from it either");
    }
}

#[test]
fn a_program_declares_them_in_code() {
    let nginx = Nginx {
        cert_path: "/etc/nginx/tls/web.crt".into(),
        key_path: "/etc/nginx/tls/web.key".into(),
        ..Default::default()
    };
    assert_eq!(format!("{:?}", TargetDeclaration::from(nginx)), "TargetDeclaration(nginx)");
    let error = Nginx::default().connect(site()).unwrap_err();
    assert_eq!(error.violations().len(), 2, "whoever connects it directly is told as well");
}

fn owner(path: &Path) -> (u32, u32) {
    let facts = fs::metadata(path).unwrap();
    (facts.uid(), facts.gid())
}

fn owner_of_both(world: &World) -> [(u32, u32); 2] {
    ["web.crt", "web.key"].map(|name| owner(&world.path(name)))
}

/// Only root can give files away.
fn is_root() -> bool {
    owner(Path::new("/proc/self")).0 == 0
}
