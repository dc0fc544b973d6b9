use certctl_core::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which server this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerVersion {
    /// The program's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The version of its API.
    pub api: String,
    /// The time, as the server sees it.
    pub time: Timestamp,
}

/// Whether the server lives, or is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Which.
    pub status: HealthStatus,
}

/// How the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// As it should be.
    Ok,
    /// It lives and can't work: its store does not answer, or it is stopping.
    Unready,
}
