//! What tells people.

#[cfg(feature = "webhook")]
mod webhook;

#[cfg(feature = "webhook")]
pub use webhook::Webhook;
