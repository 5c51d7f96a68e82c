//! What every way of freezing a volume can do.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use crate::changed::Changed;
use crate::doubt::Doubt;
use crate::error::SnapshotError;
use crate::name::{SnapshotName, VolumeName};
use crate::snapshot::{Image, Recovered, Snapshot};

/// A way of freezing volumes.
///
/// ```text
/// probe ─► create ─► open ─► read ─► release
///             │        └► health, now and then
///             └──► kept as a base ─► delta(base, now) ─► release
/// recover: after a crash, and to list
/// ```
///
/// All of it blocks. Nothing is remembered between two calls but what is in [`Snapshot`].
pub trait Provider: Debug + Send + Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &'static str;

    /// Whether it can freeze this volume, and what that would cost. Changes nothing that lasts.
    fn probe(&self, volume: &Path) -> Verdict;

    /// Whether it suits files that are made where `volume` will be, as far as can be told before
    /// there is one. Changes nothing that lasts.
    fn suits_new_file(&self, _volume: &Path) -> bool {
        false
    }

    /// Freezes the volume. When it returns, the image is durable and nobody can change it.
    ///
    /// # Errors
    /// [`SnapshotError`]; then nothing is left but what [`Provider::recover`] removes.
    fn create(&self, volume: &Path, name: &SnapshotName) -> Result<Snapshot, SnapshotError>;

    /// Opens the image for reading.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`], [`SnapshotError::NotOurs`], [`SnapshotError::Lost`] and others.
    fn open(&self, snapshot: &Snapshot) -> Result<Image, SnapshotError>;

    /// The bytes of `now` that may differ from those of `base`.
    ///
    /// # Errors
    /// Any [`Doubt`] that a byte outside of the ranges may differ: read everything then.
    fn delta(&self, base: &Snapshot, now: &Snapshot) -> Result<Changed, Doubt>;

    /// Removes the image and all that was made for it. One that is gone already is no error.
    ///
    /// # Errors
    /// [`SnapshotError`]; calling it again goes on where it ended.
    fn release(&self, snapshot: &Snapshot) -> Result<(), SnapshotError>;

    /// Finds what earlier runs left of this volume, and removes what is only half made.
    ///
    /// # Errors
    /// [`SnapshotError`] if it cannot look.
    fn recover(&self, volume: &Path, name: &VolumeName) -> Result<Recovered, SnapshotError>;

    /// Whether the image is still good, and how much the volume can change before it is not.
    ///
    /// To be asked now and then, and once more after the last byte was read: only an image that was
    /// sound then was sound throughout. An error of reading it is a lost image, never zeros.
    ///
    /// # Errors
    /// [`SnapshotError`] if it cannot look.
    fn health(&self, snapshot: &Snapshot) -> Result<Health, SnapshotError>;
}

/// Whether a provider can freeze a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It can.
    Fit(Fitness),
    /// It cannot.
    Unfit {
        /// Why not, as a clause.
        why: String,
    },
}

impl Verdict {
    pub(crate) fn unfit(why: impl Into<String>) -> Self {
        Self::Unfit { why: why.into() }
    }
}

/// What freezing a volume would give and cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fitness {
    /// Which instant the image shows.
    pub atomicity: Atomicity,
    /// What it costs the writers.
    pub cost: Cost,
    /// What it costs in space.
    pub space: Space,
    /// Whether it tells what changed between two of its images.
    pub delta: Told,
}

/// Which instant an image shows; the better one last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atomicity {
    /// What a power cut at some instant could have left: everything flushed before is in it, but of
    /// what was written through the page cache and not flushed, a later write may be in it without
    /// an earlier one.
    PowerCut,
    /// Exactly the bytes that a reader would have seen at one instant, flushed or not.
    Instant,
}

/// What freezing costs the writers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Extents of the volume, where they matter and could be counted.
    pub extents: Option<u64>,
    /// How long writers are expected to wait.
    pub pause: Duration,
}

impl Cost {
    /// Measured on XFS and btrfs: 0.03 to 0.05 ms an extent.
    const PAUSE_PER_EXTENT: Duration = Duration::from_micros(50);

    /// The cost of sharing this many extents while the file is locked.
    #[must_use]
    pub fn of_extents(extents: u64) -> Self {
        let times = u32::try_from(extents).unwrap_or(u32::MAX);
        Self {
            extents: Some(extents),
            pause: Self::PAUSE_PER_EXTENT.saturating_mul(times),
        }
    }
}

/// What freezing costs in space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// The most that the image can come to hold once the volume is overwritten all over.
    pub at_risk: u64,
    /// What is free for that.
    pub free: u64,
}

/// Whether a provider tells what changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Told {
    /// Never.
    Nothing,
    /// Usually.
    Changes,
}

/// How an image does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// Every byte can be read.
    Sound {
        /// Bytes that the volume can still change before something breaks: the image, or the
        /// volume's own writers.
        room: u64,
    },
    /// Its data are gone; what can still be read of it means nothing.
    Lost {
        /// Why, as a clause.
        why: String,
    },
}
