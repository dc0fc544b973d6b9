//! Queries and bodies: read with everything that is wrong with them, each by its place.

use axum::http::{HeaderMap, header};
use certctl_client::types::{
    AgentFilter, ApiKeyFilter, AuditFilter, CertificateFilter, EnrollRequest, EnrollTokenRequest,
    ExtendRequest, JobFilter, JobWatchRequest, NamedFilter, RenewRequest, ResolveRequest, RevokeRequest,
    WorkRequest,
};
use certctl_core::{
    CertificateSpec, Error, HostSpec, IssuerSpec, ProfileSpec, Result, TargetSpec, Violation,
    connectors::read_config,
    engine::{ApiKeySpec, SessionRequest},
    worker::WorkResult,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What can be in a query.
pub(crate) trait Filter: Sized + Send + 'static {
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
    fn read(query: Option<&str>) -> Result<Self>;
}

/// What can be in a body.
pub(crate) trait Body: Sized + Send + 'static {
    /// Whether it may be left out.
    const OPTIONAL: bool = false;
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self>;
}

impl Filter for () {
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
    fn read(query: Option<&str>) -> Result<Self> {
        let wrong: Vec<Violation> =
            pairs(query).into_iter().map(|(name, _)| unknown_parameter(&name, std::iter::empty())).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Error::invalid(wrong)) }
    }
}

impl Body for () {
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
    fn read(_: &HeaderMap, body: &[u8]) -> Result<Self> {
        if body.trim_ascii().is_empty() || body.trim_ascii() == b"{}" || body.trim_ascii() == b"null" {
            return Ok(());
        }
        Err(Error::invalid_field("", "nothing is expected in the body", "leave it empty"))
    }
}

macro_rules! filters {
    ($($type:ty),* $(,)?) => { $(
        impl Filter for $type {
            fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
                // Its properties become parameters: no reference.
                Some(<$type>::json_schema(generator))
            }
            fn read(query: Option<&str>) -> Result<Self> {
                read_query(query)
            }
        }
    )* };
}

macro_rules! bodies {
    ($($type:ty $(, $optional:ident)?);* $(;)?) => { $(
        impl Body for $type {
            $( const OPTIONAL: bool = stringify!($optional).len() > 0; )?
            fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
                Some(generator.subschema_for::<$type>())
            }
            fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self> {
                read_body(headers, body, Self::OPTIONAL)
            }
        }
    )* };
}

filters!(AgentFilter, ApiKeyFilter, AuditFilter, CertificateFilter, JobFilter, JobWatchRequest, NamedFilter);

bodies!(
    ApiKeySpec;
    CertificateSpec;
    EnrollRequest;
    EnrollTokenRequest;
    ExtendRequest;
    HostSpec;
    IssuerSpec;
    ProfileSpec;
    RenewRequest, optional;
    ResolveRequest;
    RevokeRequest, optional;
    SessionRequest;
    TargetSpec;
    WorkRequest, optional;
    WorkResult;
);

/// Reads `name=value` pairs by the schema: what shall be a number is one.
fn read_query<T: DeserializeOwned + JsonSchema>(query: Option<&str>) -> Result<T> {
    let schema = schemars::schema_for!(T);
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut fields = Map::new();
    let mut wrong = Vec::new();
    for (name, text) in pairs(query) {
        let Some(property) = properties.and_then(|all| all.get(&name)) else {
            wrong.push(unknown_parameter(&name, properties.into_iter().flat_map(Map::keys)));
            continue;
        };
        if fields.contains_key(&name) {
            wrong.push(Violation::new(pointer(&name), "this parameter is given twice", "give it once"));
            continue;
        }
        let value = match as_number(property) {
            Some(range) => match text.parse::<u64>() {
                Ok(number) if range.0 <= number && number <= range.1 => number.into(),
                _ => {
                    let message = "this is no number, or one that is out of range";
                    let remedy = match range.1 {
                        u64::MAX => format!("write digits alone, at least {}", range.0),
                        max => format!("write a number from {} to {max}", range.0),
                    };
                    wrong.push(Violation::new(pointer(&name), message, remedy));
                    continue;
                }
            },
            None if is(property, "boolean") => match text.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => {
                    let message = "this is neither true nor false";
                    wrong.push(Violation::new(pointer(&name), message, "write true or false"));
                    continue;
                }
            },
            None => Value::String(text),
        };
        fields.insert(name, value);
    }
    match read_config(&Value::Object(fields)) {
        Ok(read) if wrong.is_empty() => Ok(read),
        Ok(_) => Err(Error::invalid(wrong)),
        Err(e) => {
            wrong.extend_from_slice(e.violations());
            Err(Error::invalid(wrong))
        }
    }
}

/// The range of a property that is a number.
fn as_number(property: &Value) -> Option<(u64, u64)> {
    let bound = |word: &str| property.get(word).and_then(Value::as_u64);
    is(property, "integer").then(|| (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(u64::MAX)))
}

fn is(property: &Value, word: &str) -> bool {
    let kind = property.get("type");
    kind.is_some_and(|kind| {
        kind == word || kind.as_array().is_some_and(|all| all.iter().any(|one| one == word))
    })
}

fn unknown_parameter<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Violation {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let remedy = match known.as_slice() {
        [] => "remove it: this takes no parameters".to_owned(),
        known => format!("remove it, or use one of: {}", known.join(", ")),
    };
    Violation::new(pointer(name), "there is no such parameter", remedy)
}

fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The pairs of a query (the URL standard's `application/x-www-form-urlencoded`).
fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let query = query.unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits are an octet.
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The `reason` of a body of another media type: it has a status of its own.
pub(super) const MEDIA_TYPE: &str = "media_type";

fn read_body<T: DeserializeOwned + JsonSchema>(
    headers: &HeaderMap,
    body: &[u8],
    optional: bool,
) -> Result<T> {
    if optional && body.trim_ascii().is_empty() {
        return read_config(&Value::Object(Map::new()));
    }
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if given != "application/json" && !(given.starts_with("application/") && given.ends_with("+json")) {
        let message = match given.as_str() {
            "" => "the body has no content type".to_owned(),
            _ => "the body is of another content type".to_owned(),
        };
        let remedy = "send JSON, with Content-Type: application/json";
        return Err(Error::invalid_field("", message, remedy).with("reason", MEDIA_TYPE));
    }
    let value: Value = serde_json::from_slice(body).map_err(|e| {
        // What the parser says is about characters, never about values.
        let why = match e.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is no JSON",
        };
        let message = format!("the body does not read: {why}, at line {}, column {}", e.line(), e.column());
        Error::invalid_field("", message, "send one JSON object, in UTF-8")
    })?;
    read_config(&value)
}
