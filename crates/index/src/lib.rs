//! What a volume's pages hashed to at the end of an earlier run.
//!
//! Promise: an index that [`IndexStore::load`] returns is byte for byte one that [`IndexStore::save`]
//! was given, and folds to the root it names; after a kill or a power cut at any moment the old one
//! or the new one is there, or none, and never a half one.
//!
//! An index is a hint. It saves reading what did not change; what did not change is for a snapshot's
//! delta to say, and [`inherit`] decides what is read all the same, so that a delta that lies is
//! found out.
//!
//! One chaining value for each page of 4 KiB: 0.8 % of the volume. One for each group of 64 KiB would
//! be a sixteenth of that, but where 1 % of the pages change, 15 % of the groups do.
//!
//! ```text
//!   run 1: full scan ──────────► save ─► index of snapshot A
//!                                             │ load: every byte checked, or Unusable
//!   run 2: delta A→B ─► inherit::plan ─► what to read ─► values of B ─► save ─► index of snapshot B
//!                                             └─ a value that should be A's and is not: a lying delta
//! ```
//!
//! # When an index is true
//!
//! | side | true of | until |
//! | --- | --- | --- |
//! | [`Side::Source`] | a snapshot, which never changes | its snapshot is released; [`IndexStore::remove`] it then |
//! | [`Side::Target`] | the volume at the end of the last verified run, and the snapshot of it that the facts describe | anybody writes to the volume; of the snapshot for ever |
//!
//! An index cannot see that a target was written to. A run removes it durably before its own first
//! write; what else was written since has to be known from its snapshot, else the target is scanned. Whether
//! the index and the ledger speak of the same run is seen by their roots.
//!
//! # Files of a state directory
//!
//! `V` and `S` stand for 32 hex digits of the hashes of the volume's and of the snapshot's name.
//!
//! | file | content |
//! | --- | --- |
//! | `indexes/V.target.index` | the index of a target |
//! | `indexes/V.source-S.index` | the index of a snapshot |
//! | `indexes/*.index.new` | an index being made; the next writer of the volume removes it |
//! | `indexes/V.lock` | flock: held while an index of the volume is written or removed; never removed |
//!
//! The bytes of an index are mapped at the top of `header.rs`.
//!
//! # Recipe of writing
//!
//! 1. Take the volume's lock.
//! 2. Remove drafts that an interrupted writer left, and indexes of the volume whose header is
//!    damaged.
//! 3. Make `NAME.index.new`, which must not exist, and reserve its blocks.
//! 4. Write the chaining values behind 4096 bytes left free, hashing and folding them.
//! 5. Check that there were as many as the volume has pages, and that they fold to the promised root.
//! 6. Write the header into the free bytes.
//! 7. Flush the file.
//! 8. Rename it to `NAME.index`.
//! 9. Flush the folder. Only now report success, and let go of the lock.
//!
//! A failure in 3 to 8 removes the draft. A crash before 8 leaves a draft that nobody reads; between 8
//! and 9 either name may be there after a power cut, both of whole files. A file that is read never
//! changes: it is only replaced, so that who has it mapped keeps it.
//!
//! # Rules for every opening
//!
//! Magic, format, checksum of the header, bounds of every field, length of the file, volume and side,
//! identity, checksum of the values, and their fold: all must be right. Any doubt is an [`Unusable`]
//! that names it in one sentence, and the volume is scanned. Nothing is allocated by what a file says.
//! A damaged index is never repaired; the next index of its name takes its place.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod error;
mod facts;
mod folder;
mod header;
mod index;
pub mod inherit;
#[cfg(test)]
mod interruptions;
mod key;
mod lock;
mod store;
mod writer;

pub use error::{IndexError, Unusable};
pub use facts::{Facts, FullScanEvery, Lineage};
pub use header::MAX_DESCRIPTION_BYTES;
pub use index::Index;
pub use key::{IndexKey, Side};
pub use store::{IndexStore, Listed, MAX_LISTED};
