//! Where a target is, as somebody wrote it: which agent deploys to it, and whether that one knows how.

use serde_json::Value;

use crate::{
    Error, ErrorKind, Id, Result, Violation,
    engine::{
        Inner,
        connectors::{PlaceSpec, take},
        sessions,
    },
    records::{Agent, ConnectorInfo, HostRecord, Place},
    store::{StoreExt, Stored},
};

/// A kind of targets that somebody knows: this process, or the agent.
#[derive(Debug)]
pub(super) struct KnownKind {
    pub(super) name: Box<str>,
    pub(super) schema: schemars::Schema,
}

/// The place, with names looked up.
pub(super) async fn read(engine: &Inner, spec: &PlaceSpec, wrong: &mut Vec<Violation>) -> Result<Place> {
    let mut place = Place::default();
    if let Some(name) = &spec.agent {
        match engine.store.resolve::<Agent>(name).await {
            Ok(agent) => place.agent = Some(agent.into_inner().id),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                wrong.push(Violation::new(
                    "/place/agent",
                    format!("there is no agent {name:?}"),
                    "make an enrol token for it first, which makes its record, or correct the name",
                ));
            }
            Err(e) => return Err(e),
        }
    }
    if let Some(name) = &spec.host {
        let stored: Result<Stored<HostRecord>> = engine.store.resolve(name).await;
        place.host = match stored {
            Ok(host) => Some(host.into_inner().id),
            // A program may bring hosts along that are not stored.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                take(wrong, "/place/host", Id::parse(name))
            }
            Err(e) => return Err(e),
        };
    }
    if spec.agent.is_none()
        && wrong.iter().all(|violation| violation.pointer != "/place/host")
        && let Err(e) = engine.catalog.host(&place).await
    {
        wrong.push(Violation::new("/place/host", e.message(), "give a host that this program reaches"));
    }
    Ok(place)
}

/// The kind, if whoever deploys knows it; its configuration is checked if this process knows it as well, and otherwise by the
/// agent.
pub(super) async fn kind(
    engine: &Inner,
    kind: &str,
    place: &Place,
    config: &Value,
    wrong: &mut Vec<Violation>,
) -> Result<Option<KnownKind>> {
    let connectors = engine.catalog.connectors();
    let here = connectors.target(kind);
    let mut announced = Vec::new();
    if let Some(agent) = &place.agent {
        announced = sessions::connectors(engine, agent).await?;
        announced.retain(|info| &*info.family == "target" || &*info.family == "targets");
    }
    let calls_it = |info: &&ConnectorInfo| {
        let here = here.as_ref().map_or(kind, |here| here.name);
        *info.kind == *here || *info.kind == *kind || info.aliases.iter().any(|alias| **alias == *kind)
    };
    let there = announced.iter().find(calls_it);
    if there.is_none() && !announced.is_empty() {
        let kinds: Vec<&str> = announced.iter().map(|info| &*info.kind).collect();
        wrong.push(Violation::new(
            "/kind",
            format!("the agent does not know targets of the kind {kind:?}"),
            format!("use one that it knows: {}", kinds.join(", ")),
        ));
        return Ok(None);
    }
    match (here, there) {
        (Ok(here), _) => {
            let checked = here.check(config);
            take(wrong, "/config", checked);
            Ok(Some(KnownKind { name: here.name.into(), schema: here.schema() }))
        }
        (Err(_), Some(there)) => {
            let schema = schemars::Schema::try_from(there.schema.clone()).map_err(|e| {
                Error::internal(format!("the agent's schema of the kind {kind:?} does not read"))
                    .with_source(e)
            })?;
            Ok(Some(KnownKind { name: there.kind.clone(), schema }))
        }
        (Err(unknown), None) => {
            take::<()>(wrong, "", Err(unknown));
            Ok(None)
        }
    }
}

/// That a target can't be given to another agent now.
pub(super) fn in_use(name: &str) -> Error {
    Error::new(
        ErrorKind::Precondition,
        format!(
            "certificates go to the target {name}, and their keys stay where they are: take the target out of them first, or \
             store another target at the other place"
        ),
    )
}
