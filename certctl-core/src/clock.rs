//! The only place that reads the clock. Everything else is handed a [`Clock`].

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;

use crate::Timestamp;

/// Wall time, passed in: no part of certctl reads it anywhere else.
#[async_trait]
pub trait Clock: Send + Sync + Debug {
    /// The wall time. It may jump, in both directions.
    fn now(&self) -> Timestamp;

    /// Returns once [`Clock::now`] has reached `until`, however the wall clock was set meanwhile.
    async fn sleep_until(&self, until: Timestamp);

    /// A short pause between two tries, measured by a clock that never jumps.
    async fn pause(&self, span: Duration);
}

/// This machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Timestamp::EPOCH + after,
            Err(before) => Timestamp::EPOCH - before.duration(),
        }
    }

    async fn sleep_until(&self, until: Timestamp) {
        // The monotonic clock knows nothing of suspend or of a wall clock that was set: look again now and then.
        const LOOK_AGAIN: Duration = Duration::from_secs(60);
        loop {
            let now = self.now();
            if now >= until {
                return;
            }
            self.pause(until.since(now).min(LOOK_AGAIN)).await;
        }
    }

    #[allow(clippy::disallowed_methods)]
    async fn pause(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}
