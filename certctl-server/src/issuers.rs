//! Issuers that settings describe: they are records like all others, and one that a person has edited stays as it is.

use certctl_core::{
    Actor, Engine, ErrorKind, IssuerSpec, Result, Role,
    records::{AuditEvent, IssuerRecord},
    store::{Direction, Query, Stored, Test},
};

/// Whose name stands in the audit trail for what the settings say.
const SETTINGS: &str = "settings";

/// Stores what is new or has changed in the settings, and leaves alone what somebody has edited or deleted.
pub(crate) async fn describe(engine: &Engine, issuers: impl IntoIterator<Item = IssuerSpec>) -> Result<()> {
    let actor = Actor::new(SETTINGS, Role::Admin);
    for spec in issuers {
        let id = spec.id.clone().unwrap_or_default();
        let editor = last_editor(engine, &id).await?;
        if let Some(editor) = editor.filter(|editor| &**editor != SETTINGS) {
            tracing::info!(
                issuer = id,
                editor,
                "the issuer was edited since the settings described it: the record counts, and not the settings"
            );
            continue;
        }
        let known = engine.read::<IssuerRecord>(&actor, &id).await;
        let before = match known {
            Ok(record) => record.version(),
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        let name = spec.name.clone();
        let stored = engine
            .put_issuer(&actor, spec)
            .await
            .map_err(|e| e.during(format!("the issuer {name} of the settings")))?;
        if stored.version() != before {
            tracing::info!(issuer = id, "the issuer is as the settings describe it");
        }
    }
    Ok(())
}

/// Who has created, changed or deleted it last.
async fn last_editor(engine: &Engine, id: &str) -> Result<Option<Box<str>>> {
    let mut next = None;
    loop {
        let query = Query::of::<AuditEvent>()
            .filter("resource", Test::Equal, id)
            .order("id", Direction::Descending)
            .after(next);
        let (events, more): (Vec<Stored<AuditEvent>>, _) = engine.list(&Actor::process(), query).await?;
        let edits = ["issuer.created", "issuer.changed", "issuer.deleted"];
        if let Some(event) = events.into_iter().find(|event| edits.contains(&&*event.action)) {
            return Ok(Some(event.into_inner().actor));
        }
        if more.is_none() {
            return Ok(None);
        }
        next = more;
    }
}
