//! What connectors keep for themselves, with and without an engine.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use certctl_core::{
    Context, Engine, Env, Error, Issuer, IssuerCapabilities, Order, Progress, Recovery, Result, Secret,
    State,
    connectors::IssuerConfig,
    records::StateRecord,
    store::{MemoryStore, Query, StoreExt},
    testkit::state::conformance,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[tokio::test]
async fn without_an_engine_it_is_in_memory() {
    conformance(Env::in_memory().state, Env::in_memory().state).await;
}

#[tokio::test]
async fn with_an_engine_it_is_in_the_store_and_sealed() {
    let (one, other) = (Tap::default(), Tap::default());
    let (of_one, of_other) = (one.state.clone(), other.state.clone());
    let engine = Engine::builder(MemoryStore::default())
        .issuer("one", one)
        .issuer("other", other)
        .build()
        .await
        .unwrap();
    let state = |tap: &Arc<Mutex<Option<Arc<dyn State>>>>| tap.lock().unwrap().clone().unwrap();
    conformance(state(&of_one), state(&of_other)).await;

    state(&of_one).save("token", &Secret::new("hunter2-hunter2"), None).await.unwrap();
    let (rows, _) = engine.store().list::<StateRecord>(Query::of::<StateRecord>()).await.unwrap();
    let ids: Vec<&str> = rows.iter().map(|row| &*row.id).collect();
    assert!(ids.contains(&"iss-one/token") && ids.contains(&"iss-other/account"), "{ids:?}");
    for row in rows {
        assert!(!serde_json::to_string(&*row).unwrap().contains("hunter2"), "it is sealed");
    }
}

/// An issuer's configuration that hands out what its constructor was given.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Tap {
    #[serde(skip)]
    state: Arc<Mutex<Option<Arc<dyn State>>>>,
}

#[async_trait]
impl IssuerConfig for Tap {
    const KIND: &'static str = "tap";

    async fn connect(self, env: Env) -> Result<Arc<dyn Issuer>> {
        *self.state.lock().unwrap() = Some(env.state);
        Ok(Arc::new(Never))
    }
}

/// An issuer that is never asked.
#[derive(Debug)]
struct Never;

#[async_trait]
impl Issuer for Never {
    fn kind(&self) -> &str {
        "tap"
    }

    fn capabilities(&self) -> IssuerCapabilities {
        IssuerCapabilities::all(Recovery::None)
    }

    async fn submit(&self, _: &Context, _: &Order) -> Result<Progress> {
        Err(Error::internal("nobody asks"))
    }

    async fn recover(&self, _: &Context, _: &Order) -> Result<Option<Progress>> {
        Ok(None)
    }
}
