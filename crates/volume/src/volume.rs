//! What a run needs of a volume.

use std::fmt;
use std::ops::Range;

use crate::failure::IoFailure;

/// A fixed number of bytes that can be read, and perhaps written, at any offset.
///
/// All offsets and lengths are in bytes; none needs to be a multiple of anything. All calls take
/// `&self` and may come from several threads at once; what two overlapping writes leave is up to
/// them.
pub trait Volume: Send + Sync {
    /// Bytes of the volume, fixed for the whole run.
    fn size(&self) -> u64;

    /// Fills the whole buffer through the page cache, however many calls that takes.
    ///
    /// # Errors
    /// [`IoFailure::Truncated`] if the volume ends inside the range.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure>;

    /// Fills the buffer if all of it is in memory, and says whether it did (`RWF_NOWAIT`, preadv2(2)).
    ///
    /// After `false` the buffer's content is unspecified, and the kernel may have begun to read the
    /// range. A hole counts as memory where it can be known without waiting. `false` too where the
    /// kernel cannot tell.
    ///
    /// # Errors
    /// As [`Volume::read_at`].
    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure>;

    /// Fills the buffer from the medium and not from the page cache.
    ///
    /// Where there is no `O_DIRECT` the pages are dropped first, which works only on clean pages:
    /// call [`Volume::flush`] between writing and this.
    ///
    /// # Errors
    /// As [`Volume::read_at`].
    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure>;

    /// [`Volume::read_back`] of several ranges, all in flight at once where the engine can do that.
    ///
    /// # Errors
    /// As [`Volume::read_back`]; the buffers' content is then unspecified.
    fn read_back_many(&self, reads: &mut [(u64, &mut [u8])]) -> Result<(), IoFailure> {
        reads
            .iter_mut()
            .try_for_each(|(offset, buf)| self.read_back(*offset, buf))
    }

    /// Writes the whole buffer, however many calls that takes.
    ///
    /// # Errors
    /// [`IoFailure::NoSpace`] on a full disk; [`IoFailure::NotWritable`] on a source or a target
    /// that was opened to be compared only.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure>;

    /// [`Volume::write_at`] of several ranges in rising order, all in flight at once where the engine
    /// can do that.
    ///
    /// # Errors
    /// As [`Volume::write_at`]; any part of any range may then have been written.
    fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), IoFailure> {
        writes
            .iter()
            .try_for_each(|(offset, buf)| self.write_at(*offset, buf))
    }

    /// Makes the range read as zeros: a hole in a file, a zeroed range on a device.
    ///
    /// # Errors
    /// As [`Volume::write_at`].
    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure>;

    /// Asks the kernel to begin writing the range out; a hint, errors ignored (sync_file_range(2)).
    fn start_writeback(&self, range: Range<u64>);

    /// Everything written is on the medium once this returns (fdatasync(2)).
    ///
    /// # Errors
    /// [`IoFailure::FlushFailed`], and from then on always: the kernel marks the lost pages clean, so
    /// a second try would succeed and prove nothing.
    fn flush(&self) -> Result<(), IoFailure>;

    /// The next range at or after `from` that may hold data; `None` if only a hole is left.
    ///
    /// Devices, and files on filesystems whose holes are not trusted, are data throughout.
    ///
    /// # Errors
    /// [`IoFailure::Failed`] if the filesystem cannot be asked.
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure>;

    /// A hint that the volume will be read from start to end (posix_fadvise(2)).
    fn advise_sequential(&self);

    /// A hint that the range will be read soon (posix_fadvise(2)).
    fn will_need(&self, range: Range<u64>);

    /// Whether there is a medium below the page cache; `false` on tmpfs and ramfs.
    fn has_medium(&self) -> bool;
}

/// What a volume is stored in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VolumeKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VolumeKind::File => "file",
            VolumeKind::BlockDevice => "block device",
        })
    }
}

/// How several reads or writes are brought under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum IoEngine {
    /// One system call a transfer, on the caller's thread.
    #[default]
    Threads,
    /// A small io_uring on each thread that calls; where the kernel refuses one, as `Threads`.
    Uring,
}
