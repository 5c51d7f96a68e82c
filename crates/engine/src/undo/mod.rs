//! What a run overwrites is kept for a while, and can be brought back.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `stores` | where undos are, and how they go |
//! | `image` | a clone or thin snapshot of the whole target |
//! | `copying` | laying a snapshot's bytes over the target |
//! | `offer` | which way of keeping there is for a target |
//! | `rollback`, `words` | bringing a target back, on its machine; what the two sides say |
//! | `listed` | what is kept, for a list |
//! | `changed` | whether it may have been written to since |
//!
//! A run's own part is `target/keep`.

mod changed;
mod copying;
mod image;
mod listed;
mod offer;
mod rollback;
mod stores;
mod words;

use std::path::Path;
use std::time::Duration;

use lockstep_protocol::{Failure, FailureKind, UndoKind};
use lockstep_undo::{Kept, UndoError};

pub(crate) use image::{
    make as make_image, open as open_image, release as release_image, release_strays,
};
pub use listed::{KeptUndo, list_undos};
pub(crate) use offer::{Offer, offer, offer_log};
pub use rollback::{LocalRollback, RollbackOptions, UNDO_OF, serve_rollback};
pub(crate) use stores::Stores;
#[cfg(test)]
use words::ask_within;
pub use words::{Asked, Rollback, RollbackMonitor, RolledBack, Wish, ask_rollback};

use crate::clock::now;
use crate::failures::sentence;

/// Lets go of what is kept beside this volume, and in the state directory of any, beyond its time.
pub fn release_expired_undos(state_dir: &Path, volume: &Path) {
    let is_file = volume.metadata().is_ok_and(|metadata| metadata.is_file());
    Stores::of(state_dir, volume, is_file).release_expired();
}

/// Whether a run keeps what it overwrites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UndoMode {
    /// If there is a way and the room; otherwise it says so, and overwrites.
    Auto,
    /// Or it overwrites nothing.
    Require,
    /// No.
    Off,
}

/// What becomes of what a run overwrites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UndoPolicy {
    /// Whether it is kept.
    pub mode: UndoMode,
    /// For how long after the run.
    pub keep: Duration,
}

impl Default for UndoPolicy {
    fn default() -> UndoPolicy {
        UndoPolicy {
            mode: UndoMode::Auto,
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

impl UndoPolicy {
    /// When what is kept from now on expires, in milliseconds since the Unix epoch.
    pub(crate) fn until(&self) -> u64 {
        let keep = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        now().saturating_add(keep)
    }
}

/// What an undo restores from.
pub(crate) fn kind_of(kept: &Kept) -> UndoKind {
    match kept {
        Kept::Image(description) => image::kind(description),
        Kept::Log(_) => UndoKind::Log,
    }
}

/// A volume's identity without its size, which a run may change.
pub(crate) fn lasting(durable_text: &str) -> String {
    match durable_text.rsplit_once(" size ") {
        Some((identity, _)) => identity.to_owned(),
        None => durable_text.to_owned(),
    }
}

/// An undo that cannot be kept, used or removed.
pub(crate) fn undo_failed(error: &UndoError) -> Failure {
    let (kind, hint) = match error {
        UndoError::Busy { .. } => (FailureKind::Busy, "wait for the other one to end"),
        UndoError::Unusable(_) => (FailureKind::Guard, ""),
        UndoError::Log(error) if error.is_no_room() => (
            FailureKind::Preflight,
            "make room, or give --undo off to keep nothing",
        ),
        _ => (
            FailureKind::Io,
            "look at the folder `undo` of the state directory, or give --undo off",
        ),
    };
    Failure::new(kind, format!("undo: {}", sentence(error))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::lasting;

    #[test]
    fn a_change_of_size_makes_no_other_volume() {
        assert_eq!(
            lasting("file inode 12 born 7 size 99"),
            "file inode 12 born 7"
        );
        assert_eq!(lasting("device 7:0 size 5"), "device 7:0");
        assert_eq!(lasting("test place"), "test place");
    }
}
