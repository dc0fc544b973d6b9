//! REST under `/api/v1`: rows of a table, each with its handler. No rule of the lifecycle and no permission is here: a
//! handler turns a request into a command of the engine with an [`Actor`](certctl_core::Actor), and its result into an answer.

mod access;
mod agents;
mod answer;
mod call;
mod certificates;
mod connectors;
mod input;
mod jobs;
mod names;
pub(crate) mod openapi;
mod page;
mod problem;
mod route;
mod server;
mod stored;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, RawPathParams, Request},
    http::{HeaderValue, header},
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use certctl_core::{Error, ErrorKind, Result};
use futures_util::StreamExt;

use self::{
    call::Call,
    route::{Asked, Route},
};
use crate::app::App;

/// The largest body of a request, in octets.
const MAX_BODY: usize = 1 << 20;
/// How long a client may take for a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Every row.
pub(crate) fn routes() -> Vec<Route> {
    let mut all = server::routes();
    all.extend(certificates::routes());
    all.extend(connectors::routes());
    all.extend(jobs::routes());
    all.extend(agents::routes());
    all.extend(access::routes());
    all
}

/// The whole application, to be served or called.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut methods: BTreeMap<&'static str, MethodRouter> = BTreeMap::new();
    for route in routes() {
        let filter = match route.method.as_str() {
            "POST" => MethodFilter::POST,
            "PUT" => MethodFilter::PUT,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let (app, handler) = (app.clone(), route.handler.clone());
        let answer = move |parameters: RawPathParams, request: Request| {
            let (app, handler) = (app.clone(), handler.clone());
            async move {
                let asked = match read(app, &parameters, request).await {
                    Ok(asked) => asked,
                    Err(error) => return problem::response(&error),
                };
                handler(asked).await.unwrap_or_else(|error| problem::response(&error))
            }
        };
        let known =
            methods.remove(route.path).unwrap_or_else(|| MethodRouter::new().fallback(no_such_method));
        methods.insert(route.path, known.merge(on(filter, answer)));
    }
    let api = methods.into_iter().fold(Router::new(), |api, (path, methods)| api.route(path, methods));
    Router::new().nest("/api/v1", api).fallback(no_such_path).layer(axum::middleware::map_response(secured))
}

async fn read(app: Arc<App>, parameters: &RawPathParams, request: Request) -> Result<Asked> {
    let (parts, body) = request.into_parts();
    let parameters = parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
    let body = tokio::time::timeout(BODY_DEADLINE, read_body(body)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Unavailable, "the body did not arrive in time: send it again")
            .with("reason", problem::TOO_SLOW))
    })?;
    let query = parts.uri.query().map(str::to_owned);
    Ok(Asked { call: Call::new(app, parameters, peer), query, headers: parts.headers, body })
}

async fn read_body(body: Body) -> Result<Bytes> {
    let too_large = || {
        let message = format!("the body has more than {} KiB", MAX_BODY >> 10);
        Error::invalid_field("", message, "send less").with("reason", problem::TOO_LARGE)
    };
    let expected = axum::body::HttpBody::size_hint(&body).lower();
    if expected > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece
            .map_err(|_| Error::invalid_field("", "the body ends before it is over", "send it as a whole"))?;
        if whole.len() + piece.len() > MAX_BODY {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

async fn no_such_path() -> Response {
    let error = Error::new(
        ErrorKind::NotFound,
        "there is nothing at this path: /api/v1/openapi.json says what there is",
    );
    problem::response(&error.with("reason", problem::NO_SUCH_PATH))
}

async fn no_such_method() -> Response {
    let error =
        Error::new(ErrorKind::Invalid, "this path has no such method: the header Allow says which it has");
    problem::response(&error.with("reason", problem::NO_SUCH_METHOD))
}

/// Nothing here is for a browser to guess about, to frame or to keep.
async fn secured(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
