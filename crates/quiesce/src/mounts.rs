//! What is mounted where: `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
//!
//! A filesystem is told by the device number of its superblock. `st_dev` will not do: each subvolume
//! of a btrfs has one of its own, and freezing one freezes them all.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, makedev, statx};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mount {
    id: u64,
    /// Device number of the filesystem's superblock.
    pub(crate) device: u64,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// Its type, such as `ext4`.
    pub(crate) kind: String,
    /// What is mounted: a device's path, or anything.
    pub(crate) source: PathBuf,
}

/// What this process sees mounted.
pub(crate) struct Mounts(Vec<Mount>);

/// What the kernel says of an open folder's mount.
pub(crate) struct Place {
    mount_id: u64,
    /// Whether the folder is the root of a mount.
    pub(crate) is_mount_point: bool,
}

impl Mounts {
    pub(crate) fn read() -> io::Result<Mounts> {
        Ok(Mounts::parse(&std::fs::read(MOUNTINFO)?))
    }

    /// Lines that are not understood are left out: whoever needs them finds nothing, and refuses.
    fn parse(text: &[u8]) -> Mounts {
        let lines = text.split(|&byte| byte == b'\n');
        Mounts(lines.filter_map(Mount::parse).collect())
    }

    /// The mount of an open file.
    pub(crate) fn of(&self, place: &Place) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == place.mount_id)
    }

    /// The mount that a path leads into, links followed.
    pub(crate) fn of_path(&self, path: &Path) -> io::Result<Option<&Mount>> {
        let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
        let is_told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Ok(is_told
            .then(|| self.0.iter().find(|mount| mount.id == stat.stx_mnt_id))
            .flatten())
    }

    /// All mounts of a filesystem.
    pub(crate) fn on(&self, device: u64) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(move |mount| mount.device == device)
    }
}

impl Place {
    /// `None` if the kernel is too old to tell.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Option<Place>> {
        let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        let is_told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0
            && stat
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT);
        Ok(is_told.then(|| Place {
            mount_id: stat.stx_mnt_id,
            is_mount_point: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }))
    }
}

impl Mount {
    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = text(fields.next()?)?.parse().ok()?;
        let device = text(fields.nth(1)?)?.split_once(':')?;
        let point = unescape(fields.nth(1)?);
        fields.find(|&field| field == b"-")?;
        let kind = text(fields.next()?)?.to_owned();
        Some(Mount {
            id,
            device: makedev(device.0.parse().ok()?, device.1.parse().ok()?),
            point,
            kind,
            source: unescape(fields.next()?),
        })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Blanks, line ends and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(text(code)?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_its_blanks_and_its_broken_lines() {
        let table = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            36 27 7:12 /sub /a\\040b\\134c rw master:1 shared:2 - xfs /dev/loop12 rw\n\
            37 27 seven:12 / /c rw - xfs /dev/loop12 rw\n\
            38\n";
        let Mounts(mounts) = Mounts::parse(table);
        assert_eq!(mounts.len(), 2);
        let expected = Mount {
            id: 36,
            device: makedev(7, 12),
            point: PathBuf::from("/a b\\c"),
            kind: "xfs".to_owned(),
            source: PathBuf::from("/dev/loop12"),
        };
        assert_eq!(mounts[1], expected);
    }

    #[test]
    fn a_path_is_found_in_its_mount() {
        let mounts = Mounts::read().unwrap();
        let proc = mounts.of_path(Path::new("/proc/self/status")).unwrap();
        assert_eq!(proc.unwrap().kind, "proc");
        assert!(mounts.of_path(Path::new("/no/such/path")).is_err());
    }
}
