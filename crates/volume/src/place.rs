//! Paths: where they lead, and what is there.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat, statat};
use rustix::io::Errno;

use crate::open_error::OpenError;
use crate::volume::VolumeKind;

/// Where a target's path leads: its folder without symbolic links, and its name.
///
/// An existing target is followed through links to what it is; a missing one needs an existing
/// folder.
///
/// # Errors
/// [`OpenError::MissingFolder`] without the folder, [`OpenError::NotAVolume`] if the path is a link
/// to nothing or no file's name, [`OpenError::Permission`] if the way is barred.
pub fn canonical_target(path: &Path) -> Result<PathBuf, OpenError> {
    match path.canonicalize() {
        Ok(canonical) => Ok(canonical),
        Err(error) if is_missing(&error) => canonical_missing(path),
        Err(error) => Err(OpenError::from_io("looking up", path, error)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn canonical_missing(path: &Path) -> Result<PathBuf, OpenError> {
    if path.is_symlink() {
        return Err(not_a_volume(path, "a symbolic link to nothing"));
    }
    let names_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let (Some(name), false) = (path.file_name(), names_a_folder) else {
        return Err(OpenError::MissingFolder {
            folder: path.to_path_buf(),
        });
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match folder.canonicalize() {
        Ok(canonical) if canonical.is_dir() => Ok(canonical.join(name)),
        Ok(_) => Err(OpenError::MissingFolder {
            folder: folder.to_path_buf(),
        }),
        Err(error) if is_missing(&error) => Err(OpenError::MissingFolder {
            folder: folder.to_path_buf(),
        }),
        Err(error) => Err(OpenError::from_io("looking up", folder, error)),
    }
}

/// What is at a canonical path; `None` if nothing is. Symbolic links are not followed.
pub(crate) fn look(path: &Path) -> Result<Option<(VolumeKind, Stat)>, OpenError> {
    match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((kind_of(path, &stat)?, stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(OpenError::from_io("looking up", path, error)),
    }
}

/// The kind of volume, or what it is instead.
pub(crate) fn kind_of(path: &Path, stat: &Stat) -> Result<VolumeKind, OpenError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(VolumeKind::File),
        FileType::BlockDevice => return Ok(VolumeKind::BlockDevice),
        FileType::Directory => "a folder",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "of an unknown type",
    };
    Err(not_a_volume(path, what))
}

fn not_a_volume(path: &Path, what: &'static str) -> OpenError {
    OpenError::NotAVolume {
        path: path.to_path_buf(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::open_error::OpenErrorKind;

    #[test]
    fn links_are_followed_to_what_exists_and_missing_names_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("image"), b"x").unwrap();
        symlink("image", root.join("link")).unwrap();
        symlink(".", root.join("folder")).unwrap();
        let image = root.join("image");
        assert_eq!(canonical_target(&root.join("folder/link")).unwrap(), image);
        let fresh = canonical_target(
            &root
                .join("folder/../")
                .join(root.file_name().unwrap())
                .join("new"),
        );
        assert_eq!(fresh.unwrap(), root.join("new"));
    }

    #[test]
    fn links_to_nothing_and_missing_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |name: &str| canonical_target(&dir.path().join(name)).unwrap_err().kind();
        symlink("nothing", dir.path().join("dangling")).unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        assert_eq!(kind("dangling"), OpenErrorKind::NotAVolume);
        assert_eq!(kind("no/where"), OpenErrorKind::MissingFolder);
        assert_eq!(kind("file/inside"), OpenErrorKind::MissingFolder);
        assert_eq!(kind("new/"), OpenErrorKind::MissingFolder);
        assert_eq!(kind("gone/.."), OpenErrorKind::MissingFolder);
    }
}
