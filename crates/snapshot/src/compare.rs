//! Comparing two live images by their extents: base, now, base again.
//!
//! ```text
//! relocating? ── map base ── map now ── map base ──┬─ the same as before? ── relocating?
//!                                                  └─ btrfs went on meanwhile: map now again too
//! ```
//!
//! While the base's map stays what it is, its extents are its own, and whatever the other map says
//! of the same address is the same extent. A base that is gone gives no such promise: its addresses
//! may have been given to other data.

use std::fs::File;
use std::path::PathBuf;

use lockstep_volume::{
    BtrfsContent, ExtentFlags, FileExtent, btrfs_state, is_on_realtime_device, next_extent_items,
    next_extents,
};
use rustix::fs::{fstat, fstatfs};

use crate::changed::Changed;
use crate::doubt::{Doubt, Which};
use crate::layout::{BadLayout, Content, Layout, MAX_STRETCHES, changed};

// From <linux/magic.h>.
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;

/// What the kernel says while no balance, resize or the like is under way.
const AT_REST: &str = "none";

/// Flags of extents whose address does not say what they hold.
const DISTRUSTED: [ExtentFlags; 7] = [
    ExtentFlags::UNKNOWN,
    ExtentFlags::DELALLOC,
    ExtentFlags::ENCODED,
    ExtentFlags::ENCRYPTED,
    ExtentFlags::NOT_ALIGNED,
    ExtentFlags::INLINE,
    ExtentFlags::TAIL,
];

/// A filesystem that can share extents, and whose maps are understood here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    Xfs,
    Btrfs,
}

impl Sharing {
    /// The filesystem of an open file, if it is one of these.
    pub(crate) fn of(file: &File) -> Option<Self> {
        // The field is signed on some architectures; the magic numbers are 32 bits.
        match fstatfs(file).ok()?.f_type as u64 & 0xFFFF_FFFF {
            XFS => Some(Self::Xfs),
            BTRFS => Some(Self::Btrfs),
            _ => None,
        }
    }
}

/// How btrfs is asked for extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asking {
    /// By extent items, which tell compressed extents exactly, if this user may.
    ItemsIfAllowed,
    /// By maps only.
    MapsOnly,
}

/// The bytes of `now` that may differ from those of `base`; both must be immutable.
pub(crate) fn compare(base: &File, now: &File, asking: Asking) -> Result<Changed, Doubt> {
    let sharing = same_filesystem(base, now)?;
    if sharing == Sharing::Xfs {
        refuse_realtime(base, Which::Base)?;
        refuse_realtime(now, Which::Now)?;
    }
    let before = Stillness::of(sharing, base)?;
    let method = Method::of(sharing, base, asking);
    let of_base = method.layout(base, Which::Base)?;
    let of_now = method.layout(now, Which::Now)?;
    same_again(method, base, &of_base, Which::Base)?;
    let after = Stillness::of(sharing, base)?;
    if before != after {
        same_again(method, now, &of_now, Which::Now)?;
        same_again(method, base, &of_base, Which::Base)?;
        // It only moves on; what counts is that nothing was being relocated.
        Stillness::of(sharing, base)?;
    }
    Ok(changed(&of_base, &of_now))
}

fn same_again(method: Method, file: &File, before: &Layout, which: Which) -> Result<(), Doubt> {
    if method.layout(file, which)? != *before {
        return Err(Doubt::Moved { which });
    }
    Ok(())
}

fn same_filesystem(base: &File, now: &File) -> Result<Sharing, Doubt> {
    let sharing = Sharing::of(base).filter(|sharing| Sharing::of(now) == Some(*sharing));
    let is_one = match sharing {
        None => false,
        // Subvolumes have device numbers of their own.
        Some(Sharing::Btrfs) => fsid(base, Which::Base)? == fsid(now, Which::Now)?,
        Some(Sharing::Xfs) => device(base, Which::Base)? == device(now, Which::Now)?,
    };
    sharing.filter(|_| is_one).ok_or(Doubt::OtherFilesystem)
}

fn device(file: &File, which: Which) -> Result<u64, Doubt> {
    let stat = fstat(file).map_err(Doubt::unreadable(which))?;
    Ok(stat.st_dev)
}

fn fsid(file: &File, which: Which) -> Result<[u8; 16], Doubt> {
    let state = btrfs_state(file).map_err(Doubt::unreadable(which))?;
    Ok(state.fsid)
}

fn refuse_realtime(file: &File, which: Which) -> Result<(), Doubt> {
    if is_on_realtime_device(file).map_err(Doubt::unreadable(which))? {
        return Err(Doubt::RealtimeDevice { which });
    }
    Ok(())
}

/// That nothing moves extents at this moment; on btrfs, also how far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stillness {
    generation: u64,
}

impl Stillness {
    fn of(sharing: Sharing, file: &File) -> Result<Self, Doubt> {
        if sharing == Sharing::Xfs {
            // Nothing there moves the extents of an immutable file.
            return Ok(Self { generation: 0 });
        }
        let state = btrfs_state(file).map_err(Doubt::unreadable(Which::Base))?;
        let operation = std::fs::read_to_string(exclusive_operation(&state.fsid))
            .map_err(Doubt::unreadable(Which::Base))?;
        match operation.trim() {
            AT_REST => Ok(Self {
                generation: state.generation,
            }),
            operation => Err(Doubt::Relocating {
                operation: operation.chars().filter(char::is_ascii).take(64).collect(),
            }),
        }
    }
}

/// Where the kernel says which operation btrfs is busy with; everybody may read it.
fn exclusive_operation(fsid: &[u8; 16]) -> PathBuf {
    let mut uuid = String::new();
    for (at, byte) in fsid.iter().enumerate() {
        let hyphen = if matches!(at, 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        uuid.push_str(&format!("{hyphen}{byte:02x}"));
    }
    PathBuf::from(format!("/sys/fs/btrfs/{uuid}/exclusive_operation"))
}

/// How layouts are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    Maps,
    Items,
}

impl Method {
    fn of(sharing: Sharing, file: &File, asking: Asking) -> Self {
        let inode = fstat(file).map_or(0, |stat| stat.st_ino);
        let may_ask = || next_extent_items(file, inode, u64::MAX).is_ok();
        match (sharing, asking) {
            (Sharing::Btrfs, Asking::ItemsIfAllowed) if may_ask() => Self::Items,
            _ => Self::Maps,
        }
    }

    fn layout(self, file: &File, which: Which) -> Result<Layout, Doubt> {
        let stat = fstat(file).map_err(Doubt::unreadable(which))?;
        let layout = Layout::new(stat.st_size.cast_unsigned());
        match self {
            Self::Maps => from_maps(file, layout, which),
            Self::Items => from_items(file, stat.st_ino, layout, which),
        }
    }
}

fn from_maps(file: &File, mut layout: Layout, which: Which) -> Result<Layout, Doubt> {
    let mut from = 0;
    loop {
        let extents = next_extents(file, from).map_err(Doubt::unreadable(which))?;
        let Some(last) = extents.last().copied() else {
            return Ok(layout);
        };
        for extent in extents {
            let pushed = layout.push(extent.logical, extent.length, content_of(&extent));
            pushed.map_err(bad_map(which))?;
        }
        if last.flags.has_any(ExtentFlags::LAST) {
            return Ok(layout);
        }
        from = next_after(last.logical, last.length, from, which)?;
    }
}

fn content_of(extent: &FileExtent) -> Content {
    if DISTRUSTED.iter().any(|flag| extent.flags.has_any(*flag)) {
        return Content::Opaque;
    }
    if extent.flags.has_any(ExtentFlags::UNWRITTEN) {
        return Content::Zeros;
    }
    Content::Plain {
        address: extent.physical,
    }
}

fn from_items(file: &File, inode: u64, mut layout: Layout, which: Which) -> Result<Layout, Doubt> {
    let mut from = 0;
    loop {
        let extents = next_extent_items(file, inode, from).map_err(Doubt::unreadable(which))?;
        let Some(last) = extents.last().copied() else {
            return Ok(layout);
        };
        for extent in extents {
            let content = match extent.content {
                BtrfsContent::Zeros => Content::Zeros,
                BtrfsContent::Plain { address } => Content::Plain { address },
                BtrfsContent::Compressed { extent, within } => {
                    Content::Compressed { extent, within }
                }
                BtrfsContent::Opaque => Content::Opaque,
            };
            let pushed = layout.push(extent.logical, extent.length, content);
            pushed.map_err(bad_map(which))?;
        }
        // The next item begins after the start of the last one, whatever its length says.
        from = next_after(last.logical, 1, from, which)?;
    }
}

/// Where to go on, which must be further than `from`: a map that goes in circles has no end.
fn next_after(logical: u64, length: u64, from: u64, which: Which) -> Result<u64, Doubt> {
    let next = logical.checked_add(length).filter(|next| *next > from);
    next.ok_or(Doubt::BadMap { which })
}

fn bad_map(which: Which) -> impl FnOnce(BadLayout) -> Doubt {
    move |bad| match bad {
        BadLayout::Disordered => Doubt::BadMap { which },
        BadLayout::TooMany => Doubt::TooManyExtents {
            which,
            limit: MAX_STRETCHES,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(flags: ExtentFlags) -> FileExtent {
        FileExtent {
            logical: 0,
            physical: 4096,
            length: 4096,
            flags,
        }
    }

    #[test]
    fn only_an_address_that_says_what_is_there_is_trusted() {
        let plain = Content::Plain { address: 4096 };
        assert_eq!(content_of(&extent(ExtentFlags::NONE)), plain);
        let harmless = ExtentFlags::SHARED | ExtentFlags::LAST;
        assert_eq!(content_of(&extent(harmless)), plain);
        let unwritten = ExtentFlags::UNWRITTEN | ExtentFlags::SHARED;
        assert_eq!(content_of(&extent(unwritten)), Content::Zeros);
        for bad in DISTRUSTED {
            assert_eq!(content_of(&extent(bad)), Content::Opaque, "{bad:?}");
            // Dirty data over an unwritten extent is not zeros.
            let both = bad | ExtentFlags::UNWRITTEN;
            assert_eq!(content_of(&extent(both)), Content::Opaque, "{both:?}");
        }
    }

    #[test]
    fn a_map_that_goes_in_circles_ends_in_doubt() {
        assert_eq!(next_after(10, 5, 3, Which::Now), Ok(15));
        let circle = Err(Doubt::BadMap { which: Which::Now });
        assert_eq!(next_after(10, 5, 15, Which::Now), circle);
        assert_eq!(next_after(u64::MAX, 5, 15, Which::Now), circle);
    }

    #[test]
    fn the_filesystems_number_is_written_as_the_kernel_does() {
        let fsid = std::array::from_fn(|at| at as u8);
        assert_eq!(
            exclusive_operation(&fsid).to_str().unwrap(),
            "/sys/fs/btrfs/00010203-0405-0607-0809-0a0b0c0d0e0f/exclusive_operation"
        );
    }
}
