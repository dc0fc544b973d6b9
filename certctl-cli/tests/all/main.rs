//! The command line, from its arguments to what it writes.

#![allow(clippy::unwrap_used)] // Not only in functions that are tests.

mod arguments;
mod scripted;
mod shell;
mod showing;
mod things;
mod waiting;
