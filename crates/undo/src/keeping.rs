//! An undo whose run is at work.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lockstep_merkle::Root;

use crate::error::UndoError;
use crate::folder::{self, Names};
use crate::lock::UndoLock;
use crate::log::PreImageLog;
use crate::record::{PreRunRoot, Record, State};
use crate::record_block;
use crate::steps::Steps;

/// The undo of the run that holds it, until [`Keeping::finish`]; shared by the run's threads.
///
/// Dropping it leaves it as a kill would: it can be restored, or resumed by the next run.
#[derive(Debug)]
pub struct Keeping {
    held: Held,
    record: Mutex<Record>,
    log: Option<PreImageLog>,
}

/// The files of an undo, and the right to change them.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) names: Names,
    pub(crate) steps: Steps,
    pub(crate) _lock: UndoLock,
}

impl Held {
    /// Makes the record durable, in place of the one that is there.
    pub(crate) fn put(&self, record: &Record) -> Result<(), UndoError> {
        let block = record_block::encode(record)?;
        folder::replace(&self.names, &block, &self.steps)
    }

    pub(crate) fn remove(self) -> Result<(), UndoError> {
        folder::remove(&self.names, &self.steps)
        // Only now is the lock let go of.
    }
}

impl Keeping {
    pub(crate) fn new(held: Held, record: Record, log: Option<PreImageLog>) -> Self {
        Self {
            held,
            record: Mutex::new(record),
            log,
        }
    }

    /// What is recorded now.
    pub fn record(&self) -> Record {
        self.current().clone()
    }

    /// The log to keep pre-images in; `None` if the undo restores from a snapshot.
    pub fn log(&self) -> Option<&PreImageLog> {
        self.log.as_ref()
    }

    /// Records the root that the run's scan measured before the run overwrote anything that it had not
    /// scanned; durable when it returns.
    ///
    /// What is known already stays. If the undo reaches back to before an earlier, interrupted run,
    /// this run's scan came too late to know, and nothing is recorded. Returns what is recorded.
    ///
    /// # Errors
    /// [`UndoError`]; the root is then not recorded.
    pub fn record_root(&self, root: Root) -> Result<PreRunRoot, UndoError> {
        let mut record = self.current();
        if record.root == PreRunRoot::NotYet {
            let known = Record {
                root: PreRunRoot::Known(root),
                ..record.clone()
            };
            self.held.put(&known)?;
            *record = known;
        }
        Ok(record.root)
    }

    /// The run ended, well or not, and overwrites nothing more: all that it kept is made durable, and
    /// can be restored until the undo expires.
    ///
    /// # Errors
    /// [`UndoError`]; the undo is then left as a kill would leave it.
    pub fn finish(self, expires_unix_ms: u64) -> Result<Record, UndoError> {
        let sealed = self.log.as_ref().map(PreImageLog::seal).transpose()?;
        let mut record = self.record().with_seal(sealed);
        record.state = State::Whole;
        record.expires_unix_ms = expires_unix_ms;
        if record.root == PreRunRoot::NotYet {
            record.root = PreRunRoot::Never;
        }
        self.held.put(&record)?;
        Ok(record)
    }

    /// Gives the undo up, durably: from now on the run may overwrite without keeping. A snapshot that
    /// the record names has to be released before.
    ///
    /// # Errors
    /// [`UndoError`] if it may still be there after a crash; then nothing may be overwritten that was
    /// not kept.
    pub fn abandon(self) -> Result<(), UndoError> {
        self.held.remove()
    }

    #[cfg(test)]
    pub(crate) fn interrupt_with(&mut self, steps: Steps) {
        if let Some(log) = &mut self.log {
            log.interrupt_with(steps.clone());
        }
        self.held.steps = steps;
    }

    fn current(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
