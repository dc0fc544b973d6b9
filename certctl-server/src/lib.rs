//! The certctl server: the library's engine with a directory, REST under `/api/v1`, and its own certificate.
//!
//! It is thin: a handler turns a request into a command of the [`Engine`](certctl_core::Engine) with an
//! [`Actor`](certctl_core::Actor), and whether that one may is the engine's to say. What an operator can do here, a program
//! that embeds the library can do without it.
//!
//! [`Server::builder`] makes one in a program or a test; the binary of the same name reads [`config`] from flags, environment
//! and file.

mod api;
mod app;
pub mod config;
mod first_start;
mod issuers;
mod listen;
mod server;

use certctl_core::connectors::Connectors;

pub use config::Config;
pub use server::{Handle, LOCAL_ISSUER, OWN, Server, ServerBuilder};

/// The OpenAPI 3.1 document of this build.
pub fn openapi() -> serde_json::Value {
    api::openapi::document(&api::routes())
}

/// The connectors of this build.
pub fn connectors() -> Connectors {
    certctl_connectors::connectors()
}
