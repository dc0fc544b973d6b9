//! Hosts for tests: one in memory, one that fails on demand; and the conformance suite for all of them.

mod conformance;
mod fault;
mod memory;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::{
    conformance::conformance,
    fault::{FaultHost, Operation, When},
    memory::MemoryHost,
};
use crate::{
    Error, Result,
    host::{Host, Hosts},
};

/// [`Hosts`] with this one as the machine that the work is done on, and no other.
#[derive(Clone, Debug)]
pub struct OneHost(pub Arc<dyn Host>);

#[async_trait]
impl Hosts for OneHost {
    async fn host(&self, id: Option<&str>) -> Result<Arc<dyn Host>> {
        match id {
            None => Ok(self.0.clone()),
            Some(id) => Err(Error::not_found("host", id)),
        }
    }
}
