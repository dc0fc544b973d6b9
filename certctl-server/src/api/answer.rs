//! What handlers give.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

/// A body of an answer.
pub(crate) trait Answer: Send + 'static {
    const MEDIA_TYPE: Option<&'static str>;
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
    /// # Errors
    /// If it has no form; that is a bug.
    fn into_bytes(self) -> serde_json::Result<Vec<u8>>;
}

/// A value as JSON.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// Nothing.
#[derive(Debug)]
pub(crate) struct Nothing;

/// Text, of the media type that the row says.
#[derive(Debug)]
pub(crate) struct Pem(pub(crate) String);

/// Metrics in Prometheus' text format.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) String);

/// An answer with its headers.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    body: T,
    revision: Option<u64>,
    location: Option<String>,
    status: Option<StatusCode>,
}

impl<T> Reply<T> {
    pub(crate) fn new(body: T) -> Self {
        Self { body, revision: None, location: None, status: None }
    }

    /// With an `ETag`.
    pub(crate) fn revision(mut self, revision: u64) -> Self {
        self.revision = Some(revision);
        self
    }

    /// With a `Location`, below `/api/v1`.
    pub(crate) fn location(mut self, path: String) -> Self {
        self.location = Some(path);
        self
    }

    /// With another status than the row's.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

/// A value as JSON.
pub(crate) fn json<T>(value: T) -> Reply<Json<T>> {
    Reply::new(Json(value))
}

impl<T: Answer> Reply<T> {
    pub(super) fn into_response(self, status: StatusCode) -> Response {
        let bytes = match self.body.into_bytes() {
            Ok(bytes) => bytes,
            Err(e) => {
                let error = certctl_core::Error::internal("the answer has no JSON form").with_source(e);
                return super::problem::response(&error);
            }
        };
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.status.unwrap_or(status);
        let headers = response.headers_mut();
        if let Some(media_type) = T::MEDIA_TYPE {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        if let Some(tag) = self.revision.and_then(|revision| format!("\"{revision}\"").parse().ok()) {
            headers.insert(header::ETAG, tag);
        }
        if let Some(location) =
            self.location.and_then(|path| HeaderValue::try_from(format!("/api/v1{path}")).ok())
        {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Answer for Json<T> {
    const MEDIA_TYPE: Option<&'static str> = Some("application/json");
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
    fn into_bytes(self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.0)
    }
}

impl Answer for Nothing {
    const MEDIA_TYPE: Option<&'static str> = None;
    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
    fn into_bytes(self) -> serde_json::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

impl Answer for Pem {
    // RFC 8555 section 9.1.
    const MEDIA_TYPE: Option<&'static str> = Some("application/pem-certificate-chain");
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<String>())
    }
    fn into_bytes(self) -> serde_json::Result<Vec<u8>> {
        Ok(self.0.into_bytes())
    }
}

impl Answer for Metrics {
    const MEDIA_TYPE: Option<&'static str> = Some("text/plain; version=0.0.4");
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<String>())
    }
    fn into_bytes(self) -> serde_json::Result<Vec<u8>> {
        Ok(self.0.into_bytes())
    }
}
