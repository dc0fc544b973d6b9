//! What a target's configuration holds in secret goes to its agent alone.

use std::sync::Arc;

use certctl::{
    KeyAlgorithm, PrivateKey, RecipientKey, Result, SealedAt, Sealer, Secret, SecretRef, Target, TargetSpec,
    Violation,
    connectors::{Site, TargetConfig, TargetKind},
    engine::{AgentKeys, PlaceSpec},
    store::StoreExt,
    targets::Files,
    worker::{Outcome, Reported, Work, WorkResult},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    agents::rig::{Yard, deployments, spec, step, tokens},
    world::me,
};

/// A file, and a password for whoever reads it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Vaulted {
    path: String,
    password: Option<SecretRef>,
}

impl TargetConfig for Vaulted {
    const KIND: &'static str = "vaulted";

    fn check(&self) -> Vec<Violation> {
        Vec::new()
    }

    fn connect(self, site: Site) -> Result<Arc<dyn Target>> {
        Files { combined_path: Some(self.path), ..Default::default() }.connect(site)
    }
}

#[tokio::test]
async fn a_secret_is_sealed_to_the_agent_that_needs_it() {
    let mut yard = Yard::new().await;
    yard.home.connectors.register_target(TargetKind::of::<Vaulted>());
    let engine = yard.engine().await;
    let machine = yard.agent(&engine, "one").await;
    let key = RecipientKey::generate().unwrap();
    let (_, token, _) = engine.create_enroll_token(&me(), "one", None).await.unwrap();
    let signer = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let keys = AgentKeys::sign(&token, &signer, key.recipient()).await.unwrap();
    engine.enroll(&token, &keys).await.unwrap();
    let config = json!({ "path": "/tls/web.pem", "password": "hunter2" });
    let target = TargetSpec {
        place: PlaceSpec { agent: Some("one".into()), host: None },
        ..TargetSpec::new("a", "vaulted", config)
    };
    let target = engine.put_target(&me(), target).await.unwrap();
    let process = machine.start().await;
    let at = SealedAt { table: "targets", id: target.id.as_str(), field: "password" };
    let opened = |config: &Option<Value>| {
        let sealed = config.as_ref().unwrap()["password"]["sealed"].clone();
        let sealed: certctl::Sealed = serde_json::from_value(sealed).unwrap();
        assert!(yard.home.sealer.open(&at, &sealed).is_err(), "it is not the store's any more");
        key.open(&at, &sealed).unwrap()
    };

    let given = process.lease_one(&engine).await;
    let Work::Check(check) = &given.work else { panic!("{given:?}") };
    assert_eq!(opened(&check.config), Secret::new("hunter2"));
    let done = Outcome::Report(certctl::worker::WorkReport::Done);
    let result = WorkResult { jobs: tokens(&given), outcome: done };
    assert_eq!(process.report(&engine, &result).await.unwrap(), Reported::Recorded);

    let _ = engine.want(&me(), spec(&["a"])).await.unwrap();
    step(&engine).await;
    process.drain(&engine).await.unwrap();
    step(&engine).await;
    let given = process.lease_one(&engine).await;
    let Work::Deploy(work) = &given.work else { panic!("{given:?}") };
    assert_eq!(opened(&work.items[0].target.config), Secret::new("hunter2"));
    assert!(machine.wire.lock().unwrap().iter().all(|text| !text.contains("hunter2")));

    // A store that was restored without its key hands out nothing, and says why.
    let mut lost = Yard { home: yard.home.clone(), ..yard };
    lost.home.sealer = Arc::new(Sealer::ephemeral());
    let engine = lost.engine().await;
    let next = machine.start().await;
    assert_eq!(next.lease(&engine).await.len(), 0);
    let error = deployments(&engine).await[0].error.clone().unwrap();
    assert_eq!(error.kind, certctl::ErrorKind::Precondition, "{error:?}");
    assert!(error.message.contains("password"), "{error:?}");
    let record: certctl::store::Stored<certctl::records::TargetRecord> =
        engine.store().resolve("a").await.unwrap();
    assert!(record.checked.is_some());
}
