//! JSON schemas, for people.

use serde_json::Value;

/// A field of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it is, with dots between levels.
    pub name: String,
    /// What goes in, in words.
    pub kind: String,
    /// What it is if it is left out: a value, `required`, or a dash.
    pub default: String,
    /// What it is for.
    pub meaning: String,
}

/// What a description says to people who write no programs: without examples of code, and without marks for links.
pub(crate) fn prose(description: &str) -> String {
    let text: String = description.split("```").step_by(2).collect();
    text.replace("[`", "`").replace("`]", "`").trim_end().to_owned()
}

/// How deep objects within objects are shown.
const DEPTH: usize = 3;

/// The fields of a configuration, those of objects in it included, in the schema's order with what is required first.
pub fn fields(schema: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    collect(schema, schema, "", DEPTH, &mut found);
    found
}

fn collect(root: &Value, schema: &Value, prefix: &str, depth: usize, found: &mut Vec<Field>) {
    let schema = resolve(root, schema);
    for part in ["oneOf", "anyOf", "allOf"].iter().filter_map(|all| schema.get(all)?.as_array()).flatten() {
        collect(root, part, prefix, depth, found);
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let is_required = |name: &&String| required.contains(&name.as_str());
    let names =
        properties.keys().filter(is_required).chain(properties.keys().filter(|name| !is_required(name)));
    for name in names {
        let property = &properties[name];
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if found.iter().any(|field: &Field| field.name == path) {
            continue;
        }
        let default = property.get("default").filter(|default| !default.is_null());
        found.push(Field {
            name: path.clone(),
            kind: kind(root, property),
            default: match default {
                _ if required.contains(&name.as_str()) => "required".to_owned(),
                Some(Value::String(text)) if !text.is_empty() => text.clone(),
                Some(Value::Object(_) | Value::String(_)) | None => "-".to_owned(),
                Some(other) => other.to_string(),
            },
            meaning: meaning(root, property),
        });
        if depth > 0 {
            for inner in objects(root, property) {
                collect(root, inner, &path, depth - 1, found);
            }
        }
    }
}

/// What goes in, in words.
fn kind(root: &Value, schema: &Value) -> String {
    let resolved = resolve(root, schema);
    if let Some(one) = resolved.get("const") {
        return one.to_string();
    }
    if let Some(all) = resolved.get("enum").and_then(Value::as_array) {
        let words = all.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned));
        return words.collect::<Vec<_>>().join(" | ");
    }
    if let Some(options) = alternatives(resolved) {
        let mut kinds: Vec<String> = Vec::new();
        for option in options.iter().map(|option| kind(root, option)).filter(|kind| kind != "null") {
            let option = option.trim_matches('"').to_owned();
            if !kinds.contains(&option) {
                kinds.push(option);
            }
        }
        return kinds.join(" | ");
    }
    let types: Vec<&str> = match resolved.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).filter(|&kind| kind != "null").collect()
        }
        _ => Vec::new(),
    };
    let name = |kind: &&str| match *kind {
        "array" => match resolved.get("items") {
            Some(items) => format!("list of {}", self::kind(root, items)),
            None => "list".to_owned(),
        },
        "string" => match resolved.get("format").and_then(Value::as_str) {
            Some("date-time") => "time".to_owned(),
            Some("password") => "secret".to_owned(),
            Some("uri") => "URL".to_owned(),
            _ if is_duration(resolved) => "duration".to_owned(),
            _ => "text".to_owned(),
        },
        "integer" => "integer".to_owned(),
        "number" => "number".to_owned(),
        "boolean" => "true | false".to_owned(),
        "object" => "object".to_owned(),
        other => other.to_owned(),
    };
    match types.as_slice() {
        [] => "anything".to_owned(),
        types => types.iter().map(name).collect::<Vec<_>>().join(" | "),
    }
}

fn meaning(root: &Value, property: &Value) -> String {
    let own = property.get("description").or_else(|| resolve(root, property).get("description"));
    let text = own.and_then(Value::as_str).unwrap_or_default();
    prose(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The objects that may be in a field: itself, one of its alternatives, or a list's items.
fn objects<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let schema = resolve(root, schema);
    if schema.get("properties").is_some() {
        return vec![schema];
    }
    let items = schema.get("items").into_iter();
    let inner = items.chain(alternatives(schema).into_iter().flatten());
    inner.flat_map(|inner| objects(root, inner)).collect()
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    ["oneOf", "anyOf", "allOf"].iter().find_map(|all| schema.get(all)?.as_array())
}

/// What a reference within the document leads to.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut at = schema;
    // A reference to a reference is rare, one to itself a mistake.
    for _ in 0..8 {
        let Some(next) = at
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
        else {
            break;
        };
        at = next;
    }
    at
}

fn is_duration(schema: &Value) -> bool {
    schema.get("pattern").and_then(Value::as_str).is_some_and(|pattern| pattern.contains("(ms|s|m|h|d)"))
}
