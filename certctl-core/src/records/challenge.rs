use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// The answer to an http-01 challenge, for any process on this store to show (RFC 8555 section 8.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeToken {
    /// The token, which is the last part of the path.
    pub token: Box<str>,
    /// What is answered.
    pub key_authorization: String,
    /// From when on nobody needs it any more, should nobody have taken it away.
    pub expires: Timestamp,
}

impl Record for ChallengeToken {
    const KIND: &'static Kind = &Kind {
        table: "challenge_tokens",
        version: 1,
        columns: &[Column::integer("expires")],
        unique: &[],
        indexes: &[&["expires"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.token
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![self.expires.into()]
    }
}
