//! What the sealed state of a connector must do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use crate::{ErrorKind, Secret, State};

/// Checks that a connector's [`State`] keeps its contract; `other` is that of another connector in the same store. Both are
/// empty.
///
/// # Panics
/// At the first thing that is not as it should be.
pub async fn conformance(state: Arc<dyn State>, other: Arc<dyn State>) {
    assert!(state.load("account").await.unwrap().is_none(), "there is nothing yet");

    // Written once, read as it was, whatever the bytes are.
    let bytes: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let first = state.save("account", &Secret::new(bytes.clone()), None).await.unwrap();
    let (value, version) = state.load("account").await.unwrap().expect("it was saved");
    assert!(value.expose() == bytes, "the value is as it was");
    assert_eq!(version, first, "the version is the one that saving gave");

    // Nobody writes over what they have not read.
    conflicts(&*state, None).await;
    let second = state.save("account", &Secret::new("two"), Some(first)).await.unwrap();
    assert_ne!(second, first, "each write has a version of its own");
    conflicts(&*state, Some(first)).await;
    conflicts(&*state, Some(second + 1_000)).await;
    let error =
        state.save("absent", &Secret::new("x"), Some(1)).await.expect_err("there is nothing to replace");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(state.load("account").await.unwrap().expect("it is there") == (Secret::new("two"), second));

    // Names, and owners, are apart.
    state.save("counter", &Secret::new(""), None).await.unwrap();
    assert!(state.load("counter").await.unwrap().expect("it is there").0.expose().is_empty());
    assert!(other.load("account").await.unwrap().is_none(), "another connector does not see it");
    other.save("account", &Secret::new("the other's"), None).await.unwrap();
    assert!(state.load("account").await.unwrap().expect("it is there").0 == Secret::new("two"));

    only_one_wins(&state, second).await;
}

async fn conflicts(state: &dyn State, expected: Option<u64>) {
    let error =
        state.save("account", &Secret::new("stale"), expected).await.expect_err("somebody was faster");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(!format!("{error:?}").contains("stale"), "the value is not printed");
}

async fn only_one_wins(state: &Arc<dyn State>, version: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let state = state.clone();
        tasks.spawn(
            async move { state.save("account", &Secret::new(format!("{number}")), Some(version)).await },
        );
    }
    let outcomes = tasks.join_all().await;
    let won: Vec<u64> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    assert_eq!(won.len(), 1, "one of those who write at once wins: {outcomes:?}");
    assert!(
        outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| e.kind() == ErrorKind::Conflict)
    );
    assert_eq!(state.load("account").await.unwrap().expect("it is there").1, won[0]);
}
