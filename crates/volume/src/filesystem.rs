//! What is known of the filesystems that image files lie on.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;

// From <linux/magic.h>.
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683E;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58F6;

/// A filesystem, as far as its habits matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
    Ramfs,
    Other,
}

impl Filesystem {
    /// The filesystem of an open file; [`Filesystem::Other`] if it will not say.
    pub(crate) fn of(fd: impl AsFd) -> Filesystem {
        let Ok(stat) = fstatfs(fd) else {
            return Filesystem::Other;
        };
        // The field is signed on some architectures; the magic numbers are 32 bits.
        match stat.f_type as u64 & 0xFFFF_FFFF {
            EXT4 => Filesystem::Ext4,
            XFS => Filesystem::Xfs,
            BTRFS => Filesystem::Btrfs,
            TMPFS => Filesystem::Tmpfs,
            RAMFS => Filesystem::Ramfs,
            _ => Filesystem::Other,
        }
    }

    /// Whether `SEEK_DATA` can be believed. Elsewhere a file is data throughout: OpenZFS reported
    /// holes over fresh data for years (openzfs#15526).
    pub(crate) fn tells_holes(self) -> bool {
        matches!(
            self,
            Filesystem::Ext4 | Filesystem::Xfs | Filesystem::Btrfs | Filesystem::Tmpfs
        )
    }

    /// Whether there is anything below the page cache.
    pub(crate) fn has_medium(self) -> bool {
        !matches!(self, Filesystem::Tmpfs | Filesystem::Ramfs)
    }

    /// Whether a read with `O_DIRECT` that succeeds is known to have bypassed the page cache.
    ///
    /// btrfs quietly buffers compressed extents, and others do what they like.
    pub(crate) fn direct_means_direct(self) -> bool {
        matches!(self, Filesystem::Ext4 | Filesystem::Xfs)
    }
}
