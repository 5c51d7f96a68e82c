//! The recipe of writing an index; its steps are numbered in the crate's documentation.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lockstep_merkle::{Cv, Fold, Root};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::error::IndexError;
use crate::folder;
use crate::header::{HEADER_BYTES, Header, file_bytes};
use crate::index::CHUNK_BYTES;

/// The step that comes next: where the recipe can be interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// 2
    Sweep,
    /// 3
    Make,
    /// 3
    Reserve,
    /// 4, once for each megabyte
    Fill,
    /// 6
    Header,
    /// 7
    Flush,
    /// 8
    Rename,
    /// 9
    FlushFolder,
}

/// What a test does before a step; nothing otherwise.
pub(crate) type Before<'a> = &'a mut dyn FnMut(Step) -> io::Result<()>;

/// Steps 3 to 9. `header` becomes true of the values on the way; the volume's lock is held.
pub(crate) fn write(
    path: &Path,
    mut header: Header,
    cvs: impl IntoIterator<Item = Cv>,
    before: Before<'_>,
) -> Result<(), IndexError> {
    let draft = Draft::make(path, before)?;
    draft.reserve(file_bytes(header.facts.geometry.page_count()), before)?;
    let (checksum, folded) = draft.fill(&header, cvs, before)?;
    let promised = header.facts.root;
    if folded != promised {
        return Err(IndexError::RootDiffers { promised, folded });
    }
    header.cv_checksum = checksum;
    draft.finish(&header, before)?;
    draft.put_in_place(path, before)
}

/// An index being made, beside its final name. Dropping it removes it.
struct Draft {
    file: File,
    path: PathBuf,
    is_in_place: bool,
}

impl Draft {
    /// A new file, never one that is there: a reader may have that one mapped.
    fn make(path: &Path, before: Before<'_>) -> Result<Self, IndexError> {
        let path = folder::new_name(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = before(Step::Make)
            .and_then(|()| options.open(&path))
            .map_err(IndexError::io("make", &path))?;
        Ok(Self {
            file,
            path,
            is_in_place: false,
        })
    }

    /// A full disk is better found out before the work than in the middle of it. The length stays
    /// 0, so that a half-filled draft is also too short.
    fn reserve(&self, bytes: u64, before: Before<'_>) -> Result<(), IndexError> {
        before(Step::Reserve)
            .and_then(|()| Ok(allocate(&self.file, bytes)?))
            .map_err(IndexError::io("reserve space for", &self.path))
    }

    /// Streams the values in, past the room for the header; returns their checksum and root.
    fn fill(
        &self,
        header: &Header,
        cvs: impl IntoIterator<Item = Cv>,
        before: Before<'_>,
    ) -> Result<([u8; 32], Root), IndexError> {
        let mut hasher = blake3::Hasher::new();
        let mut fold = Fold::of_pages(header.facts.geometry);
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut at = HEADER_BYTES as u64;
        let mut flush = |chunk: &mut Vec<u8>| {
            before(Step::Fill)?;
            hasher.update(chunk);
            self.file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
            chunk.clear();
            Ok::<(), io::Error>(())
        };
        for cv in cvs {
            fold.push(cv)?;
            chunk.extend_from_slice(cv.as_bytes());
            if chunk.len() == CHUNK_BYTES {
                flush(&mut chunk).map_err(IndexError::io("write", &self.path))?;
            }
        }
        flush(&mut chunk).map_err(IndexError::io("write", &self.path))?;
        Ok((*hasher.finalize().as_bytes(), fold.finish()?))
    }

    fn finish(&self, header: &Header, before: Before<'_>) -> Result<(), IndexError> {
        let block = header.encode()?;
        before(Step::Header)
            .and_then(|()| self.file.write_all_at(&block, 0))
            .map_err(IndexError::io("write", &self.path))?;
        before(Step::Flush)
            .and_then(|()| self.file.sync_all())
            .map_err(IndexError::io("flush", &self.path))
    }

    fn put_in_place(mut self, path: &Path, before: Before<'_>) -> Result<(), IndexError> {
        before(Step::Rename)
            .and_then(|()| fs::rename(&self.path, path))
            .map_err(IndexError::io("put in place", path))?;
        self.is_in_place = true;
        before(Step::FlushFolder)
            .and_then(|()| folder::flush_parent(path))
            .map_err(IndexError::io("flush the folder of", path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_in_place {
            // If that fails too, the next writer of the volume sweeps it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn allocate(file: &File, bytes: u64) -> rustix::io::Result<()> {
    loop {
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Err(Errno::INTR) => {}
            // Then the writes find out.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            result => return result,
        }
    }
}
