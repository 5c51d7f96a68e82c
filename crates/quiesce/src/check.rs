//! What must not be frozen. Nothing here freezes anything.

use std::path::{Path, PathBuf};

use crate::error::{Needed, Refusal};
use crate::mounts::{Mount, Mounts};
use crate::point::MountPoint;
use crate::stack::{below_device, below_mount, device_number};

/// What has to go on while something is frozen, and where it is.
pub(crate) type Keep<'a> = (Needed, &'a Path);

/// Opens the mount points in order, or says why one of them must not be frozen.
pub(crate) fn open_all(paths: &[PathBuf], keep: &[Keep<'_>]) -> Result<Vec<MountPoint>, Refusal> {
    let Ok(mounts) = Mounts::read() else {
        let path = paths.first().cloned().unwrap_or_default();
        return Err(Refusal::UnknownMount { path });
    };
    let mut points: Vec<MountPoint> = Vec::with_capacity(paths.len());
    for path in paths {
        let point = MountPoint::open(path, &mounts)?;
        for earlier in &points {
            refuse_pair(&mounts, earlier, &point)?;
        }
        for &kept in keep {
            refuse_needed(&mounts, &point, kept)?;
        }
        points.push(point);
    }
    Ok(points)
}

fn refuse_pair(mounts: &Mounts, first: &MountPoint, second: &MountPoint) -> Result<(), Refusal> {
    let paths = || (first.path.clone(), second.path.clone());
    if first.mount.device == second.mount.device {
        let (first, second) = paths();
        return Err(Refusal::SameFilesystem { first, second });
    }
    if below_mount(mounts, &second.mount).contains(&first.mount.device) {
        let (first, second) = paths();
        return Err(Refusal::WrongOrder { first, second });
    }
    Ok(())
}

fn refuse_needed(mounts: &Mounts, point: &MountPoint, kept: Keep<'_>) -> Result<(), Refusal> {
    let (needed, holder) = kept;
    let holder = existing(holder);
    let mount = mounts
        .of_path(holder)
        .map_err(|cause| Refusal::Unreachable {
            path: holder.to_owned(),
            cause,
        })?;
    let Some(mount) = mount else {
        let path = holder.to_owned();
        return Err(Refusal::UnknownMount { path });
    };
    if !stands_on(mounts, holder, mount, point.mount.device) {
        return Ok(());
    }
    Err(Refusal::Needed {
        path: point.path.clone(),
        needed,
        holder: holder.to_owned(),
    })
}

/// Whether a write to `holder`, a file in `mount` or a device, ends up on the filesystem `device`.
///
/// A device that holds the filesystem itself is below it, not on it: freezing what is on an image
/// that is snapshotted is what all this is for.
fn stands_on(mounts: &Mounts, holder: &Path, mount: &Mount, device: u64) -> bool {
    let own = device_number(holder);
    mount.device == device
        || below_mount(mounts, mount).contains(&device)
        || own.is_some_and(|own| below_device(mounts, own).contains(&device))
}

/// The path, or of what is still to be made the nearest folder that is there.
fn existing(path: &Path) -> &Path {
    let mut ancestors = path.ancestors();
    let found = ancestors.find(|path| path.exists());
    found.unwrap_or_else(|| Path::new(if path.is_absolute() { "/" } else { "." }))
}
