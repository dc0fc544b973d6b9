use std::{fmt::Debug, sync::Arc};

use tokio::sync::watch;

use crate::{Clock, Error, ErrorKind, Result};

/// What every call into a connector or a worker gets: the clock, and whether somebody has asked to stop.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    cancel: watch::Receiver<bool>,
}

impl Context {
    /// A context that nobody cancels.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        // A receiver whose sender is gone keeps its last value.
        Self { clock, cancel: watch::channel(false).1 }
    }

    /// A context that is cancelled once `cancel` holds `true`.
    pub fn cancelled_by(clock: Arc<dyn Clock>, cancel: watch::Receiver<bool>) -> Self {
        Self { clock, cancel }
    }

    /// To be asked before the first write; after it, work ends or is rolled back.
    ///
    /// # Errors
    /// `Cancelled` if somebody has asked to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        if *self.cancel.borrow() {
            return Err(Error::new(ErrorKind::Cancelled, "stopped as asked, before anything was written"));
        }
        Ok(())
    }
}
