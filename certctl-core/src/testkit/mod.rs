//! For tests: a clock that stands still, hosts that fail on demand, and a conformance suite for each trait.

pub mod clock;
pub mod host;
