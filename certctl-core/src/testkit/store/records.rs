//! The records that the suite works with.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result, Timestamp,
    store::{Column, ColumnValue, Kind, Leasing, Record, columns_of},
};

/// A record with columns of every sort: unique alone and in a pair, counted, nullable, of both types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// Unique.
    pub name: Option<String>,
    /// Counted.
    pub status: Option<String>,
    /// With `slot`, unique.
    pub shelf: Option<String>,
    /// With `shelf`, unique.
    pub slot: Option<i64>,
    /// Sorted by.
    pub size: Option<i64>,
}

impl Item {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), name: None, status: None, shelf: None, slot: None, size: None }
    }

    pub(super) fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    pub(super) fn status(mut self, status: &str) -> Self {
        self.status = Some(status.to_owned());
        self
    }

    pub(super) fn shelf(mut self, shelf: Option<&str>, slot: Option<i64>) -> Self {
        self.shelf = shelf.map(str::to_owned);
        self.slot = slot;
        self
    }

    pub(super) fn size(mut self, size: i64) -> Self {
        self.size = Some(size);
        self
    }
}

impl Record for Item {
    const KIND: &'static Kind = &Kind {
        table: "suite_items",
        version: 1,
        columns: &[
            Column::text("name"),
            Column::counted("status"),
            Column::text("shelf"),
            Column::integer("slot"),
            Column::integer("size"),
        ],
        unique: &[&["name"], &["shelf", "slot"]],
        indexes: &[&["size"], &["status", "size"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![
            self.name.clone().into(),
            self.status.clone().into(),
            self.shelf.clone().into(),
            self.slot.into(),
            self.size.into(),
        ]
    }
}

/// A record that is leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// When it can be leased.
    pub due: Option<i64>,
    /// What it is leased together with.
    pub group: Option<String>,
    /// Asked for by claims.
    pub place: String,
    /// Counts the times that it was edited.
    pub edits: u32,
}

impl Task {
    pub(super) fn new(id: &str, due: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            due: Some(due.as_millis()),
            group: None,
            place: "here".to_owned(),
            edits: 0,
        }
    }

    pub(super) fn never(id: &str) -> Self {
        Self { due: None, ..Self::new(id, Timestamp::EPOCH) }
    }

    pub(super) fn group(mut self, group: &str) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    pub(super) fn place(mut self, place: &str) -> Self {
        place.clone_into(&mut self.place);
        self
    }
}

impl Record for Task {
    const KIND: &'static Kind = &Kind {
        table: "suite_tasks",
        version: 1,
        columns: &[Column::integer("due"), Column::text("group"), Column::counted("place")],
        unique: &[],
        indexes: &[&["place", "due"]],
        leasing: Some(Leasing { due: "due", group: "group" }),
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![self.due.into(), self.group.clone().into(), (&*self.place).into()]
    }
}

/// The first form of a record that was changed later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) id: String,
    pub(super) name: String,
}

impl Record for Before {
    const KIND: &'static Kind = &Kind {
        table: "suite_changing",
        version: 1,
        columns: &[Column::text("name")],
        unique: &[],
        indexes: &[],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&*self.name).into()]
    }
}

/// Its third form: the name has become a title, and is unique; there is a new, counted column. The second form had the
/// title, but not the column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) length: i64,
    pub(super) initial: String,
}

impl Record for After {
    const KIND: &'static Kind = &Kind {
        table: "suite_changing",
        version: 3,
        columns: &[Column::text("title"), Column::integer("length"), Column::counted("initial")],
        unique: &[&["title"]],
        indexes: &[&["length"]],
        leasing: None,
        columns_of: columns_of::<Self>,
        upgrade: Self::upgrade,
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<ColumnValue> {
        vec![(&*self.title).into(), self.length.into(), (&*self.initial).into()]
    }

    fn upgrade(from: u16, body: Value) -> Result<Value> {
        let text = |key: &str| body[key].as_str().map(str::to_owned).unwrap_or_default();
        match from {
            1 => Ok(json!({ "id": body["id"], "title": text("name").to_uppercase() })),
            2 => {
                let title = text("title");
                Ok(json!({ "id": body["id"], "title": title, "length": title.len(), "initial": title[..1] }))
            }
            _ => Err(Error::internal(format!("suite_changing has no version {from}"))),
        }
    }
}
