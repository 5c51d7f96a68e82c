//! What a path really is: a file or a device, by number and not by name.

mod device;
mod wire;

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, makedev, statx};

use crate::holders::loop_backing;
use crate::open_error::OpenError;
use crate::place;
use crate::volume::VolumeKind;

pub use wire::{BadIdentity, MAX_IDENTITY_BYTES};

/// Longest [`Identity::durable_text`], in bytes.
pub const MAX_DURABLE_TEXT: usize = 256;

const MAX_MACHINE: usize = 64;
const MAX_DEVICE_NAME: usize = 96;

/// A volume's identity on its machine.
///
/// Device numbers and the boot id hold until the next boot; [`Identity::durable_text`] holds longer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Boot id of the machine's kernel (random(4)): containers on one machine share it.
    pub machine: String,
    /// File or block device.
    pub kind: VolumeKind,
    /// Device number of the filesystem that the file or the device node lies on.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// A device's own number; 0 for a file.
    pub rdev: u64,
    /// The number of the whole disk that a device is, or is a partition of; 0 for a file.
    pub disk: u64,
    /// A file's time of birth in nanoseconds since 1970, where the filesystem keeps it.
    pub birth_ns: Option<i128>,
    /// Size in bytes.
    pub size: u64,
    /// Device and inode numbers of the file behind a loop device or its partition.
    pub backing: Option<(u64, u64)>,
    /// A device's name that survives a reboot, such as a partition's UUID; at most 96 bytes of
    /// printable ASCII.
    pub device_name: Option<String>,
}

/// Looks at what a path leads to, without opening it.
///
/// # Errors
/// [`OpenError::Missing`], [`OpenError::NotAVolume`], [`OpenError::Permission`].
pub fn identify(path: &Path) -> Result<Identity, OpenError> {
    let failed = |error| OpenError::from_io("looking up", path, error);
    let canonical = path.canonicalize().map_err(failed)?;
    let Some((kind, _)) = place::look(&canonical)? else {
        return Err(OpenError::Missing {
            path: path.to_path_buf(),
        });
    };
    let stat = statx(
        CWD,
        &canonical,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
    .map_err(|error| failed(error.into()))?;
    Ok(Identity::from_statx(kind, &stat))
}

impl Identity {
    /// The identity of an open file or device.
    pub(crate) fn of_open(file: &File, kind: VolumeKind, path: &Path) -> Result<Self, OpenError> {
        let stat = statx(
            file,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )
        .map_err(|error| OpenError::from_io("looking at", path, error))?;
        Ok(Self::from_statx(kind, &stat))
    }

    fn from_statx(kind: VolumeKind, stat: &Statx) -> Identity {
        let birth = &stat.stx_btime;
        let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let mut identity = Identity {
            machine: machine().to_owned(),
            kind,
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            rdev: 0,
            disk: 0,
            birth_ns: is_born
                .then(|| i128::from(birth.tv_sec) * 1_000_000_000 + i128::from(birth.tv_nsec)),
            size: stat.stx_size,
            backing: None,
            device_name: None,
        };
        if kind == VolumeKind::BlockDevice {
            identity.complete_device(makedev(stat.stx_rdev_major, stat.stx_rdev_minor));
        }
        identity
    }

    fn complete_device(&mut self, rdev: u64) {
        let device = device::Device::of(rdev);
        self.rdev = rdev;
        self.disk = device.disk_number().unwrap_or(rdev);
        self.birth_ns = None;
        self.size = device.size().unwrap_or(0);
        self.backing = device.disk_name().and_then(|name| loop_backing(&name));
        self.device_name = device
            .durable_name(self.backing)
            .map(|name| cut_to_ascii(&name, MAX_DEVICE_NAME));
    }

    /// Whether two identities are one place, or places that overlap: one file, one device, a loop
    /// device and its file, a disk and its partition.
    #[must_use]
    pub fn same_place(&self, other: &Identity) -> bool {
        use VolumeKind::{BlockDevice, File};
        if self.machine != other.machine {
            return false;
        }
        match (self.kind, other.kind) {
            (File, File) => self.file() == other.file(),
            (File, BlockDevice) => other.backing == Some(self.file()),
            (BlockDevice, File) => self.backing == Some(other.file()),
            (BlockDevice, BlockDevice) => {
                self.rdev == other.rdev
                    || self.rdev == other.disk
                    || self.disk == other.rdev
                    || (self.disk != other.disk
                        && self.backing.is_some()
                        && self.backing == other.backing)
            }
        }
    }

    fn file(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// A line that survives a reboot and changes when the volume is replaced; at most
    /// [`MAX_DURABLE_TEXT`] bytes of ASCII.
    ///
    /// A file is its inode and its birth: a new file may get the old inode, but not its birth. The
    /// device number under it changes at a reboot, so it counts only where there is no birth time. A
    /// device is its best durable name, else its numbers.
    #[must_use]
    pub fn durable_text(&self) -> String {
        let Identity { ino, size, .. } = self;
        match (self.kind, self.birth_ns, &self.device_name) {
            (VolumeKind::File, Some(birth), _) => {
                format!("file inode {ino} born {birth} size {size}")
            }
            (VolumeKind::File, None, _) => {
                format!("file device {} inode {ino} size {size}", self.dev)
            }
            (VolumeKind::BlockDevice, _, Some(name)) => format!("device {name} size {size}"),
            (VolumeKind::BlockDevice, _, None) => {
                let (major, minor) = (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev));
                format!("device {major}:{minor} size {size}")
            }
        }
    }
}

/// This machine until its next boot; empty if the kernel does not say.
fn machine() -> &'static str {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        cut_to_ascii(id.trim(), MAX_MACHINE)
    })
}

/// Printable ASCII, other characters replaced, at most `limit` bytes.
fn cut_to_ascii(text: &str, limit: usize) -> String {
    text.chars()
        .take(limit)
        .map(|char| if is_plain(char) { char } else { '_' })
        .collect()
}

fn is_plain(char: char) -> bool {
    char.is_ascii_graphic() || char == ' '
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn file(ino: u64) -> Identity {
        Identity {
            machine: "boot".to_owned(),
            kind: VolumeKind::File,
            dev: 7,
            ino,
            rdev: 0,
            disk: 0,
            birth_ns: Some(-5),
            size: 4096,
            backing: None,
            device_name: None,
        }
    }

    pub(super) fn device(rdev: u64, disk: u64) -> Identity {
        Identity {
            kind: VolumeKind::BlockDevice,
            rdev,
            disk,
            birth_ns: None,
            ..file(1)
        }
    }

    fn same(left: &Identity, right: &Identity) -> bool {
        assert_eq!(left.same_place(right), right.same_place(left));
        left.same_place(right)
    }

    #[test]
    fn files_are_the_same_by_number_on_one_machine_only() {
        let elsewhere = Identity {
            machine: "other".to_owned(),
            ..file(1)
        };
        assert!(same(&file(1), &file(1)));
        assert!(!same(&file(1), &file(2)));
        assert!(!same(&file(1), &elsewhere));
    }

    #[test]
    fn a_disk_overlaps_its_partitions_and_partitions_do_not_overlap() {
        let (disk, first, second) = (device(8, 8), device(9, 8), device(10, 8));
        assert!(same(&disk, &first));
        assert!(!same(&first, &second));
        assert!(same(&first, &first.clone()));
        assert!(!same(&disk, &device(24, 24)));
    }

    #[test]
    fn loop_devices_are_their_file_and_each_other() {
        let backing = Some((7, 1));
        let loop0 = Identity {
            backing,
            ..device(100, 100)
        };
        let loop1 = Identity {
            backing,
            ..device(101, 101)
        };
        let parts = [102, 103].map(|rdev| Identity {
            backing,
            ..device(rdev, 100)
        });
        assert!(same(&loop0, &file(1)));
        assert!(!same(&loop0, &file(2)));
        assert!(same(&loop0, &loop1));
        assert!(same(&parts[0], &file(1)));
        assert!(!same(&parts[0], &parts[1]));
    }

    #[test]
    fn durable_text_ignores_what_a_reboot_changes() {
        let rebooted = Identity {
            machine: "later".to_owned(),
            dev: 99,
            ..file(1)
        };
        assert_eq!(file(1).durable_text(), rebooted.durable_text());
        assert_ne!(file(1).durable_text(), file(2).durable_text());
        let named = Identity {
            device_name: Some("partuuid 1234".to_owned()),
            ..device(8, 8)
        };
        assert_eq!(named.durable_text(), "device partuuid 1234 size 4096");
        assert_eq!(device(2049, 8).durable_text(), "device 8:1 size 4096");
    }

    #[test]
    fn a_real_file_is_recognised_through_links_and_a_copy_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), b"12345").unwrap();
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink("a", path("soft")).unwrap();
        std::fs::copy(path("a"), path("b")).unwrap();
        let of = |name| identify(&path(name)).unwrap();
        assert_eq!(of("a"), of("hard"));
        assert!(same(&of("a"), &of("soft")));
        assert!(!same(&of("a"), &of("b")));
        assert_eq!(of("a").size, 5);
        assert!(of("a").durable_text().len() <= MAX_DURABLE_TEXT);
    }
}
