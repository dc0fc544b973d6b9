//! Where records live on disk.

mod sqlite;

pub use sqlite::{SqliteMemory, SqliteStore};
