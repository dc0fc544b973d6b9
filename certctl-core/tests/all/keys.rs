use std::sync::Arc;

use certctl_core::{MemoryKeys, testkit::keys::conformance};

#[tokio::test]
async fn memory_keys_conform() {
    conformance(Arc::new(MemoryKeys::default())).await;
}
