//! What SQLite says, in the terms of [`Error`].

use certctl_core::{Effect, Error, ErrorKind};
use rusqlite::ErrorCode;

/// An error while `doing` something.
pub(super) fn error(e: rusqlite::Error, doing: &str) -> Error {
    let (kind, why) = match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, "another process keeps the database locked")
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full: free some space"),
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Unavailable, "the database can't be read or written: look after the disk")
        }
        Some(ErrorCode::OutOfMemory) => (ErrorKind::Unavailable, "there is not enough memory"),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
            ErrorKind::Precondition,
            "the database can't be written: look after the owner and mode of the file and its directory",
        ),
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::Precondition,
            "the file is not a SQLite database: move it away, or restore it from a backup",
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Precondition, "the database is damaged: restore it from a backup")
        }
        _ => (ErrorKind::Internal, "the database refuses"),
    };
    Error::new(kind, format!("{doing}: {why}")).with_source(e)
}

/// An error of the COMMIT itself.
pub(super) fn commit_error(e: rusqlite::Error) -> Error {
    // A log that could not be synced may be there all the same after a crash. All other failures leave no commit mark.
    let unknown = e.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
    let error = error(e, "committing");
    if unknown { error.with_effect(Effect::Unknown) } else { error }
}

/// Whether a row was refused for a unique set, or its id.
pub(super) fn is_unique(e: &rusqlite::Error) -> bool {
    let code = e.sqlite_error().map(|e| e.extended_code);
    code == Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}
