//! Why an index is not used, and why one could not be written.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_merkle::{FoldError, Root};
use lockstep_volume::IoFailure;

/// Why there is no index to use; each message is one sentence that a warning can carry as it is.
///
/// Every case means the same to a run: scan the volume.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// None was written.
    #[error("there is no hash index of this volume yet")]
    Missing,
    /// The kernel or the disk refused; the message holds the kernel's word.
    #[error("the hash index cannot be read: {0}")]
    Unreadable(io::Error),
    /// It could be read but not mapped.
    #[error("the hash index cannot be mapped: {0}")]
    Unmappable(IoFailure),
    /// Its name leads to a folder, a link, a device or a pipe.
    #[error("the hash index is not a regular file")]
    NotAFile,
    /// It ends inside its header.
    #[error("the hash index is cut short: it has {bytes} bytes, less than its header")]
    NoHeader {
        /// Bytes of the file.
        bytes: u64,
    },
    /// It does not begin as an index does.
    #[error("the hash index is damaged: it does not begin as an index does")]
    Magic,
    /// Another version of this program wrote it.
    #[error("the hash index has format {0}, which this version does not know")]
    Version(u32),
    /// Its header is not what was written.
    #[error("the hash index is damaged: the checksum of its header does not match")]
    HeaderChecksum,
    /// Its header says what no index says.
    #[error("the hash index contradicts itself: {0}")]
    Contradiction(&'static str),
    /// Its length is not that of its header and its pages.
    #[error("the hash index has {bytes} bytes, but {expected} by its header")]
    Length {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes that its header speaks of.
        expected: u64,
    },
    /// It was written for another volume or another side.
    #[error("the hash index is of something else: {found}")]
    OtherKey {
        /// What it is of.
        found: String,
    },
    /// The file or device was replaced since.
    #[error("the hash index is of another file or device: it is of \"{then}\", this is \"{now}\"")]
    OtherIdentity {
        /// What it was when the index was written.
        then: String,
        /// What it is now.
        now: String,
    },
    /// Its values are not what was written.
    #[error("the hash index is damaged: the checksum of its chaining values does not match")]
    CvChecksum,
    /// Its values are whole and those of something else.
    #[error(
        "the hash index contradicts itself: its chaining values fold to {folded}, not {recorded}"
    )]
    RootDiffers {
        /// Root that its header names.
        recorded: Root,
        /// Root of its values.
        folded: Root,
    },
}

impl Unusable {
    /// Whether the file's bytes are wrong: not merely absent, unreadable now, of something else, or
    /// of another version.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::NoHeader { .. }
            | Self::Magic
            | Self::HeaderChecksum
            | Self::Contradiction(_)
            | Self::Length { .. }
            | Self::CvChecksum
            | Self::RootDiffers { .. } => true,
            Self::Missing
            | Self::Unreadable(_)
            | Self::Unmappable(_)
            | Self::NotAFile
            | Self::Version(_)
            | Self::OtherKey { .. }
            | Self::OtherIdentity { .. } => false,
        }
    }
}

/// Why an index could not be written, removed or listed. What was there before is still there, whole.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file of the index folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process keeps the volume's indexes locked.
    #[error("{} stayed locked by another process for {} s", path.display(), waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
    },
    /// A text does not fit into the header.
    #[error("the {what} of the volume has {bytes} bytes, an index holds at most {limit}")]
    TooLong {
        /// Which one.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// Longest that fits.
        limit: usize,
    },
    /// The volume is larger than any that we work on.
    #[error("a volume of {bytes} bytes is larger than any that can be indexed")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Another number of values came than the volume has pages.
    #[error("the index would be incomplete")]
    Pages(#[from] FoldError),
    /// The values are not those of the promised root.
    #[error("the index would be wrong: its chaining values fold to {folded}, not {promised}")]
    RootDiffers {
        /// Root that the facts name.
        promised: Root,
        /// Root of the values.
        folded: Root,
    },
}

impl IndexError {
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
