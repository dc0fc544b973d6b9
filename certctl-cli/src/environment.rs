use std::{ffi::OsString, path::PathBuf};

use certctl_core::Secret;

/// What the program takes from the environment. Other `CERTCTL_…` names are for other programs, and none of its business.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CERTCTL_SERVER_URL`.
    pub server_url: Option<String>,
    /// `CERTCTL_API_KEY`.
    pub api_key: Option<Secret>,
    /// `CERTCTL_CA_FILE`.
    pub ca_file: Option<PathBuf>,
}

impl Environment {
    /// Where the server is.
    pub const SERVER_URL: &'static str = "CERTCTL_SERVER_URL";
    /// Who asks.
    pub const API_KEY: &'static str = "CERTCTL_API_KEY";
    /// Whom to trust.
    pub const CA_FILE: &'static str = "CERTCTL_CA_FILE";

    /// Looks these names up. One that is empty counts as not there.
    pub fn from_names(value: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| value(name).filter(|value| !value.is_empty());
        Self {
            server_url: set(Self::SERVER_URL).map(|url| url.to_string_lossy().into_owned()),
            api_key: set(Self::API_KEY).map(|key| Secret::new(key.into_encoded_bytes())),
            ca_file: set(Self::CA_FILE).map(PathBuf::from),
        }
    }
}
