//! The trait for keys that sign, wherever they are.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{PublicKey, Result, SignatureAlgorithm};

/// A key that signs: in memory, in a file, in a hardware module, in a cloud service.
#[async_trait]
pub trait Signer: Send + Sync + Debug {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// The algorithm that it signs with by default.
    fn algorithm(&self) -> SignatureAlgorithm {
        self.public_key().kind().signature_algorithm()
    }

    /// Signs a message, which it hashes itself; ECDSA's signature is the ASN.1 form.
    ///
    /// # Errors
    /// `Unsupported` if the key can't sign with that algorithm; `Unavailable` if the key can't be reached right now.
    async fn sign(&self, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>>;
}
