use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use certctl_core::{
    ChallengeKind, CommandLine, Env, Issuer, KeyAlgorithm, Lifetime, Result, SecretRef, SolverSpec,
    Violation, connectors::IssuerConfig, host::HostPath,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Client;

/// A CA that speaks ACME (RFC 8555): Let's Encrypt, ZeroSSL, Google Trust Services, step-ca and others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Acme {
    /// The URL of the CA's directory; Let's Encrypt's by default.
    pub directory_url: String,
    /// The account's contact address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether the CA's terms of service are agreed to. An account can't be made without, where the CA has terms.
    pub terms_of_service_agreed: bool,
    /// External account binding (RFC 8555 section 7.3.4): the key's identifier, as the CA gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_kid: Option<String>,
    /// External account binding: the HMAC key, in base64url, as the CA gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_hmac: Option<SecretRef>,
    /// Where the credentials for external account binding are fetched for the email; by default ZeroSSL's address, for
    /// ZeroSSL's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_credentials_url: Option<String>,
    /// The algorithm of the account's key; has no effect on an account that exists.
    pub account_key_algorithm: KeyAlgorithm,
    /// How control over the names is proved.
    pub challenge_type: ChallengeKind,
    /// http-01: the address that is listened on; all of this machine's by default, unless the program answers itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_address: Option<IpAddr>,
    /// http-01: the port that is listened on. The CA asks on port 80, whatever this says.
    pub http_port: u16,
    /// http-01: the directory that a web server serves for these names; nothing listens then, files are written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webroot: Option<HostPath>,
    /// http-01: the id of the host that the web server is on; this machine by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webroot_host: Option<String>,
    /// tls-alpn-01: the address that is listened on; all of this machine's by default, unless the program answers itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_address: Option<IpAddr>,
    /// tls-alpn-01: the port that is listened on. The CA asks on port 443, whatever this says.
    pub tls_port: u16,
    /// dns-01, dns-persist-01: the program that creates the record. It gets `CERTCTL_DNS_DOMAIN`, `CERTCTL_DNS_FQDN`,
    /// `CERTCTL_DNS_VALUE` and `CERTCTL_DNS_TOKEN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_present_script: Option<CommandLine>,
    /// dns-01: the program that removes the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_cleanup_script: Option<CommandLine>,
    /// How long such a program may take.
    pub dns_script_timeout: Lifetime,
    /// The variables of this process's environment that such a program gets; by default none.
    pub dns_script_environment: Vec<String>,
    /// dns-01, dns-persist-01: who holds the zone, instead of programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_provider: Option<SolverSpec>,
    /// How long to wait at most until all of the zone's name servers show the record. A number of seconds, or a duration.
    pub dns_propagation_wait: Seconds,
    /// Whether to give up if they do not show it by then, instead of letting the CA look.
    pub dns_propagation_strict: bool,
    /// The resolvers to ask, as address and port; those of this machine by default.
    pub dns_resolvers: Vec<SocketAddr>,
    /// The name servers that have to show the record, as address and port; those of the zone by default.
    pub dns_name_servers: Vec<SocketAddr>,
    /// dns-persist-01: the CA's issuer domain, such as `letsencrypt.org`; the one that the CA names by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_persist_issuer_domain: Option<String>,
    /// dns-persist-01: whether to use dns-01 where the CA does not offer it.
    pub dns_persist_fallback: bool,
    /// The profile to order, such as `tlsserver` or `shortlived`; the CA's default where empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Of several chains, the one whose last certificate this issuer's common name has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// Whether the CA is asked when to renew (RFC 9773), and told what a new certificate replaces.
    pub ari_enabled: bool,
    /// A PEM file with the roots that the CA's own server is to be trusted by, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<HostPath>,
    /// How long an order may wait for the CA before another one is made.
    pub order_timeout: Lifetime,
}

/// Let's Encrypt's directory.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The directory of Let's Encrypt's staging environment.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// Whose accounts are bound to an email address, without credentials from a dashboard.
const ZEROSSL_HOST: &str = "acme.zerossl.com";
const ZEROSSL_CREDENTIALS: &str = "https://api.zerossl.com/acme/eab-credentials-email";

impl Default for Acme {
    /// Let's Encrypt, http-01 on port 80; the terms are not agreed to.
    fn default() -> Self {
        Self {
            directory_url: LETS_ENCRYPT.to_owned(),
            email: None,
            terms_of_service_agreed: false,
            eab_kid: None,
            eab_hmac: None,
            eab_credentials_url: None,
            account_key_algorithm: KeyAlgorithm::EcdsaP256,
            challenge_type: ChallengeKind::Http01,
            http_address: None,
            http_port: 80,
            webroot: None,
            webroot_host: None,
            tls_address: None,
            tls_port: 443,
            dns_present_script: None,
            dns_cleanup_script: None,
            dns_script_timeout: Lifetime::secs(60),
            dns_script_environment: Vec::new(),
            dns_provider: None,
            dns_propagation_wait: Seconds(Lifetime::secs(30)),
            dns_propagation_strict: false,
            dns_resolvers: Vec::new(),
            dns_name_servers: Vec::new(),
            dns_persist_issuer_domain: None,
            dns_persist_fallback: false,
            profile: None,
            preferred_chain: None,
            ari_enabled: true,
            ca_file: None,
            order_timeout: Lifetime::hours(1),
        }
    }
}

#[async_trait]
impl IssuerConfig for Acme {
    const KIND: &'static str = "acme";
    const ALIASES: &'static [&'static str] = &["ACME"];

    fn check(&self) -> Vec<Violation> {
        let mut wrong = Vec::new();
        check_url(&mut wrong, "/directory_url", &self.directory_url);
        if let Some(url) = &self.eab_credentials_url {
            check_url(&mut wrong, "/eab_credentials_url", url);
        }
        let mut say =
            |pointer: &str, message: &str, remedy: &str| wrong.push(Violation::new(pointer, message, remedy));
        if self.email().is_some_and(|email| !is_address(email)) {
            say("/email", "this is not an address that mail could go to", "write it like admin@example.com");
        }
        match (self.eab_kid(), &self.eab_hmac) {
            (Some(_), None) => {
                say("/eab_hmac", "eab_kid is given without its key", "add the HMAC key that belongs to it");
            }
            (None, Some(_)) => say(
                "/eab_kid",
                "eab_hmac is given without its identifier",
                "add the identifier that belongs to it",
            ),
            _ => {}
        }
        let dns = matches!(self.challenge_type, ChallengeKind::Dns01 | ChallengeKind::DnsPersist01);
        let kind = self.challenge_type.as_str();
        if dns && cfg!(not(feature = "dns")) {
            say(
                "/challenge_type",
                &format!("this program was built without {kind}"),
                "build it with the feature dns, or use another challenge",
            );
        }
        if dns && self.dns_present_script.is_none() && self.dns_provider.is_none() {
            say(
                "/dns_provider",
                &format!("nobody is named who could show a {kind} challenge"),
                "give dns_provider, or dns_present_script",
            );
        }
        if self.dns_present_script.is_some() && self.dns_provider.is_some() {
            say("/dns_provider", "both dns_provider and dns_present_script are given", "give one of them");
        }
        if self.dns_cleanup_script.is_some() && self.dns_present_script.is_none() {
            say(
                "/dns_cleanup_script",
                "there is no dns_present_script whose records it could remove",
                "add it, or leave this out",
            );
        }
        if self.webroot_host.is_some() && self.webroot.is_none() {
            say("/webroot_host", "a host is given and no webroot on it", "add webroot, or leave this out");
        }
        if self.webroot.is_some() && self.http_address.is_some() {
            say("/webroot", "both a webroot and an address to listen on are given", "give one of them");
        }
        if self.dns_persist_fallback && self.challenge_type != ChallengeKind::DnsPersist01 {
            say(
                "/dns_persist_fallback",
                "there is nothing to fall back from",
                "leave it out, or set challenge_type to dns-persist-01",
            );
        }
        for (pointer, port) in [("/http_port", self.http_port), ("/tls_port", self.tls_port)] {
            if port == 0 {
                say(pointer, "nobody can ask on port 0", "give the port that the CA's requests arrive at");
            }
        }
        if self.order_timeout < Lifetime::secs(10) || self.order_timeout > Lifetime::days(30) {
            say(
                "/order_timeout",
                "an order can't be waited for that long, or that short",
                "give 10s to 30d; 1h is usual",
            );
        }
        if self.dns_propagation_wait.0 > Lifetime::days(1) {
            say(
                "/dns_propagation_wait",
                "this is more than a day",
                "give at most a day; 30 seconds are usual",
            );
        }
        for (pointer, command) in [
            ("/dns_present_script", &self.dns_present_script),
            ("/dns_cleanup_script", &self.dns_cleanup_script),
        ] {
            wrong.extend(command.iter().flat_map(|command| command.check(pointer)));
        }
        wrong
    }

    fn solvers(&mut self) -> Vec<(&'static str, &mut SolverSpec)> {
        self.dns_provider.iter_mut().map(|provider| ("/dns_provider", provider)).collect()
    }

    async fn connect(self, env: Env) -> Result<std::sync::Arc<dyn Issuer>> {
        Ok(std::sync::Arc::new(Client::new(self, env).await?))
    }
}

impl Acme {
    pub(super) fn email(&self) -> Option<&str> {
        self.email.as_deref().map(str::trim).filter(|email| !email.is_empty())
    }

    pub(super) fn eab_kid(&self) -> Option<&str> {
        self.eab_kid.as_deref().filter(|kid| !kid.is_empty())
    }

    pub(super) fn profile(&self) -> Option<&str> {
        self.profile.as_deref().filter(|profile| !profile.is_empty())
    }

    /// Whether the directory is at this domain, or below it.
    #[cfg(feature = "dns")]
    pub(super) fn is_at(&self, domain: &str) -> bool {
        let url = reqwest::Url::parse(&self.directory_url).ok();
        let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
        host == domain
            || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.') && domain.contains('.'))
    }

    /// Where credentials for external account binding can be had for an email address.
    pub(super) fn credentials_url(&self) -> Option<&str> {
        if self.eab_credentials_url.is_some() {
            return self.eab_credentials_url.as_deref();
        }
        let host = reqwest::Url::parse(&self.directory_url).ok()?.host_str()?.to_owned();
        (host == ZEROSSL_HOST).then_some(ZEROSSL_CREDENTIALS)
    }
}

/// A span, written as a number of seconds or as a duration such as `30s` or `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub Lifetime);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => match text.parse() {
                Ok(seconds) => Ok(Self(Lifetime::secs(seconds))),
                Err(_) => text.parse().map(Self).map_err(D::Error::custom),
            },
            other => match other.as_u64() {
                Some(seconds) => Ok(Self(Lifetime::secs(seconds))),
                None => Err(D::Error::custom("/: this is no span of time; write 30 or \"30s\"")),
            },
        }
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number of seconds, or a duration such as 30s",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)?$" },
            ],
        })
    }
}

fn check_url(wrong: &mut Vec<Violation>, pointer: &str, url: &str) {
    let problem = match reqwest::Url::parse(url) {
        Err(_) => "this is not a URL",
        Ok(parsed) if parsed.scheme() != "https" => "ACME needs https (RFC 8555 section 6.1)",
        Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            "there is a user name or password in the URL"
        }
        Ok(_) => return,
    };
    wrong.push(Violation::new(pointer, problem, format!("write it like {LETS_ENCRYPT}")));
}

/// Nothing that could add a second address or a header where it is used in a URL (RFC 8555 section 7.3).
fn is_address(text: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"?,<>\"%&;:()[]\\".contains(c);
    match text.split_once('@') {
        Some((local, domain)) => {
            !local.is_empty()
                && domain.contains('.')
                && !domain.contains('@')
                && text.len() <= 254
                && text.chars().all(plain)
        }
        None => false,
    }
}
