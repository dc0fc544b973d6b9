//! Everything that certctl-core's tests need one binary for.

// clippy.toml exempts test functions, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod ca;
mod openssl;
mod x509;
//! The integration tests of certctl-core.

mod store;
