//! The records of the lifecycle, each with its table.

mod audit;

pub use audit::AuditEvent;
