//! The server itself.

use certctl_client::types::{Health, HealthStatus, ServerVersion};
use certctl_core::Result;
use serde_json::Value;

use super::{
    answer::{Json, Metrics, Reply, json},
    call::Call,
    route::{Route, get},
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/health", "health", "Whether the server lives.").open().to(health),
        get(
            "/ready",
            "ready",
            "Whether the server is ready to work: its store answers, and it is not stopping.",
        )
        .open()
        .to(ready),
        get("/version", "version", "Which server this is.").to(version),
        get("/metrics/prometheus", "metrics", "Metrics in Prometheus' text format.").to(metrics),
        get("/openapi.json", "openapi", "This document.").open().to(openapi),
    ]
}

async fn health(_: Call, (): (), (): ()) -> Result<Reply<Json<Health>>> {
    Ok(json(Health { status: HealthStatus::Ok }))
}

async fn ready(call: Call, (): (), (): ()) -> Result<Reply<Json<Health>>> {
    call.app().check_ready().await?;
    Ok(json(Health { status: HealthStatus::Ok }))
}

async fn version(call: Call, (): (), (): ()) -> Result<Reply<Json<ServerVersion>>> {
    Ok(json(ServerVersion {
        name: "certctl-server".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
        time: call.now(),
    }))
}

async fn metrics(call: Call, (): (), (): ()) -> Result<Reply<Metrics>> {
    call.app().metrics(call.actor()?).await.map(|text| Reply::new(Metrics(text)))
}

async fn openapi(call: Call, (): (), (): ()) -> Result<Reply<Json<Value>>> {
    Ok(json(call.app().openapi.get_or_init(|| super::openapi::document(&super::routes())).clone()))
}
