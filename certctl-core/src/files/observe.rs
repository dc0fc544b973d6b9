//! What is at rest.

use super::{
    MAX_FILE, OnHost,
    look::{Found, noun},
};
use crate::{
    Chain, Error, FileTarget, PrivateKey, PublicKey, Result, X509Certificate,
    host::FileKind,
    target::{FileRole, Observed, Pair},
};

impl<T: FileTarget> OnHost<T> {
    /// Reads the certificates and keys that are there, and sees whether they belong together.
    pub(super) async fn observe_files(&self) -> Result<Observed> {
        let mut leaf: Option<X509Certificate> = None;
        let mut keys: Vec<(String, PublicKey)> = Vec::new();
        let mut missing: Option<String> = None;
        let mut present = false;
        let mut torn: Option<String> = None;
        for found in self.look(self.target.layout().files).await? {
            let (has_chain, has_key) = match found.file.role {
                FileRole::FullChain => (true, false),
                FileRole::Key => (false, true),
                FileRole::Combined => (true, true),
                FileRole::Issuers | FileRole::Other => continue,
            };
            let path = found.file.path.to_string();
            if found.stat.is_none() {
                missing.get_or_insert(path);
                continue;
            }
            present = true;
            if let Some(reason) = not_readable(&found) {
                torn.get_or_insert(reason);
                continue;
            }
            let Some(content) = self.content(&found).await? else { continue };
            if has_chain {
                match Chain::from_pem(content.expose()) {
                    Ok(chain) => match &leaf {
                        Some(other) if other.fingerprint() != chain.leaf().fingerprint() => {
                            torn.get_or_insert(format!(
                                "{path} has another certificate than the file before it"
                            ));
                        }
                        _ => leaf = Some(chain.leaf().clone()),
                    },
                    Err(error) => {
                        torn.get_or_insert(format!("{path} is no certificate chain: {}", said(&error)));
                    }
                }
            }
            if has_key {
                match PrivateKey::from_pem(&content) {
                    Ok(key) => keys.push((path, key.public_key().clone())),
                    Err(error) => {
                        torn.get_or_insert(format!("{path} has no usable key: {}", said(&error)));
                    }
                }
            }
        }
        if let Some(leaf) = &leaf
            && let Some((path, _)) = keys.iter().find(|(_, key)| leaf.public_key().ok() != Some(key))
        {
            torn.get_or_insert(format!("the key in {path} does not match the certificate"));
        }
        let pair = match (torn, missing) {
            (Some(reason), _) => Pair::Torn(reason),
            (None, Some(path)) if present => Pair::Torn(format!("{path} is missing")),
            (None, Some(_)) => Pair::Absent,
            (None, None) => Pair::Whole,
        };
        Ok(Observed { certificate: leaf.map(|leaf| leaf.fingerprint()), pair })
    }
}

fn not_readable(found: &Found) -> Option<String> {
    let stat = found.stat.as_ref()?;
    if stat.kind != FileKind::File {
        return Some(format!("{} is {}", found.file.path, noun(stat.kind)));
    }
    (stat.size > MAX_FILE).then(|| format!("{} has {} bytes", found.file.path, stat.size))
}

/// Without the place in the input, which is nobody's input here.
fn said(error: &Error) -> &str {
    error.violations().first().map_or(error.message(), |violation| &violation.message)
}
