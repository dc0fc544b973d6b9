//! Seats: a lock on a file each, which the operating system frees when its process dies.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use certctl_core::{Error, ErrorKind, Result, store::Seat};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// More processes than that on one file are a mistake.
const SEATS: u32 = 1000;

/// The first seat that is free at the database `path`.
pub(super) fn take(path: &Path) -> Result<Seat> {
    for number in 0..SEATS {
        if let Some(file) = lock(path, number)? {
            return Ok(Seat::new(number, file));
        }
    }
    Err(Error::new(ErrorKind::Precondition, format!("{SEATS} processes have {} open", path.display())))
}

fn lock(path: &Path, number: u32) -> Result<Option<File>> {
    let mut name = OsString::from(path);
    name.push(format!(".seat-{number}"));
    // The file is never removed: who removes it could remove one that somebody else has just locked.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&name);
    let file = file.map_err(|e| super::unusable(Path::new(&name), "can't be created for a seat", e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(super::unusable(Path::new(&name), "can't be locked for a seat", e.into())),
    }
}
