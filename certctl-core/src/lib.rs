//! Traits, records and the lifecycle engine of certctl.

mod actor;
mod ca;
mod catalog;
mod clock;
pub mod connectors;
mod context;
pub mod engine;
mod env;
mod error;
pub mod files;
mod home;
pub mod host;
mod id;
