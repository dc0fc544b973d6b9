//! The integration tests of certctl-core.

mod store;
