//! The one place where an error becomes a status (RFC 9457).

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use certctl_client::types::Problem;
use certctl_core::{Clock, Error, ErrorKind, Retry, SystemClock};

use super::input::MEDIA_TYPE;

/// The `reason` of what has a status of its own, besides those of the engine.
pub(crate) const TOO_LARGE: &str = "too_large";
pub(crate) const NO_SUCH_PATH: &str = "no_such_path";
pub(crate) const NO_SUCH_METHOD: &str = "no_such_method";
pub(crate) const TOO_SLOW: &str = "too_slow";

/// The status of an error.
pub(crate) fn status(error: &Error) -> StatusCode {
    match error.context_value("reason") {
        Some(TOO_LARGE) => return StatusCode::PAYLOAD_TOO_LARGE,
        Some(MEDIA_TYPE) => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Some(NO_SUCH_METHOD) => return StatusCode::METHOD_NOT_ALLOWED,
        Some(TOO_SLOW) => return StatusCode::REQUEST_TIMEOUT,
        // Only what came with If-Match expects a version.
        Some("version") if error.context_value("expected").is_some() => {
            return StatusCode::PRECONDITION_FAILED;
        }
        _ => {}
    }
    match error.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Precondition | ErrorKind::Cancelled => StatusCode::CONFLICT,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::BadResponse => StatusCode::BAD_GATEWAY,
        ErrorKind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a request that was refused.
pub(crate) fn response(error: &Error) -> Response {
    let status = status(error);
    if status.is_server_error() {
        tracing::error!(error = ?error, causes = %error, "a request failed");
    }
    let shown;
    let told = if status == StatusCode::INTERNAL_SERVER_ERROR {
        shown = Error::internal("something is broken on the server, whose log says what");
        &shown
    } else {
        error
    };
    let title = status.canonical_reason().unwrap_or("Error");
    let problem = Problem::new(told, status.as_u16(), title);
    let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(header::RETRY_AFTER, retry_after(error.retry()).into());
    }
    response
}

/// Seconds, rounded up.
fn retry_after(retry: Retry) -> u64 {
    match retry {
        Retry::After(at) => at.since(SystemClock.now()).as_millis().div_ceil(1000).clamp(1, 86_400) as u64,
        _ => 1,
    }
}
