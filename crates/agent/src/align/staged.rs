//! A file of the primary: put aside first, in place later.

use std::fs::File;
use std::io::Write;

use lockstep_cluster::plan::{FileState, Root};
use lockstep_cluster::value::AbsolutePath;
use lockstep_protocol::Failure;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, fsync, linkat, openat};
use rustix::fs::{renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::walk::{Owner, Place};
use super::{MAX_BYTES, PERMISSIONS, file_at, io_failed, refused};
use crate::wire::FileBytes;

/// A file that lies beside the one that it will replace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    /// Where it belongs.
    pub path: AbsolutePath,
    /// What it is to be; none if there is to be no such file.
    pub state: Option<FileState>,
}

/// A file whose bytes are arriving.
#[derive(Debug)]
pub struct Incoming {
    staged: Staged,
    left: u64,
    into: Option<(File, Box<blake3::Hasher>)>,
}

impl Incoming {
    /// Makes ready for the bytes that were announced.
    ///
    /// # Errors
    /// If the path is not the volume's, the file is too large, or nothing can be made there.
    pub fn begin(places: &[AbsolutePath], announced: &FileBytes) -> Result<Self, Failure> {
        let path = &announced.path;
        if announced.bytes > MAX_BYTES {
            return Err(refused(path, "is larger than 16 MiB"));
        }
        let staged = Staged {
            path: path.clone(),
            state: announced.state,
        };
        let Some(state) = announced.state else {
            // Where it lies must be right all the same.
            Place::find(places, path)?;
            if announced.bytes > 0 {
                return Err(refused(path, "is to be removed, and yet has bytes"));
            }
            return Ok(Self {
                staged,
                left: 0,
                into: None,
            });
        };
        if state.mode & !PERMISSIONS != 0 {
            return Err(refused(path, "has a mode that no configuration file needs"));
        }
        let owner = Owner {
            uid: state.uid,
            gid: state.gid,
        };
        let place = Place::make(places, path, owner)?;
        let failed = |error: Errno| io_failed("write a file beside", path, &error.into());
        remove(&place, &place.staged()).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(
            &place.folder,
            place.staged(),
            flags,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(failed)?;
        Ok(Self {
            staged,
            left: announced.bytes,
            into: Some((file.into(), Box::new(blake3::Hasher::new()))),
        })
    }

    /// How many bytes are to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes a part.
    ///
    /// # Errors
    /// If it is more than was announced, or cannot be written.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let path = &self.staged.path;
        let left = self.left.checked_sub(bytes.len() as u64);
        let (Some(left), Some((file, hasher))) = (left, &mut self.into) else {
            return Err(refused(path, "has more bytes than announced"));
        };
        file.write_all(bytes)
            .map_err(|error| io_failed("write a file beside", path, &error))?;
        hasher.update(bytes);
        self.left = left;
        Ok(())
    }

    /// Makes it durable, with its owner and mode.
    ///
    /// # Errors
    /// If bytes are missing or not those that were announced, or the disk or the kernel refuses.
    pub fn finish(self, places: &[AbsolutePath]) -> Result<Staged, Failure> {
        let (Some((file, hasher)), Some(state)) = (&self.into, self.staged.state) else {
            return Ok(self.staged);
        };
        let path = &self.staged.path;
        let hash = Root::from_bytes(*hasher.finalize().as_bytes());
        if self.left > 0 || hash != state.hash {
            return Err(refused(path, "did not arrive as it was announced"));
        }
        let failed = |error: Errno| io_failed("write a file beside", path, &error.into());
        let (uid, gid) = (Uid::from_raw(state.uid), Gid::from_raw(state.gid));
        fchown(file, Some(uid), Some(gid)).map_err(failed)?;
        fchmod(file, Mode::from_raw_mode(state.mode)).map_err(failed)?;
        fsync(file).map_err(failed)?;
        if let Some(place) = Place::find(places, path)? {
            fsync(&place.folder).map_err(failed)?;
        }
        Ok(self.staged)
    }
}

impl Staged {
    /// Puts it in place, durably; whether anything changed. Doing it again is no error.
    ///
    /// # Errors
    /// If the staged file is gone and the one in place is another, or the disk refuses: then the
    /// file is the old one.
    pub fn apply(&self, places: &[AbsolutePath]) -> Result<bool, Failure> {
        let path = &self.path;
        let failed = |error: Errno| io_failed("replace", path, &error.into());
        let Some(place) = Place::find(places, path)? else {
            return match self.state {
                None => Ok(false),
                Some(_) => Err(refused(path, "was put aside, and its folder is gone")),
            };
        };
        let Some(state) = self.state else {
            return match renameat(&place.folder, &place.name, &place.folder, place.previous()) {
                Ok(()) => fsync(&place.folder).map(|()| true).map_err(failed),
                Err(Errno::NOENT) => Ok(false),
                Err(error) => Err(failed(error)),
            };
        };
        let staged = file_at(&place.folder, &place.staged(), path)?;
        if staged.is_none_or(|(staged, _)| staged != state) {
            let present = file_at(&place.folder, &place.name, path)?;
            return match present.is_some_and(|(present, _)| present == state) {
                true => Ok(false),
                false => Err(refused(path, "was put aside, and is not there any more")),
            };
        }
        remove(&place, &place.previous()).map_err(failed)?;
        let folder = &place.folder;
        match linkat(
            folder,
            &place.name,
            folder,
            place.previous(),
            AtFlags::empty(),
        ) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        renameat(folder, place.staged(), folder, &place.name).map_err(failed)?;
        fsync(folder).map_err(failed)?;
        Ok(true)
    }

    /// Removes what was put aside.
    pub fn discard(&self, places: &[AbsolutePath]) {
        if let Ok(Some(place)) = Place::find(places, &self.path)
            && let Err(error) = remove(&place, &place.staged())
        {
            tracing::warn!("what was put aside of {} stays: {error}", self.path);
        }
    }
}

fn remove(place: &Place, name: &str) -> Result<(), Errno> {
    match unlinkat(&place.folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}
