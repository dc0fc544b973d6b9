//! The integration tests of certctl-core, in one binary.

mod clock;
mod host;
