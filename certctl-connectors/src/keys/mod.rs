//! Where private keys live: implementations of [`Keys`](certctl_core::Keys).

#[cfg(all(unix, feature = "local-host"))]
mod disk;

#[cfg(all(unix, feature = "local-host"))]
pub use disk::DiskKeys;

/// The sealing key in a file (0600), made on first use.
///
/// # Errors
/// `Precondition` if the file can't be read or made, others can read it, or it has not 32 bytes.
#[cfg(feature = "sqlite")]
pub(crate) fn sealing_key(path: &std::path::Path) -> certctl_core::Result<certctl_core::Secret> {
    disk::sealing_key(path)
}
