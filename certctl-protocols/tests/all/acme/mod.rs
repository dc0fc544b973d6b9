//! What ACME sends.

mod examples;
mod headers;
mod hostile;
mod round_trips;
