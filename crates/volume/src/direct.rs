//! A second descriptor with `O_DIRECT`: reading from and writing to the medium.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use memmap2::MmapMut;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, ioctl_blksszget, open, statx};
use rustix::io::{Errno, Result, pread, pwrite};

use crate::buffer::map_zeroed;
use crate::transfer::{read_fully, write_fully};
use crate::volume::VolumeKind;

/// Ranges that are not aligned are moved through a buffer of this size, one on each thread.
const BOUNCE_BYTES: usize = 1 << 20;
/// The alignment that every filesystem and device accepts, where the kernel does not tell (< 6.1).
const USUAL_ALIGNMENT: u32 = 4096;

thread_local! {
    static BOUNCE: RefCell<Option<MmapMut>> = const { RefCell::new(None) };
}

/// A descriptor that bypasses the page cache, and what it demands.
#[derive(Debug)]
pub(crate) struct Direct {
    file: File,
    offset_alignment: u32,
    memory_alignment: u32,
    alignment_is_known: bool,
}

impl Direct {
    /// Opens the same file once more; `None` if it cannot be had, which is no error.
    ///
    /// The new descriptor comes from `/proc/self/fd`, not from the path: the path may lead elsewhere
    /// by now.
    pub(crate) fn reopen(file: &File, kind: VolumeKind, access: OFlags) -> Option<Direct> {
        let (offset_alignment, memory_alignment, alignment_is_known) = alignments(file, kind)?;
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(open(same, flags, Mode::empty()).ok()?);
        Some(Direct {
            file,
            offset_alignment,
            memory_alignment,
            alignment_is_known,
        })
    }

    /// Whether the kernel said what it demands, so that it will not quietly buffer.
    pub(crate) fn alignment_is_known(&self) -> bool {
        self.alignment_is_known
    }

    /// What offsets and lengths must be multiples of.
    fn offset_alignment(&self) -> u64 {
        u64::from(self.offset_alignment)
    }

    /// Whether offset and length suit a direct transfer.
    pub(crate) fn suits(&self, offset: u64, length: usize) -> bool {
        let alignment = self.offset_alignment();
        offset.is_multiple_of(alignment) && (length as u64).is_multiple_of(alignment)
    }

    /// Whether a transfer of these bytes needs no bounce buffer.
    pub(crate) fn suits_as_is(&self, offset: u64, buf: &[u8]) -> bool {
        self.suits(offset, buf.len())
            && buf
                .as_ptr()
                .addr()
                .is_multiple_of(self.memory_alignment as usize)
    }

    /// Reads until the buffer is full or the file ends; returns the bytes read.
    ///
    /// `EINVAL` and `EOPNOTSUPP` mean that this file cannot be read this way after all.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut buf[done..];
            let count = if self.suits_as_is(at, rest) {
                retry_interrupted(|| pread(&self.file, &mut *rest, at))?
            } else {
                self.read_bounced(at, rest)?
            };
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    /// Reads the beginning of `buf` by way of the bounce buffer; 0 at the end of the file.
    fn read_bounced(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let alignment = self.offset_alignment();
        let start = offset - offset % alignment;
        let skip = (offset - start) as usize;
        let length = (skip + buf.len())
            .next_multiple_of(alignment as usize)
            .min(BOUNCE_BYTES);
        with_bounce(|bounce| {
            let step = |at, part: &mut [u8]| pread(&self.file, part, at);
            let read = read_fully_aligned(start, &mut bounce[..length], alignment, step)?;
            let count = read.saturating_sub(skip).min(buf.len());
            buf[..count].copy_from_slice(&bounce[skip..skip + count]);
            Ok(count)
        })
    }

    /// Writes everything; offset and length must suit (see [`Direct::suits`]).
    pub(crate) fn write(&self, offset: u64, buf: &[u8]) -> Result<()> {
        if self.suits_as_is(offset, buf) {
            return self.write_as_is(offset, buf);
        }
        with_bounce(|bounce| {
            let mut at = offset;
            for piece in buf.chunks(BOUNCE_BYTES) {
                let bounce = &mut bounce[..piece.len()];
                bounce.copy_from_slice(piece);
                self.write_as_is(at, bounce)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
    }

    fn write_as_is(&self, offset: u64, buf: &[u8]) -> Result<()> {
        write_fully(offset, buf, |at, part| pwrite(&self.file, part, at))
    }
}

impl AsFd for Direct {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Alignment of offsets and of memory, and whether the kernel told; `None` without direct I/O.
fn alignments(file: &File, kind: VolumeKind) -> Option<(u32, u32, bool)> {
    if kind == VolumeKind::BlockDevice {
        let sector = ioctl_blksszget(file).ok()?;
        return Some((sector.max(512), sector.max(512), true));
    }
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    match told {
        Some(stat) if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            (stat.stx_dio_offset_align > 0).then_some((
                stat.stx_dio_offset_align.next_power_of_two(),
                stat.stx_dio_mem_align.max(1).next_power_of_two(),
                true,
            ))
        }
        _ => Some((USUAL_ALIGNMENT, USUAL_ALIGNMENT, false)),
    }
}

fn retry_interrupted(mut call: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// As [`read_fully`], but gives up at a count that is not aligned: only the file's end makes one,
/// and going on from there would be refused.
fn read_fully_aligned(
    offset: u64,
    buf: &mut [u8],
    alignment: u64,
    mut step: impl FnMut(u64, &mut [u8]) -> Result<usize>,
) -> Result<usize> {
    let mut at_end = false;
    read_fully(offset, buf, |at, part| {
        if at_end {
            return Ok(0);
        }
        let count = step(at, part)?;
        at_end = !(count as u64).is_multiple_of(alignment);
        Ok(count)
    })
}

fn with_bounce<T>(work: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
    BOUNCE.with_borrow_mut(|slot| work(slot.get_or_insert_with(|| map_zeroed(BOUNCE_BYTES))))
}
