//! Frozen images of a volume, and what changed between two of them.
//!
//! Promise: an image that [`Provider::create`] returned is durable, shows the volume at one instant
//! (or what a power cut would have left, where [`Atomicity`] says so) and stays as it is; and every
//! byte that differs between two images is inside what [`Provider::delta`] names, or it names its
//! doubt instead.
//!
//! ```text
//!  choose ─► probe ┐
//!                  ├─ trait Provider ─┬─ reflink   a file on XFS or btrfs, FICLONE
//!  registry ───────┘                  ├─ btrfs     a read-only snapshot of the file's subvolume
//!                                     ├─ lvm       a thin or classic snapshot of a logical volume
//!                                     ├─ zfs       a snapshot of a zvol
//!                                     └─ exec      the user's own program
//! ```
//!
//! | file | what is in it |
//! | --- | --- |
//! | `provider`, `snapshot`, `error`, `doubt`, `name` | what providers can do, what is written down of their images |
//! | `registry`, `choose` | all of them, and which one for a volume |
//! | `providers/` | one file, or folder, each |
//! | `layout`, `changed` | which bytes two extent maps leave in doubt: pure |
//! | `compare` | reading those maps so that they can be believed |
//! | `folder` | where images of files lie |
//! | `steps` | the durable steps, so that tests can stop after each |
//! | `program` | running programs: arguments, never a shell; limits of time and output |
//!
//! Everything here blocks; threads belong to the caller.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"),
    expect(
        clippy::single_range_in_vec_init,
        reason = "lists of one range are meant"
    )
)]

mod changed;
mod choose;
mod compare;
mod doubt;
mod error;
mod folder;
mod layout;
mod name;
mod program;
mod provider;
mod providers;
mod registry;
mod snapshot;
mod steps;

pub use changed::Changed;
pub use choose::{
    Caution, Choice, Chosen, MAX_AUTO_PAUSE, NOTICED_PAUSE, Probed, Rejected, cautions, choose,
    decide,
};
pub use doubt::{Doubt, Which};
pub use error::{SnapshotError, SnapshotErrorKind};
pub use folder::FOLDER;
pub use name::{BadName, SnapshotName, VolumeName};
pub use provider::{Atomicity, Cost, Fitness, Health, Provider, Space, Told, Verdict};
pub use providers::{Btrfs, Exec, Lvm, Reflink, Zfs};
pub use registry::Registry;
pub use snapshot::{Image, Recovered, Snapshot};
pub use steps::{Observer, Step};
