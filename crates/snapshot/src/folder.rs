//! `.lockstep-snapshots`: where images of files lie, beside the volume.
//!
//! An image must be on the volume's own filesystem, and beside the volume is the one place there
//! that whoever may make the image can surely write. The folder is for its owner alone: an image
//! holds all that the volume holds. It is hidden from `ls` and shell patterns by its dot, it goes
//! away with its last image, and one that is somebody else's is refused.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::SnapshotError;

/// The folder's name.
pub const FOLDER: &str = ".lockstep-snapshots";
/// Tries to work in a folder that others keep removing.
const MAX_REMOVALS: usize = 16;

/// The folder of the images of the volumes beside it, held open.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    parent: File,
    folder: File,
}

/// A name in the folder.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: FileType,
}

impl Folder {
    /// The folder for a volume, if there is one.
    pub(crate) fn find(volume: &Path) -> Result<Option<Self>, SnapshotError> {
        let parent = open_parent(volume)?;
        match Self::open(volume, &parent) {
            Ok(folder) => Ok(Some(Self::new(volume, parent, folder)?)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(volume, error)),
        }
    }

    /// Works in the folder for a volume, made durably if there is none. It is gone again if the work
    /// fails and left nothing in it.
    pub(crate) fn make_for<T>(
        volume: &Path,
        work: impl Fn(&Self) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        for _ in 0..MAX_REMOVALS {
            let folder = match Self::make(volume) {
                Err(error) if error.is_missing() => continue,
                folder => folder?,
            };
            match work(&folder) {
                // Whoever released the last image has just removed the folder.
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    // The first error counts.
                    let _ = folder.remove_if_empty();
                    return Err(error);
                }
                done => return done,
            }
        }
        Err(failed(volume, Errno::NOENT))
    }

    fn make(volume: &Path) -> Result<Self, SnapshotError> {
        let parent = open_parent(volume)?;
        let path = path_for(volume);
        match mkdirat(&parent, FOLDER, Mode::RWXU) {
            Ok(()) => sync(&parent, &path)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(SnapshotError::io("making", &path)(error)),
        }
        let folder = Self::open(volume, &parent).map_err(|error| failed(volume, error))?;
        Self::new(volume, parent, folder)
    }

    fn open(volume: &Path, parent: &File) -> rustix::io::Result<File> {
        debug_assert!(volume.is_absolute());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, FOLDER, flags, Mode::empty()).map(File::from)
    }

    fn new(volume: &Path, parent: File, folder: File) -> Result<Self, SnapshotError> {
        let path = path_for(volume);
        let stat = fstat(&folder).map_err(SnapshotError::io("looking at", &path))?;
        let why = if stat.st_uid != geteuid().as_raw() && !geteuid().is_root() {
            "it belongs to another user"
        } else if stat.st_mode & 0o077 != 0 {
            "others than its owner may enter it"
        } else {
            return Ok(Self {
                path,
                parent,
                folder,
            });
        };
        Err(SnapshotError::NotOurs {
            path,
            why: why.to_owned(),
        })
    }

    /// Where something in it is.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// It, for calls that work on names in it.
    pub(crate) fn file(&self) -> &File {
        &self.folder
    }

    /// Opens a regular file in it.
    pub(crate) fn open_file(&self, name: &str, extra: OFlags) -> Result<File, SnapshotError> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
        let opened = openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR);
        opened
            .map(File::from)
            .map_err(SnapshotError::io("opening", &self.join(name)))
    }

    /// All names in it.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, SnapshotError> {
        let failed = || SnapshotError::io("listing", &self.path);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            // A name that is not text is none of ours.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name != "." && name != ".." {
                entries.push(Entry {
                    name: name.to_owned(),
                    kind: self.kind(name, entry.file_type()),
                });
            }
        }
        Ok(entries)
    }

    fn kind(&self, name: &str, told: FileType) -> FileType {
        if told != FileType::Unknown {
            return told;
        }
        // Some filesystems do not say it in the list.
        let stat = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(told, |stat| FileType::from_raw_mode(stat.st_mode))
    }

    /// Removes a file; one that is gone already is no error.
    pub(crate) fn remove_file(&self, name: &str) -> Result<(), SnapshotError> {
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(SnapshotError::io("removing", &self.join(name))(error)),
        }
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> Result<(), SnapshotError> {
        sync(&self.folder, &self.path)
    }

    /// Removes it if it is empty.
    pub(crate) fn remove_if_empty(&self) -> Result<(), SnapshotError> {
        match unlinkat(&self.parent, FOLDER, AtFlags::REMOVEDIR) {
            Ok(()) => sync(&self.parent, &self.path),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(SnapshotError::io("removing", &self.path)(error)),
        }
    }

    /// Bytes that its filesystem still has for this user.
    pub(crate) fn free_bytes(&self) -> Result<u64, SnapshotError> {
        free_bytes(&self.folder).map_err(SnapshotError::io("looking at", &self.path))
    }
}

/// Bytes that the filesystem of an open file still has for this user.
pub(crate) fn free_bytes(of: impl AsFd) -> rustix::io::Result<u64> {
    let stat = rustix::fs::fstatvfs(of)?;
    let blocks = if geteuid().is_root() {
        stat.f_bfree
    } else {
        stat.f_bavail
    };
    Ok(blocks.saturating_mul(stat.f_frsize))
}

/// A name for calls that want it with its ending zero.
pub(crate) fn c_name(name: &str) -> Result<CString, SnapshotError> {
    let path = Path::new(name);
    CString::new(name).map_err(|_| SnapshotError::io("naming", path)(Errno::INVAL))
}

fn path_for(volume: &Path) -> PathBuf {
    volume.with_file_name(FOLDER)
}

fn open_parent(volume: &Path) -> Result<File, SnapshotError> {
    let parent = volume.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, parent, flags, Mode::empty());
    opened
        .map(File::from)
        .map_err(SnapshotError::io("opening", parent))
}

/// Why the folder could not be opened, as something of somebody else's where it is that.
fn failed(volume: &Path, error: Errno) -> SnapshotError {
    let path = path_for(volume);
    match error {
        Errno::LOOP | Errno::NOTDIR => SnapshotError::NotOurs {
            path,
            why: "it is no folder".to_owned(),
        },
        error => SnapshotError::io("opening", &path)(error),
    }
}

fn sync(file: &File, path: &Path) -> Result<(), SnapshotError> {
    file.sync_all().map_err(SnapshotError::io("flushing", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_folder_is_private_and_goes_with_its_last_image() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("disk.img");
        assert!(Folder::find(&volume).unwrap().is_none());
        let folder = Folder::make(&volume).unwrap();
        let mode = dir.path().join(FOLDER).metadata().unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o700);
        std::fs::write(folder.join("image"), b"x").unwrap();
        folder.remove_if_empty().unwrap();
        let again = Folder::make(&volume).unwrap();
        assert_eq!(again.entries().unwrap()[0].name, "image");
        assert_eq!(again.entries().unwrap()[0].kind, FileType::RegularFile);
        again.remove_file("image").unwrap();
        again.remove_file("image").unwrap();
        again.remove_if_empty().unwrap();
        folder.remove_if_empty().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_or_an_open_folder_in_its_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("disk.img");
        let place = dir.path().join(FOLDER);
        symlink("/tmp", &place).unwrap();
        let refused = |result: Result<Folder, SnapshotError>| {
            matches!(result, Err(SnapshotError::NotOurs { .. }))
        };
        assert!(refused(Folder::make(&volume)));
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&place, open).unwrap();
        assert!(refused(Folder::make(&volume)));
    }
}
