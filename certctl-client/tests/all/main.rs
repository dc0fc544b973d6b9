//! The client against a server that answers as it is told.

#![allow(clippy::unwrap_used)]

mod answers;
mod asking;
mod scripted;
