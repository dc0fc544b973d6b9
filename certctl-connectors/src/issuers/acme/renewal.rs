//! When to renew (RFC 9773), and revocation (RFC 8555 section 7.6).

use std::time::Duration;

use certctl_core::{
    Chain, Context, Effect, Error, Order, RenewalWindow, Result, Retry, Revocation, Timestamp,
};
use certctl_protocols::acme::wire::{self, CertificateId, Directory, RenewalInfo};
use reqwest::Method;

use super::{
    client::{By, Client},
    transport::{Request, bad, shown},
};

/// How long a CA is not asked again that does not say (RFC 9773 section 4.3.3).
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3_600);

/// What the CA says about renewing this certificate.
pub(super) async fn window(client: &Client, cx: &Context, chain: &Chain) -> Result<Option<RenewalWindow>> {
    if !client.config.ari_enabled {
        return Ok(None);
    }
    let directory = client.directory(cx).await?;
    let Some(base) = directory.renewal_info.as_deref() else { return Ok(None) };
    // Without an authority key identifier there is nothing to ask with.
    let Ok(id) = CertificateId::of(chain.leaf()) else { return Ok(None) };
    let url = format!("{}/{}", base.trim_end_matches('/'), id.as_str());
    let harmless = |e: Error| e.with_effect(Effect::None).during("asking the CA when to renew");
    let answer =
        client.transport.send(Request::new(Method::GET, &url), &client.env).await.map_err(harmless)?;
    if answer.status == 404 {
        return Ok(None);
    }
    let answer = answer.accepted().map_err(harmless)?;
    let info: RenewalInfo = answer.json("renewal information").map_err(harmless)?;
    let (start, end) = (info.suggested_window.start, info.suggested_window.end);
    if end <= start {
        return Err(harmless(bad(&url, format!("the window ends at {end} and begins at {start}"))));
    }
    let explanation = info.explanation_url.map(|url| shown(&url, 500));
    let ask_again: Timestamp = answer.retry_after().unwrap_or(answer.at + ASK_AGAIN);
    Ok(Some(RenewalWindow { start, end, ask_again, explanation }))
}

/// What the order replaces, for a CA that wants to know (RFC 9773 section 5).
pub(super) fn replaces(client: &Client, directory: &Directory, order: &Order) -> Option<CertificateId> {
    let wanted = client.config.ari_enabled && directory.renewal_info.is_some();
    let before = order.replaces.as_ref().filter(|_| wanted)?;
    CertificateId::of(before.leaf()).ok()
}

/// Whether the order was refused for what it replaces, or may have been: a certificate of another CA, or one that was replaced
/// already.
pub(super) fn refuses_replacing(error: &Error) -> bool {
    const KINDS: [&str; 4] = [":alreadyReplaced", ":malformed", ":unauthorized", "about:blank"];
    let problem = error.context_value("problem").unwrap_or_default();
    error.effect() == Effect::None
        && error.retry() == Retry::Never
        && KINDS.iter().any(|kind| problem.ends_with(kind))
}

/// Whether something went wrong inside of the CA, which may go wrong again and again because of what the order replaces: one
/// that does not find its own certificate must not end renewals.
pub(super) fn fails_at_replacing(error: &Error) -> bool {
    let problem = error.context_value("problem").unwrap_or_default();
    error.context_value("status") == Some("500") && problem.ends_with(":serverInternal")
}

/// Revokes; a certificate that is revoked already is fine.
pub(super) async fn revoke(client: &Client, cx: &Context, revocation: &Revocation) -> Result<()> {
    let directory = client.directory(cx).await?;
    let url = directory
        .revoke_cert
        .as_deref()
        .ok_or_else(|| Error::unsupported("the CA revokes nothing over ACME"))?;
    let request = wire::Revocation::new(revocation.chain.leaf(), revocation.reason);
    let answer = match &revocation.key {
        Some(key) => client.post(cx, url, &request, By::Key(&**key)).await,
        None => client.post(cx, url, &request, By::Account(&*client.registered(cx).await?)).await,
    };
    match answer {
        Ok(_) => Ok(()),
        Err(e) if e.context_value("problem").is_some_and(|p| p.ends_with(":alreadyRevoked")) => Ok(()),
        Err(e) => Err(e.during("revoking the certificate")),
    }
}
