//! Which challenge is shown, by whom, and when the CA may look.

use std::time::Duration;

use certctl_core::{
    Challenge, ChallengeKind, Error, ErrorKind, Result, Retry, SolverSpec, SubjectAltName, Timestamp,
    connectors::SolverConfig,
};
use certctl_protocols::acme::wire::{
    self, Authorization, AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, check_token,
    key_authorization,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::solvers::Http01Webroot;

use super::{
    Acme,
    client::By,
    order::Step,
    transport::{check_own, shown},
};

/// A challenge that is shown, or will be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    authorization: String,
    /// Where the CA is told to look.
    url: String,
    pub(super) challenge: Challenge,
}

/// The challenge of the configured kind.
///
/// # Errors
/// `Unsupported` if the CA does not offer it: it says what it does offer.
pub(super) async fn choose(step: &Step<'_>, url: &str, authorization: &Authorization) -> Result<Pending> {
    let config = &step.client.config;
    let name = name(&authorization.identifier)?;
    let mut kind = config.challenge_type;
    let mut offered = offer(authorization, kind);
    if offered.is_none() && kind == ChallengeKind::DnsPersist01 && config.dns_persist_fallback {
        kind = ChallengeKind::Dns01;
        offered = offer(authorization, kind);
    }
    let Some(offered) = offered else {
        let kinds: Vec<String> =
            authorization.challenges.iter().take(10).map(|c| shown(c.kind.as_str(), 40)).collect();
        return Err(Error::unsupported(format!(
            "the CA does not offer {} for {name}: set challenge_type to one that it does: {}",
            kind.as_str(),
            kinds.join(", ")
        ))
        .with("field", "/challenge_type"));
    };
    check_own(url, &offered.url)?;
    // What the server sends becomes a path, a file's name and a program's variable.
    let token = offered.token.clone().unwrap_or_default();
    if !token.is_empty() {
        check_token(&token).map_err(bad_token)?;
    }
    let authorization_of_key = match kind {
        ChallengeKind::DnsPersist01 => String::new(),
        _ => key_authorization(&token, step.account.key.public_key()).map_err(bad_token)?,
    };
    let txt = match (kind, &name) {
        (ChallengeKind::Dns01 | ChallengeKind::DnsPersist01, SubjectAltName::Dns(domain)) => Some(
            dns::record(step, kind, domain, &authorization_of_key, offered, authorization.wildcard).await?,
        ),
        _ => None,
    };
    let challenge = Challenge {
        kind,
        name,
        token,
        key_authorization: authorization_of_key,
        txt,
        solver: solver(config, kind, step)?,
    };
    Ok(Pending { authorization: url.to_owned(), url: offered.url.clone(), challenge })
}

/// Whether the CA may look.
pub(super) enum Visible {
    Yes,
    /// Why not.
    NotYet(String),
    /// It was waited for long enough.
    Never(Error),
}

/// Looks whether what the CA will look for can be seen, where that is known before.
pub(super) async fn visible(step: &Step<'_>, pending: &[Pending], since: Timestamp) -> Visible {
    let config = &step.client.config;
    let wait = config.dns_propagation_wait.0.as_duration();
    let records: Vec<_> = pending.iter().filter_map(|pending| pending.challenge.txt.as_ref()).collect();
    if records.is_empty() || wait == Duration::ZERO {
        return Visible::Yes;
    }
    let Err(missing) = dns::visible(step, &records).await else { return Visible::Yes };
    if step.now.since(since) < wait {
        return Visible::NotYet(missing);
    }
    let sentence = format!("after {}: {missing}", certctl_core::Lifetime::from(wait));
    if config.dns_propagation_strict {
        let error = Error::new(ErrorKind::Precondition, sentence).with_retry(Retry::Backoff);
        return Visible::Never(error.with("field", "/dns_propagation_wait"));
    }
    tracing::warn!("{sentence}; the CA is told to look all the same");
    Visible::Yes
}

/// Tells the CA to look (RFC 8555 section 7.5.1). That it was told before is fine.
pub(super) async fn tell(step: &Step<'_>, pending: &Pending) -> Result<()> {
    let told = step.client.post(step.cx, &pending.url, &json!({}), By::Account(step.account)).await;
    let Err(error) = told else { return Ok(()) };
    if error.retry() != Retry::Never {
        return Err(error);
    }
    let answer = step.client.read(step.cx, &pending.authorization, step.account, "application/json").await?;
    let authorization: Authorization = answer.json("authorization")?;
    let waits = |challenge: &wire::Challenge| {
        challenge.url == pending.url && challenge.status == ChallengeStatus::Pending
    };
    if authorization.status == AuthorizationStatus::Pending && authorization.challenges.iter().any(waits) {
        return Err(error);
    }
    // It has looked, or does.
    Ok(())
}

/// Whether it is gone with the process that shows it: what is in the DNS, or in a directory, stays.
pub(super) fn is_volatile(challenge: &Challenge) -> bool {
    challenge.txt.is_none()
        && challenge.solver.as_ref().is_none_or(|solver| &*solver.kind != Http01Webroot::KIND)
}

fn offer(authorization: &Authorization, kind: ChallengeKind) -> Option<&wire::Challenge> {
    let kind = match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::DnsPersist01 => ChallengeType::DnsPersist01,
    };
    authorization.challenges.iter().find(|challenge| challenge.kind == kind)
}

fn name(identifier: &Identifier) -> Result<SubjectAltName> {
    match identifier {
        Identifier::Dns(name) => SubjectAltName::dns(name),
        Identifier::Ip(address) => Ok(SubjectAltName::ip(*address)),
        other => Err(Error::unsupported(format!("an identifier of the type {}", shown(other.kind(), 40)))),
    }
}

fn bad_token(error: Error) -> Error {
    Error::new(ErrorKind::BadResponse, "the ACME server's challenge can't be used").with_source(error)
}

/// Who shows it: before the program itself, where the configuration says more than a port.
fn solver(config: &Acme, kind: ChallengeKind, step: &Step<'_>) -> Result<Option<SolverSpec>> {
    let owner = Some(step.client.env.owner.1.clone()).filter(|owner| !owner.is_empty());
    let explicit = match kind {
        ChallengeKind::Http01 => config.webroot.is_some() || config.http_address.is_some(),
        ChallengeKind::TlsAlpn01 => config.tls_address.is_some(),
        ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => true,
    };
    let made = |kind: &str, config: serde_json::Value| SolverSpec {
        kind: kind.into(),
        config,
        owner: owner.clone(),
        explicit,
    };
    Ok(Some(match kind {
        ChallengeKind::Http01 => match &config.webroot {
            Some(path) => made("http01_webroot", json!({ "path": path, "host": config.webroot_host })),
            None => match config.http_address {
                Some(address) => {
                    made("http01_listener", json!({ "address": address, "port": config.http_port }))
                }
                None => made("http01_listener", json!({ "port": config.http_port })),
            },
        },
        ChallengeKind::TlsAlpn01 => match config.tls_address {
            Some(address) => {
                made("tls_alpn01_listener", json!({ "address": address, "port": config.tls_port }))
            }
            None => made("tls_alpn01_listener", json!({ "port": config.tls_port })),
        },
        ChallengeKind::Dns01 | ChallengeKind::DnsPersist01 => {
            match (&config.dns_provider, &config.dns_present_script) {
                (Some(provider), _) => SolverSpec { owner: owner.clone(), explicit, ..provider.clone() },
                (None, Some(present)) => made(
                    "dns_script",
                    json!({
                        "present": present,
                        "cleanup": config.dns_cleanup_script,
                        "timeout": config.dns_script_timeout,
                        "environment": config.dns_script_environment,
                    }),
                ),
                (None, None) => return Ok(None),
            }
        }
    }))
}

#[cfg(feature = "dns")]
mod dns {
    use certctl_core::{ChallengeKind, Error, ErrorKind, Result, TxtRecord};
    use certctl_protocols::acme::wire::{self, dns01_value};

    use super::super::order::Step;
    use crate::dns::Lookup;

    /// Records that are looked at at the same time, each at several name servers.
    const AT_ONCE: usize = 4;

    /// The record to show, where an alias leads to.
    pub(super) async fn record(
        step: &Step<'_>,
        kind: ChallengeKind,
        domain: &str,
        key_authorization: &str,
        offered: &wire::Challenge,
        wildcard: bool,
    ) -> Result<TxtRecord> {
        let (label, value) = match kind {
            ChallengeKind::DnsPersist01 => ("_validation-persist", persistent(step, offered, wildcard)?),
            _ => ("_acme-challenge", dns01_value(key_authorization)),
        };
        let plain = format!("{label}.{domain}");
        let lookup = lookup(step)?;
        let name = lookup.follow(&plain).await.map_err(|e| e.during(format!("following {plain}")))?;
        if name.eq_ignore_ascii_case(&plain) {
            return Ok(TxtRecord { name, value });
        }
        // A wildcard makes an alias of every name that is not there: nobody meant this one.
        let random: [u8; 6] = certctl_core::random_bytes();
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let of_a_wildcard = match lookup.follow(&format!("_certctl-{random}.{domain}")).await {
            Ok(other) => other == name,
            Err(_) => false,
        };
        Ok(TxtRecord { name: if of_a_wildcard { plain } else { name }, value })
    }

    /// draft-ietf-acme-dns-persist: who may issue, for which account, and whether for everything below.
    fn persistent(step: &Step<'_>, offered: &wire::Challenge, wildcard: bool) -> Result<String> {
        let configured =
            step.client.config.dns_persist_issuer_domain.as_ref().filter(|domain| !domain.is_empty());
        let names = &offered.issuer_domain_names;
        let domain = match configured {
            Some(configured) if names.is_empty() || names.contains(configured) => configured,
            // A record for another CA than the one that is asked would let that one issue, for good.
            None => names.iter().find(|domain| step.client.config.is_at(domain)).ok_or_else(|| {
                Error::unsupported(
                    "the CA does not name an issuer domain of its own: give dns_persist_issuer_domain",
                )
                .with("field", "/dns_persist_issuer_domain")
            })?,
            Some(configured) => {
                return Err(Error::unsupported(format!("the CA's issuer domain is not {configured}"))
                    .with("field", "/dns_persist_issuer_domain"));
            }
        };
        let account = &step.account.url;
        if account.chars().any(|c| c.is_whitespace() || c.is_control() || ";\"\\".contains(c)) {
            return Err(Error::new(
                ErrorKind::BadResponse,
                "the account's address has characters that the record can't have",
            ));
        }
        let named =
            domain.len() <= 253 && domain.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
        if !named {
            return Err(Error::unsupported("the CA's issuer domain is no domain"));
        }
        let policy = if wildcard { "; policy=wildcard" } else { "" };
        Ok(format!("{domain}; accounturi={account}{policy}"))
    }

    /// Whether every name server shows these.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub(super) async fn visible(step: &Step<'_>, records: &[&TxtRecord]) -> Result<(), String> {
        let lookup = lookup(step).map_err(|e| e.to_string())?;
        for records in records.chunks(AT_ONCE) {
            let looks = records.iter().map(|record| lookup.visible(record));
            for (record, seen) in records.iter().zip(futures_util::future::join_all(looks).await) {
                match seen {
                    Ok(seen) if seen.complete() => {}
                    Ok(seen) => return Err(format!("{}: {seen}", record.name)),
                    Err(e) => return Err(format!("{}: {e}", record.name)),
                }
            }
        }
        Ok(())
    }

    fn lookup(step: &Step<'_>) -> Result<Lookup> {
        let config = &step.client.config;
        Lookup::new(&config.dns_resolvers, &config.dns_name_servers)
    }
}

#[cfg(not(feature = "dns"))]
mod dns {
    use certctl_core::{ChallengeKind, Error, Result, TxtRecord};
    use certctl_protocols::acme::wire;

    use super::super::order::Step;

    pub(super) async fn record(
        _: &Step<'_>,
        _: ChallengeKind,
        _: &str,
        _: &str,
        _: &wire::Challenge,
        _: bool,
    ) -> Result<TxtRecord> {
        Err(Error::unsupported("this program was built without challenges in the DNS (feature dns)"))
    }

    pub(super) async fn visible(_: &Step<'_>, _: &[&TxtRecord]) -> Result<(), String> {
        Ok(())
    }
}
