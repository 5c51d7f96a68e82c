//! What a filesystem is stored on: partitions, device-mapper and MD members, files behind loop devices.
//!
//! A filesystem in an image file on a frozen filesystem stands still with it. What is found here is
//! refused beforehand; what is not (a network block device served by this machine, say) is thawed by
//! the watchdog.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, major, makedev, minor, stat};

use crate::mounts::{Mount, Mounts};

/// Most devices that are looked at for one filesystem.
const MAX_DEVICES: usize = 256;

/// The device numbers of everything below a mount, of devices and of filesystems alike.
pub(crate) fn below_mount(mounts: &Mounts, mount: &Mount) -> BTreeSet<u64> {
    let mut found = below(mounts, starts(mount));
    found.remove(&mount.device);
    found
}

/// The same for a block device.
pub(crate) fn below_device(mounts: &Mounts, device: u64) -> BTreeSet<u64> {
    let mut found = below(mounts, vec![device]);
    found.remove(&device);
    found
}

/// The number of a block device; `None` for anything else.
pub(crate) fn device_number(path: &Path) -> Option<u64> {
    let stat = stat(path).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice).then_some(stat.st_rdev)
}

/// Some filesystems (btrfs) have a number that no device has.
fn starts(mount: &Mount) -> Vec<u64> {
    let source = device_number(&mount.source);
    std::iter::once(mount.device).chain(source).collect()
}

fn below(mounts: &Mounts, starts: Vec<u64>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut waiting = starts;
    while let Some(device) = waiting.pop() {
        if found.len() < MAX_DEVICES && found.insert(device) {
            waiting.extend(directly_below(mounts, device));
        }
    }
    found
}

fn directly_below(mounts: &Mounts, device: u64) -> Vec<u64> {
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(folder) = fs::canonicalize(link) else {
        return Vec::new();
    };
    let mut numbers = members(&folder.join("slaves"));
    if folder.join("partition").exists() {
        numbers.extend(folder.parent().and_then(number_in));
    }
    if let Ok(file) = fs::read_to_string(folder.join("loop/backing_file")) {
        let mount = mounts.of_path(&PathBuf::from(file.trim_end_matches('\n')));
        numbers.extend(mount.ok().flatten().map(starts).unwrap_or_default());
    }
    numbers
}

fn members(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| number_in(&entry.path()))
        .collect()
}

/// The number in a device's folder.
fn number_in(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}
