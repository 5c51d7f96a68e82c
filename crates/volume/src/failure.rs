//! Why reading or writing a volume failed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What was being done to a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// Reading through the page cache.
    Read,
    /// Reading what is in memory only.
    ReadCached,
    /// Reading from the medium.
    ReadBack,
    /// Writing.
    Write,
    /// Zeroing.
    Zero,
    /// Flushing.
    Flush,
    /// Looking for data and holes.
    FindData,
    /// Creating a file.
    Create,
    /// Changing a file's length.
    Resize,
    /// Mapping scratch space.
    Map,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "reading",
            Operation::ReadCached => "reading from memory",
            Operation::ReadBack => "reading back from the medium",
            Operation::Write => "writing",
            Operation::Zero => "zeroing",
            Operation::Flush => "flushing",
            Operation::FindData => "looking for data",
            Operation::Create => "creating",
            Operation::Resize => "resizing",
            Operation::Map => "mapping",
        })
    }
}

/// An input or output that did not happen as asked.
///
/// The message holds the kernel's word too, so that it can be sent to the other end as it is.
#[derive(Debug, thiserror::Error)]
pub enum IoFailure {
    /// The volume ends before its size says so: somebody cut it.
    #[error(
        "{operation} {length} bytes at {offset} of {}: it ends at {end}, somebody shortened it",
        path.display()
    )]
    Truncated {
        /// What was being done.
        operation: Operation,
        /// The volume.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Where it ends now.
        end: u64,
    },
    /// The disk or the quota is full.
    #[error("{operation} {length} bytes at {offset} of {}: {cause}", path.display())]
    NoSpace {
        /// What was being done.
        operation: Operation,
        /// The volume.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The kernel's word.
        cause: io::Error,
    },
    /// A flush failed, now or earlier; what was written may be lost, and no later flush can tell.
    #[error("flushing {}: {cause}; data that was written may be lost", path.display())]
    FlushFailed {
        /// The volume.
        path: PathBuf,
        /// The kernel's word on the first failure.
        cause: io::Error,
    },
    /// The volume may only be read: a source, a comparison's target, or one not begun yet.
    #[error("{operation} {length} bytes at {offset} of {}: it is open for reading only", path.display())]
    NotWritable {
        /// What was being done.
        operation: Operation,
        /// The volume.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// The caller asked for bytes that the volume does not have.
    #[error("{operation} {length} bytes at {offset} of {}: it has only {size}", path.display())]
    OutOfRange {
        /// What was being done.
        operation: Operation,
        /// The volume.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// Bytes of the volume.
        size: u64,
    },
    /// The kernel or the device refused or failed.
    #[error("{operation} {length} bytes at {offset} of {}: {cause}", path.display())]
    Failed {
        /// What was being done.
        operation: Operation,
        /// The volume.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The kernel's word.
        cause: io::Error,
    },
}

/// The kinds of [`IoFailure`] that callers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoFailureKind {
    /// [`IoFailure::Truncated`].
    Truncated,
    /// [`IoFailure::NoSpace`].
    NoSpace,
    /// [`IoFailure::FlushFailed`].
    FlushFailed,
    /// Everything else.
    Other,
}

impl IoFailure {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> IoFailureKind {
        match self {
            IoFailure::Truncated { .. } => IoFailureKind::Truncated,
            IoFailure::NoSpace { .. } => IoFailureKind::NoSpace,
            IoFailure::FlushFailed { .. } => IoFailureKind::FlushFailed,
            IoFailure::NotWritable { .. }
            | IoFailure::OutOfRange { .. }
            | IoFailure::Failed { .. } => IoFailureKind::Other,
        }
    }

    /// A failure with the kernel's word on it; a full disk or quota becomes [`IoFailure::NoSpace`].
    #[must_use]
    pub fn from_io(
        operation: Operation,
        path: &Path,
        offset: u64,
        length: u64,
        cause: io::Error,
    ) -> IoFailure {
        let path = path.to_path_buf();
        match Errno::from_io_error(&cause) {
            Some(Errno::NOSPC | Errno::DQUOT) => IoFailure::NoSpace {
                operation,
                path,
                offset,
                length,
                cause,
            },
            _ => IoFailure::Failed {
                operation,
                path,
                offset,
                length,
                cause,
            },
        }
    }
}

/// The range and the volume of one call: what every failure of it has to say.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    pub(crate) path: &'a Path,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Call<'_> {
    pub(crate) fn failed(self, error: impl Into<io::Error>) -> IoFailure {
        IoFailure::from_io(
            self.operation,
            self.path,
            self.offset,
            self.length,
            error.into(),
        )
    }

    pub(crate) fn truncated(self, end: u64) -> IoFailure {
        IoFailure::Truncated {
            operation: self.operation,
            path: self.path.to_path_buf(),
            offset: self.offset,
            length: self.length,
            end,
        }
    }

    pub(crate) fn not_writable(self) -> IoFailure {
        IoFailure::NotWritable {
            operation: self.operation,
            path: self.path.to_path_buf(),
            offset: self.offset,
            length: self.length,
        }
    }

    /// The call's range, if it lies inside `size` bytes.
    pub(crate) fn within(self, size: u64) -> Result<(), IoFailure> {
        match self.offset.checked_add(self.length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(IoFailure::OutOfRange {
                operation: self.operation,
                path: self.path.to_path_buf(),
                offset: self.offset,
                length: self.length,
                size,
            }),
        }
    }
}
