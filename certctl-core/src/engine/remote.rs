//! Work that agents do: jobs whose place names one. The agent leases them, and reports.

use crate::{Id, records::Agent};

/// An agent whose identity was proved, in one process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSession {
    /// The agent.
    pub agent: Id<Agent>,
    /// Its name.
    pub name: Box<str>,
    /// The process: made anew at each of its starts.
    pub instance: String,
}

impl AgentSession {
    /// What stands in the leases. A later process of the same agent takes them back at once.
    pub fn seat(&self) -> String {
        format!("{}/{}", self.agent, self.instance)
    }
}
