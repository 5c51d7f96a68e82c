//! What a target held before a run overwrote it.
//!
//! Promise: whatever a run overwrote after [`PreImageLog::commit`] returned can be put back by
//! [`restore()`], byte for byte, after a kill or a power cut at any moment of the run or of the
//! restoration; what can no longer be put back is never offered.
//!
//! ```text
//!   a run                                                         a rollback
//!   begin ─► read ─► append ─► commit ─► overwrite ─► finish      restore ─► put back ─► prove ─► finish
//!              └─────── for all pages that differ ──────┘            │          │ last pre-image first
//!                                                                    └ every pre-image is read first
//! ```
//!
//! An undo restores from a log of pre-images, or from a snapshot of the target that somebody else
//! made and can find again by the description kept here. A volume has one undo at most; [`State`] draws its
//! life.
//!
//! # Which state it restores
//!
//! The first pre-image of a page counts. A run that continues an interrupted one continues its undo
//! too ([`UndoStore::resume`]), so that the volume gets back what it held before the first of them. That
//! nobody else wrote in between is the ledger's word: it has to name the interrupted run.
//!
//! [`PreRunRoot`] says what the whole must hash to afterwards. It is measured by the run's own scan, so
//! it comes later than the undo, and never if the run is interrupted before; then [`check`] proves what
//! was put back, and nothing proves that the rest is untouched.
//!
//! The size and the ledger are the caller's: it logs what a shrinking would cut off, marks the volume
//! `inconsistent` before it restores, and brings back [`Record::size`] first. A run that keeps no undo
//! calls [`UndoStore::release`] before its first write.
//!
//! # Files of a state directory
//!
//! `V` stands for 32 hex digits of the hash of the volume's key.
//!
//! | file | content | byte map |
//! | --- | --- | --- |
//! | `undo/V.undo` | the record | `record_block.rs` |
//! | `undo/V.log` | the pre-image log | `log/format.rs` |
//! | `undo/V.undo.new` | a record being made | |
//! | `undo/V.lock` | flock: held by a run, a rollback and a release for all their life; never removed | |
//!
//! # Recipes
//!
//! **Recording**, each change of a record: 1. make `V.undo.new` anew; 2. write it; 3. flush it; 4. rename it
//! to `V.undo`; 5. flush the folder.
//!
//! **Removing**, for a release, and when an undo is abandoned or has been restored: 1. remove the log;
//! 2. flush the folder; 3. remove the record; 4. flush the folder, then remove a draft.
//!
//! **Beginning**: 1. take the lock; 2. remove an older undo; 3. make the log, write its header and
//! flush it; 4. flush the folder; 5. record `keeping`.
//!
//! **Keeping**: 1. append records behind the last one; 2. flush the log, once for all who wait; 3. only
//! now overwrite. An append that fails is cut off again; a flush that fails is final.
//!
//! **Resuming**: 1. take the lock, flush the log and read it from the medium; 2. cut off what follows
//! the last record that counts, and flush; 3. record `keeping`, under the new run's name.
//!
//! **Finishing**: 1. flush the log; 2. record `whole`, with the log's exact length.
//!
//! **Restoring**: 1. take the lock, read the whole log from the medium; 2. record `restoring`, with the
//! log's exact length; 3. put back; 4. flush the volume; 5. prove, and write that down
//! where the next one looks; 6. remove.
//!
//! # Rules for every opening
//!
//! Magic, format, checksum, bounds of every field and exact length of the record; magic, format,
//! checksum and id of the log; checksum, order and place of every pre-image, none of them twice. Any
//! doubt is an [`Unusable`] that names it. Nothing is allocated by what a file says.
//!
//! | the log | what counts |
//! | --- | --- |
//! | of a run that ended, or of a rollback | exactly the recorded length; anything missing is damage |
//! | of a run that was interrupted | all up to the first record that is not whole |
//!
//! The second rule is safe because a record is durable before its pages are overwritten: what is not
//! whole was overwritten by nobody. Each record also holds how much of the log was durable when it was
//! written, so that a bad record before that point is known for damage, and not for the torn end. Damage
//! to the very last flush of an interrupted run looks like a torn end all the same; the root tells then.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod error;
mod folder;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod interruptions;
mod keeping;
mod lock;
mod log;
#[cfg(test)]
mod model;
mod record;
mod record_block;
mod restore;
mod restoring;
mod room;
mod standing;
mod steps;
mod store;

pub use error::{LogError, RestoreError, UndoError, Unusable, What};
pub use keeping::Keeping;
pub use log::{PreImageLog, SealedLog, Ticket};
pub use record::{Kept, LogFacts, LogId, MAX_RUN_BYTES, PreRunRoot, Record, State};
pub use record_block::MAX_DESCRIPTION_BYTES;
pub use restore::{Restored, check, restore};
pub use restoring::Restoring;
pub use room::Room;
pub use store::{Begin, Listed, MAX_LISTED, Releasing, Resume, UndoStore};
