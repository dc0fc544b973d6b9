//! Names of what records refer to by id, looked up once for all of a page.

use std::collections::HashMap;

use certctl_client::types::Reference;
use certctl_core::{
    Actor, Engine, Id, Result,
    engine::Readable,
    records::{Certificate, IssuerRecord, TargetRecord},
};

/// Names by id. What does not exist any more is called by its id.
#[derive(Debug)]
pub(crate) struct Names(HashMap<Box<str>, Box<str>>);

/// Records that have names.
pub(crate) trait Named: Readable {
    fn id_and_name(&self) -> (&Id<Self>, &str)
    where
        Self: Sized;
}

macro_rules! named {
    ($($record:ty),*) => { $(
        impl Named for $record {
            fn id_and_name(&self) -> (&Id<Self>, &str) {
                (&self.id, &self.name)
            }
        }
    )* };
}
named!(Certificate, IssuerRecord, TargetRecord);

impl Names {
    pub(crate) async fn of<'a, R: Named>(
        engine: &Engine,
        actor: &Actor,
        ids: impl IntoIterator<Item = &'a Id<R>>,
    ) -> Result<Self> {
        let mut wanted: Vec<Id<R>> = ids.into_iter().cloned().collect();
        wanted.sort();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(Self(HashMap::new()));
        }
        let records = engine.read_all(actor, &wanted).await?;
        let pairs = records.iter().map(|record| {
            let (id, name) = record.id_and_name();
            (id.as_str().into(), name.into())
        });
        Ok(Self(pairs.collect()))
    }

    pub(crate) fn reference<R: Named>(&self, id: &Id<R>) -> Reference {
        Reference { id: id.to_string(), name: self.name(id.as_str()) }
    }

    pub(crate) fn name(&self, id: &str) -> String {
        self.0.get(id).map_or(id, |name| name).to_owned()
    }
}
