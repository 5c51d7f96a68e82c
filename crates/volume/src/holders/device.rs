//! Why the kernel says that a block device is busy.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{makedev, stat};

use super::{Holders, is_device, is_swap, names_in, printable, process, unescape};
use crate::kernel;

/// A device, and how it relates to the one asked about.
struct Relative {
    rdev: u64,
    /// `it`, or the name of a partition or of the whole disk.
    subject: String,
}

/// Everything that may keep others from having a block device for themselves.
pub(crate) fn explain_device(path: &Path, rdev: u64) -> Holders {
    let mut holders = Holders::default();
    let relatives = relatives(rdev);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for relative in &relatives {
        explain_mounts(&mounts, relative, &mut holders);
        if is_swap(|swap| is_device(swap, relative.rdev)) {
            holders.add(format!("{} is in use as swap", relative.subject));
        }
        for holder in names_in(&sys_folder(relative.rdev).join("holders")) {
            let holder = describe_holder(&holder);
            holders.add(format!("{} is part of {holder}", relative.subject));
        }
    }
    if let Some(signature) = signature(path) {
        holders.add(format!("it bears the signature {signature}"));
    }
    holders.processes = process::with_open(None, |open| is_device(open, rdev));
    holders
}

/// `/sys/dev/block/MAJOR:MINOR`.
pub(crate) fn sys_folder(rdev: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// Number of the device that a `/sys` folder describes.
pub(crate) fn number_in(folder: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The device, its partitions, and the disk that it is a partition of.
fn relatives(rdev: u64) -> Vec<Relative> {
    let relative = |folder: &Path, subject: Option<String>| {
        let name = folder.canonicalize().ok()?;
        let name = name.file_name()?.to_string_lossy().into_owned();
        Some(Relative {
            rdev: number_in(folder)?,
            subject: subject.unwrap_or_else(|| format!("/dev/{name}")),
        })
    };
    let folder = sys_folder(rdev);
    let mut relatives: Vec<Relative> = relative(&folder, Some("it".to_owned()))
        .into_iter()
        .collect();
    for name in names_in(&folder) {
        let child = folder.join(name);
        if child.join("partition").exists() {
            relatives.extend(relative(&child, None));
        }
    }
    if folder.join("partition").exists() {
        relatives.extend(relative(&folder.join(".."), None));
    }
    relatives
}

/// Finds mounts by device number, and by source for filesystems that have numbers of their own
/// (btrfs). See proc_pid_mountinfo(5).
fn explain_mounts(mounts: &str, relative: &Relative, holders: &mut Holders) {
    let (major, minor) = (
        rustix::fs::major(relative.rdev),
        rustix::fs::minor(relative.rdev),
    );
    let number = format!("{major}:{minor}");
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut mount = mount.split(' ').skip(2);
        let (Some(device), Some(point)) = (mount.next(), mount.nth(1)) else {
            continue;
        };
        let mut filesystem = filesystem.split(' ');
        let (kind, source) = (filesystem.next(), filesystem.next());
        let is_source = |source: &str| {
            source.starts_with('/')
                && stat(unescape(source)).is_ok_and(|stat| is_device(&stat, relative.rdev))
        };
        if device == number || source.is_some_and(is_source) {
            let point = printable(&unescape(point));
            let kind = kind.unwrap_or("unknown");
            holders.add(format!(
                "{} is mounted on {point} ({kind})",
                relative.subject
            ));
        }
    }
}

/// A holder's kernel name, and the name that people gave it.
fn describe_holder(name: &str) -> String {
    let given = Path::new("/sys/block").join(name).join("dm/name");
    match std::fs::read_to_string(given) {
        Ok(given) => format!("/dev/{name} ({})", printable(given.trim_end())),
        Err(_) => format!("/dev/{name}"),
    }
}

/// The signature of a member of something larger, with blkid's word for it.
fn signature(path: &Path) -> Option<&'static str> {
    let device = File::open(path).ok()?;
    let size = kernel::device_size(&device).ok()?;
    let has = |offset: u64, magic: &[u8]| {
        let mut found = vec![0; magic.len()];
        device.read_exact_at(&mut found, offset).is_ok() && found == magic
    };
    let is_lvm = || {
        (0..4).any(|sector| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2 001"))
    };
    // Superblock formats 1.1 and 1.2 at the beginning, 1.0 and 0.90 near the end (md(4)).
    let is_raid = || {
        let magic = 0xA92B_4EFC_u32.to_le_bytes();
        let near_end = [
            size.saturating_sub(8192) & !4095,
            (size & !65535).saturating_sub(65536),
        ];
        [0, 4096]
            .into_iter()
            .chain(near_end)
            .any(|at| has(at, &magic))
    };
    // The array of uberblocks in the second half of the first ZFS label.
    let is_zfs = || {
        let magic = 0x00BA_B10C_u64;
        (128..256)
            .any(|kib| has(kib << 10, &magic.to_le_bytes()) || has(kib << 10, &magic.to_be_bytes()))
    };
    if is_lvm() {
        Some("LVM2_member")
    } else if has(0, b"LUKS\xba\xbe") {
        Some("crypto_LUKS")
    } else if is_raid() {
        Some("linux_raid_member")
    } else if is_zfs() {
        Some("zfs_member")
    } else {
        None
    }
}
