//! Traits, records and the lifecycle engine of certctl.

mod actor;
mod clock;
mod error;
pub mod host;
mod id;
mod random;
pub mod records;
mod secret;
pub mod store;
mod time;

pub use actor::{Actor, Permission, Role};
pub use clock::{Clock, SystemClock};
pub use error::{Effect, Error, ErrorKind, ErrorReport, Result, Retry, Violation};
pub use id::{Id, Identified, check_name};
pub use secret::{Sealed, SealedAt, SealedOnly, Sealer, Secret, SecretRef, Secrets};
pub use time::{Lifetime, Timestamp};
