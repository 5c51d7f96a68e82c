//! Why nobody can say what changed between two images.

use std::fmt;

use crate::snapshot::Snapshot;

/// One of the two images of a delta.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// The older one, which the replicas are known to equal.
    Base,
    /// The newer one.
    Now,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "the base snapshot",
            Self::Now => "the new snapshot",
        })
    }
}

/// A reason not to believe any delta between two images: no failure, everything is read instead.
///
/// Each is displayed as one sentence without its full stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Doubt {
    /// The images were made by different providers, or this one did not make them.
    #[error("the snapshots are of {base} and {now}, and {asked} was asked")]
    OtherProvider {
        /// Who made the base.
        base: String,
        /// Who made the new image.
        now: String,
        /// Who was asked.
        asked: String,
    },
    /// The images are of different volumes.
    #[error("the snapshots are of different volumes")]
    OtherVolume,
    /// An image does not exist any more: what lay where it was may be anybody's by now.
    #[error("{which} is gone")]
    Gone {
        /// The image.
        which: Which,
    },
    /// Something else has the image's name.
    #[error("{which} is not what was made: {what}")]
    Replaced {
        /// The image.
        which: Which,
        /// What is different.
        what: String,
    },
    /// An image was changed, or could have been, after it was made.
    #[error("{which} was touched after it was made")]
    Touched {
        /// The image.
        which: Which,
    },
    /// Nothing keeps an image from being changed.
    #[error("{which} is not immutable")]
    NotImmutable {
        /// The image.
        which: Which,
    },
    /// The images lie on different filesystems, whose addresses have nothing in common.
    #[error("the snapshots are on different filesystems")]
    OtherFilesystem,
    /// The images lie on different devices of one filesystem.
    #[error("{which} is on the realtime device of its filesystem")]
    RealtimeDevice {
        /// The image.
        which: Which,
    },
    /// Extents were moved while the maps were read.
    #[error("the extents of {which} were moved while they were read")]
    Moved {
        /// The image.
        which: Which,
    },
    /// The filesystem is moving extents, or may begin to.
    #[error("the filesystem is busy with an operation that moves data ({operation})")]
    Relocating {
        /// What the kernel calls it.
        operation: String,
    },
    /// The map is longer than is worth comparing.
    #[error("{which} has more than {limit} extents")]
    TooManyExtents {
        /// The image.
        which: Which,
        /// The most that are compared.
        limit: usize,
    },
    /// The map contradicts itself.
    #[error("the extent map of {which} makes no sense")]
    BadMap {
        /// The image.
        which: Which,
    },
    /// An image or what is known of it could not be read.
    #[error("{which} cannot be examined: {why}")]
    Unreadable {
        /// The image.
        which: Which,
        /// What the kernel or a program said.
        why: String,
    },
    /// The provider never tells what changed, or not for these images.
    #[error("{provider} does not tell what changed: {why}")]
    NotTold {
        /// The provider.
        provider: String,
        /// Why not.
        why: String,
    },
    /// A program that should have told failed, or said what makes no sense.
    #[error("what changed is not known: {why}")]
    Program {
        /// What went wrong.
        why: String,
    },
}

impl Doubt {
    /// The word that stands for it in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::OtherProvider { .. } => "other-provider",
            Self::OtherVolume => "other-volume",
            Self::Gone { .. } => "gone",
            Self::Replaced { .. } => "replaced",
            Self::Touched { .. } => "touched",
            Self::NotImmutable { .. } => "not-immutable",
            Self::OtherFilesystem => "other-filesystem",
            Self::RealtimeDevice { .. } => "realtime-device",
            Self::Moved { .. } => "moved",
            Self::Relocating { .. } => "relocating",
            Self::TooManyExtents { .. } => "too-many-extents",
            Self::BadMap { .. } => "bad-map",
            Self::Unreadable { .. } => "unreadable",
            Self::NotTold { .. } => "not-told",
            Self::Program { .. } => "program",
        }
    }

    /// Whether two images are this provider's, and of one volume.
    pub(crate) fn unless_comparable(
        base: &Snapshot,
        now: &Snapshot,
        provider: &str,
    ) -> Result<(), Self> {
        if base.provider != provider || now.provider != provider {
            return Err(Self::OtherProvider {
                base: base.provider.clone(),
                now: now.provider.clone(),
                asked: provider.to_owned(),
            });
        }
        if base.volume != now.volume {
            return Err(Self::OtherVolume);
        }
        Ok(())
    }

    /// For `map_err` on what was found out of an image.
    pub(crate) fn unreadable<E: fmt::Display>(which: Which) -> impl FnOnce(E) -> Self {
        move |error| Self::Unreadable {
            which,
            why: error.to_string(),
        }
    }
}
