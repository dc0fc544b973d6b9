//! The conformance suite for key stores.

use std::sync::Arc;

use crate::{ErrorKind, Id, Key, KeyAlgorithm, Keys};

/// Checks that a key store keeps the contract of [`Keys`]. It makes a few keys and forgets them again.
///
/// A store from which keys can't be exported may answer `Unsupported` there.
///
/// # Panics
/// At the first thing that is not as it should be.
pub async fn conformance(keys: Arc<dyn Keys>) {
    let id: Id<Key> = Id::parse("key-conformance-1").unwrap();
    let other: Id<Key> = Id::parse("key-conformance-2").unwrap();
    keys.forget(&id).await.expect("forgetting what is not there is fine");
    assert_eq!(keys.signer(&id).await.unwrap_err().kind(), ErrorKind::NotFound);

    let public = keys.create(&id, KeyAlgorithm::EcdsaP256).await.expect("a P-256 key can be made");
    assert_eq!(public.kind(), KeyAlgorithm::EcdsaP256.kind());
    let again = keys.create(&id, KeyAlgorithm::EcdsaP256).await.unwrap();
    assert_eq!(again, public, "creating it again gives the key that is there");
    let conflict = keys.create(&id, KeyAlgorithm::EcdsaP384).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict, "an existing key has its algorithm: {conflict:?}");
    assert_ne!(
        keys.create(&other, KeyAlgorithm::EcdsaP256).await.unwrap(),
        public,
        "each id has a key of its own"
    );

    let signer = keys.signer(&id).await.unwrap();
    assert_eq!(signer.public_key(), &public);
    let signature = signer.sign(signer.algorithm(), b"message").await.unwrap();
    public.verify(signer.algorithm(), b"message", &signature).expect("the signature is this key's");
    match keys.export(&id).await {
        Ok(key) => assert_eq!(key.public_key(), &public, "what is exported is this key"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}"),
    }

    let third: Id<Key> = Id::parse("key-conformance-3").unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (keys, third) = (keys.clone(), third.clone());
            tokio::spawn(async move { keys.create(&third, KeyAlgorithm::EcdsaP256).await.unwrap() })
        })
        .collect();
    let mut made = Vec::new();
    for task in tasks {
        made.push(task.await.expect("creating at the same time works"));
    }
    assert!(made.iter().all(|key| *key == made[0]), "all who create it at the same time get the same key");
    assert_eq!(keys.signer(&third).await.unwrap().public_key(), &made[0], "and it is the one that stays");

    for id in [&id, &third] {
        keys.forget(id).await.unwrap();
        keys.forget(id).await.unwrap();
        assert_eq!(keys.signer(id).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(keys.export(id).await.is_err());
    }
    keys.signer(&other).await.expect("the others stay");
    let anew = keys.create(&id, KeyAlgorithm::EcdsaP256).await.unwrap();
    assert_ne!(anew, public, "a forgotten key does not come back");
    keys.forget(&id).await.unwrap();
    keys.forget(&other).await.unwrap();
}
