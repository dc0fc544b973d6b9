use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::{
    Id, Identified, Role, Secret, Timestamp,
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// What somebody proves with who they are. The key itself is shown once; what is stored is a hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, which is part of the key.
    pub id: Id<ApiKey>,
    /// Its name, unique: the actor's name in the audit trail.
    pub name: Box<str>,
    /// What its holder may do.
    pub role: Role,
    pub(crate) hash: TokenHash,
    /// When it was made.
    pub created: Timestamp,
    /// When it was used last, to the hour.
    #[serde(default)]
    pub last_used: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
    /// From when on it is refused; none: never.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it opens anything at this time.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

impl Identified for ApiKey {
    const PREFIX: &'static str = "ak";
    const NOUN: &'static str = "API key";
}

impl Record for ApiKey {
    const KIND: &'static Kind = &Kind {
        table: "api_keys",
        version: 1,
        columns: &[Column::text("name"), Column::text("role")],
        unique: &[&["name"]],
        indexes: &[],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&*self.name).into(), self.role.as_str().into()]
    }
}

/// SHA-256 of a token of 256 random bits, which no dictionary shortens: base64 in JSON, `***` elsewhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct TokenHash(String);

impl TokenHash {
    pub(crate) fn of(token: &Secret) -> Self {
        Self(BASE64.encode(digest(&SHA256, token.expose())))
    }

    /// In constant time.
    pub(crate) fn is_of(&self, token: &Secret) -> bool {
        let presented = Self::of(token);
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), presented.0.as_bytes()).is_ok()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
