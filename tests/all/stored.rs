//! Issuers and targets that an operator stored.

use std::sync::Arc;

use certctl::{
    Actor, CertificateSpec, Engine, EngineBuilder, Error, ErrorKind, Home, Issuer, IssuerSpec, Lifetime,
    Role, TargetSpec,
    hosts::LocalHosts,
    issuers::LocalCa,
    prelude::StoreExt,
    records::{
        AuditEvent, CertificateStatus, DeploymentState, IssuerRecord, JobState, Place, Probe, TargetRecord,
    },
    store::{Query, Stored},
    targets::Files,
};
use serde_json::{Value, json};

use crate::world::{World, assert_active, me};

fn builder(home: &Home) -> EngineBuilder {
    Engine::builder(home.clone())
}

/// Where several engines live, one after the other: one store, one sealer, one set of keys.
fn home() -> Home {
    Home { hosts: Arc::new(LocalHosts), connectors: certctl::connectors(), ..Home::in_memory() }
}

fn files(world: &World) -> Value {
    json!({ "cert_path": world.text("web.crt"), "key_path": world.text("web.key") })
}

fn web() -> CertificateSpec {
    CertificateSpec::new("web").dns("web.test").issuer("ca").target("web")
}

#[track_caller]
fn assert_invalid(error: &Error, expected: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let pointers: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
    assert_eq!(pointers, expected, "{error:?}");
    assert!(error.violations().iter().all(|violation| !violation.remedy.is_empty()));
}

async fn actions(engine: &Engine, resource: &str) -> Vec<Box<str>> {
    let events: Vec<Stored<AuditEvent>> = engine.store().list_by("resource", resource.into()).await.unwrap();
    let mut events: Vec<AuditEvent> = events.into_iter().map(Stored::into_inner).collect();
    events.sort_by(|a, b| a.id.cmp(&b.id));
    events.into_iter().map(|event| event.action).collect()
}

#[tokio::test]
async fn a_life_with_nothing_declared() {
    let world = World::new();
    let store = home();
    let engine = builder(&store).build().await.unwrap();
    let issuer = IssuerSpec {
        id: Some("iss-house".into()),
        ..IssuerSpec::new("ca", "GenericCA", json!({ "validity_days": 30 }))
    };
    let issuer = engine.put_issuer(&me(), issuer).await.unwrap();
    assert_eq!((issuer.id.as_str(), &*issuer.name, &*issuer.kind), ("iss-house", "ca", "local"));
    let target = engine.put_target(&me(), TargetSpec::new("web", "Files", files(&world))).await.unwrap();
    assert!(target.id.as_str().starts_with("tgt-"));

    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    assert!(world.path("web.crt").exists() && world.path("web.key").exists());
    // By id as well.
    let by_id = CertificateSpec::new("api").dns("api.test").issuer("iss-house");
    assert_active(&engine.ensure(&me(), by_id).await.unwrap());
    assert_eq!(actions(&engine, "iss-house").await[0], "issuer.created".into());

    // Stored again as it is, nothing is written.
    let again = TargetSpec::new("web", "files", files(&world));
    assert_eq!(engine.put_target(&me(), again).await.unwrap().version(), target.version());
    assert_eq!(actions(&engine, target.id.as_str()).await, ["target.created".into()]);
}

#[tokio::test]
async fn a_changed_issuer_takes_effect_without_a_restart() {
    let store = home();
    let engine = builder(&store).build().await.unwrap();
    let days = |days: u32| IssuerSpec::new("ca", "local", json!({ "validity_days": days }));
    let first = engine.put_issuer(&me(), days(30)).await.unwrap();
    let lifetime = async |name: &str| {
        let spec = CertificateSpec::new(name).dns(format!("{name}.test")).issuer("ca");
        let certificate = engine.ensure(&me(), spec).await.unwrap();
        let version = engine.versions(&certificate.id).await.unwrap().remove(0);
        // A new CA's first certificates are not dated back as far as usual: they would begin before it.
        (version.not_after.since(version.not_before).as_secs_f64() / 86_400.0).round()
    };
    assert_eq!(lifetime("a").await, 30.0);
    // As another process on the same store would.
    let elsewhere = builder(&store).build().await.unwrap();
    let second = elsewhere.put_issuer(&me(), days(7).expect_version(first.version())).await.unwrap();
    assert_eq!(second.id, first.id);
    assert_eq!(lifetime("b").await, 7.0);
    assert_eq!(engine.trust_anchors("ca").await.unwrap().len(), 1);
    assert_eq!(actions(&engine, first.id.as_str()).await, ["issuer.created".into(), "issuer.changed".into()]);
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_below_its_field() {
    let engine = builder(&home()).build().await.unwrap();
    let spec = IssuerSpec {
        id: Some("tgt-x".into()),
        ..IssuerSpec::new(
            "iss-x",
            "local",
            json!({ "validity_days": 0, "ca_common_name": 7, "colour": "red" }),
        )
    };
    let error = engine.put_issuer(&me(), spec).await.unwrap_err();
    assert_invalid(
        &error,
        &["/name", "/id", "/config/ca_common_name", "/config/colour", "/config/validity_days"],
    );
    let error = engine.put_issuer(&me(), IssuerSpec::new("", "lcoal", Value::Null)).await.unwrap_err();
    assert_invalid(&error, &["/name", "/kind"]);
    assert!(error.violations()[1].remedy.contains("local"), "{error}");
    let error = engine.put_issuer(&me(), IssuerSpec::new("ca", "local", json!(["x"]))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);

    let place = Place { agent: Some("ag-one".parse_id()), host: None };
    let probe = Some(Probe { connections: 0, deadline: Lifetime::secs(0), ..Probe::default() });
    let spec = TargetSpec {
        place: place.into(),
        probe,
        ..TargetSpec::new("web", "nginx", json!({ "cert_path": "rel" }))
    };
    let error = engine.put_target(&me(), spec).await.unwrap_err();
    assert_invalid(
        &error,
        &["/probe/connections", "/probe/deadline", "/place/agent", "/config/cert_path", "/config/key_path"],
    );
    let place = Place { agent: None, host: Some("host-gone".parse_id()) };
    let spec = TargetSpec {
        place: place.into(),
        ..TargetSpec::new("web", "files", json!({ "combined_path": "/a" }))
    };
    assert_invalid(&engine.put_target(&me(), spec).await.unwrap_err(), &["/place/host"]);
    assert!(engine.store().list::<TargetRecord>(Query::of::<TargetRecord>()).await.unwrap().0.is_empty());
    assert!(engine.store().list::<IssuerRecord>(Query::of::<IssuerRecord>()).await.unwrap().0.is_empty());
}

trait ParseId<R> {
    fn parse_id(&self) -> certctl::Id<R>;
}

impl<R: certctl::Identified> ParseId<R> for str {
    fn parse_id(&self) -> certctl::Id<R> {
        certctl::Id::parse(self).unwrap()
    }
}

#[tokio::test]
async fn the_probe_of_the_original_is_read() {
    let engine = builder(&home()).build().await.unwrap();
    let nginx = |verify: Value| json!({ "cert_path": "/etc/nginx/web.crt", "key_path": "/etc/nginx/web.key", "post_deploy_verify": verify });
    let stored = async |verify| {
        let record = engine.put_target(&me(), TargetSpec::new("web", "NGINX", nginx(verify))).await.unwrap();
        assert_eq!(&*record.kind, "nginx");
        assert_eq!(record.config.as_ref().unwrap().get("post_deploy_verify"), None, "it is the record's");
        record.into_inner().probe
    };
    let given = stored(json!({ "enabled": true, "endpoint": "web.test:8443", "timeout": "30s" })).await;
    assert_eq!(given.endpoints, Some(vec!["web.test:8443".parse().unwrap()]));
    assert_eq!(given.deadline, Lifetime::secs(30));
    assert_eq!(stored(json!({ "enabled": false })).await.endpoints, Some(Vec::new()), "switched off");
    assert_eq!(stored(json!({ "timeout": "20s" })).await.endpoints, None, "the connector's own");

    let spec = |verify| TargetSpec::new("web", "nginx", nginx(verify));
    let error = engine
        .put_target(&me(), spec(json!({ "endpoint": "x", "timeout": 5, "on": true })))
        .await
        .unwrap_err();
    let below = |field: &str| format!("/config/post_deploy_verify/{field}");
    assert_invalid(&error, &[&below("endpoint"), &below("on"), &below("timeout")]);
    let error = engine.put_target(&me(), spec(json!({ "timeout": "1h" }))).await.unwrap_err();
    assert_invalid(&error, &[&below("timeout")]);
    let both = TargetSpec { probe: Some(Probe::default()), ..spec(json!({ "enabled": true })) };
    assert_invalid(&engine.put_target(&me(), both).await.unwrap_err(), &["/config/post_deploy_verify"]);
}

#[tokio::test]
async fn a_probe_may_stand_in_the_configuration() {
    let engine = builder(&home()).build().await.unwrap();
    let spec = |more: Value| {
        let mut config = json!({ "cert_path": "/etc/nginx/web.crt", "key_path": "/etc/nginx/web.key" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        TargetSpec::new("web", "nginx", config)
    };
    let addresses = engine.put_target(&me(), spec(json!({ "probe": ["127.0.0.1:443"] }))).await.unwrap();
    assert_eq!(addresses.probe.endpoints, Some(vec!["127.0.0.1:443".parse().unwrap()]));
    assert_eq!(addresses.config.as_ref().unwrap().get("probe"), None, "it is the record's");
    let whole = json!({ "probe": { "endpoints": ["web.test:8443"], "deadline": "30s" } });
    let whole = engine.put_target(&me(), spec(whole)).await.unwrap();
    assert_eq!(whole.probe.endpoints, Some(vec!["web.test:8443".parse().unwrap()]));
    assert_eq!(whole.probe.deadline, Lifetime::secs(30));

    for (probe, pointers) in [
        (json!(["x"]), vec!["/config/probe/0"]),
        (json!(true), vec!["/config/probe"]),
        (json!({ "deadline": "1h", "on": 1 }), vec!["/config/probe/deadline", "/config/probe/on"]),
        (json!({ "connections": 0 }), vec!["/config/probe/connections"]),
    ] {
        let error = engine.put_target(&me(), spec(json!({ "probe": probe }))).await.unwrap_err();
        let found: Vec<&str> = error.violations().iter().map(|violation| &*violation.pointer).collect();
        assert!(!found.is_empty() && found.iter().all(|found| pointers.contains(found)), "{error:?}");
    }
    let both = spec(json!({ "probe": [], "post_deploy_verify": {} }));
    assert_invalid(&engine.put_target(&me(), both).await.unwrap_err(), &["/config/post_deploy_verify"]);
}

#[tokio::test]
async fn stale_versions_taken_names_and_roles() {
    let engine = builder(&home()).build().await.unwrap();
    let ca = |name: &str| IssuerSpec::new(name, "local", json!({}));
    let first = engine.put_issuer(&me(), ca("ca").expect_version(0)).await.unwrap();
    engine.put_issuer(&me(), ca("other")).await.unwrap();
    for stale in [0, first.version() + 1] {
        let conflict = engine.put_issuer(&me(), ca("ca").expect_version(stale)).await.unwrap_err();
        assert_eq!(conflict.kind(), ErrorKind::Conflict);
        assert_eq!(conflict.context_value("version"), Some(&*first.version().to_string()));
    }
    let taken = IssuerSpec { id: Some(first.id.to_string()), ..ca("other") };
    let taken = engine.put_issuer(&me(), taken).await.unwrap_err();
    assert_eq!((taken.kind(), &*taken.violations()[0].pointer), (ErrorKind::Conflict, "/name"));
    // By its id it can be renamed.
    let renamed = IssuerSpec { id: Some(first.id.to_string()), ..ca("house") };
    assert_eq!(&*engine.put_issuer(&me(), renamed).await.unwrap().name, "house");

    for role in [Role::Operator, Role::Viewer, Role::Agent] {
        let somebody = Actor::new("somebody", role);
        let denied = [
            engine.put_issuer(&somebody, ca("x")).await.unwrap_err(),
            engine.put_target(&somebody, TargetSpec::new("x", "files", json!({}))).await.unwrap_err(),
            engine.delete_issuer(&somebody, "house").await.unwrap_err(),
            engine.delete_target(&somebody, "x").await.unwrap_err(),
        ];
        assert!(denied.iter().all(|error| error.kind() == ErrorKind::Denied), "{denied:?}");
    }
}

#[tokio::test]
async fn what_is_in_use_is_not_deleted() {
    let world = World::new();
    let engine = builder(&home()).build().await.unwrap();
    engine.put_issuer(&me(), IssuerSpec::new("ca", "local", json!({}))).await.unwrap();
    engine.put_issuer(&me(), IssuerSpec::new("spare", "local", json!({}))).await.unwrap();
    engine.put_target(&me(), TargetSpec::new("web", "files", files(&world))).await.unwrap();
    engine.ensure(&me(), web()).await.unwrap();
    for refused in [engine.delete_issuer(&me(), "ca").await, engine.delete_target(&me(), "web").await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(refused.message().contains("another one first"), "{refused}");
    }
    // Moved elsewhere, both go; what was deployed stays.
    engine.ensure(&me(), CertificateSpec::new("web").dns("web.test").issuer("spare")).await.unwrap();
    engine.delete_issuer(&me(), "ca").await.unwrap();
    engine.delete_target(&me(), "web").await.unwrap();
    assert!(world.path("web.crt").exists());
    assert_eq!(engine.delete_target(&me(), "web").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_code_comes_first_and_what_vanishes_asks_for_attention() {
    let world = World::new();
    let store = home();
    let target =
        Files { cert_path: world.text("web.crt"), key_path: world.text("web.key"), ..Default::default() };
    let engine =
        builder(&store).issuer("ca", LocalCa::default()).target("web", target).build().await.unwrap();
    let certificate = engine.ensure(&me(), web()).await.unwrap();
    assert_active(&certificate);
    let refused = [
        engine.put_issuer(&me(), IssuerSpec::new("ca", "local", json!({}))).await.map(drop).unwrap_err(),
        engine.put_target(&me(), TargetSpec::new("web", "files", files(&world))).await.map(drop).unwrap_err(),
        engine.delete_issuer(&me(), "ca").await.unwrap_err(),
        engine.delete_target(&me(), "web").await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error:?}");
        assert!(error.message().contains("code"), "{error}");
    }

    // The next program declares neither. What is served stays; jobs say what is missing.
    let engine = builder(&store).build().await.unwrap();
    let before = std::fs::read(world.path("web.crt")).unwrap();
    let renewed = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
    assert_eq!(renewed.status, CertificateStatus::Attention);
    let reason = renewed.reason.clone().unwrap();
    assert_eq!(reason.kind, ErrorKind::Precondition);
    assert!(reason.message.contains("ca was declared by a program"), "{reason:?}");
    assert_eq!(std::fs::read(world.path("web.crt")).unwrap(), before);
    let job = engine.jobs(&certificate.id).await.unwrap().remove(0);
    assert_eq!(job.state, JobState::Attention);

    // Stored under the same names, they are the same issuer and target.
    engine.put_issuer(&me(), IssuerSpec::new("ca", "local", json!({}))).await.unwrap();
    engine.put_target(&me(), TargetSpec::new("web", "files", files(&world))).await.unwrap();
    let mended = engine.retry(&me(), &job.id).await.unwrap().step().await.unwrap();
    assert_active(&mended);
    assert_ne!(std::fs::read(world.path("web.crt")).unwrap(), before);
}

#[tokio::test]
async fn a_target_that_vanishes_asks_for_attention() {
    let world = World::new();
    let store = home();
    let target =
        Files { cert_path: world.text("web.crt"), key_path: world.text("web.key"), ..Default::default() };
    let engine =
        builder(&store).issuer("ca", LocalCa::default()).target("web", target).build().await.unwrap();
    engine.ensure(&me(), web()).await.unwrap();
    let engine = builder(&store).issuer("ca", LocalCa::default()).build().await.unwrap();
    let certificate = engine.renew(&me(), "web").await.unwrap().step().await.unwrap();
    let deployment = crate::world::deployment(&engine, &certificate).await;
    assert_eq!(deployment.state, DeploymentState::Failed, "{certificate:?}");
    let error = deployment.error.clone().unwrap();
    assert!(error.message.contains("web was declared by a program"), "{error:?}");
    let jobs = engine.jobs(&certificate.id).await.unwrap();
    assert!(jobs.iter().any(|job| &*job.kind == "deploy" && job.state == JobState::Attention), "{jobs:?}");
}

#[tokio::test]
async fn a_stored_issuer_comes_back_when_code_no_longer_covers_it() {
    let store = home();
    let engine = builder(&store).build().await.unwrap();
    engine.put_issuer(&me(), IssuerSpec::new("ca", "local", json!({ "validity_days": 30 }))).await.unwrap();
    let clock = certctl::SystemClock;
    let capabilities = certctl::IssuerCapabilities::all(certctl::Recovery::Idempotent);
    let scripted: Arc<dyn Issuer> =
        certctl::testkit::issuer::ScriptedIssuer::new(certctl::Clock::now(&clock), capabilities).await;
    let engine = builder(&store).issuer("ca", scripted).build().await.unwrap();
    assert!(engine.trust_anchors("ca").await.is_ok());
    // Without the code, it is what was stored: kind and configuration belong together.
    let engine = builder(&store).build().await.unwrap();
    let issuer: Stored<IssuerRecord> = engine.store().resolve("ca").await.unwrap();
    assert_eq!((&*issuer.kind, issuer.config.clone()), ("local", Some(json!({ "validity_days": 30 }))));
    assert_active(&engine.ensure(&me(), CertificateSpec::new("a").dns("a.test").issuer("ca")).await.unwrap());
}
