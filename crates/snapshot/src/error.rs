//! Why a snapshot was not made, opened or removed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// A snapshot that could not be handled: where, and what stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The provider cannot freeze this volume.
    #[error("{provider} cannot snapshot {}: {why}", volume.display())]
    Unfit {
        /// The provider.
        provider: &'static str,
        /// The volume.
        volume: PathBuf,
        /// Why not.
        why: String,
    },
    /// There is no room for it.
    #[error("no space for a snapshot at {}: {source}", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// This user may not.
    #[error("permission denied: {doing} {}", path.display())]
    Permission {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A snapshot of this name exists already.
    #[error("{} exists already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is no such snapshot any more.
    #[error("the snapshot {name} is gone")]
    Gone {
        /// Its name.
        name: String,
    },
    /// What has the snapshot's name or its folder's is not what was made: left alone.
    #[error("{} is not ours: {why}", path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// What is different.
        why: String,
    },
    /// The snapshot has lost its data, as classic LVM snapshots do when they fill up.
    #[error("the snapshot {name} is lost: {why}")]
    Lost {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// Somebody keeps it from being removed.
    #[error("{} is in use", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The description of a snapshot is not one of this provider's.
    #[error("the description of {name} is not one of {provider}: {why}")]
    BadDescription {
        /// The snapshot's name.
        name: String,
        /// The provider that was asked.
        provider: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A program failed or said what makes no sense.
    #[error("{program}: {why}{}", in_parentheses(said))]
    Program {
        /// The program and what it was asked.
        program: String,
        /// How it failed.
        why: String,
        /// The end of what it wrote to its standard error, made printable.
        said: String,
    },
    /// A program took too long and was ended.
    #[error("{program} was ended after {} s{}", limit.as_secs(), in_parentheses(said))]
    TimedOut {
        /// The program and what it was asked.
        program: String,
        /// How long it was given.
        limit: Duration,
        /// The end of what it wrote to its standard error, made printable.
        said: String,
    },
    /// The kernel refused for another reason.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Whose fault it is, which decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SnapshotErrorKind {
    /// Nothing can be snapshotted like this: preflight.
    Preflight,
    /// Something of somebody else's is in the way: guard.
    Guard,
    /// It is gone or lost; the run that reads it cannot go on.
    Lost,
    /// The disk or the kernel failed.
    Io,
}

impl SnapshotError {
    /// Whose fault it is.
    #[must_use]
    pub fn kind(&self) -> SnapshotErrorKind {
        match self {
            Self::Unfit { .. }
            | Self::NoSpace { .. }
            | Self::Permission { .. }
            | Self::Program { .. }
            | Self::TimedOut { .. } => SnapshotErrorKind::Preflight,
            Self::Exists { .. }
            | Self::NotOurs { .. }
            | Self::InUse { .. }
            | Self::BadDescription { .. } => SnapshotErrorKind::Guard,
            Self::Gone { .. } | Self::Lost { .. } => SnapshotErrorKind::Lost,
            Self::Io { .. } => SnapshotErrorKind::Io,
        }
    }

    /// What to do now, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unfit { .. } => "choose another provider with --snapshot, or stop the writers",
            Self::NoSpace { .. } => "free space, or release older snapshots",
            Self::Permission { .. } => "run as root",
            Self::NotOurs { .. } => "look at it, and move it out of the way",
            Self::InUse { .. } => "end whoever reads it, then release it again",
            Self::Lost { .. } => "run again, with more space for the snapshot",
            Self::Gone { .. } => "run again",
            _ => return None,
        })
    }

    /// For `map_err` on an I/O result.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_path_buf();
        move |error| {
            let source = error.into();
            match Errno::from_io_error(&source) {
                Some(Errno::ACCESS | Errno::PERM) => Self::Permission { doing, path },
                Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path, source },
                Some(Errno::EXIST) => Self::Exists { path },
                Some(Errno::BUSY) => Self::InUse { path },
                _ => Self::Io {
                    doing,
                    path,
                    source,
                },
            }
        }
    }

    /// Whether the kernel said that there is nothing there.
    pub(crate) fn is_missing(&self) -> bool {
        let missing = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
        matches!(self, Self::Gone { .. })
            || matches!(self, Self::Io { source, .. } if missing(source))
    }
}

fn in_parentheses(said: &str) -> String {
    if said.is_empty() {
        return String::new();
    }
    format!(" ({said})")
}
