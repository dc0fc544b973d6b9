//! The certctl agent: holds private keys and deploys certificates on the machine where they are used.
//!
//! The program `certctl-agent` is this library with settings; an integrator builds an agent with connectors of their own from
//! [`AgentBuilder`]. It is the library's worker behind a network: it leases work from a server, keeps a journal of what it has
//! begun, and refuses what its owner's [`policy`] does not allow.

mod agent;
mod files;
mod journal;
mod link;
pub mod policy;
mod runner;
mod secrets;
pub mod settings;
mod state;
mod uplink;

pub use agent::{Agent, AgentBuilder};
pub use state::{Identity, StateDir};
pub use uplink::{Enrolled, Uplink};
