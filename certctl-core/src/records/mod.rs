//! The records of the lifecycle, each with its table.

mod access;
mod agent;
mod attempt;
mod audit;
mod certificate;
mod challenge;
mod connector;
mod deployment;
mod job;

use crate::store::{Kind, Record};

pub use access::ApiKey;
pub(crate) use access::TokenHash;
pub use agent::{Agent, AgentConnectors, AgentPresence, Clash, ConnectorInfo, EnrollToken, Instance};
pub use attempt::{Attempt, AttemptState};
pub use audit::AuditEvent;
pub use certificate::{
    Asking, Certificate, CertificateStatus, Holder, KeyPolicy, Placement, RenewalPolicy, RevocationRecord,
    Version,
};
pub use challenge::ChallengeToken;
pub use connector::{
    Checked, HostRecord, IssuerRecord, Place, Probe, Profile, ProfileRecord, StateRecord, TargetRecord,
};
pub use deployment::{Deployment, DeploymentState};
pub use job::{Job, JobState, Setback};

/// Every table of the lifecycle engine.
pub const KINDS: &[&Kind] = &[
    AuditEvent::KIND,
    Certificate::KIND,
    Placement::KIND,
    Version::KIND,
    Attempt::KIND,
    Deployment::KIND,
    ProfileRecord::KIND,
    IssuerRecord::KIND,
    TargetRecord::KIND,
    HostRecord::KIND,
    Agent::KIND,
    AgentPresence::KIND,
    AgentConnectors::KIND,
    EnrollToken::KIND,
    ApiKey::KIND,
    StateRecord::KIND,
    ChallengeToken::KIND,
    Job::KIND,
];
