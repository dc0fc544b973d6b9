//! The end of an order: the request, and the certificate with its chain.

use certctl_core::{Chain, Error, ErrorKind, Progress, Result, Retry};
use certctl_protocols::acme::wire::{self, Finalize, OrderStatus};

use super::{
    client::By,
    order::{State, Step},
    transport::{Response, bad, check_own, shown},
};

/// RFC 8555 section 9.1.
const CHAIN: &str = "application/pem-certificate-chain";
/// Alternatives that are looked at.
const MAX_ALTERNATES: usize = 8;

/// Sends the request (RFC 8555 section 7.4).
pub(super) async fn finalize(step: &Step<'_>, mut state: State) -> Result<Progress> {
    let request = Finalize::new(&step.order.csr);
    let answer = step.client.post(step.cx, &state.finalize, &request, By::Account(step.account)).await;
    let answer = match answer {
        Ok(answer) => answer,
        // The order is still ready, or not: another look tells.
        Err(e) if e.retry() != Retry::Never => return Err(e),
        Err(e) if e.context_value("problem").is_some_and(|p| p.ends_with(":orderNotReady")) => {
            return Err(e.with_retry(Retry::Backoff));
        }
        Err(e) => return step.failed(e.during("the CA refuses the request")),
    };
    if !state.is_finalized() {
        state.finalized(step.now);
    }
    let after = answer.retry_after();
    let order: wire::Order = answer.json("order")?;
    if order.status == OrderStatus::Valid {
        return collect(step, &state, &order).await;
    }
    step.ask_again(state, after)
}

/// Fetches the certificate, and of its chains the one that is preferred.
pub(super) async fn collect(step: &Step<'_>, state: &State, order: &wire::Order) -> Result<Progress> {
    let url = order.certificate.as_deref().ok_or_else(|| {
        bad(&state.order, "the order is valid, and it does not say where the certificate is")
    })?;
    check_own(&state.order, url)?;
    let answer = step.client.read(step.cx, url, step.account, CHAIN).await.map_err(|e| {
        // The certificate is there, even if not all of the CA's servers have heard of it: no reason to order another one.
        let e = e.during("fetching the certificate");
        if e.retry() == Retry::Never { e.with_retry(Retry::Backoff) } else { e }
    })?;
    let chain = read(&answer)?;
    if !state.is_finalized() && chain.leaf().public_key().ok() != Some(step.order.csr.public_key()) {
        // Somebody else with this account has finalized it: two processes found the same order after a crash.
        return step.failed(
            Error::new(ErrorKind::Conflict, "the order was finalized by somebody else with this account")
                .with("order", &state.order),
        );
    }
    let Some(preferred) = step.client.config.preferred_chain.as_deref() else {
        return Ok(Progress::Issued { chain });
    };
    if is_from(&chain, preferred) {
        return Ok(Progress::Issued { chain });
    }
    let mut seen = vec![top(&chain)];
    for alternate in answer.own_links("alternate").iter().take(MAX_ALTERNATES) {
        let other = match step
            .client
            .read(step.cx, alternate, step.account, CHAIN)
            .await
            .and_then(|answer| read(&answer))
        {
            Ok(other) => other,
            Err(e) => {
                tracing::warn!(error = %e, "an alternate chain can't be had");
                continue;
            }
        };
        if other.leaf() == chain.leaf() && is_from(&other, preferred) {
            return Ok(Progress::Issued { chain: other });
        }
        seen.push(top(&other));
    }
    tracing::warn!(
        preferred,
        offered = seen.join(", "),
        "the CA does not offer the preferred chain; its default is used"
    );
    Ok(Progress::Issued { chain })
}

fn read(answer: &Response) -> Result<Chain> {
    if !answer.is(CHAIN) {
        return Err(answer.not("certificate"));
    }
    const KEY: &[u8] = b"PRIVATE KEY-----";
    if answer.body.windows(KEY.len()).any(|window| window == KEY) {
        // Nobody else has had ours. Whoever serves this, or believes that it is needed, has gone wrong badly.
        return Err(bad(&answer.url, "there is a private key with its certificate").with_retry(Retry::Never));
    }
    Chain::from_pem(&answer.body).map_err(|e| bad(&answer.url, format!("its certificate can't be read: {e}")))
}

/// The name of whoever signed the last certificate.
fn top(chain: &Chain) -> String {
    let last = chain.certificates().last().unwrap_or_else(|| chain.leaf());
    shown(last.issuer_common_name().unwrap_or_default(), 200)
}

fn is_from(chain: &Chain, preferred: &str) -> bool {
    top(chain) == preferred
}
