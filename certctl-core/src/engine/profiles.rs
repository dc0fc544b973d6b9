//! Hosts and profiles that somebody stores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Actor, Error, ExtendedKeyUsage, KeyAlgorithm, Lifetime, Permission, Result,
    engine::{
        Engine, Inner,
        commands::again_if_stale,
        connectors::{check_identity, chosen, delete, known, object, put, take},
        spec::check_lifetime,
    },
    records::{Certificate, HostRecord, Profile, ProfileRecord, TargetRecord},
    store::{Query, Record, StoreExt, Stored},
};

/// A host to store: one that is not the machine of whoever does the work. Public fields and [`HostSpec::new`] are its builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostSpec {
    /// The id, if it shall not be minted: `host-` and letters, digits, dashes.
    pub id: Option<String>,
    /// The name, unique.
    pub name: String,
    /// How it is reached.
    pub kind: String,
    /// What that takes; the kind says what is in it.
    pub config: Value,
    /// Refuse with `Conflict` unless the stored host has this version; zero if there must be none.
    #[serde(skip)]
    pub expected_version: Option<u64>,
}

impl HostSpec {
    /// A host of this name.
    pub fn new(name: impl Into<String>, kind: impl Into<String>, config: Value) -> Self {
        Self { name: name.into(), kind: kind.into(), config, ..Self::default() }
    }
}

/// A profile to store. Public fields and [`ProfileSpec::new`] are its builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileSpec {
    /// The id, if it shall not be minted: `prof-` and letters, digits, dashes.
    pub id: Option<String>,
    /// The name, unique.
    pub name: String,
    /// How long a certificate should be valid; none leaves it to the issuer.
    pub lifetime: Option<Lifetime>,
    /// Extended key usages; empty means server authentication.
    pub extended_key_usages: Vec<ExtendedKeyUsage>,
    /// The algorithm of keys; ECDSA P-256 by default.
    pub key_algorithm: Option<KeyAlgorithm>,
    /// Refuse with `Conflict` unless the stored profile has this version; zero if there must be none.
    #[serde(skip)]
    pub expected_version: Option<u64>,
}

impl ProfileSpec {
    /// A profile of this name that says nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl Engine {
    /// Stores a host, or changes the one that has this id, or else this name. What is stored already is left alone.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong, `Conflict` if the name is taken or [`HostSpec::expected_version`] is not the
    /// stored one, `Denied` if the actor may not.
    pub async fn put_host(&self, actor: &Actor, spec: HostSpec) -> Result<Stored<HostRecord>> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        let mut wrong = Vec::new();
        let id = check_identity::<HostRecord>(spec.id.as_deref(), &spec.name, &mut wrong);
        let config = object(&spec.config);
        take(&mut wrong, "", inner.catalog.check_host(&spec.kind, &config));
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let (id, spec, config) = (&id, &spec, &config);
        again_if_stale(|| async move {
            let known =
                known(&*inner.store, id.as_ref(), &spec.name, |record: &HostRecord| &record.id).await?;
            let record = HostRecord {
                id: chosen(inner, known.as_ref().map(|known| &known.id), id.as_ref()),
                name: spec.name.as_str().into(),
                kind: spec.kind.as_str().into(),
                config: config.clone(),
            };
            put(inner, actor, known, record, spec.expected_version, Ok).await
        })
        .await
    }

    /// Forgets a host that no target is on.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if a target is on it, `Denied` if the actor may not.
    pub async fn delete_host(&self, actor: &Actor, id_or_name: &str) -> Result<()> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let host: Stored<HostRecord> = inner.store.resolve(id_or_name).await?;
            let on_it = |target: &TargetRecord| target.place.host.as_ref() == Some(&host.id);
            let used = first(inner, on_it).await?.map(|target| format!("the target {}", target.name));
            delete(inner, actor, &host, used.as_deref()).await
        })
        .await
    }

    /// Stores a profile, or changes the one that has this id, or else this name. Certificates take it over when each is next
    /// created or changed: what was asked of an issuer before stays as it was.
    ///
    /// # Errors
    /// As for [`Engine::put_host`].
    pub async fn put_profile(&self, actor: &Actor, spec: ProfileSpec) -> Result<Stored<ProfileRecord>> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        let mut wrong = Vec::new();
        let id = check_identity::<ProfileRecord>(spec.id.as_deref(), &spec.name, &mut wrong);
        wrong.extend(spec.lifetime.and_then(check_lifetime));
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let (id, spec) = (&id, &spec);
        again_if_stale(|| async move {
            let known =
                known(&*inner.store, id.as_ref(), &spec.name, |record: &ProfileRecord| &record.id).await?;
            let record = ProfileRecord {
                id: chosen(inner, known.as_ref().map(|known| &known.id), id.as_ref()),
                name: spec.name.as_str().into(),
                profile: Profile {
                    lifetime: spec.lifetime,
                    extended_key_usages: spec.extended_key_usages.clone(),
                    key_algorithm: spec.key_algorithm,
                },
            };
            put(inner, actor, known, record, spec.expected_version, Ok).await
        })
        .await
    }

    /// Forgets a profile that no certificate was made with.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` if a certificate was made with it, `Denied` if the actor may not.
    pub async fn delete_profile(&self, actor: &Actor, id_or_name: &str) -> Result<()> {
        actor.require(Permission::ManageConnectors)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let profile: Stored<ProfileRecord> = inner.store.resolve(id_or_name).await?;
            let made_with = |one: &Certificate| one.profile_id.as_ref() == Some(&profile.id);
            let used = first(inner, made_with).await?.map(|one| format!("the certificate {}", one.name));
            delete(inner, actor, &profile, used.as_deref()).await
        })
        .await
    }
}

/// The first record of which this holds: for what no column says, and nobody asks often.
pub(super) async fn first<R: Record>(inner: &Inner, holds: impl Fn(&R) -> bool) -> Result<Option<R>> {
    let mut query = Query::of::<R>().limit(500);
    loop {
        let (page, next): (Vec<Stored<R>>, _) = inner.store.list(query.clone()).await?;
        if let Some(found) = page.into_iter().find(|record| holds(record)) {
            return Ok(Some(found.into_inner()));
        }
        match next {
            Some(next) => query.after = Some(next),
            None => return Ok(None),
        }
    }
}
