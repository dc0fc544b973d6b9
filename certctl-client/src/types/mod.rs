//! What goes over the wire under `/api/v1`, as JSON.
//!
//! Times are RFC 3339, durations are written `60s`, `12h` or `7d`, ids are text with a prefix. A field that has no value is
//! `null`, or left out where it is rare. Unknown fields in an answer are passed over, so that a client understands newer
//! servers; unknown fields in a request are refused.

mod access;
mod agent;
mod certificate;
mod connector;
mod job;
mod problem;
mod server;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{ApiKey, ApiKeyFilter, AuditFilter, CreatedApiKey, Token};
pub use agent::{
    Agent, AgentFilter, EnrollRequest, EnrollToken, EnrollTokenRequest, Enrolled, ExtendRequest, Extended,
    ReportAnswer, ResolveRequest, Session, WorkList, WorkRequest,
};
pub use certificate::{
    Certificate, CertificateDetail, CertificateFilter, CertificateTarget, CertificateVersion, PlacementInfo,
    Plans, Reference, RenewRequest, RevokeRequest, Started,
};
pub use connector::{Checked, ConnectorFamily, ConnectorKind, Host, Issuer, NamedFilter, Profile, Target};
pub use job::{Job, JobDetail, JobFilter, JobWatchRequest};
pub use problem::Problem;
pub use server::{Health, HealthStatus, ServerVersion};

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// The items.
    pub data: Vec<T>,
    /// Where the next page begins, for `?cursor=`; `null` at the end.
    pub next_cursor: Option<String>,
}
