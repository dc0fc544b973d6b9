use certctl_core::{
    CertificateSpec, HostSpec, KeyAlgorithm, Lifetime, ProfileSpec,
    host::{Host, Hosts},
    records::{
        Certificate, CertificateStatus, HostRecord, IssuerRecord, Job, KeyPolicy, ProfileRecord, Version,
    },
    store::ColumnValue,
    testkit::host::MemoryHost,
};
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn records_are_read_by_those_who_may() {
    let world = World::new().await;
    let viewer = as_role(Role::Viewer);
    let certificate =
        world.engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test")).await.unwrap();
    assert_eq!(certificate.status, CertificateStatus::Active);
    for by in ["web", certificate.id.as_str()] {
        assert_eq!(world.engine.read::<Certificate>(&viewer, by).await.unwrap().id, certificate.id);
    }
    // Neither a name of what has no names, nor what can't be an id, is more than not found.
    assert_kind(world.engine.read::<Certificate>(&viewer, "mc-/../x").await, ErrorKind::NotFound);
    assert_kind(world.engine.read::<Certificate>(&viewer, "").await, ErrorKind::NotFound);
    for nobody in ["web", "", "job-", "job-x"] {
        assert_kind(world.engine.read::<Job>(&viewer, nobody).await, ErrorKind::NotFound);
    }
    let (versions, next) = world.engine.list::<Version>(&viewer, Query::of::<Version>()).await.unwrap();
    assert_eq!((versions.len(), next), (1, None));
    let counts = world.engine.counts::<Certificate>(&viewer, "status").await.unwrap();
    assert_eq!(counts, [(ColumnValue::from("active"), 1)]);
    // By action and by resource.
    let created =
        Query::of::<AuditEvent>().filter("action", certctl_core::store::Test::Equal, "certificate.created");
    let (events, _) = world.engine.list::<AuditEvent>(&viewer, created).await.unwrap();
    assert_eq!(&*events[0].resource, certificate.id.as_str());

    let agent = as_role(Role::Agent);
    assert_kind(world.engine.read::<Certificate>(&agent, "web").await, ErrorKind::Denied);
    assert_kind(world.engine.list::<Job>(&agent, Query::of::<Job>()).await, ErrorKind::Denied);
    assert_kind(world.engine.counts::<Job>(&agent, "state").await, ErrorKind::Denied);
    assert_kind(world.engine.export(&agent, "web").await, ErrorKind::Denied);
    let large = Query::of::<Job>().limit(Engine::MAX_PAGE + 1);
    assert_invalid(world.engine.list::<Job>(&viewer, large).await, &["/limit"]);
    assert_kind(world.engine.list::<Job>(&viewer, Query::of::<Version>()).await, ErrorKind::Internal);
}

#[tokio::test]
async fn the_newest_chain_is_exported_without_the_key() {
    let world = World::new().await;
    let certificate =
        world.engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test")).await.unwrap();
    world.pass(MINUTE);
    let renewed = world.engine.renew(&admin(), "web").await.unwrap().step().await.unwrap();
    assert_ne!(renewed.serial, certificate.serial);
    let chain = world.engine.export(&as_role(Role::Viewer), "web").await.unwrap();
    assert_eq!(Some(chain.leaf().serial()), renewed.serial.as_ref());
    assert!(!chain.to_pem().contains("PRIVATE"));
    assert_kind(world.engine.export(&admin(), "nobody").await, ErrorKind::NotFound);
    let _ = world.engine.want(&admin(), CertificateSpec::new("new").dns("new.test")).await.unwrap();
    assert_kind(world.engine.export(&admin(), "new").await, ErrorKind::Precondition);
}

#[tokio::test]
async fn a_server_issues_by_default_and_keeps_no_keys() {
    let world = World::new().await;
    let ca = async || -> Arc<dyn certctl_core::Issuer> {
        let capabilities = certctl_core::IssuerCapabilities::all(certctl_core::Recovery::Idempotent);
        let ca: Arc<dyn certctl_core::Issuer> = ScriptedIssuer::new(world.clock.now(), capabilities).await;
        ca
    };
    let builder =
        |default: &str| Engine::builder(world.home.clone()).default_issuer(default).keys_need_a_place();
    let engine =
        builder("iss-local").issuer("local", ca().await).issuer("other", ca().await).build().await.unwrap();
    let spec = CertificateSpec::new("web").dns("web.test");
    let error = assert_kind(engine.want(&admin(), spec.clone()).await, ErrorKind::Invalid);
    assert_eq!(error.violations().len(), 1);
    assert!(error.to_string().contains("targets") && error.to_string().contains("csr"), "{error}");

    let keys = MemoryKeys::default();
    let id = certctl_core::Id::<Key>::with_suffix("elsewhere");
    keys.create(&id, KeyAlgorithm::EcdsaP256).await.unwrap();
    let csr =
        certctl_core::Csr::create(&*keys.signer(&id).await.unwrap(), None, &["api.test".parse().unwrap()])
            .await
            .unwrap();
    let spec = CertificateSpec::new("api").csr(csr.to_pem());
    let api = engine.ensure(&admin(), spec.clone()).await.unwrap();
    assert_eq!(api.issuer.as_str(), "iss-local");
    // What is named wins, and a default that is not there is named in the refusal.
    let named = CertificateSpec { name: "api2".into(), ..spec.clone().issuer("other") };
    assert_eq!(engine.ensure(&admin(), named).await.unwrap().issuer.as_str(), "iss-other");
    let engine = builder("iss-nowhere").issuer("local", ca().await).build().await.unwrap();
    let error = assert_kind(engine.want(&admin(), spec).await, ErrorKind::Invalid);
    assert!(error.to_string().contains("iss-nowhere"), "{error}");
}

#[tokio::test]
async fn profiles_are_stored_used_and_forgotten() {
    let world = World::new().await;
    let spec = ProfileSpec {
        lifetime: Some(Lifetime::days(7)),
        key_algorithm: Some(KeyAlgorithm::EcdsaP384),
        ..ProfileSpec::new("short")
    };
    let stored = world.engine.put_profile(&admin(), spec.clone()).await.unwrap();
    let again = world.engine.put_profile(&admin(), spec.clone()).await.unwrap();
    assert_eq!((again.version(), &again.id), (stored.version(), &stored.id));
    let stale = ProfileSpec { expected_version: Some(7), ..spec.clone() };
    assert_kind(world.engine.put_profile(&admin(), stale).await, ErrorKind::Conflict);
    let bad = ProfileSpec {
        id: Some("iss-x".into()),
        lifetime: Some(Lifetime::secs(1)),
        ..ProfileSpec::new("prof-x")
    };
    assert_invalid(world.engine.put_profile(&admin(), bad).await, &["/name", "/id", "/lifetime"]);
    assert_kind(world.engine.put_profile(&as_role(Role::Operator), spec).await, ErrorKind::Denied);

    let wanted =
        CertificateSpec { profile: Some("short".into()), ..CertificateSpec::new("web").dns("web.test") };
    let web = world.engine.ensure(&admin(), wanted.clone()).await.unwrap();
    assert_eq!(web.key, KeyPolicy::Made { algorithm: KeyAlgorithm::EcdsaP384, reuse_key: false });
    let lifetime = world.engine.export(&admin(), "web").await.unwrap();
    assert_eq!(lifetime.leaf().public_key().unwrap().kind(), KeyAlgorithm::EcdsaP384.kind());
    // The certificate's own word wins.
    let own = wanted.key_algorithm(KeyAlgorithm::EcdsaP256);
    let own = world.engine.ensure(&admin(), CertificateSpec { name: "own".into(), ..own }).await.unwrap();
    assert_eq!(own.key, KeyPolicy::Made { algorithm: KeyAlgorithm::EcdsaP256, reuse_key: false });

    let error = assert_kind(world.engine.delete_profile(&admin(), "short").await, ErrorKind::Precondition);
    assert!(error.to_string().contains("the certificate"), "{error}");
    world.engine.put_profile(&admin(), ProfileSpec::new("unused")).await.unwrap();
    world.engine.delete_profile(&admin(), "unused").await.unwrap();
    assert_kind(world.engine.read::<ProfileRecord>(&admin(), "unused").await, ErrorKind::NotFound);
}

#[tokio::test]
async fn hosts_are_those_that_the_program_reaches() {
    let world = World::new().await;
    let spec = |kind: &str| HostSpec::new("db", kind, json!({ "address": "db.test" }));
    assert_invalid(world.engine.put_host(&admin(), spec("ssh")).await, &["/kind"]);

    let home = Home { hosts: Arc::new(Reached), ..world.home.clone() };
    let engine = Engine::builder(home).clock(Arc::new(world.clock.clone())).build().await.unwrap();
    let host = engine.put_host(&admin(), spec("memory")).await.unwrap();
    assert!(host.id.as_str().starts_with("host-"));
    let bad = HostSpec { config: json!({}), ..spec("memory") };
    assert_invalid(engine.put_host(&admin(), bad).await, &["/config/address"]);
    assert_kind(engine.put_host(&as_role(Role::Viewer), spec("memory")).await, ErrorKind::Denied);
    assert_eq!(engine.read::<HostRecord>(&admin(), "db").await.unwrap().config["address"], "db.test");
    engine.delete_host(&admin(), "db").await.unwrap();
    assert_kind(engine.delete_host(&admin(), "db").await, ErrorKind::NotFound);
}

#[tokio::test]
async fn an_issuer_that_is_used_stays() {
    let world = World::new().await;
    world.engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test")).await.unwrap();
    // As stored by an operator, and not declared by this program.
    let engine = Engine::builder(world.home.clone()).build().await.unwrap();
    let error = assert_kind(engine.delete_issuer(&admin(), "ca").await, ErrorKind::Precondition);
    assert!(error.to_string().contains("the certificate web"), "{error}");
    assert!(engine.read::<IssuerRecord>(&admin(), "ca").await.is_ok());
}

/// Hosts in memory, all of which are the same.
#[derive(Debug)]
struct Reached;

#[async_trait::async_trait]
impl Hosts for Reached {
    async fn host(&self, _: Option<&str>) -> Result<Arc<dyn Host>> {
        Ok(Arc::new(MemoryHost::default()))
    }

    fn check(&self, kind: &str, config: &Value) -> Result<()> {
        match (kind, config.get("address")) {
            ("memory", Some(_)) => Ok(()),
            ("memory", None) => Err(Error::invalid_field("/config/address", "there is none", "give one")),
            _ => Err(Error::invalid_field("/kind", "it is another kind", "use memory")),
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_deleted_takes_its_key_and_its_jobs_along() {
    let world = World::new().await;
    let certificate =
        world.engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test")).await.unwrap();
    let id = certificate.id.clone();
    let version = world.engine.versions(&id).await.unwrap().remove(0);
    let key = version.key.clone().unwrap();
    world.home.keys.export(&key).await.unwrap();
    let delete =
        async |actor: Actor, expected| world.engine.delete_certificate(&actor, "web", expected).await;
    assert_kind(delete(as_role(Role::Viewer), None).await, ErrorKind::Denied);
    let stale = assert_kind(delete(admin(), Some(certificate.version() + 1)).await, ErrorKind::Conflict);
    assert_eq!(stale.context_value("reason"), Some("version"));
    world.home.keys.export(&key).await.unwrap();

    delete(as_role(Role::Operator), Some(certificate.version())).await.unwrap();
    assert_kind(world.engine.certificate("web").await, ErrorKind::NotFound);
    assert_kind(delete(admin(), None).await, ErrorKind::NotFound);
    // The name is free, and what was issued stays recorded.
    let again = world.engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test")).await.unwrap();
    assert_ne!(again.id, id);
    assert_eq!(world.engine.versions(&id).await.unwrap().len(), 1);
    let actions = world.actions(id.as_str()).await;
    assert_eq!(actions.iter().filter(|event| &*event.action == "certificate.deleted").count(), 1);
    // The job that destroys the key is stepped by the loop.
    let forgotten = async || world.home.keys.export(&key).await.is_err();
    let running = world.engine.clone();
    let mut events = world.engine.events();
    let looking = async {
        while !forgotten().await {
            events.next().await;
        }
    };
    let run = running.run(std::future::pending());
    let timely = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! {
            ended = run => panic!("the loop has ended: {ended:?}"),
            () = looking => {}
        }
    });
    timely.await.unwrap();
    assert!(world.home.keys.export(&key).await.is_err());
}

#[tokio::test]
async fn a_certificate_whose_order_never_ends_can_be_deleted() {
    let world = World::new().await;
    let (engine, ca) = with_scripts(&world).await;
    ca.script_next([certctl_core::testkit::issuer::Script::Down]);
    let web =
        engine.ensure(&admin(), CertificateSpec::new("web").dns("web.test").issuer("slow")).await.unwrap();
    assert_eq!(web.status, CertificateStatus::Pending);
    engine.delete_certificate(&admin(), "web", None).await.unwrap();
    assert_kind(engine.certificate("web").await, ErrorKind::NotFound);
    for job in engine.jobs(&web.id).await.unwrap() {
        assert!(job.state.is_finished() || &*job.kind == "forget", "{job:#?}");
    }
}

/// An engine with another CA, whose script is at hand.
async fn with_scripts(world: &World) -> (Engine, Arc<ScriptedIssuer>) {
    let capabilities = certctl_core::IssuerCapabilities::all(certctl_core::Recovery::Idempotent);
    let ca = ScriptedIssuer::new(world.clock.now(), capabilities).await;
    let issuer: Arc<dyn certctl_core::Issuer> = ca.clone();
    let builder = Engine::builder(world.home.clone()).clock(Arc::new(world.clock.clone()));
    (builder.issuer("slow", issuer).build().await.unwrap(), ca)
}
