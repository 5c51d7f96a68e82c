//! What `/sys` and `/dev/disk` know of a block device.

use std::path::{Path, PathBuf};

use rustix::fs::stat;

use crate::holders::{names_in, number_in, sys_folder};

/// Bytes of the unit of `/sys/…/size`, whatever the device's sectors are.
const SYS_SECTOR: u64 = 512;

/// A block device's folder in `/sys`, and that of its whole disk.
pub(super) struct Device {
    rdev: u64,
    folder: PathBuf,
    disk: PathBuf,
}

impl Device {
    pub(super) fn of(rdev: u64) -> Device {
        let folder = sys_folder(rdev);
        let folder = folder.canonicalize().unwrap_or(folder);
        let disk = match folder.parent() {
            Some(disk) if folder.join("partition").exists() => disk.to_path_buf(),
            _ => folder.clone(),
        };
        Device { rdev, folder, disk }
    }

    /// Size in bytes.
    pub(super) fn size(&self) -> Option<u64> {
        let sectors: u64 = read_line(&self.folder.join("size"))?.parse().ok()?;
        sectors.checked_mul(SYS_SECTOR)
    }

    pub(super) fn disk_number(&self) -> Option<u64> {
        number_in(&self.disk)
    }

    /// Kernel name of the whole disk, such as `loop3`.
    pub(super) fn disk_name(&self) -> Option<String> {
        Some(self.disk.file_name()?.to_string_lossy().into_owned())
    }

    /// The best name that outlives a reboot: kernel names and numbers are dealt anew each time.
    pub(super) fn durable_name(&self, backing: Option<(u64, u64)>) -> Option<String> {
        self.mapper_name()
            .or_else(|| self.partition_uuid())
            .or_else(|| self.hardware_name())
            .or_else(|| self.loop_name(backing))
    }

    fn mapper_name(&self) -> Option<String> {
        let uuid = read_line(&self.folder.join("dm/uuid")).map(|uuid| format!("dm-uuid {uuid}"));
        uuid.or_else(|| {
            Some(format!(
                "dm-name {}",
                read_line(&self.folder.join("dm/name"))?
            ))
        })
    }

    /// From the kernel (6.11 and later), else from the links that udev makes.
    fn partition_uuid(&self) -> Option<String> {
        let uevent = std::fs::read_to_string(self.folder.join("uevent")).unwrap_or_default();
        let told = uevent
            .lines()
            .find_map(|line| line.strip_prefix("PARTUUID="));
        let uuid = told.map(str::to_owned).or_else(|| {
            let links = Path::new("/dev/disk/by-partuuid");
            names_in(links)
                .find(|name| stat(links.join(name)).is_ok_and(|stat| stat.st_rdev == self.rdev))
        })?;
        Some(format!("partuuid {uuid}"))
    }

    fn hardware_name(&self) -> Option<String> {
        let of_disk = ["wwid", "device/wwid", "serial", "device/serial"]
            .into_iter()
            .find_map(|file| read_line(&self.disk.join(file)))?;
        Some(match read_line(&self.folder.join("partition")) {
            Some(number) => format!("serial {of_disk} partition {number}"),
            None => format!("serial {of_disk}"),
        })
    }

    /// A loop device is what it shows: its file, from an offset on.
    fn loop_name(&self, backing: Option<(u64, u64)>) -> Option<String> {
        let (_, inode) = backing?;
        let offset = read_line(&self.disk.join("loop/offset")).unwrap_or_default();
        let partition = read_line(&self.folder.join("partition")).unwrap_or_default();
        Some(format!(
            "loop inode {inode} offset {offset} partition {partition}"
        ))
    }
}

/// The first line of a file in `/sys`, if there is anything in it.
fn read_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
