//! Block devices and image files: guarded opening, aligned reading, writing, zeroing, flushing and reading back.
//!
//! Promise: a volume that somebody else uses is not opened for writing, what [`Volume::flush`] and
//! [`Volume::read_back`] say is true of the medium and not of memory, and a half-written file never
//! bears its final name.
//!
//! ```text
//!   open_source ─► Source ─┐                  ┌─ Medium ── buffered descriptor   page cache
//!                          ├─ trait Volume ───┤         └─ direct descriptor     O_DIRECT
//!   open_target ─► Target ─┘                  └─ faults: MemoryVolume, FaultyVolume (tests)
//! ```
//!
//! | file | what is in it |
//! | --- | --- |
//! | `source`, `target/` | the two ends of a run, their guards |
//! | `holders/` | who else uses a file or a device, for messages and as a guard |
//! | `disks` | the disks below a volume |
//! | `identity/` | what a path really is, here, on the wire, and after a reboot |
//! | `watch` | who else wrote a file meanwhile |
//! | `scratch` | a nameless file, for measuring |
//! | `medium`, `direct`, `regions`, `zeroing`, `transfer` | the I/O itself |
//! | `kernel`, `freeze`, `priority`, `uring`, `cvs`, `mapping`, `extents`, `btrfs` | all the `unsafe` there is: calls that rustix has no safe form of |
//!
//! Everything here blocks; threads belong to the caller.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod btrfs;
mod buffer;
mod cvs;
mod direct;
mod disks;
mod extents;
mod failure;
pub mod faults;
mod filesystem;
mod freeze;
mod holders;
mod identity;
mod kernel;
mod mapping;
mod medium;
mod open_error;
mod patience;
mod place;
mod priority;
mod regions;
mod scratch;
mod source;
mod target;
mod transfer;
mod uring;
mod volume;
mod watch;
mod zeroing;

pub use btrfs::{
    BTRFS_FIRST_SUBVOLUME, BTRFS_SUBVOLUME_TOP, BtrfsContent, BtrfsExtent, BtrfsState, Subvolume,
    btrfs_state, next_extent_items, remove_subvolume, snapshot_subvolume, subvolume_of,
};
pub use buffer::{BUFFER_ALIGNMENT, BufferPool, IoBuffer};
pub use cvs::MappedCvs;
pub use disks::disks_below;
pub use extents::{ExtentFlags, FileExtent, count_extents, is_on_realtime_device, next_extents};
pub use failure::{IoFailure, IoFailureKind, Operation};
pub use freeze::{freeze_filesystem, thaw_filesystem};
pub use identity::{BadIdentity, Identity, MAX_DURABLE_TEXT, MAX_IDENTITY_BYTES, identify};
pub use mapping::FileMapping;
pub use open_error::{OpenError, OpenErrorKind};
pub use place::canonical_target;
pub use priority::{NotLowered, Priority};
pub use scratch::{Scratch, scratch_file};
pub use source::{Held, Hold, HoldLost, Source, open_source, open_source_with};
pub use target::{Stamp, Target, TargetPlan, TargetRequest, open_target};
pub use uring::probe_uring;
pub use volume::{IoEngine, Volume, VolumeKind};
pub use watch::OtherWriters;
