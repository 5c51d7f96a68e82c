//! Filesystems frozen, and hooks run, around a snapshot only; nothing stays frozen.
//!
//! Promise: whatever ends a run, an error, a panic or SIGKILL, what it froze is thawed within the time
//! limit; and a snapshot is called consistent only if everything stayed frozen until it was made.
//!
//! ```text
//!   check ─► journal ─► before hooks ─► watchdog ─► freeze A, B ─► snapshot ─► thaw B, A ─► after hooks
//!                                          │                          ▲
//!                                          └── thaws when the freezer ┘ is gone, or the time is over
//!   next start: recover ─► thaws what the journal names, if the watchdog was killed too
//! ```
//!
//! The watchdog is a process of its own, started before the first freeze. It holds copies of the open
//! mount points, is told over a socket what is frozen, and has everything it needs in memory: it opens
//! nothing and writes to nothing while something is frozen.
//!
//! # Who thaws
//!
//! | what happens | who thaws |
//! | --- | --- |
//! | the snapshot is made, fails or panics; the run is cancelled | the freezer, in reverse order |
//! | the freezer is killed, at any moment | the watchdog, at once |
//! | the freezer hangs or is stopped | the watchdog, when the time is over; the run then fails |
//! | the watchdog is killed | the freezer |
//! | both are killed | [`recover()`], at the next start |
//! | the machine goes down | nobody has to: a freeze is not on the disk |
//!
//! A hook that outlives its killed runner is killed by [`end_leftovers()`], at the next start and before
//! any other hook.
//!
//! A filesystem that somebody else froze is not thawed, with one exception: if the freezer is killed in
//! the very moment in which the kernel tells it so, the watchdog cannot know, and thaws.
//!
//! A freeze begins with flushing what is dirty. While the kernel is at that it cannot be thawed, so a
//! slow disk can hold writers up for longer than the limit. To keep that short the filesystems are
//! flushed once before, with writers still running.
//!
//! Everything here blocks.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod check;
mod error;
mod freezer;
mod hook;
mod journal;
mod leftover;
mod level;
mod mounts;
mod order;
mod point;
mod progress;
mod quiesce;
mod recover;
mod socket;
mod stack;
mod thawer;
mod watchdog;
mod words;

use std::time::Duration;

pub use error::{Needed, QuiesceError, Refusal};
pub use hook::{Hook, HookEnd, HookFailure, MAX_OUTPUT};
pub use leftover::{HookLog, Leftover, end_leftovers, leftover_of};
pub use level::Level;
pub use order::freeze_order;
pub use progress::{Progress, Step};
pub use quiesce::Quiesce;
pub use recover::{Outcome, Recovered, Recovery, recover};
pub use thawer::watchdog_main;

/// Most filesystems that are frozen together.
pub const MAX_MOUNT_POINTS: usize = 32;
/// Longest that anything may be frozen.
pub const MAX_LIMIT: Duration = Duration::from_secs(600);
