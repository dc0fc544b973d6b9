//! API keys, and the audit trail.

use certctl_client::types::{ApiKey, ApiKeyFilter, AuditFilter, CreatedApiKey, List};
use certctl_core::{
    Result,
    engine::ApiKeySpec,
    records::{self, AuditEvent},
    store::{Direction, Query, Stored, Test},
};

use super::{
    answer::{Json, Reply, json},
    call::Call,
    page,
    route::{Route, get, post},
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/api-keys", "listApiKeys", "API keys, without what makes them keys.")
            .query::<ApiKeyFilter>()
            .to(list),
        post("/api-keys", "createApiKey", "Makes an API key; this answer is the only place where it stands.")
            .created()
            .body::<ApiKeySpec>()
            .to(create),
        post("/api-keys/{id}/revoke", "revokeApiKey", "Ends an API key.").to(revoke),
        get("/audit", "listAuditEvents", "The audit trail, the newest event first.")
            .query::<AuditFilter>()
            .to(audit),
    ]
}

async fn list(call: Call, filter: ApiKeyFilter, (): ()) -> Result<Reply<Json<List<ApiKey>>>> {
    let cursor = filter.cursor.as_deref();
    let query = page::paged(Query::of::<records::ApiKey>(), filter.limit, cursor)?;
    let (keys, next) =
        call.engine().list(call.actor()?, query).await.map_err(|e| page::explained(e, cursor))?;
    Ok(json(page::list(keys.iter().map(view).collect(), next.as_ref())?))
}

async fn create(call: Call, (): (), spec: ApiKeySpec) -> Result<Reply<Json<CreatedApiKey>>> {
    let (key, secret) = call.engine().create_api_key(call.actor()?, spec).await?;
    Ok(json(CreatedApiKey { api_key: view(&key), key: (&secret).into() }))
}

async fn revoke(call: Call, (): (), (): ()) -> Result<Reply<Json<ApiKey>>> {
    let key = call.engine().revoke_api_key(call.actor()?, call.id()?).await?;
    Ok(json(view(&key)))
}

async fn audit(call: Call, filter: AuditFilter, (): ()) -> Result<Reply<Json<List<AuditEvent>>>> {
    let mut query = Query::of::<AuditEvent>().order("id", Direction::Descending);
    if let Some(action) = filter.action {
        query = query.filter("action", Test::Equal, action);
    }
    if let Some(resource) = filter.resource {
        query = query.filter("resource", Test::Equal, resource);
    }
    let cursor = filter.cursor.as_deref();
    let query = page::paged(query, filter.limit, cursor)?;
    let (events, next) =
        call.engine().list(call.actor()?, query).await.map_err(|e| page::explained(e, cursor))?;
    Ok(json(page::list(events.into_iter().map(Stored::into_inner).collect(), next.as_ref())?))
}

fn view(key: &Stored<records::ApiKey>) -> ApiKey {
    ApiKey {
        id: key.id.clone(),
        name: key.name.to_string(),
        role: key.role,
        created: key.created,
        expires: key.expires,
        revoked: key.revoked,
        last_used: key.last_used,
    }
}
