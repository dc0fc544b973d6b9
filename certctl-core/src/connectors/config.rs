use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::{Path, Segment};

use crate::{Error, Result, Violation};

/// Reads a configuration, or any other input of a person, out of JSON, and says everything that does not read.
///
/// ```
/// use certctl_core::{CertificateSpec, connectors::read_config};
/// use serde_json::json;
/// let error = read_config::<CertificateSpec>(&json!({ "name": 7, "tagrets": ["web"] })).unwrap_err();
/// let pointers: Vec<&str> = error.violations().iter().map(|v| v.pointer.as_str()).collect();
/// assert_eq!(pointers, ["/name", "/tagrets"]);
/// ```
///
/// # Errors
/// `Invalid` with the pointer of each field that does not read. Values are not repeated: one of them may be a secret.
pub fn read_config<C: DeserializeOwned + JsonSchema>(config: &Value) -> Result<C> {
    read_and_check(config, |_| Vec::new())
}

/// Reads a configuration and has it checked.
///
/// # Errors
/// `Invalid` with each field that does not read, and with what `check` finds in the others.
pub(super) fn read_and_check<C: DeserializeOwned + JsonSchema>(
    config: &Value,
    check: impl Fn(&C) -> Vec<Violation>,
) -> Result<C> {
    // serde would read a list as the fields in their order: nobody means that.
    if !config.is_object() && schemars::schema_for!(C).get("type").is_some_and(|kind| kind == "object") {
        return Err(Error::invalid_field("", "this is not an object", "write {\"field\": value, ...}"));
    }
    let mut reading = Reading::of(config);
    let Some(read) = reading.read::<C>() else {
        reading.note_missing(&schemars::schema_for!(C));
        return Err(Error::invalid(reading.violations));
    };
    // What was taken out to go on reading is not missing. Where a value was taken out, another field may seem to be missing
    // only for that: such complaints wait until everything reads.
    let found = check(&read).into_iter().filter(|found| {
        !reading.is_told(&found.pointer) && (!reading.took_values || config.pointer(&found.pointer).is_some())
    });
    let found: Vec<Violation> = found.collect();
    reading.violations.extend(found);
    if reading.violations.is_empty() { Ok(read) } else { Err(Error::invalid(reading.violations)) }
}

/// serde stops at the first field that does not read. This notes it, takes it out and reads again, until the rest reads or
/// nothing can be done about it.
struct Reading {
    /// What is left of the input.
    input: Value,
    violations: Vec<Violation>,
    /// Whether more was taken out than fields that nobody knows.
    took_values: bool,
    /// Places that were taken out because something in them was.
    given_up: Vec<String>,
    /// How many of the [`stand_in`]s were tried at these places.
    stand_ins: Vec<(String, usize)>,
    /// Which items were taken out of these arrays, by their first index.
    items: BTreeMap<String, BTreeSet<usize>>,
}

/// A place as it was in the input, and as it is in what is left of it.
struct Place {
    given: String,
    left: String,
}

/// How many values [`stand_in`] has.
const STAND_INS: usize = 8;

/// What a field that has to be there may be, one after the other, so that the others can be read.
fn stand_in(index: usize) -> Value {
    match index {
        0 => Value::Null,
        1 => json!(""),
        2 => json!(1),
        3 => json!(false),
        4 => json!([]),
        5 => json!({}),
        6 => json!("/x"),
        _ => json!("1h"),
    }
}

/// More than anybody wants to be told at once.
const MAX_VIOLATIONS: usize = 100;

impl Reading {
    fn of(config: &Value) -> Self {
        Self {
            input: config.clone(),
            violations: Vec::new(),
            took_values: false,
            given_up: Vec::new(),
            stand_ins: Vec::new(),
            items: BTreeMap::new(),
        }
    }

    fn read<C: DeserializeOwned>(&mut self) -> Option<C> {
        loop {
            match serde_path_to_error::deserialize(&self.input) {
                Ok(read) => return Some(read),
                Err(e) => {
                    let place = self.place(e.path());
                    if !self.note(place, &e.inner().to_string()) || self.violations.len() >= MAX_VIOLATIONS {
                        return None;
                    }
                }
            }
        }
    }

    /// Notes what is wrong and takes it out of the way; false if that can't be done.
    fn note(&mut self, mut place: Place, message: &str) -> bool {
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        if let Some(field) = missing {
            place.enter(&escaped(field));
        }
        self.took_values |= !message.starts_with("unknown field");
        if !self.is_told(&place.given) {
            let (message, remedy) = explain(message);
            self.violations.push(Violation::new(place.given.as_str(), message, remedy));
        }
        self.take(&place) || self.stand_in(&place) || self.give_up(place)
    }

    /// Fields that have to be there, for an input that does not read in the end.
    fn note_missing(&mut self, schema: &Schema) {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for field in required.filter_map(Value::as_str) {
            let pointer = format!("/{}", escaped(field));
            if self.input.is_object() && self.input.get(field).is_none() && !self.is_told(&pointer) {
                let (message, remedy) = explain("missing field");
                self.violations.push(Violation::new(pointer, message, remedy));
            }
        }
    }

    /// Removes a value; false if it is not there, or was put there as a stand-in.
    fn take(&mut self, place: &Place) -> bool {
        let Some((parent, key)) = place.left.rsplit_once('/') else { return false };
        if self.stand_ins.iter().any(|(known, _)| is_within(&place.given, known)) {
            return false;
        }
        match self.input.pointer_mut(parent) {
            Some(Value::Object(fields)) => fields.remove(&unescaped(key)).is_some(),
            Some(Value::Array(items)) => {
                let given = place
                    .given
                    .rsplit_once('/')
                    .and_then(|(array, index)| Some((array, index.parse().ok()?)));
                match (key.parse::<usize>(), given) {
                    (Ok(index), Some((array, first))) if index < items.len() => {
                        items.remove(index);
                        self.items.entry(array.to_owned()).or_default().insert(first);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// Puts the next value there that it could be; false if there is none.
    fn stand_in(&mut self, place: &Place) -> bool {
        let Some((parent, key)) = place.left.rsplit_once('/') else { return false };
        let known = self.stand_ins.iter().position(|(known, _)| *known == place.given).unwrap_or_else(|| {
            self.stand_ins.push((place.given.clone(), 0));
            self.stand_ins.len() - 1
        });
        let index = self.stand_ins[known].1;
        self.stand_ins[known].1 += 1;
        if index >= STAND_INS || known >= MAX_VIOLATIONS {
            return false;
        }
        match self.input.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.insert(unescaped(key), stand_in(index));
                true
            }
            _ => false,
        }
    }

    /// Does without what the place is in.
    fn give_up(&mut self, mut place: Place) -> bool {
        while place.leave() && !place.left.is_empty() {
            self.given_up.push(place.given.clone());
            if self.take(&place) || self.stand_in(&place) {
                return true;
            }
        }
        false
    }

    /// Whether this place, or one that it lies in, was complained about.
    fn is_told(&self, pointer: &str) -> bool {
        let told = self.violations.iter().map(|told| &told.pointer).chain(&self.given_up);
        told.into_iter().any(|told| is_within(pointer, told))
    }

    fn place(&self, path: &Path) -> Place {
        let mut place = Place { given: String::new(), left: String::new() };
        for segment in path {
            match segment {
                Segment::Seq { index } => {
                    // Each that was taken out before it has moved it down by one.
                    let taken = self.items.get(&place.given).into_iter().flatten();
                    let first = taken.fold(*index, |index, taken| index + usize::from(*taken <= index));
                    place.given.push_str(&format!("/{first}"));
                    place.left.push_str(&format!("/{index}"));
                }
                Segment::Map { key } => place.enter(&escaped(key)),
                Segment::Enum { variant } => {
                    let variant = escaped(variant);
                    if self.input.pointer(&format!("{}/{variant}", place.left)).is_some() {
                        place.enter(&variant);
                    }
                }
                Segment::Unknown => {}
            }
        }
        place
    }
}

impl Place {
    fn enter(&mut self, segment: &str) {
        for pointer in [&mut self.given, &mut self.left] {
            pointer.push('/');
            pointer.push_str(segment);
        }
    }

    /// To what it is in; false at the top.
    fn leave(&mut self) -> bool {
        for pointer in [&mut self.given, &mut self.left] {
            let Some(at) = pointer.rfind('/') else { return false };
            pointer.truncate(at);
        }
        true
    }
}

fn is_within(pointer: &str, outer: &str) -> bool {
    pointer.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// One segment of a JSON pointer (RFC 6901 section 3).
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn unescaped(key: &str) -> String {
    key.replace("~1", "/").replace("~0", "~")
}

/// What serde says, in words that do not repeat the value, and what to do about it.
fn explain(message: &str) -> (String, String) {
    // A type of this crate has said it in its own words: `/: what is wrong; what to do`.
    if let Some((message, remedy)) = message.strip_prefix("/: ").and_then(|own| own.rsplit_once("; ")) {
        return (message.to_owned(), remedy.to_owned());
    }
    // From the right: what is expected has no comma with that word after it, what was given may.
    let (start, expected) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    let expected = expected.replace('`', "");
    if start.starts_with("unknown field") {
        let remedy = match expected.strip_prefix("one of ").unwrap_or(&expected) {
            "" => "remove it".to_owned(),
            known => format!("remove it, or write it as one of: {known}"),
        };
        return ("there is no such field".to_owned(), remedy);
    }
    if start.starts_with("missing field") {
        return ("the field is missing".to_owned(), "add it".to_owned());
    }
    if start.starts_with("unknown variant") {
        return ("there is no such choice".to_owned(), format!("give {expected}"));
    }
    let given = start.strip_prefix("invalid type: ").or_else(|| start.strip_prefix("invalid value: "));
    if let Some(given) = given {
        let given = given.split([' ', '"', '`']).next().unwrap_or_default();
        let given = if given == "floating" { "fraction" } else { given };
        return (format!("the {given} that is given does not fit"), format!("give {expected}"));
    }
    (message.to_owned(), "correct the value".to_owned())
}
