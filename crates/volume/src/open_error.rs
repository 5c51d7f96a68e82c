//! Why a volume was not opened.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A volume that was not opened, and what stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is {what}, not a block device or a regular file", path.display())]
    NotAVolume {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// This user may not.
    #[error("permission denied: {doing} {}", path.display())]
    Permission {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// It cannot be written by anybody.
    #[error("{} cannot be written: {why}", path.display())]
    ReadOnly {
        /// The path.
        path: PathBuf,
        /// What makes it read-only.
        why: &'static str,
    },
    /// The folder that the file is to be in does not exist.
    #[error("the folder {} does not exist", folder.display())]
    MissingFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// Somebody else uses it.
    #[error("{} is in use: {holders}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who, as far as can be told.
        holders: String,
    },
    /// Another run holds it.
    #[error("{} is held by another run of lockstep{}", path.display(), holder.as_deref().map(|holder| format!(": {holder}")).unwrap_or_default())]
    Busy {
        /// The path.
        path: PathBuf,
        /// The process, where it can be told.
        holder: Option<String>,
    },
    /// A device of another size.
    #[error("{} has {present} bytes, the source has {wanted}", path.display())]
    WrongSize {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        present: u64,
        /// The source's size in bytes.
        wanted: u64,
    },
    /// Source and target are one place.
    #[error("{} and the source are the same volume", path.display())]
    SameVolume {
        /// The target.
        path: PathBuf,
    },
    /// The source cannot be kept from changing.
    #[error("{} cannot be held still: {why}", path.display())]
    NoExclusive {
        /// The source.
        path: PathBuf,
        /// Who writes it, or what is missing.
        why: String,
    },
    /// Something else stands where the partial file of a missing target belongs.
    #[error("{} is in the way: {what}", path.display())]
    PartialInTheWay {
        /// The partial file's path.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The target's final name was taken while the run lasted.
    #[error("{} appeared while {} was being written", path.display(), partial.display())]
    Appeared {
        /// The final name.
        path: PathBuf,
        /// The whole and flushed file that was to get it.
        partial: PathBuf,
    },
    /// The kernel refused for another reason.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        cause: io::Error,
    },
}

/// The kinds of [`OpenError`] that callers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenErrorKind {
    /// [`OpenError::Missing`].
    Missing,
    /// [`OpenError::NotAVolume`].
    NotAVolume,
    /// [`OpenError::Permission`].
    Permission,
    /// [`OpenError::ReadOnly`].
    ReadOnly,
    /// [`OpenError::MissingFolder`].
    MissingFolder,
    /// [`OpenError::InUse`], and names that are taken: [`OpenError::PartialInTheWay`],
    /// [`OpenError::Appeared`].
    InUse,
    /// [`OpenError::Busy`].
    Busy,
    /// [`OpenError::WrongSize`].
    WrongSize,
    /// [`OpenError::SameVolume`].
    SameVolume,
    /// [`OpenError::NoExclusive`].
    NoExclusive,
    /// [`OpenError::Io`].
    Io,
}

impl OpenError {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        match self {
            OpenError::Missing { .. } => OpenErrorKind::Missing,
            OpenError::NotAVolume { .. } => OpenErrorKind::NotAVolume,
            OpenError::Permission { .. } => OpenErrorKind::Permission,
            OpenError::ReadOnly { .. } => OpenErrorKind::ReadOnly,
            OpenError::MissingFolder { .. } => OpenErrorKind::MissingFolder,
            OpenError::InUse { .. }
            | OpenError::PartialInTheWay { .. }
            | OpenError::Appeared { .. } => OpenErrorKind::InUse,
            OpenError::Busy { .. } => OpenErrorKind::Busy,
            OpenError::WrongSize { .. } => OpenErrorKind::WrongSize,
            OpenError::SameVolume { .. } => OpenErrorKind::SameVolume,
            OpenError::NoExclusive { .. } => OpenErrorKind::NoExclusive,
            OpenError::Io { .. } => OpenErrorKind::Io,
        }
    }

    /// What to do next, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            OpenError::Missing { .. } => "check the path",
            OpenError::NotAVolume { .. } => "name a block device or an image file",
            OpenError::Permission { .. } => "run as a user who may, or as root",
            OpenError::ReadOnly { .. } => "make it writable, or name another target",
            OpenError::MissingFolder { .. } => "create the folder first",
            OpenError::InUse { .. } => {
                "stop what uses it (unmount, swapoff, losetup -d, quit the program), then try again"
            }
            OpenError::Busy { .. } => "wait until that run has ended, then try again",
            OpenError::WrongSize {
                present, wanted, ..
            } if present > wanted => {
                "give --allow-larger-target to fill only the beginning of the device"
            }
            OpenError::WrongSize { .. } => "name a device that is at least as large as the source",
            OpenError::SameVolume { .. } => "name two different volumes",
            OpenError::NoExclusive { .. } => {
                "stop what writes to it, or give --snapshot none for a copy that proves nothing"
            }
            OpenError::PartialInTheWay { .. } => "look at that file and move it away",
            OpenError::Appeared { .. } => {
                "move one of the two files away, then run the same command again"
            }
            OpenError::Io { .. } => "look at the kernel's log for the cause",
        }
    }

    /// What `open(2)` and its kin mean by their error numbers.
    pub(crate) fn from_io(
        doing: &'static str,
        path: &Path,
        cause: impl Into<io::Error>,
    ) -> OpenError {
        let cause = cause.into();
        let path = path.to_path_buf();
        match Errno::from_io_error(&cause) {
            Some(Errno::NOENT | Errno::NOTDIR) => OpenError::Missing { path },
            Some(Errno::ACCESS | Errno::PERM) => OpenError::Permission { doing, path },
            Some(Errno::ROFS) => OpenError::ReadOnly {
                path,
                why: "the filesystem or the device is read-only",
            },
            _ => OpenError::Io { doing, path, cause },
        }
    }
}
