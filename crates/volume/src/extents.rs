//! Where the bytes of a regular file lie on its filesystem: FIEMAP.
#![expect(
    unsafe_code,
    reason = "one ioctl, made safe by a buffer of the length that it is told"
)]

use std::fs::File;
use std::io;
use std::ops::BitOr;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Extents asked for at once: 14 KiB of buffer.
const BATCH: usize = 256;

// From <linux/fs.h> and <linux/fiemap.h>.
const FS_IOC_FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);
const FS_IOC_FSGETXATTR: Opcode = opcode::read::<Attributes>(b'X', 31);
const FIEMAP_FLAG_SYNC: u32 = 1;
const FS_XFLAG_REALTIME: u32 = 1;

/// `struct fiemap` without its extents.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

#[repr(C)]
struct Request {
    header: Header,
    extents: [RawExtent; BATCH],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    flags: u32,
    rest: [u32; 6],
}

const _: () = assert!(size_of::<Header>() == 32);
const _: () = assert!(size_of::<RawExtent>() == 56);
const _: () = assert!(size_of::<Attributes>() == 28);

/// What the kernel says of an extent besides its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ExtentFlags(u32);

impl ExtentFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The last extent of the file.
    pub const LAST: Self = Self(0x1);
    /// It has no place yet.
    pub const UNKNOWN: Self = Self(0x2);
    /// It is in memory only.
    pub const DELALLOC: Self = Self(0x4);
    /// What is on the disk there is not the data itself: compressed, say.
    pub const ENCODED: Self = Self(0x8);
    /// Encrypted by the filesystem.
    pub const ENCRYPTED: Self = Self(0x80);
    /// Does not begin or end at a block.
    pub const NOT_ALIGNED: Self = Self(0x100);
    /// Lies among metadata.
    pub const INLINE: Self = Self(0x200);
    /// Shares its block with the ends of other files.
    pub const TAIL: Self = Self(0x400);
    /// Allocated and never written: reads as zeros.
    pub const UNWRITTEN: Self = Self(0x800);
    /// Another file has it too.
    pub const SHARED: Self = Self(0x2000);

    /// Whether any of `others` is set.
    #[must_use]
    pub fn has_any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for ExtentFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A stretch of a file and its place, all in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileExtent {
    /// Where it begins in the file.
    pub logical: u64,
    /// Where it begins on the filesystem's device; on btrfs, in its logical address space.
    pub physical: u64,
    /// Its length.
    pub length: u64,
    /// What else is said of it.
    pub flags: ExtentFlags,
}

/// The number of extents of a file, without copying them out of the kernel; dirty data counts as it
/// lies in memory.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no extent maps.
pub fn count_extents(file: &File) -> io::Result<u64> {
    let mut request = request(0, 0, 0);
    fiemap(file, &mut request)?;
    Ok(request.header.mapped.into())
}

/// The next extents of a file at or after the byte `from`, at most 256; empty once there are none.
/// What is dirty is flushed before.
///
/// Two calls are two looks: only a file that nobody changes has one map.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no extent maps.
pub fn next_extents(file: &File, from: u64) -> io::Result<Vec<FileExtent>> {
    let mut request = request(from, FIEMAP_FLAG_SYNC, BATCH as u32);
    fiemap(file, &mut request)?;
    let mapped = (request.header.mapped as usize).min(BATCH);
    Ok(request.extents[..mapped].iter().map(cooked).collect())
}

/// Whether a file lies on the realtime device of an XFS, whose addresses are another space.
///
/// # Errors
/// What the ioctl says; `ENOTTY` where the filesystem has no such attributes.
pub fn is_on_realtime_device(file: &File) -> io::Result<bool> {
    let mut attributes = Attributes {
        flags: 0,
        rest: [0; 6],
    };
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, which `Attributes` is.
    unsafe { ioctl(file, Updater::<FS_IOC_FSGETXATTR, _>::new(&mut attributes)) }?;
    Ok(attributes.flags & FS_XFLAG_REALTIME != 0)
}

fn request(start: u64, flags: u32, room: u32) -> Box<Request> {
    const NOTHING: RawExtent = RawExtent {
        logical: 0,
        physical: 0,
        length: 0,
        reserved: [0; 2],
        flags: 0,
        reserved_too: [0; 3],
    };
    Box::new(Request {
        header: Header {
            start,
            length: u64::MAX - start,
            flags,
            mapped: 0,
            room,
            reserved: 0,
        },
        extents: [NOTHING; BATCH],
    })
}

fn fiemap(file: &File, request: &mut Request) -> rustix::io::Result<()> {
    debug_assert!(request.header.room as usize <= BATCH);
    // SAFETY: FS_IOC_FIEMAP reads the header and writes the header and at most `room` extents
    // behind it, which `Request` has space for.
    unsafe { ioctl(file, Updater::<FS_IOC_FIEMAP, Request>::new(request)) }
}

fn cooked(raw: &RawExtent) -> FileExtent {
    FileExtent {
        logical: raw.logical,
        physical: raw.physical,
        length: raw.length,
        flags: ExtentFlags(raw.flags),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_map_holds_the_data_and_not_the_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        // More than one batch of pages with holes between.
        for at in 0..300u64 {
            file.write_all_at(&[1; 4096], at * 131_072).unwrap();
        }
        let mut from = 0;
        let mut extents = Vec::new();
        loop {
            let batch = match next_extents(&file, from) {
                Ok(batch) => batch,
                Err(error) => return eprintln!("skipped: no extent maps here: {error}"),
            };
            let Some(last) = batch.last().copied() else {
                break;
            };
            from = last.logical + last.length;
            extents.extend(batch);
        }
        let starts: Vec<u64> = extents.iter().map(|extent| extent.logical).collect();
        let expected: Vec<u64> = (0..300).map(|at| at * 131_072).collect();
        assert_eq!(starts, expected);
        assert!(extents.last().unwrap().flags.has_any(ExtentFlags::LAST));
        assert_eq!(count_extents(&file).unwrap(), 300);
    }
}
