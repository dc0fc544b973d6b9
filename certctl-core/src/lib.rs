//! Traits, records and the lifecycle engine of certctl.

mod clock;
mod error;
mod id;
mod random;
mod secret;
mod time;

pub use clock::{Clock, SystemClock};
pub use error::{Effect, Error, ErrorKind, ErrorReport, Result, Retry, Violation};
pub use id::{Id, Identified, check_name};
pub use secret::{Sealed, SealedAt, SealedOnly, Sealer, Secret, SecretRef, Secrets};
pub use time::{Lifetime, Timestamp};
