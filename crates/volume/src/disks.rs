//! The disks below a file or device: through partitions, device-mapper, MD and loop devices.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, stat};

use crate::holders::{names_in, number_in, sys_folder, unescape};

/// Most devices that are looked at below one file.
const MAX_DEVICES: usize = 256;

/// The folders in `/sys` of the disks that a file or device is stored on; none where that cannot be
/// known, as on ZFS, tmpfs and network filesystems.
#[must_use]
pub fn disks_below(path: &Path) -> Vec<PathBuf> {
    let mut disks = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<u64> = starts(path).collect();
    while let Some(device) = waiting.pop() {
        if seen.len() >= MAX_DEVICES || !seen.insert(device) {
            continue;
        }
        let Ok(folder) = sys_folder(device).canonicalize() else {
            continue;
        };
        let below = directly_below(&folder);
        if below.is_empty() {
            disks.insert(folder);
        }
        waiting.extend(below);
    }
    disks.into_iter().collect()
}

/// The numbers of what a path is stored on, as far as the path itself tells.
fn starts(path: &Path) -> impl Iterator<Item = u64> {
    let number = stat(path)
        .ok()
        .map(|stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => stat.st_rdev,
            _ => stat.st_dev,
        });
    let is_known = number.is_some_and(|number| sys_folder(number).exists());
    // Some filesystems (btrfs) have numbers that no device has.
    let mounted = (!is_known).then(|| mounted_device(path)).flatten();
    number.into_iter().filter(move |_| is_known).chain(mounted)
}

/// The device that is mounted where the path leads, by the longest mount point above it.
fn mounted_device(path: &Path) -> Option<u64> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = source_above(&mounts, &path)?;
    let stat = stat(&source).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice).then_some(stat.st_rdev)
}

/// What is mounted at the longest mount point above a path; of several there, the last hides the
/// others. See proc_pid_mountinfo(5).
fn source_above(mounts: &str, path: &Path) -> Option<PathBuf> {
    let mount = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
        let source = unescape(filesystem.split(' ').nth(1)?);
        path.starts_with(&point).then_some((point, source))
    };
    let (_, source) =
        (mounts.lines().filter_map(mount)).max_by_key(|(point, _)| point.components().count())?;
    source.starts_with('/').then(|| PathBuf::from(source))
}

/// What a device is part of, or made of; none for a disk.
fn directly_below(folder: &Path) -> Vec<u64> {
    let slaves = folder.join("slaves");
    let mut numbers: Vec<u64> = names_in(&slaves)
        .filter_map(|name| number_in(&slaves.join(name)))
        .collect();
    if folder.join("partition").exists() {
        numbers.extend(folder.parent().and_then(number_in));
    }
    if let Ok(file) = std::fs::read_to_string(folder.join("loop/backing_file")) {
        let file = PathBuf::from(file.trim_end_matches('\n'));
        numbers.extend(starts(&file).filter(|number| sys_folder(*number).exists()));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / /srv/my\\040data rw,relatime shared:1 - btrfs /dev/vdb rw
31 22 0:41 / /tmp rw - tmpfs tmpfs rw
32 22 0:42 / /srv rw - btrfs /dev/vdc rw
";

    #[test]
    fn the_longest_mount_point_above_a_path_counts() {
        let above = |path: &str| source_above(MOUNTS, Path::new(path));
        assert_eq!(above("/srv/my data/x"), Some("/dev/vdb".into()));
        assert_eq!(above("/srv/other"), Some("/dev/vdc".into()));
        assert_eq!(above("/var"), Some("/dev/vda".into()));
        assert_eq!(above("/tmp/x"), None, "nothing is below a tmpfs");
        assert_eq!(source_above("", Path::new("/x")), None);
    }

    #[test]
    fn a_disk_tells_how_much_it_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for disk in disks_below(file.path()) {
            assert!(disk.join("stat").exists(), "{}", disk.display());
            assert!(!disk.join("partition").exists(), "{}", disk.display());
        }
        assert_eq!(
            disks_below(Path::new("/proc/version")),
            [""; 0].map(PathBuf::from)
        );
    }
}
