//! A mount point that is held open, and the identity of its filesystem.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use lockstep_volume::{freeze_filesystem, thaw_filesystem};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstatvfs, open, statx, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{QuiesceError, Refusal};
use crate::mounts::{Mount, Mounts, Place};

/// A mount point; its filesystem cannot be unmounted while this lives.
#[derive(Debug)]
pub(crate) struct MountPoint {
    /// As the caller named it.
    pub(crate) path: PathBuf,
    pub(crate) mount: Mount,
    folder: File,
}

/// What tells a filesystem from others that are mounted on the same path later, until the next boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FilesystemId {
    device: u64,
    fsid: u64,
    root_inode: u64,
    /// When its root was made, in nanoseconds since 1970: a new filesystem on the same device has
    /// another.
    root_born_ns: Option<i64>,
}

/// What became of a thaw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thaw {
    Done,
    WasNotFrozen,
}

impl MountPoint {
    /// Opens a mount point, changing nothing.
    pub(crate) fn open(path: &Path, mounts: &Mounts) -> Result<MountPoint, Refusal> {
        let unreachable = |cause: io::Error| Refusal::Unreachable {
            path: path.to_owned(),
            cause,
        };
        if path.to_str().is_none() {
            let path = path.to_owned();
            return Err(Refusal::NotText { path });
        }
        let folder = open_folder(path).map_err(unreachable)?;
        let place = Place::of(&folder).map_err(unreachable)?;
        let mount = place.as_ref().and_then(|place| mounts.of(place));
        let (Some(place), Some(mount)) = (&place, mount) else {
            let path = path.to_owned();
            return Err(Refusal::UnknownMount { path });
        };
        if !place.is_mount_point {
            return Err(Refusal::NotAMountPoint {
                path: path.to_owned(),
                mount: mount.point.clone(),
            });
        }
        Ok(MountPoint {
            path: path.to_owned(),
            mount: mount.clone(),
            folder,
        })
    }

    pub(crate) fn id(&self) -> io::Result<FilesystemId> {
        FilesystemId::of(&self.folder, self.mount.device)
    }

    /// Writes out what is dirty while writers may still go on, so that the freeze finds little left.
    pub(crate) fn flush(&self) -> Result<(), QuiesceError> {
        syncfs(&self.folder).map_err(|error| self.failed("flush", error))
    }

    /// Only for what [`crate::check`] let pass, and only once a watchdog knows.
    pub(crate) fn freeze(&self) -> Result<(), QuiesceError> {
        let path = || self.path.clone();
        freeze_filesystem(&self.folder).map_err(|error| match error {
            Errno::BUSY => Refusal::AlreadyFrozen { path: path() }.into(),
            Errno::PERM => Refusal::NotPermitted { path: path() }.into(),
            Errno::OPNOTSUPP => Refusal::Unsupported {
                path: path(),
                kind: self.mount.kind.clone(),
            }
            .into(),
            other => self.failed("freeze", other),
        })
    }

    pub(crate) fn thaw(&self) -> rustix::io::Result<Thaw> {
        thaw(&self.folder)
    }

    fn failed(&self, action: &'static str, error: Errno) -> QuiesceError {
        QuiesceError::Kernel {
            action,
            path: self.path.clone(),
            source: error.into(),
        }
    }
}

impl AsFd for MountPoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl FilesystemId {
    fn of(folder: &File, device: u64) -> io::Result<FilesystemId> {
        let mask = StatxFlags::INO | StatxFlags::BTIME;
        let stat = statx(folder, "", AtFlags::EMPTY_PATH, mask)?;
        let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let born = &stat.stx_btime;
        let nanoseconds = born.tv_sec.saturating_mul(1_000_000_000);
        Ok(FilesystemId {
            device,
            fsid: fstatvfs(folder)?.f_fsid,
            root_inode: stat.stx_ino,
            root_born_ns: is_born.then(|| nanoseconds.saturating_add(i64::from(born.tv_nsec))),
        })
    }

    pub(crate) fn device(&self) -> u64 {
        self.device
    }
}

/// Thaws, and tells a filesystem that was not frozen from one that does not thaw.
pub(crate) fn thaw(folder: impl AsFd) -> rustix::io::Result<Thaw> {
    match thaw_filesystem(folder) {
        Ok(()) => Ok(Thaw::Done),
        Err(Errno::INVAL) => Ok(Thaw::WasNotFrozen),
        Err(error) => Err(error),
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(open(path, flags, Mode::empty())?))
}
