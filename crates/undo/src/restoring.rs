//! An undo that is being restored.

use crate::error::UndoError;
use crate::keeping::Held;
use crate::log::SealedLog;
use crate::record::Record;

/// A rollback at work: the record says so, durably, and every pre-image was found whole.
///
/// Dropping it leaves it as a kill would: it can be restored again, from the start.
#[derive(Debug)]
pub struct Restoring {
    held: Held,
    record: Record,
    log: Option<SealedLog>,
}

impl Restoring {
    pub(crate) fn new(held: Held, record: Record, log: Option<SealedLog>) -> Self {
        Self { held, record, log }
    }

    /// What is recorded: the size to bring back first, the root to end with.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The log for [`restore`](crate::restore()); `None` if the undo is a snapshot, which
    /// [`Record::kept`] names.
    pub fn log(&self) -> Option<&SealedLog> {
        self.log.as_ref()
    }

    /// The volume is again what it was, proven, and whoever looks finds that written down: the undo has
    /// done its work and is removed, durably. A snapshot that the record names has to be released before.
    ///
    /// # Errors
    /// [`UndoError`]; the undo may still be there, and can be restored or released again.
    pub fn finish(self) -> Result<(), UndoError> {
        self.held.remove()
    }
}
