use serde::{Deserialize, Serialize};

use crate::{Fingerprint, host::Endpoint};

/// What was seen at the endpoints of a target, before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// By endpoint, name and key type.
    pub endpoints: Vec<EndpointProof>,
    /// Whether the endpoints show that the new certificate is in service.
    pub proved: bool,
}

/// What one endpoint showed for one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointProof {
    /// Where.
    pub endpoint: Endpoint,
    /// The server name that was asked for; none for an IP address.
    pub server_name: Option<String>,
    /// What was served before anything was written.
    pub before: Served,
    /// What was served in the end.
    pub after: Served,
    /// Whether this endpoint is elsewhere, so that it never leads to a rollback.
    #[serde(default)]
    pub elsewhere: bool,
}

/// What an endpoint serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// A leaf (SHA-256), with its serial number in hex. The handshake's signature was checked with its key.
    Certificate {
        /// SHA-256 of the leaf.
        fingerprint: Fingerprint,
        /// Its serial number.
        serial: crate::SerialNumber,
    },
    /// Nobody answers, or not with TLS: why.
    Refused(String),
}
