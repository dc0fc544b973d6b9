use serde::{Deserialize, Serialize};

use crate::{
    Csr, ErrorReport, Fingerprint, Id, Identified, KeyAlgorithm, RenewalWindow, RevocationReason,
    SerialNumber, SubjectAltName, Timestamp,
    records::{Agent, Attempt, IssuerRecord, Job, Profile, ProfileRecord, TargetRecord},
    store::{Column, ColumnValue, Kind, Record, columns_of},
};

/// A certificate that is wanted: its names, who issues it, where it goes. What it is made of at any time are its
/// [`Version`]s; where it has arrived, its [`Deployment`](super::Deployment)s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its id.
    pub id: Id<Certificate>,
    /// Its name, unique.
    pub name: Box<str>,
    /// The names that it certifies.
    pub names: Vec<SubjectAltName>,
    /// The subject's common name; none leaves the subject empty.
    pub common_name: Option<String>,
    /// Who issues it.
    pub issuer: Id<IssuerRecord>,
    /// The stored profile that it was made with, if one was named.
    pub profile_id: Option<Id<ProfileRecord>>,
    /// What is asked of the issuer besides the names.
    pub profile: Profile,
    /// How its keys are made.
    pub key: KeyPolicy,
    /// When it is renewed.
    pub renewal: RenewalPolicy,
    /// Where it goes.
    pub targets: Vec<Id<TargetRecord>>,
    /// How it stands.
    pub status: CertificateStatus,
    /// Why it stands so, where that needs a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ErrorReport>,
    /// The newest version's end.
    pub not_after: Option<Timestamp>,
    /// The newest version's serial number.
    pub serial: Option<SerialNumber>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed, by a person or by its life.
    pub updated: Timestamp,
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateStatus {
    /// No version yet.
    Pending,
    /// Every deployment is proved, or unproved with a warning, or there is none.
    Active,
    /// A deployment failed or holds an old version.
    Partial,
    /// Nothing more happens until somebody looks; what is deployed stays in service.
    Attention,
    /// Its newest version was revoked. It stays so until somebody asks for a renewal.
    Revoked,
}

impl CertificateStatus {
    /// As stored and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Partial => "partial",
            Self::Attention => "attention",
            Self::Revoked => "revoked",
        }
    }
}

/// How the keys of a certificate are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum KeyPolicy {
    /// By whoever deploys it.
    Made {
        /// The algorithm.
        algorithm: KeyAlgorithm,
        /// Keep the key at renewals; by default each version has its own.
        reuse_key: bool,
    },
    /// Somewhere else: this request came from there.
    External {
        /// The request.
        csr: Csr,
    },
}

/// When a certificate is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RenewalPolicy {
    /// After which share of its lifetime, between 0.1 and 0.95.
    pub at_share: f64,
}

impl Default for RenewalPolicy {
    /// Two thirds.
    fn default() -> Self {
        Self { at_share: 2.0 / 3.0 }
    }
}

impl Identified for Certificate {
    const PREFIX: &'static str = "mc";
    const NOUN: &'static str = "certificate";
}

impl Record for Certificate {
    const KIND: &'static Kind = &Kind {
        table: "certificates",
        version: 1,
        columns: &[
            Column::text("name"),
            Column::counted("status"),
            Column::text("issuer"),
            Column::integer("not_after"),
            Column::integer("created"),
        ],
        unique: &[&["name"]],
        indexes: &[&["status", "not_after"], &["issuer"], &["not_after"], &["created"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![
            (&*self.name).into(),
            self.status.as_str().into(),
            (&self.issuer).into(),
            self.not_after.into(),
            self.created.into(),
        ]
    }
}

/// Who holds the key of a certificate, for those of its targets that this holder deploys to. Each placement has keys and
/// versions of its own, and is renewed on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Its id.
    pub id: Id<Placement>,
    /// Of which certificate.
    pub certificate: Id<Certificate>,
    /// Who holds the key.
    pub holder: Holder,
    /// The newest version.
    pub version: Option<Id<Version>>,
    /// The job that issues and deploys the next version, while there is one.
    pub job: Option<Id<Job>>,
    /// When the next renewal is due; none while a job is open or nothing is to be renewed.
    pub renew_at: Option<Timestamp>,
    /// When its CA is asked next when it wants the newest version renewed (RFC 9773); none while a job is open, or where the
    /// CA has no opinion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_at: Option<Timestamp>,
    /// When its CA wants the newest version renewed, as it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<RenewalWindow>,
    /// How the asking went.
    #[serde(default)]
    pub asking: Asking,
    /// Whether the newest version is revoked.
    #[serde(default)]
    pub revoked: bool,
    /// Nothing is wanted of this holder any more: it goes, with its keys, once what has begun has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// How it went to ask a CA when it wants a certificate renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asking {
    /// How often in a row there was no answer, or none that makes sense.
    pub failures: u32,
    /// Whether the CA wants the newest version renewed early in its life.
    pub early: bool,
    /// How many versions in a row were renewed because of that.
    pub hurried: u32,
}

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// This process (or another one on the same store).
    Process,
    /// An agent.
    Agent(Id<Agent>),
    /// Whoever sent the request.
    External,
}

impl Holder {
    /// Where its keys are made, used and forgotten.
    pub fn place(&self) -> crate::records::Place {
        let agent = match self {
            Self::Process | Self::External => None,
            Self::Agent(agent) => Some(agent.clone()),
        };
        crate::records::Place { agent, host: None }
    }

    /// As a column, and in a job's place.
    pub fn as_column(&self) -> &str {
        match self {
            Self::Process | Self::External => crate::records::Place::HERE,
            Self::Agent(agent) => agent.as_str(),
        }
    }
}

impl Identified for Placement {
    const PREFIX: &'static str = "pl";
    const NOUN: &'static str = "placement";
}

impl Record for Placement {
    const KIND: &'static Kind = &Kind {
        table: "placements",
        version: 1,
        columns: &[
            Column::text("certificate"),
            Column::text("holder"),
            Column::integer("renew_at"),
            Column::integer("ask_at"),
        ],
        unique: &[],
        indexes: &[&["certificate"], &["renew_at"], &["ask_at"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        let holder = match &self.holder {
            Holder::External => "external",
            other => other.as_column(),
        };
        vec![(&self.certificate).into(), holder.into(), self.renew_at.into(), self.ask_at.into()]
    }
}

/// One issued certificate: chain and key belong together for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its id.
    pub id: Id<Version>,
    /// Of which certificate.
    pub certificate: Id<Certificate>,
    /// Whose key it certifies.
    pub placement: Id<Placement>,
    /// The attempt that it came from.
    pub attempt: Id<Attempt>,
    /// Who issued it.
    pub issuer: Id<IssuerRecord>,
    /// The key, where this program or its agent holds it.
    pub key: Option<Id<crate::Key>>,
    /// Leaf first.
    pub chain: crate::Chain,
    /// The leaf's serial number.
    pub serial: SerialNumber,
    /// SHA-256 of the leaf.
    pub fingerprint: Fingerprint,
    /// The leaf's validity begins.
    pub not_before: Timestamp,
    /// The leaf's validity ends.
    pub not_after: Timestamp,
    /// When it was recorded.
    pub created: Timestamp,
    /// Whether its key was destroyed, because nothing needs it any more.
    #[serde(default)]
    pub key_forgotten: bool,
    /// That it is, or shall be, revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<RevocationRecord>,
}

/// That a version is, or shall be, revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// Why.
    pub reason: RevocationReason,
    /// When somebody asked for it.
    pub requested: Timestamp,
    /// When the CA had done it; none while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Timestamp>,
}

impl Version {
    /// Whether its CA has revoked it, as far as is known here.
    pub fn is_revoked(&self) -> bool {
        self.revocation.is_some_and(|revocation| revocation.done.is_some())
    }
}

impl Identified for Version {
    const PREFIX: &'static str = "ver";
    const NOUN: &'static str = "version";
}

impl Record for Version {
    const KIND: &'static Kind = &Kind {
        table: "versions",
        version: 1,
        columns: &[
            Column::text("certificate"),
            Column::text("placement"),
            Column::text("attempt"),
            Column::text("issuer"),
            Column::text("serial"),
            Column::text("fingerprint"),
            Column::text("live_key"),
        ],
        // An attempt gives one version, and an issuer no serial twice.
        unique: &[&["attempt"], &["issuer", "serial"]],
        indexes: &[&["certificate"], &["placement", "live_key"], &["fingerprint"], &["serial"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn columns(&self) -> Vec<ColumnValue> {
        let live_key = self.key.as_ref().filter(|_| !self.key_forgotten);
        vec![
            (&self.certificate).into(),
            (&self.placement).into(),
            (&self.attempt).into(),
            (&self.issuer).into(),
            self.serial.to_string().into(),
            self.fingerprint.to_string().into(),
            live_key.into(),
        ]
    }
}
