//! Whether an image is still what was made.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, IFlags, OFlags, StatxAttributes, StatxFlags, StatxTimestamp, ioctl_getflags,
    ioctl_setflags, statx,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::NAME;
use crate::doubt::{Doubt, Which};
use crate::error::SnapshotError;
use crate::folder::Folder;
use crate::snapshot::Snapshot;

/// What tells an image from every other file, and from itself after a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    inode: u64,
    /// Time of birth in nanoseconds since 1970, where the filesystem keeps it.
    born_ns: Option<i64>,
    /// Time of the last change of the file or of what is known of it.
    changed_ns: i64,
    pub(super) size: u64,
    immutable: bool,
}

impl Seal {
    pub(super) fn of(file: &File, path: &Path) -> Result<Self, SnapshotError> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(file, "", AtFlags::EMPTY_PATH, wanted)
            .map_err(SnapshotError::io("looking at", path))?;
        let time = |time: StatxTimestamp| {
            let seconds = time.tv_sec.saturating_mul(1_000_000_000);
            seconds.saturating_add(time.tv_nsec.into())
        };
        let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            inode: stat.stx_ino,
            born_ns: is_born.then(|| time(stat.stx_btime)),
            changed_ns: time(stat.stx_ctime),
            size: stat.stx_size,
            immutable: stat.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        })
    }

    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.inode, self.born_ns) == (other.inode, other.born_ns)
    }
}

/// What makes an image useless for reading, if anything does. A flag that was taken away is not
/// enough: the time of change tells whether anything else happened, and the flag changes that too.
pub(super) fn difference(made: &Seal, found: &Seal) -> Option<String> {
    let what = if !found.is_same_file(made) {
        "it is another file than the one that was made"
    } else if found.size != made.size || found.changed_ns != made.changed_ns {
        "it was touched after it was made"
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// An image that is alive, immutable and what was made.
pub(super) struct Trusted {
    which: Which,
    pub(super) file: File,
    path: PathBuf,
    seal: Seal,
}

impl Trusted {
    pub(super) fn open(snapshot: &Snapshot, which: Which) -> Result<Self, Doubt> {
        let seal: Seal = snapshot
            .detail_for(NAME)
            .map_err(Doubt::unreadable(which))?;
        let (folder, file) = open_image(snapshot).map_err(|error| match error {
            error if error.is_missing() => Doubt::Gone { which },
            error => Doubt::unreadable(which)(error),
        })?;
        let path = folder.join(&snapshot.name.to_string());
        // Extent items do not tell of stores that are in memory only.
        file.sync_data().map_err(Doubt::unreadable(which))?;
        let trusted = Self {
            which,
            file,
            path,
            seal,
        };
        trusted.is_still_sealed()?;
        Ok(trusted)
    }

    pub(super) fn is_still_sealed(&self) -> Result<(), Doubt> {
        let which = self.which;
        let found = Seal::of(&self.file, &self.path).map_err(Doubt::unreadable(which))?;
        if !found.is_same_file(&self.seal) || found.size != self.seal.size {
            let what = "another file has its name".to_owned();
            return Err(Doubt::Replaced { which, what });
        }
        if !found.immutable || !self.seal.immutable {
            return Err(Doubt::NotImmutable { which });
        }
        if found.changed_ns != self.seal.changed_ns {
            return Err(Doubt::Touched { which });
        }
        Ok(())
    }
}

/// Makes a file immutable, durably. Without the right to, its missing write permission must do, and
/// no delta is believed.
pub(super) fn seal(file: &File, path: &Path) -> Result<(), SnapshotError> {
    let failed = || SnapshotError::io("making immutable", path);
    let flags = ioctl_getflags(file).map_err(failed())?;
    if flags.contains(IFlags::IMMUTABLE) {
        return Ok(());
    }
    match ioctl_setflags(file, flags | IFlags::IMMUTABLE) {
        Ok(()) => rustix::fs::fsync(file).map_err(failed()),
        Err(Errno::PERM | Errno::ACCESS) => {
            tracing::debug!("{} is not immutable: that needs root", path.display());
            Ok(())
        }
        Err(error) => Err(failed()(error)),
    }
}

pub(super) fn open_image(snapshot: &Snapshot) -> Result<(Folder, File), SnapshotError> {
    let gone = || SnapshotError::Gone {
        name: snapshot.name.to_string(),
    };
    let folder = Folder::find(&snapshot.volume)?.ok_or_else(gone)?;
    match folder.open_file(&snapshot.name.to_string(), OFlags::RDONLY) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok((folder, file)),
        Ok(_) => Err(SnapshotError::NotOurs {
            path: folder.join(&snapshot.name.to_string()),
            why: "it is no regular file".to_owned(),
        }),
        Err(error) if error.is_missing() => Err(gone()),
        Err(error) => Err(error),
    }
}
