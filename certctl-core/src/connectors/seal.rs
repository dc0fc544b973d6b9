//! Seals the secrets of a configuration on its way into the store, and checks the solvers that are part of it.

use serde_json::{Map, Value, json};

use super::{Connectors, escaped};
use crate::{
    Error, Recipient, Result, Sealed, SealedAt, Sealer, Secret, SolverSpec, Violation, secret::SECRET_SCHEMA,
};

/// What sealing needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealing<'a> {
    pub(crate) connectors: &'a Connectors,
    pub(crate) sealer: &'a Sealer,
    /// The record's table and id.
    pub(crate) owner: (&'a str, &'a str),
}

/// Replaces each secret that is given in clear by its sealed form; one that `known`, the configuration that is stored, holds
/// already stays as it is there. Finds them by the schema.
///
/// # Errors
/// `Invalid` with what is wrong with the solvers that are part of the configuration.
pub(crate) fn seal(
    with: Sealing<'_>,
    schema: &Value,
    config: &mut Value,
    known: Option<&Value>,
) -> Result<()> {
    let mut walk = Walk { with, wrong: Vec::new() };
    let no_definitions = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&no_definitions);
    walk.value(definitions, schema, config, known, &mut Place::default())?;
    if walk.wrong.is_empty() { Ok(()) } else { Err(Error::invalid(walk.wrong)) }
}

/// The same for the solvers of an issuer's configuration, each with the JSON pointer to its field. Each becomes the
/// record's own.
///
/// # Errors
/// `Invalid` with what is wrong with them.
pub(crate) fn seal_solvers(with: Sealing<'_>, solvers: Vec<(&'static str, &mut SolverSpec)>) -> Result<()> {
    let mut walk = Walk { with, wrong: Vec::new() };
    for (pointer, spec) in solvers {
        let mut value = json!({ "kind": spec.kind, "config": spec.config });
        let place = Place { pointer: pointer.to_owned(), ..Place::default() };
        walk.solver(&mut value, None, &place)?;
        spec.config = value["config"].take();
        spec.owner = Some(with.owner.1.into());
    }
    if walk.wrong.is_empty() { Ok(()) } else { Err(Error::invalid(walk.wrong)) }
}

/// Seals each value that the store has sealed to somebody else. Goes by the form alone, and not by a schema: the connector may
/// be one that only the other side knows. `field` is the name of the field that `value` is in.
///
/// # Errors
/// `Precondition` if a value does not open.
pub(crate) fn reseal(
    sealer: &Sealer,
    recipient: &Recipient,
    owner: (&str, &str),
    field: &str,
    value: &mut Value,
) -> Result<()> {
    match value {
        Value::Object(fields) => {
            if let (1, Some(Value::String(text))) = (fields.len(), fields.get("sealed")) {
                let at = SealedAt { table: owner.0, id: owner.1, field };
                let secret = sealer.open(&at, &Sealed::from_text(text))?;
                let sealed = recipient.seal(&at, &secret)?;
                *value = json!({ "sealed": sealed });
                return Ok(());
            }
            for (name, value) in fields {
                reseal(sealer, recipient, owner, name, value)?;
            }
        }
        Value::Array(items) => {
            for value in items {
                reseal(sealer, recipient, owner, field, value)?;
            }
        }
        _ => {}
    }
    Ok(())
}

struct Walk<'a> {
    with: Sealing<'a>,
    wrong: Vec<Violation>,
}

/// A JSON pointer, and its last field's name.
#[derive(Default)]
struct Place {
    pointer: String,
    field: String,
    depth: u8,
}

const MAX_DEPTH: u8 = 32;

impl Walk<'_> {
    fn value(
        &mut self,
        definitions: &Map<String, Value>,
        schema: &Value,
        value: &mut Value,
        known: Option<&Value>,
        place: &mut Place,
    ) -> Result<()> {
        if place.depth > MAX_DEPTH {
            return Ok(());
        }
        if let Some(name) =
            schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
        {
            return match (name, definitions.get(name)) {
                (SECRET_SCHEMA, _) => self.secret(value, known, &place.field),
                ("SolverSpec", _) => self.solver(value, known, place),
                (_, Some(schema)) => self.value(definitions, schema, value, known, place),
                (_, None) => Ok(()),
            };
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            for schema in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
                self.value(definitions, schema, value, known, place)?;
            }
        }
        match value {
            Value::Object(fields) => {
                let properties = schema.get("properties");
                let others = schema.get("additionalProperties").filter(|schema| schema.is_object());
                for (name, value) in fields {
                    let Some(schema) = properties.and_then(|all| all.get(name)).or(others) else { continue };
                    let known = known.and_then(|known| known.get(name));
                    let mut below = place.below(name);
                    self.value(definitions, schema, value, known, &mut below)?;
                }
            }
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return Ok(()) };
                for (index, value) in items.iter_mut().enumerate() {
                    let known = known.and_then(|known| known.get(index));
                    let mut below = place.below(&index.to_string());
                    below.field.clone_from(&place.field);
                    self.value(definitions, schema, value, known, &mut below)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn secret(&mut self, value: &mut Value, known: Option<&Value>, field: &str) -> Result<()> {
        let Value::String(clear) = value else { return Ok(()) };
        let clear = Secret::new(std::mem::take(clear));
        let at = SealedAt { table: self.with.owner.0, id: self.with.owner.1, field };
        let stored = known.and_then(|known| known.get("sealed")).and_then(|sealed| {
            let opened = serde_json::from_value(sealed.clone()).ok();
            opened.and_then(|sealed| self.with.sealer.open(&at, &sealed).ok())
        });
        *value = match (stored, known) {
            (Some(stored), Some(known)) if stored == clear => known.clone(),
            _ => json!({ "sealed": self.with.sealer.seal(&at, &clear)? }),
        };
        Ok(())
    }

    fn solver(&mut self, value: &mut Value, known: Option<&Value>, place: &Place) -> Result<()> {
        let Some(kind) = value.get("kind").and_then(Value::as_str) else { return Ok(()) };
        let kind = match self.with.connectors.solver(kind) {
            Ok(kind) => kind,
            Err(e) => {
                self.wrong.extend_from_slice(e.below(&place.pointer).violations());
                return Ok(());
            }
        };
        let mut below = place.below("config");
        let mut nothing = json!({});
        let config = value.get_mut("config").unwrap_or(&mut nothing);
        if config.is_null() {
            *config = json!({});
        }
        if let Err(e) = kind.check(config) {
            self.wrong.extend_from_slice(e.below(&below.pointer).violations());
            return Ok(());
        }
        let schema = kind.schema();
        let no_definitions = Map::new();
        let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&no_definitions);
        self.value(
            definitions,
            schema.as_value(),
            config,
            known.and_then(|known| known.get("config")),
            &mut below,
        )
    }
}

impl Place {
    fn below(&self, name: &str) -> Self {
        Self {
            pointer: format!("{}/{}", self.pointer, escaped(name)),
            field: name.to_owned(),
            depth: self.depth + 1,
        }
    }
}
