//! Bad input: refused with the right kind, everything that is wrong at once, each with its place and what to do; and nothing
//! half-written.

use std::sync::Arc;

use certctl::{
    Actor, CertificateSpec, Csr, Engine, EngineBuilder, Error, ErrorKind, Home, KeyAlgorithm, Lifetime,
    PrivateKey, Role, SubjectAltName,
    connectors::{TargetConfigExt, read_config},
    hosts::LocalHosts,
    issuers::LocalCa,
    prelude::StoreExt,
    records::{Certificate, KINDS, Place, Probe, ProfileRecord},
    store::{MemoryStore, Query, Store},
    targets::{Files, Nginx},
};
use serde_json::json;

use crate::world::{World, me};

/// An engine in memory, and a directory that its target writes to.
struct Desk {
    world: World,
    store: MemoryStore,
    engine: Engine,
}

impl Desk {
    async fn new() -> Self {
        let world = World::new();
        let store = MemoryStore::default();
        let engine = builder(&store).issuer("local", LocalCa::default()).target("web", files(&world));
        let engine = engine.build().await.unwrap();
        Self { world, store, engine }
    }

    /// Tries to have this, in vain, and gives why.
    async fn refused(&self, spec: CertificateSpec) -> Error {
        self.refused_for(&me(), spec).await
    }

    async fn refused_for(&self, actor: &Actor, spec: CertificateSpec) -> Error {
        let before = dump(&self.store).await;
        let error = self.engine.ensure(actor, spec.clone()).await.expect_err(&format!("{spec:?} is refused"));
        let wanted = self.engine.want(actor, spec).await.expect_err("so is wanting it");
        assert_eq!(format!("{wanted:?}"), format!("{error:?}"));
        assert_eq!(dump(&self.store).await, before, "nothing is half-written");
        let written: Vec<_> = std::fs::read_dir(self.world.dir.path()).unwrap().collect();
        assert!(written.is_empty(), "the target is untouched: {written:?}");
        error
    }

    async fn assert_invalid(&self, spec: CertificateSpec, expected: &[&str]) {
        assert_invalid(&self.refused(spec).await, expected);
    }
}

fn builder(store: &MemoryStore) -> EngineBuilder {
    Engine::builder(Home {
        store: Arc::new(store.clone()),
        hosts: Arc::new(LocalHosts),
        connectors: certctl::connectors(),
        ..Home::in_memory()
    })
}

fn files(world: &World) -> Files {
    Files { cert_path: world.text("web.crt"), key_path: world.text("web.key"), ..Default::default() }
}

/// Every row of every table.
async fn dump(store: &MemoryStore) -> Vec<(&'static str, Box<str>, u64, String)> {
    let mut rows = Vec::new();
    for kind in KINDS {
        let query = Query { kind, limit: 10_000, ..Query::of::<Certificate>() };
        let Ok(page) = store.query(&query).await else { continue };
        rows.extend(page.rows.into_iter().map(|row| (kind.table, row.id, row.version, row.body)));
    }
    rows
}

/// In the order in which they are told, each with something to do.
#[track_caller]
fn assert_invalid(error: &Error, expected: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let pointers: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
    assert_eq!(pointers, expected, "{error:?}");
    for violation in error.violations() {
        assert!(!violation.message.is_empty() && !violation.remedy.is_empty(), "{violation:?}");
        assert!(error.message().contains(&violation.message), "the sentence tells each: {error}");
    }
}

fn good() -> CertificateSpec {
    CertificateSpec::new("web").dns("web.test").issuer("local").target("web")
}

#[tokio::test]
async fn names_that_are_none() {
    let desk = Desk::new().await;
    let named = |name: &str| CertificateSpec { names: Vec::new(), ..good() }.dns(name);
    for malformed in
        ["", "a b.test", "-a.test", "a..test", "*.*.test", "w*.test", "*", &"a.".repeat(150), "ü.test\n"]
    {
        desk.assert_invalid(named(malformed), &["/names/0"]).await;
    }
    // An address is not a DNS name, nor the other way round.
    for address in ["192.0.2.1", "2001:db8::1"] {
        let error = desk.refused(named(address)).await;
        assert_invalid(&error, &["/names/0"]);
        assert!(error.violations()[0].to_string().contains("IP"), "{error}");
    }
    desk.assert_invalid(good().ip("web.test"), &["/names/1"]).await;
    desk.assert_invalid(good().ip("192.0.2.256"), &["/names/1"]).await;
    desk.assert_invalid(good().san("admin@"), &["/names/1"]).await;
    desk.assert_invalid(good().san("http://"), &["/names/1"]).await;
    // None, too many, and one twice in another spelling.
    desk.assert_invalid(CertificateSpec::new("web").issuer("local"), &["/names"]).await;
    let many = (0..251).fold(CertificateSpec::new("web"), |spec, n| spec.dns(format!("{n}.test")));
    desk.assert_invalid(many, &["/names"]).await;
    desk.assert_invalid(good().dns("WEB.test").ip("::1").ip("0:0::1"), &["/names/1", "/names/3"]).await;
}

#[tokio::test]
async fn certificate_names_and_ids() {
    let desk = Desk::new().await;
    for name in ["", " web", "web\n", "mc-web", &"n".repeat(201)] {
        desk.assert_invalid(CertificateSpec { name: name.to_owned(), ..good() }, &["/name"]).await;
    }
    for id in ["", "web", "iss-web", "mc-", "mc-a b", "MC-web", &format!("mc-{}", "x".repeat(101))] {
        desk.assert_invalid(CertificateSpec { id: Some(id.to_owned()), ..good() }, &["/id"]).await;
    }
}

#[tokio::test]
async fn unknown_issuers_targets_and_profiles() {
    let desk = Desk::new().await;
    let spec = CertificateSpec {
        targets: vec!["web".into(), "gone".into(), "tgt-gone".into(), "tgt-a b".into()],
        profile: Some("short".into()),
        ..good().issuer("acme")
    };
    desk.assert_invalid(spec, &["/issuer", "/targets/1", "/targets/2", "/targets/3", "/profile"]).await;
    desk.assert_invalid(good().target("tgt-web"), &["/targets/1"]).await;
    // The issuer may be left out where there is one, and only there.
    let store = MemoryStore::default();
    let engine = builder(&store).build().await.unwrap();
    let nobody = engine.ensure(&me(), CertificateSpec::new("web").dns("web.test")).await.unwrap_err();
    assert_invalid(&nobody, &["/issuer"]);
    let engine = builder(&store).issuer("one", LocalCa::default()).issuer("two", LocalCa::default());
    let engine = engine.build().await.unwrap();
    let either = engine.ensure(&me(), CertificateSpec::new("web").dns("web.test")).await.unwrap_err();
    assert_invalid(&either, &["/issuer"]);
    // What names a certificate that is not there.
    assert_eq!(engine.renew(&me(), "web").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.deploy(&me(), "mc-web").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.plan(&me(), "web").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.certificate("web").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.find_by::<ProfileRecord>("name", "short".into()).await.unwrap().is_none());
}

#[tokio::test]
async fn absurd_lifetimes_and_shares() {
    let desk = Desk::new().await;
    for lifetime in [Lifetime::secs(0), Lifetime::secs(299), Lifetime::days(36_501)] {
        desk.assert_invalid(good().lifetime(lifetime), &["/lifetime"]).await;
    }
    for share in [0.0, 0.05, 0.96, 1.0, -1.0, f64::NAN, f64::INFINITY] {
        desk.assert_invalid(CertificateSpec { renew_at_share: Some(share), ..good() }, &["/renew_at_share"])
            .await;
    }
    for name in ["", "a\u{7}b", &"c".repeat(65)] {
        let spec = CertificateSpec { common_name: Some(name.to_owned()), ..good() };
        desk.assert_invalid(spec, &["/common_name"]).await;
    }
}

#[tokio::test]
async fn requests_that_prove_nothing() {
    let desk = Desk::new().await;
    let external = |csr: &str| CertificateSpec::new("ext").issuer("local").csr(csr);
    let good = request().await;
    desk.assert_invalid(external(&forged(&good)), &["/csr/signature"]).await;
    desk.assert_invalid(external(include_str!("weak.csr.pem")), &["/csr/public_key"]).await;
    desk.assert_invalid(external("no request"), &["/csr"]).await;
    desk.assert_invalid(external(""), &["/csr"]).await;
    let error = desk.refused(external(&format!("{}\n{good}", "#".repeat(Csr::MAX_LEN)))).await;
    assert_invalid(&error, &["/csr"]);
    assert!(error.message().len() < 1_000, "what is too long is not repeated");
    // Everything about its key is decided where the key is.
    let spec = CertificateSpec { reuse_key: true, ..external(&good) };
    desk.assert_invalid(
        spec.key_algorithm(KeyAlgorithm::Rsa2048).target("web"),
        &["/targets", "/reuse_key", "/key_algorithm"],
    )
    .await;
    desk.engine.ensure(&me(), external(&good)).await.expect("the request itself is good");
}

async fn request() -> String {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    Csr::create(&key, None, &[SubjectAltName::dns("ext.test").unwrap()]).await.unwrap().to_pem()
}

/// With another signature: one character in its middle is replaced.
fn forged(pem: &str) -> String {
    let end = pem.find("\n-----END").unwrap();
    let at = end - 24;
    let other = if &pem[at..=at] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &pem[..at], &pem[at + 1..])
}

#[tokio::test]
async fn all_of_it_at_once() {
    let desk = Desk::new().await;
    let spec = CertificateSpec {
        id: Some("iss-x".into()),
        common_name: Some(String::new()),
        renew_at_share: Some(2.0),
        ..CertificateSpec::new("mc-web")
    };
    let spec = spec.dns("10.0.0.1").ip("x").issuer("acme").target("gone").lifetime(Lifetime::secs(1));
    desk.assert_invalid(
        spec.csr("nonsense"),
        &[
            "/name",
            "/id",
            "/csr",
            "/names/0",
            "/names/1",
            "/common_name",
            "/issuer",
            "/targets/0",
            "/targets",
            "/lifetime",
            "/renew_at_share",
        ],
    )
    .await;
}

#[test]
fn a_spec_in_json() {
    let spec: CertificateSpec = read_config(&json!({
        "name": "web", "names": ["web.test", { "ip": "::1" }], "issuer": "local", "lifetime": "47d",
    }))
    .unwrap();
    assert_eq!(
        spec,
        CertificateSpec::new("web").san("web.test").ip("::1").issuer("local").lifetime(Lifetime::days(47))
    );
    let error = read_config::<CertificateSpec>(&json!({
        "name": ["web"], "names": [{ "dns": "web.test" }, { "dsn": "web.test" }, 3], "lifetime": "a while",
        "key_algorithm": "dsa", "tagrets": ["web"], "expected_version": 3,
    }))
    .unwrap_err();
    assert_invalid(
        &error,
        &["/expected_version", "/key_algorithm", "/lifetime", "/name", "/names/1", "/names/2", "/tagrets"],
    );
}

#[tokio::test]
async fn a_stale_version_and_a_taken_name() {
    let desk = Desk::new().await;
    let conflict = desk.refused(good().expect_version(3)).await;
    assert_eq!((conflict.kind(), conflict.context_value("version")), (ErrorKind::Conflict, Some("0")));

    let spec = || CertificateSpec::new("api").dns("api.test").issuer("local");
    let first = desk.engine.ensure(&me(), spec().expect_version(0)).await.unwrap();
    for stale in [0, first.version() - 1, first.version() + 1] {
        let conflict = desk.refused(spec().dns("other.test").expect_version(stale)).await;
        assert_eq!(conflict.kind(), ErrorKind::Conflict);
        assert!(conflict.message().contains("read it again"), "{conflict}");
        assert_eq!(conflict.context_value("version"), Some(&*first.version().to_string()));
    }
    // A new id does not take another one's name, nor does an old one.
    let other =
        CertificateSpec { id: Some("mc-other".into()), ..CertificateSpec::new("other").dns("o.test") };
    desk.engine.ensure(&me(), other).await.unwrap();
    for id in ["mc-new", "mc-other"] {
        let taken = desk.refused(CertificateSpec { id: Some(id.into()), ..spec() }).await;
        assert_eq!(taken.kind(), ErrorKind::Conflict);
        assert_eq!(taken.violations()[0].pointer, "/name");
        assert!(taken.message().contains(first.id.as_str()), "{taken}");
    }
    assert_eq!(desk.engine.certificate("api").await.unwrap().names.len(), 1, "it is as it was");
    desk.engine.ensure(&me(), spec().dns("more.test").expect_version(first.version())).await.unwrap();
}

#[tokio::test]
async fn who_may_not() {
    let desk = Desk::new().await;
    for role in [Role::Viewer, Role::Agent] {
        let somebody = Actor::new("somebody", role);
        // Not even what is wrong with it.
        for spec in [good(), CertificateSpec::new("mc-")] {
            let denied = desk.refused_for(&somebody, spec).await;
            assert_eq!(denied.kind(), ErrorKind::Denied, "{denied:?}");
            assert!(denied.message().contains("somebody"), "{denied}");
        }
        assert_eq!(desk.engine.renew(&somebody, "web").await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(desk.engine.deploy(&somebody, "web").await.unwrap_err().kind(), ErrorKind::Denied);
    }
    let agent = Actor::new("agent", Role::Agent);
    assert_eq!(desk.engine.plan(&agent, "web").await.unwrap_err().kind(), ErrorKind::Denied);
    let clerk = Actor::new("clerk", Role::Operator);
    desk.engine.ensure(&clerk, CertificateSpec::new("api").dns("api.test")).await.unwrap();
}

#[tokio::test]
async fn declarations_are_refused_together_and_leave_nothing() {
    let world = World::new();
    let store = MemoryStore::default();
    let error = builder(&store)
        .issuer("good", LocalCa::default())
        .issuer("bad", LocalCa { validity_days: 0, ca_common_name: String::new(), ..Default::default() })
        .issuer("iss-x", LocalCa::default())
        .issuer("good", LocalCa::default())
        .target(
            "web",
            Nginx { cert_path: "web.crt".into(), reload_command: "a | b".into(), ..Default::default() },
        )
        .target("a/b", Files::default().probe(["somewhere"]))
        .target("c", files(&world).probe_with(Probe { connections: 0, ..Default::default() }))
        .target("d", files(&world).place(Place::default()))
        .build()
        .await
        .unwrap_err();
    assert_invalid(
        &error,
        &[
            "/issuers/bad/ca_common_name",
            "/issuers/bad/validity_days",
            "/issuers/iss-x",
            "/issuers/good",
            "/targets/web/cert_path",
            "/targets/web/key_path",
            "/targets/web/reload_command",
            "/targets/a~1b/cert_path",
            "/targets/a~1b/key_path",
            "/targets/a~1b/probe/endpoints",
            "/targets/c/probe/connections",
        ],
    );
    let rows = dump(&store).await;
    assert!(rows.is_empty(), "{rows:?}");
}

#[test]
fn stored_configurations() {
    let connectors = certctl::connectors();
    let check = |config| connectors.target("nginx").unwrap().check(&config).unwrap_err();
    let paths = json!({ "cert_path": "/a", "key_path": "/b" });
    let with = |changes: serde_json::Value| {
        let mut config = paths.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    };
    assert_invalid(&check(with(json!({ "certpath": "/c", "reload": "x" }))), &["/certpath", "/reload"]);
    assert_invalid(
        &check(with(json!({ "cert_path": 7, "chain_path": ["/c"] }))),
        &["/cert_path", "/chain_path"],
    );
    assert_invalid(&check(json!({ "certpath": "/c" })), &["/certpath", "/cert_path", "/key_path"]);
    assert_invalid(
        &check(with(json!({ "key_path": "/etc/../b", "cert_path": "a\u{0}" }))),
        &["/cert_path", "/key_path"],
    );
    let mixed = json!({ "cert_path": "rel", "key_path": 7, "chain_path": "/tls/\nchain", "colour": "red" });
    assert_invalid(&check(mixed), &["/colour", "/key_path", "/cert_path", "/chain_path"]);

    let issuer = connectors.issuer("local").unwrap();
    let error =
        issuer.check(&json!({ "validity_days": "ninety", "key_algorithm": "dsa", "ca": 1 })).unwrap_err();
    assert_invalid(&error, &["/ca", "/key_algorithm", "/validity_days"]);
    assert_invalid(&connectors.target("ngnix").unwrap_err(), &["/kind"]);
    assert!(connectors.issuer("acme2").unwrap_err().violations()[0].remedy.contains("local"));
}
