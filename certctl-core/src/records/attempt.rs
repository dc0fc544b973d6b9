use serde::{Deserialize, Serialize};

use crate::{
    Chain, Csr, Handle, Id, Identified, Key, SubjectAltName, Timestamp,
    records::{Certificate, IssuerRecord, KeyPolicy, Placement, Profile},
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// One attempt to obtain one certificate: committed before the CA is asked, so that nothing is issued twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its id.
    pub id: Id<Attempt>,
    /// For which placement.
    pub placement: Id<Placement>,
    /// Who is asked.
    pub issuer: Id<IssuerRecord>,
    /// The names that were asked for.
    pub names: Vec<SubjectAltName>,
    /// The subject's common name that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// What was asked for besides.
    #[serde(default)]
    pub profile: Profile,
    /// The request.
    pub csr: Csr,
    /// The key of the request, where this program or its agent holds it; none once it was destroyed because nothing came
    /// of the attempt.
    pub key: Option<Id<Key>>,
    /// Randomness for whatever the issuer derives from the attempt, in hex.
    pub seed: [u8; 20],
    /// When it was made: the time that a repeated signing uses again.
    pub created: Timestamp,
    /// What the CA gave to hold.
    pub handle: Option<Handle>,
    /// What became of it.
    pub state: AttemptState,
    /// The certificate that the CA gave and that was not what was asked for: it exists, and may have to be revoked there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Chain>,
}

impl Attempt {
    /// Whether this is what the certificate's record wants: if it was changed since, another attempt is due.
    pub fn asks_for(&self, certificate: &Certificate) -> bool {
        let key = match &certificate.key {
            KeyPolicy::Made { algorithm, .. } => {
                self.key.is_some() && self.csr.public_key().kind() == algorithm.kind()
            }
            KeyPolicy::External { csr } => *csr == self.csr,
        };
        key && self.issuer == certificate.issuer
            && self.names == certificate.names
            && self.common_name == certificate.common_name
            && self.profile == certificate.profile
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Not finished; the CA may have been asked.
    Open,
    /// A version was recorded.
    Issued,
    /// The CA refused, for certain.
    Failed,
}

impl AttemptState {
    /// As stored and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Issued => "issued",
            Self::Failed => "failed",
        }
    }
}

impl Identified for Attempt {
    const PREFIX: &'static str = "att";
    const NOUN: &'static str = "attempt";
}

impl Record for Attempt {
    const KIND: &'static Kind = &Kind {
        table: "attempts",
        version: 1,
        columns: &[Column::text("placement"), Column::text("state")],
        unique: &[],
        indexes: &[&["placement", "state"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&self.placement).into(), self.state.as_str().into()]
    }
}
