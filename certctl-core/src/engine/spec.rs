//! What somebody wants, and the check of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Csr, Error, Id, KeyAlgorithm, Lifetime, Result, SubjectAltName, Violation, check_name,
    engine::Inner,
    records::{Certificate, IssuerRecord, KeyPolicy, Profile, ProfileRecord, RenewalPolicy, TargetRecord},
    store::{Query, Record, Store, StoreExt},
};

/// A certificate that is wanted. Public fields and [`CertificateSpec::new`] are its builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateSpec {
    /// The id, if it shall not be minted: `mc-` and letters, digits, dashes.
    pub id: Option<String>,
    /// The name, unique.
    pub name: String,
    /// The names that it certifies. For a request from elsewhere, those of the request by default.
    pub names: Vec<WantedName>,
    /// The subject's common name; none leaves the subject empty.
    pub common_name: Option<String>,
    /// Who issues it, by name or id; may be left out where there is only one issuer, or the program has a default one.
    pub issuer: Option<String>,
    /// Where it goes, by name or id.
    pub targets: Vec<String>,
    /// A stored profile, by name or id.
    pub profile: Option<String>,
    /// How long it should be valid; overrides the profile.
    pub lifetime: Option<Lifetime>,
    /// The algorithm of its keys; that of the profile by default, or else ECDSA P-256.
    pub key_algorithm: Option<KeyAlgorithm>,
    /// Keep the key at renewals; by default each version has its own.
    pub reuse_key: bool,
    /// A request (PEM) whose key is elsewhere.
    pub csr: Option<String>,
    /// After which share of its lifetime it is renewed, between 0.1 and 0.95; two thirds by default.
    pub renew_at_share: Option<f64>,
    /// Refuse with `Conflict` unless the stored certificate has this version.
    #[serde(skip)]
    pub expected_version: Option<u64>,
}

/// A name as somebody wrote it: plain text becomes what it reads as, the other forms say what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum WantedName {
    /// IP address, `a@b`, `scheme:…`, or else a DNS name.
    Any(String),
    /// A DNS name and nothing else.
    Dns {
        /// The name.
        dns: String,
    },
    /// An IP address and nothing else.
    Ip {
        /// The address.
        ip: String,
    },
}

impl CertificateSpec {
    /// A certificate of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Adds a DNS name.
    #[must_use]
    pub fn dns(mut self, name: impl Into<String>) -> Self {
        self.names.push(WantedName::Dns { dns: name.into() });
        self
    }

    /// Adds an IP address.
    #[must_use]
    pub fn ip(mut self, address: impl Into<String>) -> Self {
        self.names.push(WantedName::Ip { ip: address.into() });
        self
    }

    /// Adds a name of any kind: IP address, `a@b`, `scheme:…`, or else a DNS name.
    #[must_use]
    pub fn san(mut self, name: impl Into<String>) -> Self {
        self.names.push(WantedName::Any(name.into()));
        self
    }

    /// Sets the issuer, by name or id.
    #[must_use]
    pub fn issuer(mut self, name: impl Into<String>) -> Self {
        self.issuer = Some(name.into());
        self
    }

    /// Adds a target, by name or id.
    #[must_use]
    pub fn target(mut self, name: impl Into<String>) -> Self {
        self.targets.push(name.into());
        self
    }

    /// Sets the lifetime.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Sets the algorithm of its keys.
    #[must_use]
    pub fn key_algorithm(mut self, algorithm: KeyAlgorithm) -> Self {
        self.key_algorithm = Some(algorithm);
        self
    }

    /// Uses a request (PEM) whose key is elsewhere.
    #[must_use]
    pub fn csr(mut self, pem: impl Into<String>) -> Self {
        self.csr = Some(pem.into());
        self
    }

    /// Refuses with `Conflict` unless the stored certificate has this version.
    #[must_use]
    pub fn expect_version(mut self, version: u64) -> Self {
        self.expected_version = Some(version);
        self
    }
}

/// A spec whose every word was checked and looked up.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) id: Option<Id<Certificate>>,
    pub(crate) name: Box<str>,
    pub(crate) names: Vec<SubjectAltName>,
    pub(crate) common_name: Option<String>,
    pub(crate) issuer: IssuerRecord,
    pub(crate) targets: Vec<TargetRecord>,
    pub(crate) profile_id: Option<Id<ProfileRecord>>,
    pub(crate) profile: Profile,
    pub(crate) key: KeyPolicy,
    pub(crate) renewal: RenewalPolicy,
}

/// Checks everything, and gives all that is wrong at once.
pub(crate) async fn check(inner: &Inner, spec: &CertificateSpec) -> Result<Wanted> {
    let store = &*inner.store;
    let mut wrong = Wrong(Vec::new());
    wrong.take("", check_name::<Certificate>(&spec.name, "/name"));
    let id = spec.id.as_ref().and_then(|id| wrong.take("/id", Id::parse(id)));

    let csr = spec.csr.as_ref().and_then(|pem| wrong.take("/csr", Csr::parse(pem.as_bytes())));
    let mut names = Vec::new();
    for (index, name) in spec.names.iter().enumerate() {
        let pointer = format!("/names/{index}");
        match wrong.take(&pointer, read_name(name)) {
            Some(name) if names.contains(&name) => {
                wrong.add(&pointer, &format!("the name {name} is given twice"), "remove it");
            }
            Some(name) => names.push(name),
            None => {}
        }
    }
    if spec.names.is_empty()
        && let Some(csr) = &csr
    {
        names.extend_from_slice(csr.names());
    }
    if names.is_empty() && spec.names.is_empty() && (spec.csr.is_none() || csr.is_some()) {
        wrong.add(
            "/names",
            "the certificate has no name",
            "give at least one DNS name, IP address, email address or URI",
        );
    }
    if names.len() > 250 {
        wrong.add("/names", "the certificate has over 250 names", "split it");
    }
    let common_name = spec.common_name.clone().or_else(|| csr.as_ref()?.common_name().map(str::to_owned));
    if let Some(cn) = &common_name
        && (cn.is_empty() || cn.len() > 64 || cn.chars().any(char::is_control))
    {
        wrong.add(
            "/common_name",
            "the common name has not 1 to 64 printable characters",
            "shorten it, or leave it out",
        );
    }

    if inner.keys_need_a_place && spec.targets.is_empty() && spec.csr.is_none() {
        wrong.add(
            "",
            "the certificate has neither targets nor a request, so that nobody would hold its key",
            "give targets, whose agent makes the key, or csr, a request whose key is elsewhere",
        );
    }
    let issuer = find_issuer(inner, spec, &mut wrong).await?;
    let mut targets: Vec<TargetRecord> = Vec::new();
    for (index, name) in spec.targets.iter().enumerate() {
        let pointer = format!("/targets/{index}");
        if let Some(target) = find::<TargetRecord>(store, name, &pointer, &mut wrong).await? {
            if targets.iter().any(|known| known.id == target.id) {
                wrong.add(&pointer, &format!("the target {} is given twice", target.name), "remove it");
                continue;
            }
            if let Some(agent) = &target.place.agent
                && store.find(agent).await?.is_none()
            {
                wrong.add(
                    &pointer,
                    &format!(
                        "the target {} is on the agent {agent}, which does not exist any more",
                        target.name
                    ),
                    "give the target another agent, or enrol that one again",
                );
            }
            targets.push(target);
        }
    }
    if spec.csr.is_some() && !spec.targets.is_empty() {
        wrong.add(
            "/targets",
            "a certificate from a request has its key elsewhere, so that it can't be deployed from here",
            "leave out either csr or targets",
        );
    }

    if spec.csr.is_some() && spec.reuse_key {
        wrong.add(
            "/reuse_key",
            "a certificate from a request has its key elsewhere, where it is decided whether it is kept",
            "leave out either csr or reuse_key",
        );
    }
    if spec.csr.is_some() && spec.key_algorithm.is_some() {
        wrong.add(
            "/key_algorithm",
            "a certificate from a request has its key elsewhere, and with it the algorithm",
            "leave out either csr or key_algorithm",
        );
    }

    let mut profile = Profile::default();
    let mut profile_id = None;
    if let Some(name) = &spec.profile
        && let Some(record) = find::<ProfileRecord>(store, name, "/profile", &mut wrong).await?
    {
        profile = record.profile;
        profile_id = Some(record.id);
    }
    if let Some(lifetime) = spec.lifetime {
        wrong.0.extend(check_lifetime(lifetime));
        profile.lifetime = Some(lifetime);
    }
    let at_share = spec.renew_at_share.unwrap_or(RenewalPolicy::default().at_share);
    if !(0.1..=0.95).contains(&at_share) {
        wrong.add("/renew_at_share", "the share is not between 0.1 and 0.95", "leave it out for two thirds");
    }
    let key = match csr {
        Some(csr) => KeyPolicy::External { csr },
        None => KeyPolicy::Made {
            algorithm: spec.key_algorithm.or(profile.key_algorithm).unwrap_or_default(),
            reuse_key: spec.reuse_key,
        },
    };

    match (wrong.0.is_empty(), issuer) {
        (true, Some(issuer)) => {
            check_free(store, spec, id.as_ref()).await?;
            Ok(Wanted {
                id,
                name: spec.name.as_str().into(),
                names,
                common_name,
                issuer,
                targets,
                profile_id,
                profile,
                key,
                renewal: RenewalPolicy { at_share },
            })
        }
        _ => Err(Error::invalid(wrong.0)),
    }
}

/// What is wrong with how long a certificate should be valid, in the field `lifetime`.
pub(super) fn check_lifetime(lifetime: Lifetime) -> Option<Violation> {
    let fits = (Lifetime::secs(300)..=Lifetime::days(36_500)).contains(&lifetime);
    let message = "the lifetime is under five minutes or over a hundred years";
    (!fits).then(|| Violation::new("/lifetime", message, "write it like 47d or 12h"))
}

/// With an id of its own, the name may be another certificate's.
async fn check_free(store: &dyn Store, spec: &CertificateSpec, id: Option<&Id<Certificate>>) -> Result<()> {
    let Some(id) = id else { return Ok(()) };
    match store.find_by::<Certificate>("name", spec.name.as_str().into()).await? {
        Some(other) if other.id != *id => Err(Error::taken(
            "/name",
            format!("the name {:?} is that of {}", spec.name, other.id),
            "choose another name, or leave out the id to change that one",
        )),
        _ => Ok(()),
    }
}

async fn find_issuer(
    inner: &Inner,
    spec: &CertificateSpec,
    wrong: &mut Wrong,
) -> Result<Option<IssuerRecord>> {
    let store = &*inner.store;
    if let Some(name) = spec.issuer.as_ref().or(inner.default_issuer.as_ref()) {
        return find(store, name, "/issuer", wrong).await;
    }
    let (mut all, _) = store.list::<IssuerRecord>(Query::of::<IssuerRecord>().limit(2)).await?;
    if all.len() == 1 {
        return Ok(all.pop().map(crate::store::Stored::into_inner));
    }
    wrong.add(
        "/issuer",
        if all.is_empty() { "there is no issuer" } else { "there are several issuers" },
        "name the issuer",
    );
    Ok(None)
}

async fn find<R: Record + crate::Identified>(
    store: &dyn Store,
    name: &str,
    pointer: &str,
    wrong: &mut Wrong,
) -> Result<Option<R>> {
    match store.resolve::<R>(name).await {
        Ok(record) => Ok(Some(record.into_inner())),
        Err(e) if matches!(e.kind(), crate::ErrorKind::NotFound | crate::ErrorKind::Invalid) => {
            let noun = R::NOUN;
            wrong.add(
                pointer,
                &format!("there is no {noun} {name:?}"),
                &format!("declare or store the {noun} first, or correct the name"),
            );
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn read_name(name: &WantedName) -> Result<SubjectAltName> {
    match name {
        WantedName::Any(text) => text.parse(),
        WantedName::Dns { dns } => SubjectAltName::dns(dns),
        WantedName::Ip { ip } => ip.parse().map(SubjectAltName::Ip).map_err(|_| {
            Error::invalid_field(
                "",
                format!("{ip:?} is not an IP address"),
                "write it like 192.0.2.1 or 2001:db8::1",
            )
        }),
    }
}

struct Wrong(Vec<Violation>);

impl Wrong {
    fn add(&mut self, pointer: &str, message: &str, remedy: &str) {
        self.0.push(Violation::new(pointer, message, remedy));
    }

    /// The value, or its violations below `pointer`.
    fn take<T>(&mut self, pointer: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                let below = e.below(pointer);
                if below.violations().is_empty() {
                    self.add(pointer, below.message(), "correct it");
                } else {
                    self.0.extend_from_slice(below.violations());
                }
                None
            }
        }
    }
}
