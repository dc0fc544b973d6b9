use tokio::sync::broadcast;

use crate::records::AuditEvent;

/// What happens, as it happens: the audit events of this process's commits, in the order of the commits.
///
/// Who reads too slowly misses the oldest ones, and is told how many; the store has them all.
#[derive(Debug)]
pub struct EventStream(broadcast::Receiver<AuditEvent>);

/// One item of an [`EventStream`].
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Event {
    /// Something happened.
    Happened(AuditEvent),
    /// So many events were missed.
    Missed(u64),
}

impl EventStream {
    pub(crate) fn new(receiver: broadcast::Receiver<AuditEvent>) -> Self {
        Self(receiver)
    }

    /// The next event; none once the engine is gone.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(Event::Happened(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
