//! The account that an issuer has at its CA.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Context, KeyAlgorithm, PublicKey, Result, Secret};

/// An account at a CA, made when it is first needed; see [`crate::Issuer::account`].
#[async_trait]
pub trait Account: Send + Sync + Debug {
    /// How it stands at the CA; makes it if there is none.
    async fn describe(&self, cx: &Context) -> Result<AccountInfo>;

    /// Gives it a new key (RFC 8555 section 7.3.5). A crash in the middle loses neither key nor account.
    ///
    /// # Errors
    /// `Unsupported` if the CA or its protocol has no such thing.
    async fn roll_key(&self, cx: &Context, algorithm: KeyAlgorithm) -> Result<()>;

    /// Ends it, for good (RFC 8555 section 7.3.6). Certificates stay valid.
    async fn deactivate(&self, cx: &Context) -> Result<()>;

    /// All that another program needs to use it, its private key among it.
    async fn export(&self, cx: &Context) -> Result<Secret>;

    /// Takes over what [`Account::export`] gave, or an account's private key in PEM.
    ///
    /// # Errors
    /// `Precondition` if there is an account already, `Invalid` if it is none of this CA's.
    async fn import(&self, exported: &Secret) -> Result<()>;
}

/// How an account stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Its address at the CA.
    pub url: String,
    /// The CA's word for how it stands, such as `valid`.
    pub status: String,
    /// Where the CA writes to, as URLs.
    pub contact: Vec<String>,
    /// Its public key.
    pub key: PublicKey,
}
