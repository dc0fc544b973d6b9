use certctl_core::{
    CertificateSpec, Chain, Error, ErrorReport, Fingerprint, Id, KeyAlgorithm, Lifetime, RevocationReason,
    SerialNumber, SubjectAltName, Timestamp,
    engine::{DeploymentPlan, WantedName},
    records::{self, CertificateStatus, DeploymentState, Profile},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Job;

/// Another resource: its id, and its name for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A certificate that is wanted, and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// Its id.
    pub id: Id<records::Certificate>,
    /// Its name, unique.
    pub name: String,
    /// The names that it certifies.
    pub names: Vec<SubjectAltName>,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// Who issues it.
    pub issuer: Reference,
    /// The stored profile that it was made with.
    pub profile: Option<Id<records::ProfileRecord>>,
    /// What the issuer is asked for besides the names.
    pub requested: Profile,
    /// The algorithm of its keys; none where the key is elsewhere.
    pub key_algorithm: Option<KeyAlgorithm>,
    /// Whether a renewal keeps the key.
    pub reuse_key: bool,
    /// The request (PEM) whose key is elsewhere.
    pub csr: Option<String>,
    /// After which share of its lifetime it is renewed.
    pub renew_at_share: f64,
    /// How it stands.
    pub status: CertificateStatus,
    /// Why it stands so, where that needs a sentence.
    pub reason: Option<ErrorReport>,
    /// Where it goes. In lists without its state there.
    pub targets: Vec<CertificateTarget>,
    /// The newest version's end.
    pub not_after: Option<Timestamp>,
    /// The newest version's serial number, in hexadecimal.
    pub serial_number: Option<SerialNumber>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// Counts its changes; what `If-Match` takes.
    pub revision: u64,
}

impl Certificate {
    /// What would make it so: to be changed, and put back.
    ///
    /// # Errors
    /// `BadResponse` if a field of the answer can't be asked for.
    pub fn spec(&self) -> Result<CertificateSpec, Error> {
        let names = self.names.iter().map(|name| match name {
            SubjectAltName::Dns(dns) => WantedName::Dns { dns: dns.clone() },
            SubjectAltName::Ip(ip) => WantedName::Ip { ip: ip.to_string() },
            other => WantedName::Any(other.to_string()),
        });
        Ok(CertificateSpec {
            id: Some(self.id.to_string()),
            name: self.name.clone(),
            names: names.collect(),
            common_name: self.common_name.clone(),
            issuer: Some(self.issuer.id.clone()),
            targets: self.targets.iter().map(|target| target.id.clone()).collect(),
            profile: self.profile.as_ref().map(ToString::to_string),
            lifetime: self.requested.lifetime,
            key_algorithm: self.key_algorithm,
            reuse_key: self.reuse_key,
            csr: self.csr.clone(),
            renew_at_share: Some(self.renew_at_share),
            expected_version: Some(self.revision),
        })
    }
}

/// A target of a certificate, and how the certificate stands there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateTarget {
    /// The target's id.
    pub id: String,
    /// The target's name.
    pub name: String,
    /// How it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DeploymentState>,
    /// The deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Id<records::Deployment>>,
    /// The version that is in place there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Id<records::Version>>,
    /// The version that should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Id<records::Version>>,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// What a person should know although it did not fail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Where it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When the last try ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployed: Option<Timestamp>,
    /// How long the last try took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// A certificate with what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateDetail {
    /// The certificate; its targets say how it stands there.
    #[serde(flatten)]
    pub certificate: Certificate,
    /// Its versions, the newest first, of all placements; at most 100 (the rest are in `/versions`).
    pub versions: Vec<CertificateVersion>,
    /// Who holds its keys.
    pub placements: Vec<PlacementInfo>,
    /// Its jobs that are not finished, the newest first.
    pub jobs: Vec<Job>,
}

impl std::ops::Deref for CertificateDetail {
    type Target = Certificate;
    fn deref(&self) -> &Certificate {
        &self.certificate
    }
}

/// One issued certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateVersion {
    /// Its id.
    pub id: Id<records::Version>,
    /// The serial number, in hexadecimal.
    pub serial_number: SerialNumber,
    /// SHA-256 of the leaf.
    pub fingerprint_sha256: Fingerprint,
    /// The validity begins.
    pub not_before: Timestamp,
    /// The validity ends.
    pub not_after: Timestamp,
    /// Who holds the key: `process`, `external`, or an agent's id.
    pub holder: String,
    /// The placement that it belongs to.
    pub placement: Id<records::Placement>,
    /// Who issued it.
    pub issuer: Reference,
    /// When it was recorded.
    pub created: Timestamp,
    /// When the CA had revoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// Why it is, or shall be, revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_reason: Option<RevocationReason>,
    /// Whether the key was destroyed, because nothing needs it any more.
    pub key_forgotten: bool,
    /// PEM: the leaf, then each one's issuer. Only in `/versions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
}

/// Who holds the key of a certificate for some of its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementInfo {
    /// Its id.
    pub id: Id<records::Placement>,
    /// Who holds the key: `process`, `external`, or an agent's id.
    pub holder: String,
    /// The newest version.
    pub version: Option<Id<records::Version>>,
    /// The job that issues and deploys the next version, while there is one.
    pub job: Option<Id<records::Job>>,
    /// When the next renewal is due.
    pub renew_at: Option<Timestamp>,
    /// Whether the newest version is revoked.
    pub revoked: bool,
}

/// What a command has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// The certificate as it stood then.
    pub certificate: CertificateDetail,
    /// The jobs that do it; those that are finished already included.
    pub jobs: Vec<Id<records::Job>>,
    /// What a person should know about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Which certificates are listed, in the order of their ids, which is that of their making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateFilter {
    /// How they stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CertificateStatus>,
    /// Who issues them, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Their name, as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where they go, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The newest version ends before this time. The list is in the order of the ends then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_before: Option<Timestamp>,
    /// How many a page; 100 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// How a certificate is renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RenewRequest {
    /// A new request (PEM), for a certificate whose key is elsewhere. Without one, the same request is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
}

/// What is revoked, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RevokeRequest {
    /// Why.
    pub reason: RevocationReason,
    /// Which version, by id, serial number or SHA-256 fingerprint; the newest of each placement if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What a deployment would change; nothing was touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plans {
    /// One for each target.
    pub data: Vec<DeploymentPlan>,
}

impl RenewRequest {
    /// With a new request (PEM).
    pub fn with_csr(csr: impl Into<String>) -> Self {
        Self { csr: Some(csr.into()) }
    }
}

impl CertificateFilter {
    /// Those that end within this time from `now`.
    #[must_use]
    pub fn expiring_within(mut self, now: Timestamp, span: Lifetime) -> Self {
        self.expires_before = Some(now + span.as_duration());
        self
    }
}
