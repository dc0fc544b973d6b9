use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use certctl_connectors::keys::DiskKeys;
use certctl_core::{ErrorKind, Id, Key, KeyAlgorithm, Keys, Secret, testkit::keys::conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("keys");
    conformance(Arc::new(DiskKeys::open(&store).unwrap())).await;
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_key_is_a_private_file_that_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state/keys");
    let keys = DiskKeys::open(&store).unwrap();
    assert_eq!(mode(&store), 0o700);
    for (name, algorithm) in
        [("p256", KeyAlgorithm::EcdsaP256), ("rsa", KeyAlgorithm::Rsa2048), ("ed", KeyAlgorithm::Ed25519)]
    {
        let public = keys.create(&id(name), algorithm).await.unwrap();
        let file = store.join(format!("key-{name}.key"));
        assert_eq!(mode(&file), 0o600);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let reopened = DiskKeys::open(&store).unwrap();
        assert_eq!(reopened.create(&id(name), algorithm).await.unwrap(), public);
        let key = reopened.export(&id(name)).await.unwrap();
        assert_eq!(key.public_key(), &public);
        assert_eq!(key.to_pem(), Secret::new(text));
    }
    assert_eq!(fs::read_dir(&store).unwrap().count(), 3);
    assert!(!format!("{keys:?}").contains("BEGIN"));
}

#[tokio::test]
async fn what_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = DiskKeys::open(dir.path()).unwrap();
    keys.create(&id("web"), KeyAlgorithm::EcdsaP256).await.unwrap();
    let file = dir.path().join("key-web.key");
    for wide in [0o640, 0o604, 0o660] {
        set_mode(&file, wide);
        for error in [
            keys.create(&id("web"), KeyAlgorithm::EcdsaP256).await.unwrap_err(),
            keys.export(&id("web")).await.unwrap_err(),
            keys.signer(&id("web")).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.message().contains("chmod 600"), "{error}");
            assert_eq!(error.context_value("file"), file.to_str());
        }
    }
    set_mode(&file, 0o400);
    keys.export(&id("web")).await.expect("narrower is fine");

    set_mode(dir.path(), 0o770);
    let error = DiskKeys::open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("chmod 700"), "{error}");
    set_mode(dir.path(), 0o700);
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let keys = DiskKeys::open(dir.path()).unwrap();
    let torn = dir.path().join("key-torn.key");
    fs::write(&torn, "-----BEGIN PRIVATE KEY-----\nCANARY").unwrap();
    set_mode(&torn, 0o600);
    let error = keys.create(&id("torn"), KeyAlgorithm::EcdsaP256).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(!format!("{error:?}{:?}", error.report()).contains("CANARY"));
    assert!(fs::read_to_string(&torn).unwrap().contains("CANARY"));

    keys.create(&id("real"), KeyAlgorithm::EcdsaP256).await.unwrap();
    symlink("key-real.key", dir.path().join("key-link.key")).unwrap();
    let error = keys.export(&id("link")).await.unwrap_err();
    assert_eq!(error.context_value("reason"), Some("symlink"));
    let error = DiskKeys::open(&torn).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(DiskKeys::open("relative").unwrap_err().kind(), ErrorKind::Invalid);
}

fn id(name: &str) -> Id<Key> {
    Id::parse(&format!("key-{name}")).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
