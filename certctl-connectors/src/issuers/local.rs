//! The local CA: a root and an issuing CA under it, in the program's own store.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use certctl_core::{
    CertificateAuthority, Chain, Context, Env, Error, ErrorKind, ExtendedKeyUsage, Issuer,
    IssuerCapabilities, KeyAlgorithm, LeafRequest, Lifetime, Order, PrivateKey, Progress, Recovery, Result,
    Secret, Timestamp, Violation, X509Certificate, connectors::IssuerConfig, random_bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A CA of one's own. Its root and issuing CA are made on first use and kept, sealed, in the store; all processes on one
/// store share them. The issuing CA is replaced in time by a new one under the same root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LocalCa {
    /// The root's common name, at most 48 characters; has no effect once the CA exists.
    pub ca_common_name: String,
    /// How many days a certificate is valid whose profile does not say.
    pub validity_days: u32,
    /// The algorithm of the CA's own keys; has no effect on those that exist.
    pub key_algorithm: KeyAlgorithm,
}

impl Default for LocalCa {
    /// `CertCtl Local CA`, 90 days, ECDSA on P-256.
    fn default() -> Self {
        Self {
            ca_common_name: "CertCtl Local CA".to_owned(),
            validity_days: 90,
            key_algorithm: KeyAlgorithm::default(),
        }
    }
}

#[async_trait]
impl IssuerConfig for LocalCa {
    const KIND: &'static str = "local";
    const ALIASES: &'static [&'static str] = &["GenericCA"];

    fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let name = &self.ca_common_name;
        let len = name.chars().count();
        if name.trim().is_empty() || len > MAX_COMMON_NAME {
            violations.push(Violation::new(
                "/ca_common_name",
                format!("the CA's common name has {len} characters"),
                format!("give 1 to {MAX_COMMON_NAME}: the issuing CA's name is longer, and 64 is the limit"),
            ));
        }
        if name.chars().any(char::is_control) {
            violations.push(Violation::new(
                "/ca_common_name",
                "the CA's common name has control characters",
                "remove them",
            ));
        }
        if !(1..=MAX_VALIDITY_DAYS).contains(&self.validity_days) {
            violations.push(Violation::new(
                "/validity_days",
                format!("certificates can't be valid for {} days", self.validity_days),
                format!("give 1 to {MAX_VALIDITY_DAYS}"),
            ));
        }
        violations
    }

    async fn connect(self, env: Env) -> Result<Arc<dyn Issuer>> {
        Ok(Arc::new(Local { config: self, env, loaded: RwLock::default(), loading: Mutex::default() }))
    }
}

/// What follows it in the issuing CA's name has at most 16 characters.
const MAX_COMMON_NAME: usize = 48;
const MAX_VALIDITY_DAYS: u32 = 3_650;
const ROOT_LIFETIME: Lifetime = Lifetime::days(20 * 365);
const ISSUING_LIFETIME: Lifetime = Lifetime::days(5 * 365);
/// How far a certificate begins before it was asked for, at most: for clients whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(3_600);
/// Each conflict means that somebody else has stored a CA; so many in a row don't happen.
const MAX_CONFLICTS: usize = 16;
/// The entry of the issuer's state.
const ENTRY: &str = "ca";

#[derive(Debug)]
struct Local {
    config: LocalCa,
    env: Env,
    /// What signing needs, read once.
    loaded: RwLock<Option<Arc<Loaded>>>,
    /// Held by the one task that reads or makes it.
    loading: Mutex<()>,
}

/// The CA, ready to sign. The root's key is not in it: it is read again when a new issuing CA is due.
#[derive(Debug)]
struct Loaded {
    root: X509Certificate,
    /// Oldest first. Old ones stay until they expire.
    issuing: Vec<CertificateAuthority>,
}

#[async_trait]
impl Issuer for Local {
    fn kind(&self) -> &str {
        LocalCa::KIND
    }

    fn capabilities(&self) -> IssuerCapabilities {
        IssuerCapabilities::all(Recovery::Idempotent)
    }

    async fn submit(&self, cx: &Context, order: &Order) -> Result<Progress> {
        let lifetime =
            order.profile.lifetime.unwrap_or(Lifetime::days(self.config.validity_days)).as_duration();
        let begin = (order.created - BACKDATE.min(lifetime / 20)).floor_secs();
        let end = begin + lifetime;
        let ca = self.authority(cx.clock.now(), end).await?;
        if ca.certificate().not_after() < end {
            tracing::warn!(
                not_after = %ca.certificate().not_after(),
                "the local CA's root ends before the certificate would: the certificate is cut short"
            );
        }
        let usages = match order.profile.extended_key_usages.as_slice() {
            [] => vec![ExtendedKeyUsage::ServerAuth],
            asked => asked.to_vec(),
        };
        // All of it comes from the order: signed again, it is the same certificate.
        let request = LeafRequest {
            public_key: order.csr.public_key().clone(),
            names: order.names.clone(),
            common_name: order.common_name.clone(),
            not_before: begin.max(ca.certificate().not_before()),
            not_after: end,
            serial_seed: order.seed,
            usages,
        };
        Ok(Progress::Issued { chain: ca.sign(&request).await? })
    }

    async fn recover(&self, cx: &Context, order: &Order) -> Result<Option<Progress>> {
        self.submit(cx, order).await.map(Some)
    }

    async fn trust_anchors(&self, cx: &Context) -> Result<Vec<X509Certificate>> {
        let loaded = match self.loaded() {
            Some(loaded) => loaded,
            None => self.load(cx.clock.now(), cx.clock.now()).await?,
        };
        Ok(vec![loaded.root.clone()])
    }
}

impl Local {
    /// The issuing CA for a certificate that ends at `end`.
    async fn authority(&self, now: Timestamp, end: Timestamp) -> Result<CertificateAuthority> {
        if let Some(loaded) = self.loaded()
            && let Some(ca) = loaded.choose(now, end)
        {
            return Ok(ca.clone());
        }
        let loaded = self.load(now, end).await?;
        loaded.choose(now, end).cloned().ok_or_else(|| loaded.expired())
    }

    fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the CA from the store; makes it, or its next issuing CA, if there is none that lives until `end`.
    async fn load(&self, now: Timestamp, end: Timestamp) -> Result<Arc<Loaded>> {
        let _only_one = self.loading.lock().await;
        for _ in 0..MAX_CONFLICTS {
            let (stored, version) = match self.env.state.load(ENTRY).await? {
                None => (None, None),
                Some((value, version)) => (Some(StoredCa::read(&value)?), Some(version)),
            };
            let next = match &stored {
                None => self.make(now, end).await?,
                Some(stored) => {
                    let loaded = Arc::new(Loaded::new(stored)?);
                    if loaded.choose(now, end).is_some() || loaded.root.not_after() < now {
                        self.warn_of_other_name(&loaded.root);
                        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded.clone());
                        return Ok(loaded);
                    }
                    self.extend(stored, now, end).await?
                }
            };
            // Read back what is stored then, whoever stored it.
            match self.env.state.save(ENTRY, &next.write()?, version).await {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                Err(e) => return Err(e.during("storing the local CA")),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the local CA is stored by others again and again"))
    }

    fn warn_of_other_name(&self, root: &X509Certificate) {
        let (name, configured) = (root.subject_common_name(), &self.config.ca_common_name);
        if name != Some(configured) {
            tracing::warn!(name, configured, "the local CA exists under another name, which it keeps");
        }
    }

    async fn make(&self, now: Timestamp, end: Timestamp) -> Result<StoredCa> {
        let key = self.new_key().await?;
        let root = CertificateAuthority::create_root(
            Arc::new(key.clone()),
            &self.config.ca_common_name,
            now,
            ROOT_LIFETIME,
            random_bytes(),
        )
        .await?;
        let root = Pair::new(root.certificate(), &key)?;
        self.extend(&StoredCa { version: 1, made: 0, root, issuing: Vec::new() }, now, end).await
    }

    /// With a new issuing CA under the same root.
    async fn extend(&self, stored: &StoredCa, now: Timestamp, end: Timestamp) -> Result<StoredCa> {
        let root = CertificateAuthority::new(stored.root.chain()?, Arc::new(stored.root.private_key()?))?;
        let name = root.certificate().subject_common_name().unwrap_or(&self.config.ca_common_name);
        let made = stored.made + 1;
        // Long enough for several certificates of that lifetime.
        let lifetime = Lifetime::from(ISSUING_LIFETIME.as_duration().max(end.since(now) * 2));
        let key = self.new_key().await?;
        let issuing = CertificateAuthority::create_issuing(
            &root,
            Arc::new(key.clone()),
            &format!("{name} Issuing {made}"),
            now,
            lifetime,
            random_bytes(),
        )
        .await?;
        let mut next = StoredCa { made, ..stored.clone() };
        let mut kept = Vec::new();
        for pair in std::mem::take(&mut next.issuing) {
            if pair.chain()?.leaf().not_after() >= now {
                kept.push(pair);
            }
        }
        kept.push(Pair::new(issuing.certificate(), &key)?);
        next.issuing = kept;
        Ok(next)
    }

    /// RSA takes up to seconds: not on a thread that others need.
    async fn new_key(&self) -> Result<PrivateKey> {
        let algorithm = self.config.key_algorithm;
        tokio::task::spawn_blocking(move || PrivateKey::generate(algorithm))
            .await
            .map_err(|e| Error::internal("making the CA's key was interrupted").with_source(e))?
    }
}

impl Loaded {
    fn new(stored: &StoredCa) -> Result<Self> {
        let root = stored.root.chain()?.leaf().clone();
        let issuing = stored.issuing.iter().map(|pair| {
            let chain = Chain::new(vec![pair.chain()?.leaf().clone(), root.clone()])?;
            CertificateAuthority::new(chain, Arc::new(pair.private_key()?))
        });
        let issuing = issuing.collect::<Result<_>>()?;
        Ok(Self { root, issuing })
    }

    /// The oldest that lives until `end`, so that the same order finds the same CA although newer ones were made since;
    /// the newest if it ends with the root, since none could live longer. None if a new one is due.
    fn choose(&self, now: Timestamp, end: Timestamp) -> Option<&CertificateAuthority> {
        if self.root.not_after() < now {
            return None;
        }
        let mut valid = self.issuing.iter().filter(|ca| ca.certificate().not_after() >= now);
        valid.find(|ca| ca.certificate().not_after() >= end).or_else(|| {
            self.issuing.last().filter(|ca| ca.certificate().not_after() >= self.root.not_after())
        })
    }

    fn expired(&self) -> Error {
        Error::new(
            ErrorKind::Precondition,
            format!(
                "the local CA's root {} expired at {}: set up a new issuer, and have its root trusted",
                self.root.subject_common_name().unwrap_or_default(),
                self.root.not_after()
            ),
        )
    }
}

/// The entry of the issuer's state. Wiped when dropped: there are keys in it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCa {
    /// Of this form.
    version: u16,
    /// How many issuing CAs were made so far.
    made: u32,
    root: Pair,
    /// Oldest first.
    issuing: Vec<Pair>,
}

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Pair {
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
}

impl StoredCa {
    fn read(value: &Secret) -> Result<Self> {
        // The parser's own message could quote a key.
        let stored: Self = serde_json::from_slice(value.expose())
            .map_err(|_| Error::internal("the local CA's stored state does not read"))?;
        if stored.version != 1 {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("the local CA was stored by a newer program (version {})", stored.version),
            ));
        }
        Ok(stored)
    }

    fn write(&self) -> Result<Secret> {
        let pairs = std::iter::once(&self.root).chain(&self.issuing);
        // Enough for escaped line ends: a vector that grows leaves copies of the keys behind.
        let len: usize = pairs.map(|pair| 2 * (pair.certificate.len() + pair.key.len()) + 64).sum();
        let mut out = Vec::with_capacity(len + 128);
        serde_json::to_writer(&mut out, self)
            .map_err(|_| Error::internal("the local CA's state has no JSON form"))?;
        Ok(Secret::new(out))
    }
}

impl Pair {
    fn new(certificate: &X509Certificate, key: &PrivateKey) -> Result<Self> {
        Ok(Self { certificate: certificate.to_pem(), key: key.to_pem().expose_str()?.to_owned() })
    }

    fn chain(&self) -> Result<Chain> {
        Chain::from_pem(self.certificate.as_bytes())
    }

    fn private_key(&self) -> Result<PrivateKey> {
        PrivateKey::from_pem(&Secret::new(self.key.as_bytes()))
    }
}
