//! Folders, entered one name at a time, never through a symbolic link.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use lockstep_cluster::plan::FileState;
use lockstep_cluster::value::AbsolutePath;
use lockstep_protocol::{Failure, FailureKind};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, open, openat, statat,
};
use rustix::io::Errno;

use super::{MAX_FILES, PREVIOUS, STAGED, file_at, io_failed, refused};

/// Deepest folder below a place.
const MAX_DEPTH: usize = 32;
/// Most names that are looked at, folders and what is no file included.
const MAX_NAMES: usize = 4 * MAX_FILES;
/// Longest name that Linux filesystems take, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Mode of a folder that the primary has and this node had not.
const FOLDER_MODE: u32 = 0o755;

/// Where a file is, or is to be: a folder held open, and a name in it.
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: String,
}

/// Who owns folders that are made.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Place {
    /// The place of a path; none if its folder does not exist.
    pub(super) fn find(
        places: &[AbsolutePath],
        path: &AbsolutePath,
    ) -> Result<Option<Self>, Failure> {
        Self::enter(places, path, None)
    }

    /// The place of a path, whose folders are made below the named place.
    pub(super) fn make(
        places: &[AbsolutePath],
        path: &AbsolutePath,
        owner: Owner,
    ) -> Result<Self, Failure> {
        let place = Self::enter(places, path, Some(owner))?;
        place.ok_or_else(|| refused(path, "lies in a folder that does not exist"))
    }

    fn enter(
        places: &[AbsolutePath],
        path: &AbsolutePath,
        make: Option<Owner>,
    ) -> Result<Option<Self>, Failure> {
        let above = places
            .iter()
            .find(|place| path.as_path().starts_with(place.as_path()))
            .and_then(|place| place.as_path().parent());
        let Some(above) = above else {
            return Err(refused(path, "is not among the volume's `files`"));
        };
        let relative = path.as_path().strip_prefix(above);
        let names: Option<Vec<&str>> = relative
            .ok()
            .and_then(|relative| relative.iter().map(std::ffi::OsStr::to_str).collect());
        let Some((name, folders)) = names.as_deref().and_then(<[&str]>::split_last) else {
            return Err(refused(path, "is not among the volume's `files`"));
        };
        if folders.len() > MAX_DEPTH {
            return Err(refused(path, "lies too deep"));
        }
        if is_ours(name) || name.len() + 1 + PREVIOUS.len() > MAX_NAME_BYTES {
            return Err(refused(
                path,
                "has a name that cannot be kept beside another",
            ));
        }
        // The administrator named it, with whatever links lead there.
        let mut folder = match open(above, folder_flags() - OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io_failed("open the folder of", path, &error.into())),
        };
        for name in folders {
            match inner(&folder, name, make) {
                Ok(next) => folder = next,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    return Err(refused(path, "lies behind a symbolic link or a file"));
                }
                Err(error) => return Err(io_failed("open the folder of", path, &error.into())),
            }
        }
        let name = (*name).to_owned();
        Ok(Some(Self { folder, name }))
    }

    pub(super) fn staged(&self) -> String {
        format!(".{}{STAGED}", self.name)
    }

    pub(super) fn previous(&self) -> String {
        format!(".{}{PREVIOUS}", self.name)
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn inner(folder: &OwnedFd, name: &str, make: Option<Owner>) -> Result<OwnedFd, Errno> {
    let opened = openat(folder, name, folder_flags(), Mode::empty());
    let (Err(Errno::NOENT), Some(owner)) = (&opened, make) else {
        return opened;
    };
    mkdirat(folder, name, Mode::from_raw_mode(FOLDER_MODE))?;
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    openat(folder, name, folder_flags(), Mode::empty())
}

/// What this crate puts beside a file is no file of the volume.
fn is_ours(name: &str) -> bool {
    name.starts_with('.') && (name.ends_with(STAGED) || name.ends_with(PREVIOUS))
}

/// The state of every regular file at or below the places of a volume. What does not exist is left
/// out, and so are symbolic links and sockets in folders.
///
/// # Errors
/// If a place is neither file nor folder, a name is no plain text, there are too many files or too
/// large ones, or one cannot be read: what is not known must not be taken for equal.
pub fn states(places: &[AbsolutePath]) -> Result<BTreeMap<AbsolutePath, FileState>, Failure> {
    let mut walk = Walk::default();
    for path in places {
        let Some(place) = Place::find(places, path)? else {
            continue;
        };
        match kind(&place.folder, &place.name) {
            Ok(FileType::RegularFile) => walk.file(&place.folder, &place.name, path)?,
            Ok(FileType::Directory) => {
                let folder = openat(&place.folder, &place.name, folder_flags(), Mode::empty())
                    .map_err(|error| io_failed("open", path, &error.into()))?;
                walk.folder(&folder, path, 0)?;
            }
            Ok(_) => return Err(refused(path, "is neither a regular file nor a folder")),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(io_failed("look at", path, &error.into())),
        }
    }
    Ok(walk.found)
}

fn kind(folder: &OwnedFd, name: &str) -> Result<FileType, Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

#[derive(Default)]
struct Walk {
    found: BTreeMap<AbsolutePath, FileState>,
    names: usize,
}

impl Walk {
    fn file(&mut self, folder: &OwnedFd, name: &str, path: &AbsolutePath) -> Result<(), Failure> {
        if self.found.len() >= MAX_FILES {
            return Err(too_many(path));
        }
        // One that is gone by now is not there.
        if let Some((state, _)) = file_at(folder, name, path)? {
            self.found.insert(path.clone(), state);
        }
        Ok(())
    }

    fn folder(
        &mut self,
        folder: &OwnedFd,
        path: &AbsolutePath,
        depth: usize,
    ) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(refused(path, "lies too deep"));
        }
        let failed = |error: Errno| io_failed("list", path, &error.into());
        for entry in Dir::read_from(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.names += 1;
            if self.names > MAX_NAMES {
                return Err(too_many(path));
            }
            let name = std::str::from_utf8(name)
                .map_err(|_| refused(path, "holds a name that is not UTF-8"))?;
            if is_ours(name) {
                continue;
            }
            self.entry(folder, name, path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &str,
        above: &AbsolutePath,
        depth: usize,
    ) -> Result<(), Failure> {
        let path = Path::new(above.as_str()).join(name);
        let path: AbsolutePath = path
            .to_string_lossy()
            .parse()
            .map_err(|_| refused(above, "holds a name with control characters"))?;
        match kind(folder, name) {
            Ok(FileType::RegularFile) => self.file(folder, name, &path),
            Ok(FileType::Directory) => {
                let inner = openat(folder, name, folder_flags(), Mode::empty())
                    .map_err(|error| io_failed("open", &path, &error.into()))?;
                self.folder(&inner, &path, depth + 1)
            }
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io_failed("look at", &path, &error.into())),
        }
    }
}

fn too_many(path: &AbsolutePath) -> Failure {
    Failure::new(
        FailureKind::Guard,
        format!("the volume's `files` are more than {MAX_FILES} (at {path})"),
    )
    .hint("name fewer folders in `files`")
}
