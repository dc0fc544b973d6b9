//! Several targets of one certificate: those of one server reload together, and one that fails leaves the others alone.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use certctl::{
    CertificateSpec, Engine, Lifetime,
    connectors::TargetDeclaration,
    hosts::LocalHost,
    issuers::LocalCa,
    records::{Certificate, CertificateStatus, Deployment, DeploymentState, Probe, TargetRecord},
    store::Stored,
    testkit::host::{FaultHost, OneHost, When},
};

use crate::{
    server::{Nginx, assert_whole, has_nginx},
    world::{World, assert_active, me},
};

const NAMES: [&str; 3] = ["api", "mail", "web"];

/// One certificate on several targets.
struct Fleet {
    fault: Arc<FaultHost>,
    /// The server of each target: its name, and what its files are called.
    targets: Vec<(&'static str, Arc<Nginx>)>,
    /// Last: the servers are stopped by what lies in there.
    world: World,
}

impl Fleet {
    /// All on one server, and of one unit.
    async fn together() -> Self {
        let world = World::new();
        let nginx = Arc::new(Nginx::new(&world.path("nginx"), &NAMES));
        for name in NAMES {
            nginx.put_old_pair(name).await;
        }
        nginx.start();
        let targets = NAMES.map(|name| (name, nginx.clone())).to_vec();
        Self { world, fault: fault(), targets }
    }

    /// Each on a server of its own, on the same host.
    async fn apart() -> Self {
        let world = World::new();
        let mut targets = Vec::new();
        for name in ["mail", "web"] {
            let nginx = Nginx::new(&world.path(name), &[name]);
            nginx.put_old_pair(name).await;
            nginx.start();
            targets.push((name, Arc::new(nginx)));
        }
        Self { world, fault: fault(), targets }
    }

    async fn engine(&self) -> Engine {
        let mut home = self.world.home().await;
        home.hosts = Arc::new(OneHost(self.fault.clone()));
        let mut builder = Engine::builder(home).issuer("local", LocalCa::default());
        for (name, nginx) in &self.targets {
            let probe = Probe {
                endpoints: Some(vec![nginx.endpoint().parse().unwrap()]),
                deadline: Lifetime::from(Duration::from_millis(800)),
                ..Probe::default()
            };
            builder = builder.target(*name, TargetDeclaration::from(nginx.config(name)).probe_with(probe));
        }
        builder.build().await.unwrap()
    }

    fn spec(&self) -> CertificateSpec {
        self.targets.iter().fold(CertificateSpec::new("all").issuer("local"), |spec, (name, _)| {
            spec.dns(format!("{name}.test")).target(*name)
        })
    }

    async fn ensure(&self, engine: &Engine) -> Stored<Certificate> {
        self.fault.reset();
        engine.ensure(&me(), self.spec()).await.unwrap()
    }

    async fn renew(&self, engine: &Engine) -> Stored<Certificate> {
        engine.renew(&me(), "all").await.unwrap().step().await.unwrap()
    }

    /// How often a command that ends so was run.
    fn ran(&self, end: &str) -> usize {
        let operations = self.fault.operations();
        operations.iter().filter(|op| op.name == "run" && op.subject.ends_with(end)).count()
    }

    /// These, and only these, serve and hold this serial; the others another one. All pairs are whole, nothing is left.
    async fn assert_serial(&self, certificate: &Certificate, at: &[&str]) {
        for (name, nginx) in &self.targets {
            let at_rest = assert_whole(&nginx.cert(name), &nginx.key(name));
            let served = nginx.served(name).await.expect("nginx is up");
            assert_eq!(served.leaf(), at_rest.leaf(), "{name}");
            let is_new = Some(served.leaf().serial()) == certificate.serial.as_ref();
            assert_eq!(is_new, at.contains(name), "{name}");
            let hidden: Vec<_> = nginx.listing().into_iter().filter(|name| name.starts_with('.')).collect();
            assert!(hidden.is_empty(), "{hidden:?}");
        }
    }

    /// The deployments by target.
    async fn deployments(
        &self,
        engine: &Engine,
        certificate: &Certificate,
    ) -> BTreeMap<String, Stored<Deployment>> {
        let mut all = BTreeMap::new();
        for deployment in engine.deployments(&certificate.id).await.unwrap() {
            let target: Stored<TargetRecord> =
                certctl::store::StoreExt::read(engine.store(), &deployment.target).await.unwrap();
            all.insert(target.name.to_string(), deployment);
        }
        all
    }

    /// One failed, the others have the new version.
    async fn assert_only_culprit(&self, engine: &Engine, certificate: &Certificate, culprit: &str) {
        assert_eq!(certificate.status, CertificateStatus::Partial, "{:?}", certificate.reason);
        let well: Vec<&str> = self.targets.iter().map(|(name, _)| *name).filter(|n| *n != culprit).collect();
        self.assert_serial(certificate, &well).await;
        for (name, deployment) in self.deployments(engine, certificate).await {
            if name == culprit {
                assert_eq!(deployment.state, DeploymentState::Failed, "{name}");
                assert_ne!(deployment.current, deployment.wanted, "{name}");
                let error = deployment.error.as_ref().unwrap();
                assert!(error.context.contains(&("target".into(), culprit.into())), "{error:?}");
                assert_eq!(certificate.reason.as_ref(), Some(error));
            } else {
                assert_eq!(deployment.state, DeploymentState::Proved, "{name}: {:?}", deployment.error);
                assert_eq!(deployment.current, deployment.wanted, "{name}");
            }
        }
        let versions = engine.versions(&certificate.id).await.unwrap();
        let forgotten: Vec<_> = versions.iter().filter(|version| version.key_forgotten).collect();
        assert!(versions.len() >= 2 && forgotten.len() + 2 <= versions.len(), "both keys are kept");
        let in_use = self.deployments(engine, certificate).await;
        for version in forgotten {
            assert!(in_use.values().all(|deployment| deployment.current.as_ref() != Some(&version.id)));
        }
    }

    async fn assert_mended(&self, engine: &Engine) {
        let certificate = self.ensure(engine).await;
        assert_active(&certificate);
        let all: Vec<&str> = self.targets.iter().map(|(name, _)| *name).collect();
        self.assert_serial(&certificate, &all).await;
        for (name, deployment) in self.deployments(engine, &certificate).await {
            assert_eq!(deployment.state, DeploymentState::Proved, "{name}: {:?}", deployment.warnings);
        }
    }
}

fn fault() -> Arc<FaultHost> {
    Arc::new(FaultHost::new(Arc::new(LocalHost)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_reload_serves_all_of_a_unit() {
    if !has_nginx() {
        return;
    }
    let fleet = Fleet::together().await;
    let engine = fleet.engine().await;
    let certificate = fleet.ensure(&engine).await;
    assert_active(&certificate);
    fleet.assert_serial(&certificate, &NAMES).await;
    assert_eq!(fleet.ran("-s reload"), 1);

    fleet.fault.reset();
    let renewed = fleet.renew(&engine).await;
    assert_active(&renewed);
    fleet.assert_serial(&renewed, &NAMES).await;
    assert_eq!((fleet.ran("-t"), fleet.ran("-s reload")), (2, 1), "checked before and after, reloaded once");

    // Where all is in place, nothing is run.
    fleet.assert_mended(&engine).await;
    assert_eq!((fleet.ran("-t"), fleet.ran("-s reload")), (0, 0));
}

/// One that can't be written to is known before anything is written: the others go together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_refused_does_not_keep_the_others() {
    if !has_nginx() {
        return;
    }
    let fleet = Fleet::together().await;
    let engine = fleet.engine().await;
    assert_active(&*fleet.ensure(&engine).await);
    fleet.fault.reset();
    let refuses =
        |op: &certctl::testkit::host::Operation| op.name == "real_path" && op.subject.ends_with("mail.key");
    fleet.fault.fail_if(refuses, When::Before, FaultHost::read_only());
    let renewed = fleet.renew(&engine).await;
    fleet.assert_only_culprit(&engine, &renewed, "mail").await;
    assert_eq!(fleet.ran("-s reload"), 1);
    fleet.assert_mended(&engine).await;
}

/// One that can't be swapped in fails the batch: all of it is restored, and its members go one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_culprit_of_a_batch_is_found_and_rolled_back() {
    if !has_nginx() {
        return;
    }
    for culprit in NAMES {
        let fleet = Fleet::together().await;
        let engine = fleet.engine().await;
        assert_active(&*fleet.ensure(&engine).await);
        let end = format!("{culprit}.key");
        let breaks =
            move |op: &certctl::testkit::host::Operation| op.name == "swap" && op.subject.ends_with(&end);
        fleet.fault.fail_if(breaks, When::Before, FaultHost::read_only());
        let renewed = fleet.renew(&engine).await;
        fleet.assert_only_culprit(&engine, &renewed, culprit).await;

        // Again, with the others in place: only this one is tried.
        let again = engine.ensure(&me(), fleet.spec()).await.unwrap();
        fleet.assert_only_culprit(&engine, &again, culprit).await;
        fleet.assert_mended(&engine).await;
    }
}

/// nginx itself refuses one of the new pairs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_culprit_that_nginx_refuses_is_found_and_rolled_back() {
    if !has_nginx() {
        return;
    }
    let fleet = Fleet::together().await;
    let engine = fleet.engine().await;
    let nginx = fleet.targets[0].1.clone();
    assert_active(&*fleet.ensure(&engine).await);
    let pinned = nginx.dir.join("pinned.key");
    fs::copy(nginx.key("mail"), &pinned).unwrap();
    let server = format!(
        "server {{ listen {} ssl; server_name pinned.test; ssl_certificate {}; ssl_certificate_key {}; }}",
        nginx.endpoint(),
        nginx.cert("mail").display(),
        pinned.display()
    );
    nginx.configure(&NAMES, &server);
    let renewed = fleet.renew(&engine).await;
    fleet.assert_only_culprit(&engine, &renewed, "mail").await;

    nginx.configure(&NAMES, "");
    fleet.assert_mended(&engine).await;
}

/// Two servers on one host, of which the second fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_fails() {
    if !has_nginx() {
        return;
    }
    let fleet = Fleet::apart().await;
    let engine = fleet.engine().await;
    assert_active(&*fleet.ensure(&engine).await);
    let second = fleet.targets[1].1.clone();
    let end =
        format!("{}/nginx.conf -e {}/logs/start.log -s reload", second.dir.display(), second.dir.display());
    let breaks = move |op: &certctl::testkit::host::Operation| op.name == "run" && op.subject.ends_with(&end);
    fleet.fault.fail_if(breaks, When::Before, FaultHost::read_only());
    let renewed = fleet.renew(&engine).await;
    fleet.assert_only_culprit(&engine, &renewed, "web").await;

    let before = fs::metadata(fleet.targets[0].1.cert("mail")).unwrap();
    fleet.assert_mended(&engine).await;
    let after = fs::metadata(fleet.targets[0].1.cert("mail")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(before.ino(), after.ino(), "what is in place is left alone");

    // Once nothing has the old version any more, the next renewal's end destroys its key.
    assert_active(&*fleet.renew(&engine).await);
    let versions = engine.versions(&renewed.id).await.unwrap();
    assert_eq!(versions.len(), 3);
    assert_eq!(versions.iter().filter(|version| !version.key_forgotten).count(), 1);
}
