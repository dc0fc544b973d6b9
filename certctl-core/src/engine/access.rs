//! API keys: who may ask, and as whom.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Actor, Error, Id, Lifetime, Permission, Result, Role, Secret, Violation, check_name,
    engine::{
        Engine, Inner,
        commands::again_if_stale,
        token::{self, refused},
    },
    records::{ApiKey, AuditEvent, TokenHash},
    store::{Change, Query, StoreExt, Stored, Test},
};

/// How exactly it is recorded when a key was used last.
const LAST_USED: Duration = Duration::from_secs(3_600);

/// An API key to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeySpec {
    /// The name, unique: the actor's name in the audit trail.
    pub name: String,
    /// What its holder may do: `admin`, `operator` or `viewer`.
    pub role: Role,
    /// How long it is valid; until it is revoked by default.
    #[serde(default)]
    pub valid: Option<Lifetime>,
}

impl ApiKeySpec {
    /// A key of this name that is valid until it is revoked.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role, valid: None }
    }
}

impl Engine {
    /// Makes an API key. The key itself is given here and never again: the store has a hash.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong, `Conflict` if the name is taken, `Denied` if the actor may not.
    pub async fn create_api_key(&self, actor: &Actor, spec: ApiKeySpec) -> Result<(Stored<ApiKey>, Secret)> {
        actor.require(Permission::ManageAccess)?;
        let mut wrong = Vec::new();
        if let Err(e) = check_name::<ApiKey>(&spec.name, "/name") {
            wrong.extend_from_slice(e.violations());
        }
        if spec.role == Role::Agent {
            let message = "agents have no API keys: each enrols, and signs with a key of its own";
            wrong.push(Violation::new("/role", message, "use admin, operator or viewer"));
        }
        if spec.valid.is_some_and(|valid| valid.as_duration().is_zero()) {
            wrong.push(Violation::new("/valid", "the key would never be valid", "write it like 90d"));
        }
        if !wrong.is_empty() {
            return Err(Error::invalid(wrong));
        }
        let inner = &self.inner;
        if inner.store.find_by::<ApiKey>("name", spec.name.as_str().into()).await?.is_some() {
            return Err(taken(&spec.name));
        }
        let now = inner.clock.now();
        let id = Id::mint_at(now);
        let secret = token::make(token::API_KEY, &id);
        let key = ApiKey {
            id,
            name: spec.name.as_str().into(),
            role: spec.role,
            hash: TokenHash::of(&secret),
            created: now,
            last_used: None,
            revoked: None,
            expires: spec.valid.map(|valid| now + valid.as_duration()),
        };
        let event = AuditEvent::new(now, actor, "api_key.created", key.id.as_str())
            .with("name", &*key.name)
            .with("role", key.role.as_str());
        let versions = inner.commit(Change::new(event).insert(&key)?).await.map_err(|e| {
            let unique = e.context_value("reason") == Some("unique");
            if unique { taken(&spec.name) } else { e }
        })?;
        Ok((Stored::new(key, versions.first().copied().unwrap_or_default()), secret))
    }

    /// Revokes an API key: from now on it opens nothing. Its record stays, for the audit trail.
    ///
    /// # Errors
    /// `NotFound`, or `Denied` if the actor may not.
    pub async fn revoke_api_key(&self, actor: &Actor, id_or_name: &str) -> Result<Stored<ApiKey>> {
        actor.require(Permission::ManageAccess)?;
        let inner = &self.inner;
        again_if_stale(|| async move {
            let mut key: Stored<ApiKey> = inner.store.resolve(id_or_name).await?;
            if key.revoked.is_some() {
                return Ok(key);
            }
            let now = inner.clock.now();
            key.revoked = Some(now);
            let event = AuditEvent::new(now, actor, "api_key.revoked", key.id.as_str());
            let versions = inner.commit(Change::new(event).update(&key)?).await?;
            Ok(key.at_version(versions.first().copied().unwrap_or_default()))
        })
        .await
    }

    /// Who presents this: an API key, or an agent's session.
    ///
    /// # Errors
    /// `Unauthenticated` if it is nobody's, or not valid any more; as for [`Engine::agent_session`].
    pub async fn authenticate(&self, presented: &Secret) -> Result<Actor> {
        let inner = &self.inner;
        if presented.expose().starts_with(token::SESSION.as_bytes()) {
            let session = self.agent_session(presented).await?;
            return Ok(Actor::new(session.agent.as_str(), Role::Agent));
        }
        let known = match token::id_of::<ApiKey>(token::API_KEY, presented) {
            Some(id) => inner.store.find(&id).await?,
            None => None,
        };
        let right = token::is_right(known.as_ref().map(|key| &key.hash), presented);
        let now = inner.clock.now();
        let Some(mut key) = known.filter(|key| right && key.is_usable(now)) else {
            return Err(refused("the API key is wrong, revoked or expired"));
        };
        let actor = Actor::new(&*key.name, key.role);
        if key.last_used.is_none_or(|last| now < last || now >= last + LAST_USED) {
            key.last_used = Some(now);
            // Whoever was faster has written the same; and a store that can't be written must not lock anybody out.
            if let Err(e) = inner.store.commit(Change::unaudited().update(&key)?).await {
                tracing::debug!(key = %key.id, error = %e, "that an API key was used is not recorded");
            }
        }
        Ok(actor)
    }

    /// Makes an API key of this role if there is none that opens anything, as at a server's first start: as `name`, or if
    /// that is the name of a revoked one, with a number behind it.
    ///
    /// # Errors
    /// What the store gives.
    pub async fn ensure_api_key(&self, name: &str, role: Role) -> Result<Option<Secret>> {
        let inner = &self.inner;
        let mut next = None;
        let query = Query::of::<ApiKey>().filter("role", Test::Equal, role.as_str()).limit(500);
        loop {
            let page: (Vec<Stored<ApiKey>>, _) = inner.store.list(query.clone().after(next)).await?;
            let now = inner.clock.now();
            if page.0.iter().any(|key| key.is_usable(now)) {
                return Ok(None);
            }
            next = page.1;
            if next.is_none() {
                break;
            }
        }
        let name = free_name(inner, name).await?;
        let (_, secret) = self.create_api_key(&Actor::process(), ApiKeySpec::new(name, role)).await?;
        Ok(Some(secret))
    }
}

async fn free_name(inner: &Inner, name: &str) -> Result<String> {
    let mut free = name.to_owned();
    for number in 2_u32.. {
        if inner.store.find_by::<ApiKey>("name", free.as_str().into()).await?.is_none() {
            break;
        }
        free = format!("{name}-{number}");
    }
    Ok(free)
}

fn taken(name: &str) -> Error {
    let remedy = "choose another name: that of a revoked key stays taken, for the audit trail";
    Error::taken("/name", format!("there is an API key {name:?} already"), remedy)
}
