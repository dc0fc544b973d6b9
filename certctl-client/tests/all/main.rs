//! The client against a server that answers as it is told.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod answers;
mod asking;
mod scripted;
