//! Why there is no undo to use, why one could not be kept, and why one could not be restored.

use std::io;
use std::path::{Path, PathBuf};

use lockstep_volume::IoFailure;

/// Why an undo cannot be used; each message is one sentence that can be shown as it is.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Nothing is kept, or what was kept was released.
    #[error("there is no undo of this volume")]
    Missing,
    /// The kernel or the disk refused; the message holds the kernel's word.
    #[error("the {what} cannot be read: {cause}")]
    Unreadable {
        /// Which file.
        what: What,
        /// The kernel's word.
        cause: io::Error,
    },
    /// A name leads to a folder, a link, a device or a pipe.
    #[error("the {0} is not a regular file")]
    NotAFile(What),
    /// Somebody else could have put an undo there, or could change it.
    #[error("{} is not a folder that is its owner's alone", .0.display())]
    NotOurs(PathBuf),
    /// A file has another length than any of its kind.
    #[error("the {what} is damaged: it has {bytes} bytes, not {expected}")]
    Length {
        /// Which file.
        what: What,
        /// Bytes of the file.
        bytes: u64,
        /// Bytes that it should have, at least.
        expected: u64,
    },
    /// A file does not begin as it should.
    #[error("the {0} is damaged: it does not begin as one does")]
    Magic(What),
    /// Another version of this program wrote it.
    #[error("the {what} has format {format}, which this version does not know")]
    Version {
        /// Which file.
        what: What,
        /// Its format.
        format: u32,
    },
    /// The fixed part of a file is not what was written.
    #[error("the {0} is damaged: its checksum does not match")]
    Checksum(What),
    /// A file says what no file of its kind says.
    #[error("the {what} contradicts itself: {why}")]
    Contradiction {
        /// Which file.
        what: What,
        /// What is wrong.
        why: &'static str,
    },
    /// The record is of another volume.
    #[error("the undo record is of another volume: {0}")]
    OtherKey(String),
    /// The file or device was replaced since.
    #[error("the undo is of another file or device: it is of \"{then}\", this is \"{now}\"")]
    OtherIdentity {
        /// What it was before the run.
        then: String,
        /// What it is now.
        now: String,
    },
    /// The record has a log, and it is not there: a release was interrupted, or somebody removed it.
    #[error("the pre-image log is gone: the undo was released, or somebody removed the log")]
    NoLog,
    /// The log belongs to another record.
    #[error("the pre-image log belongs to another undo")]
    OtherLog,
    /// A pre-image that the undo rests on is not what was written.
    #[error(
        "the pre-image log is damaged: the pre-image at byte {at} of the log is not what was written"
    )]
    DamagedPreImage {
        /// Where it begins in the log.
        at: u64,
    },
}

/// A file that can be in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The record of an undo.
    Record,
    /// A pre-image log.
    Log,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Record => "undo record",
            Self::Log => "pre-image log",
        })
    }
}

impl Unusable {
    /// Whether bytes are wrong or gone: not merely absent, unreadable now, of something else, or of
    /// another version.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Length { .. }
            | Self::Magic(_)
            | Self::Checksum(_)
            | Self::Contradiction { .. }
            | Self::NoLog
            | Self::OtherLog
            | Self::DamagedPreImage { .. } => true,
            Self::Missing
            | Self::Unreadable { .. }
            | Self::NotAFile(_)
            | Self::NotOurs(_)
            | Self::Version { .. }
            | Self::OtherKey(_)
            | Self::OtherIdentity { .. } => false,
        }
    }
}

/// Why an undo could not be begun, changed, released or listed.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A file of the undo folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A run, a rollback or a release holds the volume's undo.
    #[error("another process holds the undo of this volume: {} is locked", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// A text does not fit into the record.
    #[error("the {what} has {bytes} bytes, an undo record holds at most {limit}")]
    TooLong {
        /// Which one.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Longest that fits.
        limit: usize,
    },
    /// The volume is larger than any that we work on.
    #[error("a volume of {bytes} bytes is larger than any that can be undone")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// An older undo names a snapshot that nobody would release if its record were replaced.
    #[error("the volume has an undo whose snapshot must be released first")]
    HoldsSnapshot,
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes: {0}")]
    NoRandomness(getrandom::Error),
    /// What is there cannot be believed.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The pre-image log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl UndoError {
    /// For `map_err` on an I/O result.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::Io {
            action,
            path,
            source: error.into(),
        }
    }
}

/// Why a pre-image is not durable. The bytes that it is of must not be overwritten then, unless the
/// undo is abandoned first.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk or the quota is full. What was kept before is still good.
    #[error("no room for a pre-image in {}", path.display())]
    NoSpace {
        /// The log.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The log would become larger than it may. What was kept before is still good.
    #[error("the pre-image log would have more than {limit} bytes")]
    Limit {
        /// Most bytes that it may have.
        limit: u64,
    },
    /// The kernel or the disk refused. What was kept before is still good.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A flush failed, now or earlier, or a failed write could not be taken back; the log keeps
    /// nothing more.
    #[error("the pre-image log {} failed and keeps nothing more: {cause}", path.display())]
    Broken {
        /// The log.
        path: PathBuf,
        /// The kernel's word on the first failure.
        cause: String,
    },
    /// The range does not begin at a page, or ends inside one that goes on.
    #[error("a pre-image of {length} bytes at {offset} is not of whole pages")]
    Misaligned {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The range does not lie inside the volume as it was.
    #[error("a pre-image of {length} bytes at {offset} of a volume that had {size}")]
    Outside {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Bytes of the volume before the run.
        size: u64,
    },
}

impl LogError {
    /// Whether there is merely no room: with `--undo auto` the run may go on without an undo.
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Limit { .. })
    }

    /// For `map_err` on an I/O result.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// Why a volume does not hold again what it held. It can be tried again from the start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log cannot be believed any more.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The volume failed.
    #[error(transparent)]
    Volume(#[from] IoFailure),
    /// The volume has another size than before the run: the caller has to resize it first.
    #[error("the volume has {now} bytes, and had {then} before the run")]
    Size {
        /// Bytes before the run.
        then: u64,
        /// Bytes now.
        now: u64,
    },
    /// The medium gave back something else than what was restored.
    #[error("{length} bytes at {offset} are not what they were before the run")]
    Differs {
        /// First byte of the pre-image.
        offset: u64,
        /// Bytes of the pre-image.
        length: usize,
    },
}
