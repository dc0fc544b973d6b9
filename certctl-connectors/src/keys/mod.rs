//! Where private keys live: implementations of [`Keys`](certctl_core::Keys).

#[cfg(all(unix, feature = "local-host"))]
mod disk;

#[cfg(all(unix, feature = "local-host"))]
pub use disk::DiskKeys;
