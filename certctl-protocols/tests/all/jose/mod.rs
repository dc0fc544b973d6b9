//! Keys and signatures.

mod hostile;
mod keys;
mod signatures;
mod vectors;

use std::sync::LazyLock;

use certctl_core::{KeyAlgorithm, PrivateKey};
use certctl_protocols::jose::{Algorithm, HeaderKey, Jwk};

const URL: &str = "https://acme.example/new-order";

/// One key of each kind that a machine makes quickly.
static KEYS: LazyLock<Vec<(Algorithm, PrivateKey)>> = LazyLock::new(|| {
    let kinds = [
        (Algorithm::Rs256, KeyAlgorithm::Rsa2048),
        (Algorithm::Es256, KeyAlgorithm::EcdsaP256),
        (Algorithm::Es384, KeyAlgorithm::EcdsaP384),
        (Algorithm::Es512, KeyAlgorithm::EcdsaP521),
        (Algorithm::EdDsa, KeyAlgorithm::Ed25519),
    ];
    kinds.map(|(algorithm, kind)| (algorithm, PrivateKey::generate(kind).unwrap())).into()
});

fn jwk_of(key: &PrivateKey) -> Jwk {
    Jwk::from_public_key(key.public_key()).unwrap()
}

fn kid() -> HeaderKey {
    HeaderKey::Kid("https://acme.example/acct/1".into())
}
