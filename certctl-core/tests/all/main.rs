//! Everything that certctl-core's tests need one binary for.

mod ca;
mod openssl;
mod x509;
