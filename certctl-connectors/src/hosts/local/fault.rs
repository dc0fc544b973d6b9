//! What the operating system says, as an [`Error`] with a reason and a remedy.

use std::io;

use certctl_core::{Error, ErrorKind, host::HostPath};
use rustix::io::Errno;

/// The error for `step` on `path`.
pub(crate) fn fault(step: &str, path: &HostPath, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let Some((kind, reason, meaning)) = meaning(&error) else {
        return Error::internal(format!("{step} of {path} failed"))
            .with("step", step)
            .with("file", path)
            .with_source(error);
    };
    Error::new(kind, format!("{step} of {path} failed: {meaning}"))
        .with("step", step)
        .with("file", path)
        .with("reason", reason)
        .with_source(error)
}

/// A `Precondition` that the operating system did not find, but this module.
pub(crate) fn refusal(step: &str, path: &HostPath, reason: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Precondition, message).with("step", step).with("file", path).with("reason", reason)
}

fn meaning(error: &io::Error) -> Option<(ErrorKind, &'static str, &'static str)> {
    use ErrorKind::{NotFound, Precondition, Unavailable};
    Some(match Errno::from_io_error(error)? {
        Errno::NOENT => (NotFound, "absent", "there is no such file or directory"),
        Errno::NOSPC => {
            (Precondition, "disk_full", "the disk is full; free some space on its file system and try again")
        }
        Errno::DQUOT => (
            Precondition,
            "disk_full",
            "the disk quota is used up; raise it or free some space and try again",
        ),
        Errno::ROFS => (
            Precondition,
            "read_only",
            "the file system is read-only; mount it writable, or use a path on one that is",
        ),
        Errno::ACCESS | Errno::PERM => (
            Precondition,
            "permission",
            "the permission is missing; let the user that this program runs as write to the directory and own the \
             file, or run it as root",
        ),
        Errno::BUSY => (
            Precondition,
            "busy",
            "it is a mount point of its own and can't be replaced; mount its directory instead, or set write to \
             in_place",
        ),
        Errno::EXIST => (Precondition, "exists", "it exists already; remove it or use another name"),
        Errno::ISDIR => (Precondition, "is_a_directory", "it is a directory; give the path of a file"),
        Errno::NOTDIR => (
            Precondition,
            "not_a_directory",
            "a part of the path is not a directory; correct the path or remove what is in the way",
        ),
        Errno::NOTEMPTY => {
            (Precondition, "not_empty", "the directory is not empty; remove what is in it first")
        }
        Errno::LOOP => (
            Precondition,
            "symlink",
            "it is a symlink where a file was expected, or symlinks form a loop; give the path that they lead to",
        ),
        Errno::XDEV => (
            Precondition,
            "cross_device",
            "the two places are on different file systems; choose places on the same one",
        ),
        Errno::NAMETOOLONG => (Precondition, "name_too_long", "the name is too long; choose a shorter one"),
        Errno::FBIG => {
            (Precondition, "too_large", "the file would be larger than is allowed; raise the limit")
        }
        Errno::IO => (Unavailable, "io", "the device reports an error; look at the kernel's log"),
        Errno::MFILE | Errno::NFILE => {
            (Unavailable, "too_many_open_files", "too many files are open; raise the limit")
        }
        Errno::NOMEM => (Unavailable, "memory", "memory is used up"),
        Errno::STALE | Errno::TIMEDOUT | Errno::NOTCONN => {
            (Unavailable, "unreachable", "the file server can't be reached")
        }
        _ => return None,
    })
}
