//! The CA's directory (RFC 8555 section 7.1.1).

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use certctl_core::{Context, Effect, Error, ErrorKind, Result};
use certctl_protocols::acme::wire::Directory;
use reqwest::Method;

use super::{
    client::Client,
    transport::{Request, check_url, shown},
};

/// Directories change when a CA gains a feature.
const KEEP: Duration = Duration::from_secs(3_600);

impl Client {
    pub(super) async fn directory(&self, cx: &Context) -> Result<Arc<Directory>> {
        let now = cx.clock.now();
        let kept = self.directory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((directory, at)) = kept
            && at <= now
            && now.since(at) < KEEP
        {
            return Ok(directory);
        }
        // Asking for it changes nothing there.
        let harmless = |e: Error| e.with_effect(Effect::None).during("reading the ACME directory");
        let request = Request::new(Method::GET, &self.config.directory_url);
        let response = self.transport.send(request, &self.env).await.map_err(harmless)?;
        let response = response.accepted().map_err(harmless)?;
        let directory: Directory = response.json("directory").map_err(harmless)?;
        for url in [&directory.new_nonce, &directory.new_account, &directory.new_order] {
            check_url(url).map_err(harmless)?;
        }
        let directory = Arc::new(directory);
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some((directory.clone(), now));
        Ok(directory)
    }

    /// The profile to order (draft-ietf-acme-profiles), if the configuration names one.
    ///
    /// # Errors
    /// `Precondition` if the CA does not have it.
    pub(super) fn profile_of(&self, directory: &Directory) -> Result<Option<String>> {
        let Some(profile) = self.config.profile() else { return Ok(None) };
        let known = &directory.meta.profiles;
        if known.contains_key(profile) {
            return Ok(Some(profile.to_owned()));
        }
        let known: Vec<String> = known.keys().take(20).map(|name| shown(name, 60)).collect();
        Err(Error::new(
            ErrorKind::Precondition,
            match known.as_slice() {
                [] => format!("the CA has no profiles, and {profile:?} is asked for: leave profile out"),
                known => format!("the CA has no profile {profile:?}: use one of {}", known.join(", ")),
            },
        )
        .with("field", "/profile"))
    }
}
