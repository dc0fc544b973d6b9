use schemars::JsonSchema;
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
pub(super) fn read_and_check<C: DeserializeOwned>(
    config: &Value,
    check: impl Fn(&C) -> Vec<Violation>,
) -> Result<C> {
    let mut reading = Reading::of(config);
    let Some(read) = reading.read::<C>() else { return Err(Error::invalid(reading.violations)) };
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
    input: Value,
    violations: Vec<Violation>,
    /// Whether more was taken out than fields that nobody knows.
    took_values: bool,
    /// How many of the [`stand_in`]s were tried at these places.
    stand_ins: Vec<(String, usize)>,
}

/// How many values [`stand_in`] has.
const STAND_INS: usize = 6;

/// What a field that has to be there may be, one after the other, so that the others can be read.
fn stand_in(index: usize) -> Value {
    match index {
        0 => Value::Null,
        1 => json!(""),
        2 => json!(1),
        3 => json!(false),
        4 => json!([]),
        _ => json!({}),
    }
}

/// More than anybody wants to be told at once.
const MAX_VIOLATIONS: usize = 100;

impl Reading {
    fn of(config: &Value) -> Self {
        Self { input: config.clone(), violations: Vec::new(), took_values: false, stand_ins: Vec::new() }
    }

    fn read<C: DeserializeOwned>(&mut self) -> Option<C> {
        loop {
            match serde_path_to_error::deserialize(&self.input) {
                Ok(read) => return Some(read),
                Err(e) => {
                    let pointer = self.pointer(e.path());
                    if !self.note(pointer, &e.inner().to_string()) || self.violations.len() >= MAX_VIOLATIONS
                    {
                        return None;
                    }
                }
            }
        }
    }

    /// Notes what is wrong and takes it out of the way; false if that can't be done.
    fn note(&mut self, mut pointer: String, message: &str) -> bool {
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        if let Some(field) = missing {
            pointer.push_str(&format!("/{}", escaped(field)));
        }
        let unknown = message.starts_with("unknown field");
        self.took_values |= !unknown;
        if !self.is_told(&pointer) {
            let (message, remedy) = explain(message);
            self.violations.push(Violation::new(pointer.as_str(), message, remedy));
            if missing.is_none() && take(&mut self.input, &pointer) {
                return true;
            }
        } else if unknown {
            return false;
        }
        self.stand_in(pointer)
    }

    /// Puts the next value there that it could be.
    fn stand_in(&mut self, pointer: String) -> bool {
        let Some(at) = pointer.rfind('/') else { return false };
        let known = self.stand_ins.iter().position(|(known, _)| *known == pointer).unwrap_or_else(|| {
            self.stand_ins.push((pointer.clone(), 0));
            self.stand_ins.len() - 1
        });
        let index = self.stand_ins[known].1;
        self.stand_ins[known].1 += 1;
        if index >= STAND_INS || known >= MAX_VIOLATIONS {
            return false;
        }
        let (parent, key) = (&pointer[..at], unescaped(&pointer[at + 1..]));
        match self.input.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.insert(key, stand_in(index));
                true
            }
            Some(Value::Array(items)) => match key.parse::<usize>().ok().and_then(|key| items.get_mut(key)) {
                Some(item) => {
                    *item = stand_in(index);
                    true
                }
                None => false,
            },
            _ => false,
        }
    }

    /// Whether this place, or one that it lies in, was complained about.
    fn is_told(&self, pointer: &str) -> bool {
        self.violations.iter().any(|told| {
            pointer.strip_prefix(&told.pointer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    fn pointer(&self, path: &Path) -> String {
        let mut pointer = String::new();
        for segment in path.iter() {
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } => pointer.push_str(&format!("/{}", escaped(key))),
                Segment::Enum { variant } => {
                    let deeper = format!("{pointer}/{}", escaped(variant));
                    if self.input.pointer(&deeper).is_some() {
                        pointer = deeper;
                    }
                }
                Segment::Unknown => {}
            }
        }
        pointer
    }
}

/// Removes a field; an item of an array stays, for the others would move.
fn take(input: &mut Value, pointer: &str) -> bool {
    let Some(at) = pointer.rfind('/') else { return false };
    match input.pointer_mut(&pointer[..at]) {
        Some(Value::Object(fields)) => fields.remove(&unescaped(&pointer[at + 1..])).is_some(),
        _ => false,
    }
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
