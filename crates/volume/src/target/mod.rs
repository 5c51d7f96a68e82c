//! The volume that is to become right: everything that must hold before its first byte is written,
//! and after its last.
//!
//! ```text
//! open_target ──► guards passed, nothing changed
//!      │
//! begin_overwrite ──► .NAME.lockstep-partial exists, or the file has its new length
//!      │
//! write_at, zero, flush, read_back
//!      │
//! seal ──► nobody else has it open; a partial file gets its mode and its name; folder synced
//!      │
//! stamp ──► what tells later whether anybody wrote it since
//! ```

mod claim;
mod finish;
mod open;
mod past;
mod stamp;

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::failure::{Call, IoFailure, Operation};
use crate::identity::Identity;
use crate::medium::{Access, Medium};
use crate::volume::{IoEngine, Volume, VolumeKind};
use crate::watch::Watch;

pub use open::open_target;
pub use stamp::Stamp;

/// What a run asks of its target.
#[derive(Clone, Copy, Debug)]
pub struct TargetRequest<'a> {
    /// Where it is, or is to be.
    pub path: &'a Path,
    /// The source's size in bytes, which becomes the target's.
    pub size: u64,
    /// The source, if it may be on this machine.
    pub source: Option<&'a Identity>,
    /// Take a device that is larger; only its beginning is used.
    pub allow_larger: bool,
    /// Only compare. The guards are the same, but permission to write is not needed.
    pub read_only: bool,
    /// Permission bits of a file that has to be created; the umask is taken off them, and its owner
    /// may always write it.
    pub mode_bits: u32,
    /// How several reads are brought under way.
    pub engine: IoEngine,
}

/// What becomes of the file or device when it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetPlan {
    /// It does not exist and is created.
    Create,
    /// It has the right size, or is a device.
    Keep,
    /// A file of another size.
    Resize {
        /// Its size now, in bytes.
        from: u64,
        /// Its size then, in bytes.
        to: u64,
    },
    /// It does not exist, but an earlier run left a part of it.
    ResumePartial,
}

/// A volume that passed every guard and is held until it is dropped.
///
/// Its size is the source's, whatever the file's is: bytes that do not exist yet read as zeros.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    size: u64,
    mode_bits: u32,
    access: Access,
    engine: IoEngine,
    kind: VolumeKind,
    plan: TargetPlan,
    present_size: Option<u64>,
    identity: Option<Identity>,
    /// Where a missing file is created; `None` for what exists.
    partial: Option<Partial>,
    /// Set once there is something to read or write.
    medium: OnceLock<Medium>,
    /// Who else writes it; of files that are written here, where the kernel tells.
    watch: OnceLock<Watch>,
    progress: Mutex<Progress>,
}

/// The place of a file that has not got its name yet.
#[derive(Debug)]
struct Partial {
    folder: OwnedFd,
    folder_path: PathBuf,
    name: OsString,
    final_name: OsString,
}

impl Partial {
    fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }
}

#[derive(Debug, Default)]
struct Progress {
    begun: bool,
    created_partial: bool,
    sealed: Option<Identity>,
}

impl Target {
    /// What it is; `None` for a file that is still to be created.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity.clone()
    }

    /// Where it is, or will be, without symbolic links.
    #[must_use]
    pub fn canonical_path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes when it was opened; that of a partial file for one to be resumed, `None`
    /// for one to be created.
    #[must_use]
    pub fn present_size(&self) -> Option<u64> {
        self.present_size
    }

    /// File or block device.
    #[must_use]
    pub fn kind(&self) -> VolumeKind {
        self.kind
    }

    /// What becomes of it when it is written.
    #[must_use]
    pub fn plan(&self) -> TargetPlan {
        self.plan
    }

    /// Whether writes of earlier users never reached the medium, as far as the kernel has told nobody
    /// yet. To be asked once, before anything is written: the scan must then not believe the page
    /// cache. Waits for what others wrote to be on the medium.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.medium.get().is_some_and(Medium::has_lost_writes)
    }

    /// Bytes that its filesystem has left for this user; `None` for a device.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = match (self.kind, &self.partial, self.medium.get()) {
            (VolumeKind::BlockDevice, _, _) => return None,
            (VolumeKind::File, Some(partial), _) => rustix::fs::fstatvfs(&partial.folder).ok()?,
            (VolumeKind::File, None, medium) => rustix::fs::fstatvfs(medium?.file()).ok()?,
        };
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// A thread that panicked while it held the lock left plain flags behind: they are still right.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, operation: Operation, offset: u64, length: u64) -> Result<Call<'_>, IoFailure> {
        let call = Call {
            operation,
            path: &self.path,
            offset,
            length,
        };
        call.within(self.size)?;
        Ok(call)
    }

    /// The medium, once [`Target::begin_overwrite`] made it fit for writing.
    fn begun_medium(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
    ) -> Result<&Medium, IoFailure> {
        let call = self.call(operation, offset, length)?;
        let medium = self.medium.get().filter(|_| self.progress().begun);
        medium.ok_or_else(|| call.not_writable())
    }

    /// Reads, or makes up the zeros of a file that is not there yet.
    fn read_or_zeros<T>(
        &self,
        operation: Operation,
        offset: u64,
        buf: &mut [u8],
        zeros: T,
        read: impl FnOnce(&Medium, &mut [u8]) -> Result<T, IoFailure>,
    ) -> Result<T, IoFailure> {
        match self.medium.get() {
            Some(medium) => read(medium, buf),
            None => {
                self.call(operation, offset, buf.len() as u64)?;
                buf.fill(0);
                Ok(zeros)
            }
        }
    }
}

impl Volume for Target {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.read_or_zeros(Operation::Read, offset, buf, (), |medium, buf| {
            medium.read_at(offset, buf)
        })
    }

    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.read_or_zeros(Operation::ReadCached, offset, buf, true, |medium, buf| {
            medium.read_if_cached(offset, buf)
        })
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.read_or_zeros(Operation::ReadBack, offset, buf, (), |medium, buf| {
            medium.read_back(offset, buf)
        })
    }

    fn read_back_many(&self, reads: &mut [(u64, &mut [u8])]) -> Result<(), IoFailure> {
        match self.medium.get() {
            Some(medium) => medium.read_back_many(reads),
            None => reads
                .iter_mut()
                .try_for_each(|(offset, buf)| self.read_back(*offset, buf)),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        self.begun_medium(Operation::Write, offset, buf.len() as u64)?
            .write_at(offset, buf)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), IoFailure> {
        let first = writes.first().map_or(0, |(offset, _)| *offset);
        self.begun_medium(Operation::Write, first, 0)?
            .write_many(writes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        let length = range.end.saturating_sub(range.start);
        self.begun_medium(Operation::Zero, range.start, length)?
            .zero(range)
    }

    fn start_writeback(&self, range: Range<u64>) {
        if let Some(medium) = self.medium.get() {
            medium.start_writeback(range);
        }
    }

    fn flush(&self) -> Result<(), IoFailure> {
        self.medium.get().map_or(Ok(()), Medium::flush)
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        self.medium
            .get()
            .map_or(Ok(None), |medium| medium.next_data(from))
    }

    fn advise_sequential(&self) {
        if let Some(medium) = self.medium.get() {
            medium.advise_sequential();
        }
    }

    fn will_need(&self, range: Range<u64>) {
        if let Some(medium) = self.medium.get() {
            medium.will_need(range);
        }
    }

    /// Before the file exists: whether its folder's filesystem has a medium.
    fn has_medium(&self) -> bool {
        match (self.medium.get(), &self.partial) {
            (Some(medium), _) => medium.has_medium(),
            (None, Some(partial)) => {
                crate::filesystem::Filesystem::of(&partial.folder).has_medium()
            }
            (None, None) => true,
        }
    }
}
