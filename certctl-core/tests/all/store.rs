use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use certctl_core::{
    store::{MemoryStore, Store},
    testkit,
};

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_conforms() {
    let stores: Mutex<HashMap<&str, MemoryStore>> = Mutex::default();
    testkit::store::conformance(|name| {
        let store = stores.lock().unwrap().entry(name).or_default().clone();
        async move { Arc::new(store) as Arc<dyn Store> }
    })
    .await;
}
