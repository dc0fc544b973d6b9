//! tls-alpn-01 (RFC 8737): what a server shows to a CA that wants to see whether a name points to it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::resolver::{TlsResolver, self_signed, server_config};
use crate::{Challenge, ChallengeKind, Context, Error, Result, Solver, SubjectAltName};

impl TlsResolver {
    /// The application protocol of tls-alpn-01 (RFC 8737 section 6.2): who builds a [`ServerConfig`] of their own adds it to
    /// the end of `alpn_protocols`, after those of the application. A connection that has negotiated it is to be closed
    /// after the handshake; nothing is ever said on it.
    pub const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";

    /// A server's configuration with this resolver that also answers tls-alpn-01: TLS 1.2 and 1.3, no client
    /// certificates, and these application protocols in the order of preference, then [`TlsResolver::ACME_TLS_ALPN`].
    ///
    /// A client that offers protocols of which none is listed is refused (RFC 7301 section 3.2): name what the application
    /// speaks, such as `["h2", "http/1.1"]`.
    pub fn server_config_for<P: AsRef<[u8]>>(
        self: &Arc<Self>,
        protocols: impl IntoIterator<Item = P>,
    ) -> ServerConfig {
        let mut config = self.server_config();
        config.alpn_protocols = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        config.alpn_protocols.push(Self::ACME_TLS_ALPN.to_vec());
        config
    }

    /// A configuration that does nothing but answer tls-alpn-01: handshakes of other clients fail.
    pub fn challenge_config(self: &Arc<Self>) -> ServerConfig {
        let mut config = server_config(Arc::new(ChallengesOnly(self.clone())));
        config.alpn_protocols.push(Self::ACME_TLS_ALPN.to_vec());
        config
    }

    /// Whether this client is a CA that validates tls-alpn-01: it offers that protocol, whatever else it offers.
    pub fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == Self::ACME_TLS_ALPN))
    }

    /// Shows the answer to a tls-alpn-01 challenge for this name, from the next handshake on: a self-signed certificate
    /// for the name with the key authorization's SHA-256 in a critical `acmeIdentifier` extension (RFC 8737 section 3). It is
    /// shown to nobody but clients that offer [`TlsResolver::ACME_TLS_ALPN`] and no other protocol, and such clients see no
    /// other certificate. Of several for one name, the last is shown.
    ///
    /// # Errors
    /// `Unsupported` for a name that is neither a DNS name without wildcard nor an IP address (RFC 8738 section 6).
    pub fn show_challenge(&self, name: &SubjectAltName, key_authorization: &str) -> Result<()> {
        let server_name = challenge_name(name)
            .ok_or_else(|| Error::unsupported(format!("tls-alpn-01 can't prove control over {name}")))?;
        let digest = digest_of(key_authorization);
        let extension = rcgen::CustomExtension::new_acme_identifier(&digest);
        let certified = Arc::new(self_signed("certctl tls-alpn-01", Some(name), Some(extension))?);
        self.challenges.change(|all| {
            let shown = all.entry(server_name).or_default();
            shown.retain(|one| one.digest != digest);
            shown.push(Shown { digest, certified });
        });
        Ok(())
    }

    /// Takes the answer away again; others for the same name stay, and what is not there is fine.
    pub fn hide_challenge(&self, name: &SubjectAltName, key_authorization: &str) {
        let Some(server_name) = challenge_name(name) else { return };
        let digest = digest_of(key_authorization);
        self.challenges.change(|all| {
            if let Some(shown) = all.get_mut(&server_name) {
                shown.retain(|one| one.digest != digest);
                if shown.is_empty() {
                    all.remove(&server_name);
                }
            }
        });
    }

    /// Whether answers to challenges are shown now.
    pub fn shows_challenges(&self) -> bool {
        !self.challenges.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// tls-alpn-01 on the application's own port: register it with [`crate::EngineBuilder::solver`].
#[async_trait]
impl Solver for TlsResolver {
    fn solves(&self, challenge: &Challenge) -> bool {
        challenge.kind == ChallengeKind::TlsAlpn01 && challenge_name(&challenge.name).is_some()
    }

    async fn present(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        self.show_challenge(&challenge.name, &challenge.key_authorization)
    }

    async fn retract(&self, _: &Context, challenge: &Challenge) -> Result<()> {
        self.hide_challenge(&challenge.name, &challenge.key_authorization);
        Ok(())
    }
}

/// By the server name that the CA asks for.
#[derive(Default)]
pub(super) struct Challenges(RwLock<HashMap<String, Vec<Shown>>>);

struct Shown {
    digest: [u8; 32],
    certified: Arc<CertifiedKey>,
}

impl Challenges {
    /// What a client that asks for a challenge gets; none if it has to be refused.
    pub(super) fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 section 3: the CA offers this protocol alone.
        if hello.alpn()?.any(|protocol| protocol != TlsResolver::ACME_TLS_ALPN) {
            return None;
        }
        let name = hello.server_name()?.trim_end_matches('.').to_ascii_lowercase();
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&name)?.last().map(|shown| shown.certified.clone())
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Vec<Shown>>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[derive(Debug)]
struct ChallengesOnly(Arc<TlsResolver>);

impl ResolvesServerCert for ChallengesOnly {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.challenges.answer(&hello)
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.read().unwrap_or_else(PoisonError::into_inner).keys()).finish()
    }
}

/// What the CA asks for as the server's name: for an address, its name of the reverse mapping (RFC 8738 section 6).
fn challenge_name(name: &SubjectAltName) -> Option<String> {
    match name {
        SubjectAltName::Dns(name) if !name.starts_with("*.") => Some(name.clone()),
        SubjectAltName::Ip(std::net::IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            Some(format!("{d}.{c}.{b}.{a}.in-addr.arpa"))
        }
        SubjectAltName::Ip(std::net::IpAddr::V6(address)) => {
            let nibbles =
                address.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 15, octet >> 4));
            Some(nibbles.collect::<String>() + "ip6.arpa")
        }
        _ => None,
    }
}

fn digest_of(key_authorization: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, key_authorization.as_bytes()).as_ref());
    out
}
