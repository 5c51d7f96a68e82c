//! The steps of making and of removing an image.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{
    FlockOperation, IFlags, Mode, OFlags, RenameFlags, fchmod, flock, ioctl_ficlone,
    ioctl_getflags, ioctl_setflags, renameat, renameat_with,
};
use rustix::io::Errno;

use super::NAME;
use super::seal::{Seal, seal};
use crate::error::SnapshotError;
use crate::folder::Folder;
use crate::name::{SnapshotName, VolumeName};
use crate::snapshot::Snapshot;
use crate::steps::{Observer, Step};

/// Around a snapshot's name while it is being made, and while it is being removed.
const MAKING: (&str, &str) = (".", ".making");

/// An image that is being made; what is there of it goes away unless it is finished.
pub(super) struct Making<'a> {
    folder: &'a Folder,
    name: &'a SnapshotName,
    file: File,
    observer: Observer,
    is_finished: bool,
}

impl<'a> Making<'a> {
    pub(super) fn begin(
        folder: &'a Folder,
        name: &'a SnapshotName,
        observer: Observer,
    ) -> Result<Self, SnapshotError> {
        let half = half_name(name);
        let file = folder.open_file(&half, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        let making = Self {
            folder,
            name,
            file,
            observer,
            is_finished: false,
        };
        // Who recovers meanwhile sees by the lock that somebody is at work.
        flock(&making.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(SnapshotError::io("locking", &folder.join(&half)))?;
        observer.done(Step::Begun);
        Ok(making)
    }

    pub(super) fn finish(mut self, source: &File, volume: &Path) -> Result<Seal, SnapshotError> {
        let (half, name) = (half_name(self.name), self.name.to_string());
        let half_path = self.folder.join(&half);
        copy_nocow(source, &self.file)
            .map_err(SnapshotError::io("setting flags of", &half_path))?;
        ioctl_ficlone(&self.file, source).map_err(|error| why_no_clone(error, volume))?;
        self.observer.done(Step::Cloned);
        fchmod(&self.file, Mode::RUSR)
            .and_then(|()| rustix::fs::fsync(&self.file))
            .map_err(SnapshotError::io("flushing", &half_path))?;
        self.observer.done(Step::Flushed);
        let path = self.folder.join(&name);
        let folder = self.folder.file();
        renameat_with(folder, &half, folder, &name, RenameFlags::NOREPLACE)
            .map_err(SnapshotError::io("naming", &path))?;
        self.observer.done(Step::Named);
        self.is_finished = true;
        self.folder.sync()?;
        self.observer.done(Step::NameFlushed);
        seal(&self.file, &path)?;
        self.observer.done(Step::Sealed);
        Seal::of(&self.file, &path)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays is found by the next recovery.
            let _ = self.folder.remove_file(&half_name(self.name));
        }
    }
}

/// btrfs does not share extents between files of which only one is NOCOW.
pub(super) fn copy_nocow(from: &File, to: &File) -> rustix::io::Result<()> {
    let is_nocow = ioctl_getflags(from).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    let flags = ioctl_getflags(to)?;
    if flags.contains(IFlags::NOCOW) == is_nocow {
        return Ok(());
    }
    // A folder may pass NOCOW on to files made in it.
    ioctl_setflags(to, flags ^ IFlags::NOCOW)
}

/// Takes an image's flag and name away, durably. First the name: what is half removed is no image, as
/// what is half made is none.
pub(super) fn remove(
    folder: &Folder,
    name: &SnapshotName,
    file: &File,
    observer: Observer,
) -> Result<(), SnapshotError> {
    let (whole, half) = (name.to_string(), half_name(name));
    let failed = || SnapshotError::io("making removable", &folder.join(&whole));
    let flags = ioctl_getflags(file).map_err(failed())?;
    if flags.contains(IFlags::IMMUTABLE) {
        ioctl_setflags(file, flags - IFlags::IMMUTABLE).map_err(failed())?;
    }
    observer.done(Step::Unsealed);
    let in_folder = folder.file();
    match renameat(in_folder, &whole, in_folder, &half) {
        // Somebody else is removing it too.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed()(error)),
    }
    observer.done(Step::SetAside);
    empty(folder, &half, file);
    folder.remove_file(&half)?;
    observer.done(Step::Removed);
    folder.sync()?;
    observer.done(Step::RemovalFlushed);
    Ok(())
}

/// Gives the space back at once, even if somebody still has the image open. What does not work here
/// is done by the kernel when the last one closes it.
fn empty(folder: &Folder, name: &str, file: &File) {
    let emptied = fchmod(file, Mode::RUSR | Mode::WUSR)
        .map_err(SnapshotError::io("opening", &folder.join(name)))
        .and_then(|()| folder.open_file(name, OFlags::WRONLY))
        .map(|writable| writable.set_len(0));
    if let Ok(Err(error)) = emptied {
        tracing::debug!("{name} keeps its space until it is closed: {error}");
    }
}

/// Finishes what a crash after the naming left undone, and describes what is there.
pub(super) fn adopt(
    folder: &Folder,
    name: &SnapshotName,
    volume: &Path,
) -> Result<Option<Snapshot>, SnapshotError> {
    let file = folder.open_file(&name.to_string(), OFlags::RDONLY)?;
    let path = folder.join(&name.to_string());
    let metadata = file
        .metadata()
        .map_err(SnapshotError::io("looking at", &path))?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        // Nothing that was made here, whatever its name.
        return Ok(None);
    }
    seal(&file, &path)?;
    folder.sync()?;
    let seal = Seal::of(&file, &path)?;
    Snapshot::made(NAME, name, volume, seal.size, &seal).map(Some)
}

/// Removes a half made image, unless somebody is making it.
pub(super) fn remove_half_made(folder: &Folder, name: &str) -> Result<bool, SnapshotError> {
    let file = match folder.open_file(name, OFlags::RDONLY) {
        Ok(file) => file,
        // Finished or given up in this moment.
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(SnapshotError::io("locking", &folder.join(name))(error)),
    }
    // Whoever adopted an image in the moment in which it was removed has made it immutable again.
    if let Ok(flags) = ioctl_getflags(&file)
        && flags.contains(IFlags::IMMUTABLE)
    {
        ioctl_setflags(&file, flags - IFlags::IMMUTABLE)
            .map_err(SnapshotError::io("making removable", &folder.join(name)))?;
    }
    folder.remove_file(name)?;
    folder.sync()?;
    Ok(true)
}

fn half_name(name: &SnapshotName) -> String {
    let (before, after) = MAKING;
    format!("{before}{name}{after}")
}

pub(super) fn is_half_made(entry: &str, volume: &VolumeName) -> bool {
    let (before, after) = MAKING;
    entry
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|name| SnapshotName::of_volume(name, volume).is_some())
}

fn why_no_clone(error: Errno, volume: &Path) -> SnapshotError {
    let why = match error {
        Errno::OPNOTSUPP | Errno::NOTTY => "its filesystem has no reflinks",
        Errno::XDEV => "its folder is on another filesystem",
        Errno::INVAL => "its filesystem refuses to share its extents",
        Errno::TXTBSY => "it is used as swap space",
        error => return SnapshotError::io("cloning", volume)(error),
    };
    SnapshotError::Unfit {
        provider: NAME,
        volume: volume.to_path_buf(),
        why: why.to_owned(),
    }
}
