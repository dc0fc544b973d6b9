//! The thread that folds the log into the file, so that the writer need not wait for the disk to do it.

use std::{
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use certctl_core::{Error, Result};
use rusqlite::Connection;

/// After so many writes the log is looked after. Not sooner: a page that is written often is folded in once.
const EVERY: usize = 20_000;
/// What the smallest group counts for: also one row takes a page of its own in each index.
const LEAST: usize = 20;

/// The thread, from the writer's side.
pub(super) struct Checkpoints {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    written: usize,
}

impl Checkpoints {
    pub(super) fn start(path: &Path) -> Result<Self> {
        // Room for one: who is working already looks again afterwards.
        let (wake, woken) = sync_channel(1);
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("sqlite-checkpoint".to_owned());
        let thread = thread.spawn(move || work(&path, &woken));
        let thread = thread.map_err(|e| Error::unavailable("no thread can be started").with_source(e))?;
        Ok(Self { wake: Some(wake), thread: Some(thread), written: 0 })
    }

    /// A group with so many writes was committed.
    pub(super) fn committed(&mut self, writes: usize) {
        self.written += writes.max(LEAST);
        if self.written >= EVERY {
            self.written = 0;
            // Full means that it will look anyway.
            let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(path: &Path, woken: &Receiver<()>) {
    let mut connection = None;
    while woken.recv().is_ok() {
        // Waits for nobody, and nobody waits for it.
        let mut checkpoint = || match &mut connection {
            Some(connection) => passive(connection),
            None => passive(
                connection.insert(super::connect(path, super::SqliteMemory { cache_kib: 1_024, mapped: 0 })?),
            ),
        };
        if let Err(e) = checkpoint() {
            // The writer does it itself when the log has become long.
            tracing::warn!("folding the log of {} into the file: {e}", path.display());
        }
    }
}

fn passive(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
