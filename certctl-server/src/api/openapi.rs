//! The OpenAPI 3.1 document, from the rows and the schemas of what they take and give.

use axum::http::StatusCode;
use certctl_client::types::Problem;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::route::{Access, Route};

/// The document of these rows.
pub(crate) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for route in routes {
        let path = format!("/api/v1{}", route.path);
        let operations = paths.entry(path).or_insert_with(|| json!({}));
        operations[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut generator);
    }
    let mut schemas = generator.take_definitions(true);
    for schema in schemas.values_mut() {
        without_meta(schema);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "certctl",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Certificates: obtained, deployed with proof, renewed in time. Lists have `data` and `next_cursor`. \
                What is refused is an application/problem+json with everything that is wrong.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        // The paths are whole: a prefix would double theirs.
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key; for what agents ask, the token of a session.",
                },
            },
            "responses": {
                "Problem": {
                    "description": "What is wrong, and what to do about it.",
                    "content": { Problem::MEDIA_TYPE: { "schema": problem } },
                },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        })
        .collect();
    if let Some(schema) = (route.query)(generator) {
        parameters.extend(query_parameters(&schema.to_value()));
    }
    if route.revised && matches!(route.method.as_str(), "PUT" | "DELETE") {
        parameters.push(json!({
            "name": "If-Match",
            "in": "header",
            "description": "The ETag of what is meant: 412 if it has changed since.",
            "schema": { "type": "string", "pattern": "^(\"[1-9][0-9]{0,17}\"|\\*)$" },
        }));
    }
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.path.split('/').nth(1).unwrap_or_default()],
        "responses": responses(route, generator),
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = (route.body)(generator) {
        operation["requestBody"] = json!({
            "required": !route.body_optional,
            "content": { "application/json": { "schema": schema } },
        });
    }
    if route.access == Access::Open {
        operation["security"] = json!([]);
    }
    operation
}

fn query_parameters(schema: &Value) -> Vec<Value> {
    let required = schema.get("required").and_then(Value::as_array);
    let properties = schema.get("properties").and_then(Value::as_object);
    let parameter = |(name, property): (&String, &Value)| {
        let mut property = property.clone();
        let description = property.as_object_mut().and_then(|fields| fields.remove("description"));
        // There is no null in a query: a parameter is left out.
        let property = without_null(property);
        json!({
            "name": name,
            "in": "query",
            "description": description,
            "required": required.is_some_and(|all| all.iter().any(|one| one == name)),
            "schema": property,
        })
    };
    properties.into_iter().flatten().map(parameter).collect()
}

fn without_null(mut schema: Value) -> Value {
    let Some(fields) = schema.as_object_mut() else { return schema };
    fields.remove("default");
    if let Some(Value::Array(kinds)) = fields.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if kinds.len() == 1 {
            let only = kinds.remove(0);
            fields.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if choices.len() == 1 {
            return choices.remove(0);
        }
    }
    schema
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    let mut good = json!({ "description": "As asked." });
    if let (Some(schema), Some(media_type)) = ((route.answer)(generator), route.media_type) {
        good["content"] = json!({ media_type: { "schema": schema } });
    }
    if route.revised && route.method != axum::http::Method::DELETE {
        good["headers"] = json!({
            "ETag": { "description": "The revision, for If-Match.", "schema": { "type": "string" } },
        });
    }
    if route.creates {
        let mut made = good.clone();
        made["description"] = "It was made.".into();
        responses.insert("201".to_owned(), made);
    }
    responses.insert(route.status.as_str().to_owned(), good);
    let asks = (route.query)(generator).is_some();
    for status in refusals(route, asks) {
        responses.insert(status.as_str().to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    responses.into()
}

/// The ways in which such a request can be refused.
fn refusals(route: &Route, asks: bool) -> Vec<StatusCode> {
    let mut all = vec![
        StatusCode::BAD_REQUEST,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if route.access != Access::Open || route.path.starts_with("/agents") {
        all.extend([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    }
    if route.path.contains('{') || asks {
        all.push(StatusCode::NOT_FOUND);
    }
    if route.method != axum::http::Method::GET || route.path.contains('{') {
        all.extend([StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::BAD_GATEWAY]);
    }
    if route.revised {
        all.push(StatusCode::PRECONDITION_FAILED);
    }
    if route.method != axum::http::Method::GET {
        all.push(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    all
}

/// A definition is part of the document: it has no dialect of its own.
fn without_meta(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
    }
}
