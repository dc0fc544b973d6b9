//! Deployments that fail on a real nginx: what was there before is in service again, whole, and the error says why.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use certctl::{
    Chain, Engine, ErrorKind, ErrorReport, Lifetime,
    connectors::TargetDeclaration,
    hosts::LocalHost,
    records::{Certificate, CertificateStatus, Deployment, DeploymentState, JobState, Probe},
    store::Stored,
    target::WriteMode,
    targets::Nginx as Config,
    testkit::host::{FaultHost, OneHost, When},
};

use crate::{
    server::{Nginx, assert_whole, has_nginx},
    world::{World, assert_active, assert_proved, deployment, me, web},
};

/// Asks this nginx, and does not wait long for what will not come.
pub fn probe(nginx: &Nginx) -> Probe {
    let endpoints = Some(vec![nginx.endpoint().parse().unwrap()]);
    Probe { endpoints, deadline: Lifetime::from(std::time::Duration::from_millis(700)), ..Probe::default() }
}

/// A certificate in service on a real nginx, and a renewal that goes wrong.
struct Scene {
    // Stopped before its directory goes.
    nginx: Nginx,
    world: World,
    config: Config,
    write: WriteMode,
    fault: Arc<FaultHost>,
    old: Chain,
}

impl Scene {
    /// With the first version in service.
    async fn new() -> Self {
        let world = World::new();
        let nginx = Nginx::new(&world.path("nginx"), &["web"]);
        nginx.put_old_pair("web").await;
        nginx.start();
        let config = nginx.config("web");
        let fault = Arc::new(FaultHost::new(Arc::new(LocalHost)));
        let old = nginx.served("web").await.unwrap();
        let mut scene = Self { world, nginx, config, write: WriteMode::Atomic, fault, old };
        let engine = scene.engine().await;
        assert_active(&engine.ensure(&me(), web()).await.unwrap());
        // What is proved to be served; a single connection might still meet an old worker.
        scene.old = assert_whole(&scene.nginx.cert("web"), &scene.nginx.key("web"));
        scene
    }

    /// A new process, with the configuration as it is now.
    async fn engine(&self) -> Engine {
        let mut home = self.world.home().await;
        home.hosts = Arc::new(OneHost(self.fault.clone()));
        let target =
            TargetDeclaration::from(self.config.clone()).probe_with(probe(&self.nginx)).write(self.write);
        let builder = Engine::builder(home).issuer("local", certctl::issuers::LocalCa::default());
        builder.target("web", target).build().await.unwrap()
    }

    /// Renews, and expects the deployment to fail: the old pair is whole, at rest and in service.
    async fn fails(&self, engine: &Engine) -> Failed {
        let failed = self.renew(engine).await;
        assert_eq!(failed.deployment.state, DeploymentState::Failed, "{:#?}", failed.error);
        self.assert_old().await;
        self.assert_tidy();
        failed
    }

    async fn renew(&self, engine: &Engine) -> Failed {
        let certificate = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
        assert_eq!(certificate.status, CertificateStatus::Partial, "{:?}", certificate.reason);
        let deployment = deployment(engine, &certificate).await;
        let error = deployment.error.clone().expect("the deployment says why it failed");
        assert_eq!(certificate.reason.as_ref(), Some(&error));
        let jobs = engine.jobs(&certificate.id).await.unwrap();
        let job = jobs.iter().find(|job| &*job.kind == "deploy" && !job.state.is_finished());
        let job = job.expect("the job waits for another try");
        assert_eq!(job.last_error.as_ref(), Some(&error), "the job says what happened");
        assert_eq!(context(&error, "target"), "web", "{error:#?}");
        assert_ne!(context(&error, "step"), "", "{error:#?}");
        let lost = deployment.state == DeploymentState::RollbackFailed;
        assert_eq!(job.state, if lost { JobState::Attention } else { JobState::Ready });
        // The old version is still the one in place, and its key is kept as well as the new one's.
        let versions = engine.versions(&certificate.id).await.unwrap();
        let old = versions.iter().find(|version| version.fingerprint == self.old.leaf().fingerprint());
        if let Some(old) = old {
            assert_eq!(deployment.current.as_ref(), Some(&old.id));
            assert!(!old.key_forgotten);
        }
        assert!(versions.iter().all(|version| version.certificate == certificate.id));
        Failed { certificate, deployment, error }
    }

    async fn assert_old(&self) {
        let at_rest = assert_whole(&self.nginx.cert("web"), &self.nginx.key("web"));
        assert_eq!(at_rest.leaf(), self.old.leaf(), "the old pair is in place");
        let served = self.nginx.served("web").await.expect("nginx is up");
        assert_eq!(served.leaf(), self.old.leaf(), "the old certificate is served");
    }

    #[track_caller]
    fn assert_tidy(&self) {
        assert_eq!(self.nginx.listing(), ["web.crt", "web.key"], "nothing is left behind");
    }

    /// What stood in the way is gone: the next `ensure` brings the new version in service.
    async fn mended(&self, engine: &Engine) {
        let certificate = engine.ensure(&me(), web()).await.unwrap();
        self.assert_new(engine, &certificate).await;
    }

    async fn assert_new(&self, engine: &Engine, certificate: &Certificate) {
        assert_active(certificate);
        assert_proved(&*deployment(engine, certificate).await);
        let at_rest = assert_whole(&self.nginx.cert("web"), &self.nginx.key("web"));
        assert_eq!(Some(at_rest.leaf().serial()), certificate.serial.as_ref());
        assert_ne!(at_rest.leaf(), self.old.leaf());
        let served = self.nginx.served("web").await.expect("nginx is up");
        assert_eq!(served.leaf(), at_rest.leaf());
        self.assert_tidy();
    }

    /// A check that takes the old certificate and no other.
    fn only_the_old(&self) -> String {
        let kept = self.nginx.dir.join("old.crt");
        fs::copy(self.nginx.cert("web"), &kept).unwrap();
        let compare = format!("cmp {} {}", self.nginx.cert("web").display(), kept.display());
        self.nginx.script("only-the-old", &compare)
    }

    /// nginx itself refuses any other certificate than the present one: another server wants its key.
    async fn pin(&self) {
        let dir = self.nginx.dir.display();
        fs::copy(self.nginx.key("web"), self.nginx.dir.join("pinned.key")).unwrap();
        let pinned = format!(
            "server {{ listen {} ssl; server_name pinned.test; ssl_certificate {dir}/tls/web.crt; \
             ssl_certificate_key {dir}/pinned.key; }}",
            self.nginx.endpoint()
        );
        self.nginx.configure(&["web"], &pinned);
        self.nginx.reload_until("web", self.old.leaf()).await;
    }
}

struct Failed {
    certificate: Stored<Certificate>,
    deployment: Stored<Deployment>,
    error: ErrorReport,
}

fn context<'a>(error: &'a ErrorReport, key: &str) -> &'a str {
    error.context.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
}

/// A file system mounted for one test.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], at: &Path) -> Self {
        let done = Command::new("mount").args(arguments).arg(at).status().unwrap();
        assert!(done.success(), "mount {arguments:?}");
        Self(at.to_owned())
    }

    /// An empty one in memory with room for so many blocks of 4 KiB, in the place of `dir` with all that is in it.
    fn of_blocks(count: u32, dir: &Path) -> Self {
        let files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.path(), fs::read(entry.path()).unwrap(), entry.metadata().unwrap().permissions())
            })
            .collect();
        let mount = Self::new(&["-t", "tmpfs", "-o", &format!("size={}k,mode=755", count * 4), "tmpfs"], dir);
        for (path, content, permissions) in files {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, permissions).unwrap();
        }
        mount
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether this test may mount; where it may not, the fault-injecting host stands in elsewhere.
fn may_mount() -> bool {
    let here = tempfile::tempdir().unwrap();
    let done = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(here.path()).output();
    let may = done.is_ok_and(|done| done.status.success());
    match may {
        true => drop(Mount(here.path().to_owned())),
        false => eprintln!("skipped: this user may not mount"),
    }
    may
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_refuses_the_new_pair() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    scene.pin().await;
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "validate");
    assert_eq!(context(&failed.error, "command"), scene.nginx.command("-t"));
    assert!(
        failed.error.message.contains("key values mismatch"),
        "what nginx said: {}",
        failed.error.message
    );

    scene.nginx.configure(&["web"], "");
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reload_fails() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.config.validate_command = "true".into();
    scene.pin().await;
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "reload");
    assert_eq!(context(&failed.error, "command"), scene.nginx.command("-s reload"));

    scene.nginx.configure(&["web"], "");
    scene.mended(&engine).await;
}

/// Reloads are asynchronous: the signal arrives, the exit code is 0, and nginx goes on with what it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reload_fails_and_says_that_it_went_well() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.config.validate_command = "true".into();
    let pid = scene.nginx.dir.join("nginx.pid");
    let hup = scene.nginx.script("hup", &format!("kill -HUP $(cat {})", pid.display()));
    scene.config.reload_command = hup.as_str().into();
    scene.pin().await;
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "prove");
    let serial = scene.old.leaf().serial().to_string();
    assert!(failed.error.message.contains(&serial), "it says what is served: {}", failed.error.message);
    assert!(failed.error.message.contains(&scene.nginx.endpoint()), "{}", failed.error.message);

    scene.nginx.configure(&["web"], "");
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reload_does_nothing() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.config.reload_command = "true".into();
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "prove");
    let proof = failed.deployment.proof.as_ref().unwrap();
    assert!(!proof.proved && proof.endpoints.len() == 1, "what was seen is kept: {proof:?}");
    drop(engine);

    scene.config = scene.nginx.config("web");
    scene.mended(&scene.engine().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_is_full() {
    if !has_nginx() || !may_mount() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    // Two blocks are the pair, two its snapshot, two what is staged.
    for (blocks, step, file) in [(3, "copy", "1"), (4, "stage", "web.crt"), (5, "stage", "web.key")] {
        let mount = Mount::of_blocks(blocks, &scene.nginx.tls());
        let inodes = inodes(&scene.nginx);
        let failed = match blocks {
            3 => scene.fails(&engine).await,
            _ => {
                let certificate = engine.ensure(&me(), web()).await.unwrap();
                assert_eq!(certificate.status, CertificateStatus::Partial);
                let deployment = deployment(&engine, &certificate).await;
                let error = deployment.error.clone().unwrap();
                Failed { certificate, deployment, error }
            }
        };
        assert_eq!(failed.deployment.state, DeploymentState::Failed);
        scene.assert_old().await;
        scene.assert_tidy();
        assert_eq!(context(&failed.error, "step"), step, "{blocks}: {:?}", failed.error);
        assert!(context(&failed.error, "file").ends_with(file), "{blocks}: {:?}", failed.error);
        assert!(failed.error.message.contains("full"), "{}", failed.error.message);
        assert_eq!(self::inodes(&scene.nginx), inodes, "{blocks}: nothing was replaced");
        assert_eq!(failed.certificate.status, CertificateStatus::Partial);
        drop(mount);
    }
    scene.mended(&engine).await;
}

fn inodes(nginx: &Nginx) -> [u64; 2] {
    [nginx.cert("web"), nginx.key("web")].map(|path| fs::metadata(path).unwrap().ino())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_read_only() {
    if !has_nginx() || !may_mount() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    let mount = Mount::of_blocks(64, &scene.nginx.tls());
    mount.remount("ro");
    let failed = scene.fails(&engine).await;
    assert_eq!(failed.error.kind, ErrorKind::Precondition);
    assert!(context(&failed.error, "file").starts_with(scene.nginx.tls().to_str().unwrap()));
    assert!(failed.error.message.contains("read-only"), "{}", failed.error.message);
    mount.remount("rw");
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlink_is_followed() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    let real = scene.nginx.dir.join("real");
    fs::create_dir(&real).unwrap();
    for (name, path) in [("a.crt", scene.nginx.cert("web")), ("a.key", scene.nginx.key("web"))] {
        fs::rename(&path, real.join(name)).unwrap();
        symlink(Path::new("../real").join(name), &path).unwrap();
    }
    let certificate = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
    scene.assert_new(&engine, &certificate).await;
    for path in [scene.nginx.cert("web"), scene.nginx.key("web")] {
        assert!(fs::symlink_metadata(path).unwrap().is_symlink(), "the symlink stays");
    }
    assert_eq!(fs::read_dir(&real).unwrap().count(), 2, "nothing is left where it leads to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_certbots_is_left_alone() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    let live = scene.nginx.dir.join("letsencrypt/live/web");
    fs::create_dir_all(&live).unwrap();
    let path = scene.nginx.cert("web");
    fs::rename(&path, live.join("fullchain.pem")).unwrap();
    symlink(live.join("fullchain.pem"), &path).unwrap();
    let failed = scene.fails(&engine).await;
    assert!(failed.error.message.contains("certbot"), "{}", failed.error.message);
    assert_eq!(context(&failed.error, "file"), path.to_str().unwrap());
    assert_eq!(fs::read_dir(&live).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlink_that_somebody_else_can_change_is_not_followed() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    let open = scene.nginx.dir.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let path = scene.nginx.key("web");
    fs::rename(&path, open.join("web.key")).unwrap();
    symlink(open.join("web.key"), &path).unwrap();
    let failed = scene.fails(&engine).await;
    assert!(failed.error.message.contains("others can write"), "{}", failed.error.message);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_the_place_of_a_file_is_refused() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    let path = scene.nginx.key("web");
    let aside = scene.nginx.dir.join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let failed = scene.renew(&engine).await;
    assert_eq!(failed.deployment.state, DeploymentState::Failed);
    assert_eq!(context(&failed.error, "file"), path.to_str().unwrap());
    assert!(failed.error.message.contains("is a directory"), "{}", failed.error.message);
    scene.assert_tidy();
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    scene.assert_old().await;
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bind_mounted_file_is_refused_unless_it_may_be_overwritten() {
    if !has_nginx() || !may_mount() {
        return;
    }
    let mut scene = Scene::new().await;
    let engine = scene.engine().await;
    let mut mounts = Vec::new();
    for path in [scene.nginx.cert("web"), scene.nginx.key("web")] {
        let outside = scene.nginx.dir.join(path.file_name().unwrap());
        fs::copy(&path, &outside).unwrap();
        mounts.push(Mount::new(&["--bind", outside.to_str().unwrap()], &path));
    }
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "file"), scene.nginx.cert("web").to_str().unwrap());
    assert!(failed.error.message.contains("in_place"), "the way out is named: {}", failed.error.message);
    drop(engine);

    scene.write = WriteMode::InPlace;
    let inodes = inodes(&scene.nginx);
    let engine = scene.engine().await;
    scene.mended(&engine).await;
    assert_eq!(self::inodes(&scene.nginx), inodes, "they are overwritten");
    let outside = scene.nginx.dir.join("web.crt");
    assert_eq!(fs::read(outside).unwrap(), fs::read(scene.nginx.cert("web")).unwrap());

    // And back again, where it fails.
    scene.old = scene.nginx.served("web").await.unwrap();
    scene.config.validate_command = scene.only_the_old().as_str().into();
    drop(engine);
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "validate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_was_broken_before_stays_untouched() {
    if !has_nginx() {
        return;
    }
    let scene = Scene::new().await;
    let engine = scene.engine().await;
    scene.nginx.configure(&["web"], "no_such_directive on;");
    let inodes = inodes(&scene.nginx);
    let failed = scene.fails(&engine).await;
    assert!(failed.error.message.contains("broken before this deployment"), "{}", failed.error.message);
    assert!(failed.error.message.contains("no_such_directive"), "{}", failed.error.message);
    assert_eq!(context(&failed.error, "step"), "validate");
    assert_eq!(self::inodes(&scene.nginx), inodes, "nothing was written");
    scene.nginx.configure(&["web"], "");
    scene.mended(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_its_reload_killed_is_started_with_the_old_pair() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    let pid = scene.nginx.pid().unwrap();
    scene.config.reload_command = scene.nginx.command("-s stop").as_str().into();
    scene.config.start_command = Some(scene.nginx.command("").as_str().into());
    let engine = scene.engine().await;
    let failed = scene.fails(&engine).await;
    assert_eq!(context(&failed.error, "step"), "prove");
    assert_ne!(scene.nginx.pid().unwrap(), pid, "it is another process");
    drop(engine);
    scene.config = scene.nginx.config("web");
    scene.mended(&scene.engine().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_its_reload_killed_is_missed_where_nothing_starts_it() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.config.reload_command = scene.nginx.command("-s stop").as_str().into();
    let engine = scene.engine().await;
    let failed = scene.renew(&engine).await;
    assert_eq!(failed.deployment.state, DeploymentState::RollbackFailed);
    assert!(failed.error.message.contains("the server is down"), "{}", failed.error.message);
    assert!(failed.error.message.contains("start_command"), "{}", failed.error.message);
    let at_rest = assert_whole(&scene.nginx.cert("web"), &scene.nginx.key("web"));
    assert_eq!(at_rest.leaf(), scene.old.leaf(), "the files are restored");
    // Whoever starts it gets the old one.
    scene.nginx.start();
    scene.assert_old().await;
    drop(engine);

    // A person has looked, and asks again.
    scene.config = scene.nginx.config("web");
    let engine = scene.engine().await;
    let certificate = engine.deploy(&me(), "web").await.unwrap().step().await.unwrap();
    scene.assert_new(&engine, &certificate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_fails_names_the_snapshot_and_keeps_it() {
    if !has_nginx() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.config.validate_command = scene.only_the_old().as_str().into();
    let pair = [scene.nginx.cert("web"), scene.nginx.key("web")].map(|path| fs::read(path).unwrap());
    scene.fault.fail_if(|operation| operation.name == "rename", When::Before, FaultHost::read_only());
    let engine = scene.engine().await;
    let failed = scene.renew(&engine).await;
    assert_eq!(failed.deployment.state, DeploymentState::RollbackFailed);
    let place = PathBuf::from(context(&failed.error, "snapshot"));
    assert!(failed.error.message.contains(place.to_str().unwrap()), "{}", failed.error.message);
    assert!(failed.error.message.contains("the rollback failed"), "{}", failed.error.message);
    assert_eq!(context(&failed.error, "step"), "validate", "what led there is still said");
    for (number, content) in pair.iter().enumerate() {
        assert_eq!(
            &fs::read(place.join(number.to_string())).unwrap(),
            content,
            "the snapshot has the old pair"
        );
    }
    let served = scene.nginx.served("web").await.expect("nginx is up");
    assert_eq!(served.leaf(), scene.old.leaf(), "it never read the new pair");
    assert_whole(&scene.nginx.cert("web"), &scene.nginx.key("web"));

    // Nobody takes it up by itself, nor does an `ensure`; asked for, it fails again, and still has its way back.
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_eq!(deployment(&engine, &certificate).await.state, DeploymentState::RollbackFailed);
    let again = engine.deploy(&me(), "web").await.unwrap().step().await.unwrap();
    assert_eq!(deployment(&engine, &again).await.state, DeploymentState::RollbackFailed);
    assert_eq!(
        fs::read(place.join("1")).unwrap(),
        pair[1],
        "the last copy of the old key is not thrown away"
    );

    // The way back is free again, though the way forward is not: the old pair comes back.
    scene.fault.reset();
    let again = engine.deploy(&me(), "web").await.unwrap().step().await.unwrap();
    assert_eq!(deployment(&engine, &again).await.state, DeploymentState::Failed);
    scene.assert_old().await;
    scene.assert_tidy();
    drop(engine);
    scene.config = scene.nginx.config("web");
    scene.mended(&scene.engine().await).await;
}

/// The first deployment of all: there is nothing to bring back but absence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_deployment_that_fails_leaves_nothing() {
    if !has_nginx() {
        return;
    }
    let world = World::new();
    let nginx = Nginx::new(&world.path("nginx"), &["web"]);
    let config = Config { validate_command: "false".into(), ..nginx.config("web") };
    let target = TargetDeclaration::from(config).probe_with(probe(&nginx));
    let engine = world.builder().await.target("web", target).build().await.unwrap();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Partial);
    let failed = deployment(&engine, &certificate).await;
    assert_eq!((failed.state, &failed.current), (DeploymentState::Failed, &None));
    assert_eq!(nginx.listing(), [""; 0]);
    drop(engine);

    let config = Config { start_command: Some(nginx.command("").as_str().into()), ..nginx.config("web") };
    let target = TargetDeclaration::from(config).probe_with(probe(&nginx));
    let engine = world.builder().await.target("web", target).build().await.unwrap();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    assert_proved(&*deployment(&engine, &certificate).await);
    assert_eq!(crate::world::version_count(&engine, &certificate).await, 1);
}
