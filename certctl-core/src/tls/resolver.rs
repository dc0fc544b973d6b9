//! The certificates of a TLS server in this process, swapped while it serves.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use rustls::{
    ServerConfig, SignatureScheme,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{challenge::Challenges, provider};
use crate::{
    Bundle, Error, Fingerprint, KeyAlgorithm, PrivateKey, Result, SerialNumber, SubjectAltName, Timestamp,
    random,
};

/// Chooses certificates for a rustls server. Each certificate has a slot with a name of its own; what is installed serves
/// from the next handshake on, and connections that exist go on as they are.
///
/// A client gets the certificate that has the name it asks for; else one whose wildcard covers it; else the default,
/// which is [`TlsResolver::set_default`]'s slot or the one that was filled first. Among several, a client gets one whose
/// key it can check; one that resumes a session is shown none. Until the first is installed, a self-signed stand-in is
/// served, so that the server can start.
///
/// It also answers tls-alpn-01 challenges, as a [`crate::Solver`]; see [`TlsResolver::server_config_for`].
///
/// ```
/// # use std::sync::Arc;
/// # use certctl_core::tls::TlsResolver;
/// let resolver = Arc::new(TlsResolver::new());
/// let config = resolver.server_config();
/// assert!(resolver.current("web").is_none() && config.alpn_protocols.is_empty());
/// ```
#[derive(Default)]
pub struct TlsResolver {
    /// Replaced as a whole: a handshake holds the lock no longer than it takes to count a reference.
    table: RwLock<Arc<Table>>,
    stand_in: OnceLock<Option<Arc<CertifiedKey>>>,
    pub(super) challenges: Challenges,
}

impl TlsResolver {
    /// With nothing installed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves this from the next handshake on, in the place of what the slot holds.
    ///
    /// # Errors
    /// `Invalid` if the key is not the certificate's, or is of a kind that TLS can't use; the slot stays as it was.
    pub fn install(&self, slot: &str, bundle: &Bundle) -> Result<()> {
        let certified = Arc::new(certified(bundle)?);
        self.change(|slots, next| {
            let turn = slots.get(slot).map_or(next, |installed| installed.turn);
            slots.insert(slot.into(), Arc::new(Installed { certified, bundle: bundle.clone(), turn }));
        });
        Ok(())
    }

    /// Empties the slot; an empty one is fine.
    pub fn remove(&self, slot: &str) {
        self.change(|slots, _| {
            slots.remove(slot);
        });
    }

    /// Serves this slot to clients that ask for no name, or for one that no certificate has.
    pub fn set_default(&self, slot: &str) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        *table = Arc::new(Table::new(table.slots.clone(), Some(slot.into()), table.next));
    }

    /// SHA-256 of the leaf that the slot holds.
    pub fn current(&self, slot: &str) -> Option<Fingerprint> {
        self.bundle(slot).map(|bundle| bundle.chain.leaf().fingerprint())
    }

    /// What the slot holds.
    pub fn bundle(&self, slot: &str) -> Option<Bundle> {
        self.table().slots.get(slot).map(|installed| installed.bundle.clone())
    }

    /// Whether an installed certificate that is valid at this time has this DNS name, or a wildcard that covers it.
    pub fn serves(&self, name: &str, at: Timestamp) -> bool {
        self.table().named(Some(name)).iter().any(|installed| {
            let leaf = installed.bundle.chain.leaf();
            leaf.not_before() <= at && at < leaf.not_after()
        })
    }

    /// A server's configuration with this resolver: TLS 1.2 and 1.3, no client certificates, no application protocols. It
    /// answers no challenges; see [`TlsResolver::server_config_for`].
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        server_config(self.clone())
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Box<str>, Arc<Installed>>, u64)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut slots = table.slots.clone();
        change(&mut slots, table.next);
        *table = Arc::new(Table::new(slots, table.default.clone(), table.next + 1));
    }
}

impl ResolvesServerCert for TlsResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if Self::asks_for_challenge(&hello) {
            return self.challenges.answer(&hello);
        }
        let table = self.table();
        match table.choose(hello.server_name(), hello.signature_schemes()) {
            Some(certified) => Some(certified),
            None => self.stand_in.get_or_init(stand_in).clone(),
        }
    }
}

impl fmt::Debug for TlsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let leaf = |installed: &Arc<Installed>| installed.bundle.chain.leaf().fingerprint();
        f.debug_map().entries(table.slots.iter().map(|(slot, installed)| (slot, leaf(installed)))).finish()
    }
}

struct Installed {
    certified: Arc<CertifiedKey>,
    bundle: Bundle,
    /// The order in which slots were first filled.
    turn: u64,
}

/// Never changed once made.
#[derive(Default)]
struct Table {
    slots: BTreeMap<Box<str>, Arc<Installed>>,
    default: Option<Box<str>>,
    next: u64,
    /// By DNS name.
    exact: HashMap<String, Vec<Arc<Installed>>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Vec<Arc<Installed>>>,
    /// The default, then all others.
    rest: Vec<Arc<Installed>>,
}

impl Table {
    fn new(slots: BTreeMap<Box<str>, Arc<Installed>>, default: Option<Box<str>>, next: u64) -> Self {
        let mut ordered: Vec<_> = slots.iter().collect();
        ordered.sort_by_key(|(slot, installed)| (default.as_ref() != Some(*slot), installed.turn));
        let mut exact = HashMap::<_, Vec<_>>::new();
        let mut wildcard = HashMap::<_, Vec<_>>::new();
        for (_, installed) in &ordered {
            for name in installed.bundle.chain.leaf().names() {
                let SubjectAltName::Dns(name) = name else { continue };
                let (by, key) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                by.entry(key.to_owned()).or_default().push(Arc::clone(installed));
            }
        }
        let rest = ordered.iter().map(|(_, installed)| Arc::clone(installed)).collect();
        Self { slots, default, next, exact, wildcard, rest }
    }

    /// Those for this name, then those whose wildcard covers it.
    fn named(&self, name: Option<&str>) -> Vec<&Arc<Installed>> {
        let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let exact = name.as_ref().and_then(|name| self.exact.get(name));
        let parent = name.as_ref().and_then(|name| name.split_once('.'));
        let wildcard = parent.and_then(|(_, parent)| self.wildcard.get(parent));
        exact.into_iter().chain(wildcard).flatten().collect()
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let named = self.named(name);
        let among = if named.is_empty() { self.rest.iter().collect() } else { named };
        let fits = among.iter().find(|one| one.certified.key.choose_scheme(schemes).is_some());
        // Where none fits, the handshake fails for that reason, and says so.
        fits.or(among.first()).map(|one| one.certified.clone())
    }
}

fn certified(bundle: &Bundle) -> Result<CertifiedKey> {
    let leaf = bundle.chain.leaf();
    if leaf.public_key()? != bundle.key.public_key() {
        return Err(Error::invalid_field(
            "/key",
            "the certificate is for another key",
            "use the key that the certificate was requested with",
        ));
    }
    let chain = bundle.chain.ders().map(|der| CertificateDer::from(der.to_vec())).collect();
    certified_key(chain, &bundle.key)
}

fn certified_key(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<CertifiedKey> {
    let pkcs8 = key.to_pkcs8_der();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.expose()));
    let signing = any_supported_type(&der).map_err(|e| {
        let remedy = "use an ECDSA, RSA or Ed25519 key";
        Error::invalid_field("/key", "TLS can't use the key", remedy).with_source(e)
    })?;
    Ok(CertifiedKey::new(chain, signing))
}

/// TLS 1.2 and 1.3, no client certificates.
pub(super) fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    // The provider has cipher suites for both versions, by construction.
    #[allow(clippy::expect_used)]
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider knows TLS 1.2 and 1.3");
    builder.with_no_client_auth().with_cert_resolver(resolver)
}

/// A certificate that nobody trusts, so that its dates say nothing: it does without a clock (RFC 5280 section 4.1.2.5 for the
/// end).
pub(super) fn self_signed(
    common_name: &str,
    name: Option<&SubjectAltName>,
    extension: Option<rcgen::CustomExtension>,
) -> Result<CertifiedKey> {
    let failed = |e: rcgen::Error| Error::internal("making a self-signed certificate failed").with_source(e);
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let pkcs8 = key.to_pkcs8_der();
    let pair = rcgen::KeyPair::try_from(pkcs8.expose()).map_err(failed)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.subject_alt_names = match name {
        Some(SubjectAltName::Dns(name)) => {
            vec![rcgen::SanType::DnsName(name.as_str().try_into().map_err(failed)?)]
        }
        Some(SubjectAltName::Ip(address)) => vec![rcgen::SanType::IpAddress(*address)],
        _ => Vec::new(),
    };
    params.custom_extensions.extend(extension);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let serial = SerialNumber::from_seed(&random::bytes());
    params.serial_number = Some(rcgen::SerialNumber::from_slice(serial.octets()));
    let certificate = params.self_signed(&pair).map_err(failed)?;
    certified_key(vec![certificate.der().clone()], &key)
}

fn stand_in() -> Option<Arc<CertifiedKey>> {
    self_signed("certctl stand-in", None, None)
        .inspect_err(|error| tracing::error!(%error, "no stand-in certificate"))
        .ok()
        .map(Arc::new)
}
