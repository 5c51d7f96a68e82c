//! An open file or device: the I/O that sources and targets share.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fdatasync, ftruncate, seek};
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, pread, preadv2, pwrite};

use crate::direct::Direct;
use crate::failure::{Call, IoFailure, Operation};
use crate::filesystem::Filesystem;
use crate::kernel;
use crate::regions::{Regions, Way, Wish};
use crate::transfer::{read_fully, write_fully};
use crate::uring;
use crate::volume::{IoEngine, VolumeKind};

/// Shorter writes go through the page cache, which merges neighbours.
const MIN_DIRECT_WRITE: usize = 64 << 10;
/// Dropping part of a folio drops nothing, so ranges are widened to the largest one.
const LARGEST_FOLIO: u64 = 2 << 20;

/// Whether a medium may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

impl Access {
    pub(crate) fn flags(self) -> OFlags {
        match self {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        }
    }
}

/// A volume's descriptors, and what was learnt about them.
#[derive(Debug)]
pub(crate) struct Medium {
    path: PathBuf,
    file: File,
    direct: RwLock<Option<Direct>>,
    direct_writes: AtomicBool,
    regions: Regions,
    kind: VolumeKind,
    filesystem: Filesystem,
    access: Access,
    engine: IoEngine,
    /// Bytes of the run's geometry.
    size: u64,
    /// Bytes that exist; what lies between them and `size` reads as zeros.
    present: AtomicU64,
    flush_error: AtomicI32,
    pub(crate) zeroing: AtomicU8,
}

/// What [`Medium::new`] is made of.
pub(crate) struct MediumParts {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) kind: VolumeKind,
    pub(crate) access: Access,
    pub(crate) engine: IoEngine,
    pub(crate) size: u64,
    pub(crate) present: u64,
}

impl Medium {
    pub(crate) fn new(parts: MediumParts) -> Medium {
        let filesystem = match parts.kind {
            VolumeKind::File => Filesystem::of(&parts.file),
            VolumeKind::BlockDevice => Filesystem::Other,
        };
        let direct = Direct::reopen(&parts.file, parts.kind, parts.access.flags());
        Medium {
            regions: Regions::new(parts.size),
            direct_writes: AtomicBool::new(parts.access == Access::ReadWrite && direct.is_some()),
            direct: RwLock::new(direct),
            filesystem,
            path: parts.path,
            file: parts.file,
            kind: parts.kind,
            access: parts.access,
            engine: parts.engine,
            size: parts.size,
            present: AtomicU64::new(parts.present),
            flush_error: AtomicI32::new(0),
            zeroing: AtomicU8::new(0),
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn kind(&self) -> VolumeKind {
        self.kind
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn present(&self) -> u64 {
        self.present.load(Ordering::Acquire)
    }

    pub(crate) fn has_medium(&self) -> bool {
        self.kind == VolumeKind::BlockDevice || self.filesystem.has_medium()
    }

    /// What one call's failures have to say, once its range is known to be inside the volume.
    pub(crate) fn call(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
    ) -> Result<Call<'_>, IoFailure> {
        let call = Call {
            operation,
            path: &self.path,
            offset,
            length,
        };
        call.within(self.size)?;
        Ok(call)
    }

    /// As [`Medium::call`], for calls that change the volume.
    pub(crate) fn writing_call(
        &self,
        operation: Operation,
        offset: u64,
        length: u64,
    ) -> Result<Call<'_>, IoFailure> {
        let call = self.call(operation, offset, length)?;
        match self.access {
            Access::ReadWrite => Ok(call),
            Access::Read => Err(call.not_writable()),
        }
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let call = self.call(Operation::Read, offset, buf.len() as u64)?;
        let buf = self.zero_beyond(offset, buf);
        self.read_buffered(call, buf)
    }

    pub(crate) fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        let call = self.call(Operation::ReadCached, offset, buf.len() as u64)?;
        let buf = self.zero_beyond(offset, buf);
        let read = read_fully(offset, buf, |at, part| {
            preadv2(
                &self.file,
                &mut [IoSliceMut::new(part)],
                at,
                ReadWriteFlags::NOWAIT,
            )
        });
        match read {
            Ok(count) => Ok(count == buf.len()),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(error) => Err(call.failed(error)),
        }
    }

    pub(crate) fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let call = self.call(Operation::ReadBack, offset, buf.len() as u64)?;
        let buf = self.zero_beyond(offset, buf);
        if buf.is_empty() {
            return Ok(());
        }
        if !self.direct_is_certain() {
            self.drop_cached(offset, buf.len() as u64);
        }
        match self.read_direct(offset, buf) {
            Some(Ok(count)) if count == buf.len() => Ok(()),
            Some(Ok(count)) => Err(call.truncated(offset + count as u64)),
            Some(Err(Errno::INVAL | Errno::OPNOTSUPP)) | None => {
                self.drop_cached(offset, buf.len() as u64);
                self.read_buffered(call, buf)
            }
            Some(Err(error)) => Err(call.failed(error)),
        }
    }

    pub(crate) fn read_back_many(&self, reads: &mut [(u64, &mut [u8])]) -> Result<(), IoFailure> {
        if self.engine == IoEngine::Uring
            && reads.len() > 1
            && self.direct_is_certain()
            && self.read_all_at_once(reads)
        {
            return Ok(());
        }
        reads
            .iter_mut()
            .try_for_each(|(offset, buf)| self.read_back(*offset, buf))
    }

    /// Whether io_uring read everything; if not, the plain way finds out why.
    fn read_all_at_once(&self, reads: &mut [(u64, &mut [u8])]) -> bool {
        let present = self.present();
        let guard = self.direct();
        let Some(direct) = guard.as_ref() else {
            return false;
        };
        let suits = reads.iter().all(|(offset, buf)| {
            let end = offset.checked_add(buf.len() as u64);
            end.is_some_and(|end| end <= present) && direct.suits_as_is(*offset, buf)
        });
        suits && uring::read_all(direct.as_fd(), reads)
    }

    /// Whether a direct read that succeeds is known to come from the medium.
    fn direct_is_certain(&self) -> bool {
        let known = |direct: &Direct| direct.alignment_is_known();
        self.kind == VolumeKind::BlockDevice
            || (self.filesystem.direct_means_direct() && self.direct().as_ref().is_some_and(known))
    }

    fn direct(&self) -> RwLockReadGuard<'_, Option<Direct>> {
        self.direct.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the direct descriptor, so that a lease can be taken on the other.
    pub(crate) fn close_direct(&self) {
        self.direct_writes.store(false, Ordering::Release);
        let closed = self
            .direct
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(closed);
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Option<rustix::io::Result<usize>> {
        let guard = self.direct();
        Some(guard.as_ref()?.read(offset, buf))
    }

    /// Zeroes what lies beyond the bytes that exist, and returns the rest.
    fn zero_beyond<'b>(&self, offset: u64, buf: &'b mut [u8]) -> &'b mut [u8] {
        let exists = self.present().saturating_sub(offset).min(buf.len() as u64);
        let (exists, beyond) = buf.split_at_mut(exists as usize);
        beyond.fill(0);
        exists
    }

    fn read_buffered(&self, call: Call<'_>, buf: &mut [u8]) -> Result<(), IoFailure> {
        let offset = call.offset;
        match read_fully(offset, buf, |at, part| pread(&self.file, part, at)) {
            Ok(count) if count == buf.len() => Ok(()),
            Ok(count) => Err(call.truncated(offset + count as u64)),
            Err(error) => Err(call.failed(error)),
        }
    }

    /// Takes clean pages out of the page cache; a filesystem that keeps them has no medium to show.
    fn drop_cached(&self, offset: u64, length: u64) {
        let start = offset - offset % LARGEST_FOLIO;
        let end = (offset + length).next_multiple_of(LARGEST_FOLIO);
        self.advise(start..end, Advice::DontNeed);
    }

    pub(crate) fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        let call = self.writing_call(Operation::Write, offset, buf.len() as u64)?;
        self.write_parts(offset, buf)
            .map_err(|error| call.failed(error))
    }

    /// As [`Medium::write_at`] of each; all of them in flight at once where that can be had.
    pub(crate) fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), IoFailure> {
        let mut rest = writes;
        while let Some((first, _)) = rest.first() {
            let region = self.regions.first_part(*first..u64::MAX);
            let inside = |(offset, buf): &(u64, &[u8])| {
                *offset >= region.start && offset.saturating_add(buf.len() as u64) <= region.end
            };
            let count = rest.iter().take_while(|write| inside(write)).count();
            let (together, others) = rest.split_at(count.max(1));
            if count == 0 || !self.write_at_once(together)? {
                together
                    .iter()
                    .try_for_each(|(offset, buf)| self.write_at(*offset, buf))?;
            }
            rest = others;
        }
        Ok(())
    }

    /// Whether everything was written around the page cache; `false` where that cannot be, and the
    /// plain way may.
    ///
    /// Not by io_uring on a device: there the kernel drops what the page cache holds of the range only
    /// before an asynchronous write and not after it (block/fops.c), so that a read which comes between
    /// would leave the old bytes in the cache.
    fn write_at_once(&self, writes: &[(u64, &[u8])]) -> Result<bool, IoFailure> {
        let Some((first, _)) = writes.first() else {
            return Ok(true);
        };
        let mut length = 0;
        for (offset, buf) in writes {
            self.writing_call(Operation::Write, *offset, buf.len() as u64)?;
            length += buf.len() as u64;
        }
        let is_device = self.kind == VolumeKind::BlockDevice;
        if !(is_device || self.engine == IoEngine::Uring)
            || !self.direct_writes.load(Ordering::Acquire)
        {
            return Ok(false);
        }
        let guard = self.direct();
        let suits = |direct: &&Direct| {
            let mut writes = writes.iter();
            writes.all(|(offset, buf)| direct.suits_as_is(*offset, buf))
        };
        let Some(direct) = guard.as_ref().filter(suits) else {
            return Ok(false);
        };
        let pass = self.regions.pass(*first, Wish::RatherDirect);
        match pass.way() {
            Way::Buffered => Ok(false),
            Way::Direct => match is_device {
                true => write_in_turn(direct, writes),
                false => uring::write_all(direct.as_fd(), writes),
            }
            .map_err(|error| {
                let call = Call {
                    operation: Operation::Write,
                    path: &self.path,
                    offset: *first,
                    length,
                };
                call.failed(error)
            }),
        }
    }

    /// Writes region by region, each the way that is open just now.
    pub(crate) fn write_parts(&self, offset: u64, buf: &[u8]) -> rustix::io::Result<()> {
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let part = self.regions.first_part(at..end);
            let bytes = &buf[(part.start - offset) as usize..(part.end - offset) as usize];
            self.write_part(part.start, bytes)?;
            at = part.end;
        }
        Ok(())
    }

    fn write_part(&self, offset: u64, buf: &[u8]) -> rustix::io::Result<()> {
        let buffered = || write_fully(offset, buf, |at, part| pwrite(&self.file, part, at));
        if !self.direct_writes.load(Ordering::Acquire) {
            return buffered();
        }
        let guard = self.direct();
        let Some(direct) = guard.as_ref() else {
            return buffered();
        };
        let wish = match direct.suits(offset, buf.len()) {
            true if buf.len() >= MIN_DIRECT_WRITE => Wish::RatherDirect,
            true => Wish::RatherBuffered,
            false => Wish::OnlyBuffered,
        };
        let pass = self.regions.pass(offset, wish);
        match pass.way() {
            Way::Buffered => buffered(),
            Way::Direct => match direct.write(offset, buf) {
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.direct_writes.store(false, Ordering::Release);
                    buffered()
                }
                result => result,
            },
        }
    }

    pub(crate) fn start_writeback(&self, range: Range<u64>) {
        if range.start < range.end {
            kernel::start_writeback(self.file.as_fd(), range.start, range.end - range.start);
        }
    }

    /// Whether writes of earlier users never reached the medium, which the first flush after them is
    /// told, once. What the page cache holds is then no evidence.
    pub(crate) fn has_lost_writes(&self) -> bool {
        fdatasync(&self.file).is_err()
    }

    pub(crate) fn flush(&self) -> Result<(), IoFailure> {
        if self.flush_error.load(Ordering::Acquire) == 0 {
            match fdatasync(&self.file) {
                Ok(()) => {}
                Err(error) => {
                    let code = error.raw_os_error();
                    // The first cause is the one to report; a later one adds nothing.
                    let _ = self.flush_error.compare_exchange(
                        0,
                        code,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                }
            }
        }
        match self.flush_error.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(IoFailure::FlushFailed {
                path: self.path.clone(),
                cause: std::io::Error::from_raw_os_error(code),
            }),
        }
    }

    pub(crate) fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        let end = self.present().min(self.size);
        if from >= end {
            return Ok(None);
        }
        if self.kind == VolumeKind::BlockDevice || !self.filesystem.tells_holes() {
            return Ok(Some(from..end));
        }
        let call = self.call(Operation::FindData, from, end - from)?;
        let start = match seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) if start < end => start,
            Ok(_) | Err(Errno::NXIO) => return self.only_hole_from(call, end),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from..end)),
            Err(error) => return Err(call.failed(error)),
        };
        match seek(&self.file, SeekFrom::Hole(start)) {
            Ok(hole) if hole > start => Ok(Some(start..hole.min(end))),
            Ok(_) | Err(Errno::NXIO | Errno::INVAL) => Ok(Some(start..end)),
            Err(error) => Err(call.failed(error)),
        }
    }

    /// The end of a file that somebody shortened looks like a hole, and is none.
    fn only_hole_from(&self, call: Call<'_>, end: u64) -> Result<Option<Range<u64>>, IoFailure> {
        let stat = rustix::fs::fstat(&self.file).map_err(|error| call.failed(error))?;
        match stat.st_size.cast_unsigned() {
            size if size < end => Err(call.truncated(size)),
            _ => Ok(None),
        }
    }

    pub(crate) fn advise_sequential(&self) {
        self.advise(0..0, Advice::Sequential);
    }

    pub(crate) fn will_need(&self, range: Range<u64>) {
        if range.start < range.end {
            self.advise(range, Advice::WillNeed);
        }
    }

    /// An empty range is the whole file, as in posix_fadvise(2). Hints may fail.
    fn advise(&self, range: Range<u64>, advice: Advice) {
        let length = NonZeroU64::new(range.end - range.start);
        let _ = fadvise(&self.file, range.start, length, advice);
    }

    /// Makes the file as long as the run's geometry; never called on a device.
    pub(crate) fn resize(&self) -> Result<(), IoFailure> {
        let call = self.writing_call(Operation::Resize, 0, self.size)?;
        if self.present() != self.size {
            ftruncate(&self.file, self.size).map_err(|error| call.failed(error))?;
            self.present.store(self.size, Ordering::Release);
        }
        Ok(())
    }
}

/// Whether all was written; `false` if the device does not take direct writes after all.
fn write_in_turn(direct: &Direct, writes: &[(u64, &[u8])]) -> Result<bool, Errno> {
    for (offset, buf) in writes {
        match direct.write(*offset, buf) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
