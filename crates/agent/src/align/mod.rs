//! Configuration files that are to be the primary's: what they are now, and putting others in place.
//!
//! Promise: nothing is read, made or removed but regular files at or below the places that the
//! cluster file names, without following a symbolic link there; a file is the old one or the new
//! one, whole, at every moment, and the previous version stays beside it.
//!
//! | name beside `NAME` | what it is |
//! | --- | --- |
//! | `.NAME.lockstep-staged` | the next version, until it is put in place |
//! | `.NAME.lockstep-previous` | the previous version |
//!
//! # Recipe
//!
//! 1. Write `.NAME.lockstep-staged`, give it owner and mode, fsync it, flush the folder.
//! 2. Link `NAME` to `.NAME.lockstep-previous`, in place of an older one.
//! 3. Rename `.NAME.lockstep-staged` to `NAME`, flush the folder.
//!
//! A crash before 3 leaves the old version, and 2 and 3 can be done again; after 3 the staged file is
//! gone and `NAME` is what it was to be, which counts as done.

mod staged;
mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use lockstep_cluster::plan::{FileState, Root};
use lockstep_cluster::value::AbsolutePath;
use lockstep_protocol::{Failure, FailureKind};
use rustix::fs::{Mode, OFlags, fstat, openat};

pub use staged::{Incoming, Staged};
pub use walk::states;

use self::walk::Place;

/// Most files of a volume.
pub const MAX_FILES: usize = 4096;
/// Most bytes of a file.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most bytes of a frame that carries a part of a file.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

const STAGED: &str = ".lockstep-staged";
const PREVIOUS: &str = ".lockstep-previous";
/// What counts of a mode: a configuration file is no program that runs as somebody else.
const PERMISSIONS: u32 = 0o777;

/// A file below the places of a volume, with its bytes; none if there is no such file.
///
/// # Errors
/// If it lies elsewhere, is no regular file, is too large, or cannot be read.
pub fn read(
    places: &[AbsolutePath],
    path: &AbsolutePath,
) -> Result<Option<(FileState, Vec<u8>)>, Failure> {
    let Some(place) = Place::find(places, path)? else {
        return Ok(None);
    };
    file_at(&place.folder, &place.name, path)
}

/// A regular file of a folder, with its bytes.
fn file_at(
    folder: &OwnedFd,
    name: &str,
    path: &AbsolutePath,
) -> Result<Option<(FileState, Vec<u8>)>, Failure> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(io_failed("open", path, &error.into())),
    };
    let stat = fstat(&file).map_err(|error| io_failed("look at", path, &error.into()))?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(refused(path, "is no regular file"));
    }
    let mut bytes = Vec::new();
    (&file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| io_failed("read", path, &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused(path, "is larger than 16 MiB"));
    }
    let state = FileState {
        hash: Root::from_bytes(*blake3::hash(&bytes).as_bytes()),
        mode: stat.st_mode & PERMISSIONS,
        uid: stat.st_uid,
        gid: stat.st_gid,
    };
    Ok(Some((state, bytes)))
}

fn io_failed(action: &str, path: &AbsolutePath, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("cannot {action} {path}: {error}"))
}

fn refused(path: &AbsolutePath, why: &str) -> Failure {
    Failure::new(FailureKind::Guard, format!("the file {path} {why}"))
        .hint("change `files` in the cluster file, or the file")
}

#[cfg(test)]
mod tests;
