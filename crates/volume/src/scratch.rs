//! A new file without a name: what a filesystem's writing is measured on.
//!
//! Nothing that exists can be hit, and nothing is left behind however the process ends: the file goes
//! with its last descriptor, and no path ever led to it.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::failure::IoFailure;
use crate::medium::{Access, Medium, MediumParts};
use crate::volume::{IoEngine, Volume, VolumeKind};

/// A nameless file, all hole at first.
#[derive(Debug)]
pub struct Scratch {
    medium: Medium,
}

/// Makes a nameless file of so many bytes on the filesystem of this folder (`O_TMPFILE`; where that
/// is missing, a fresh name that is removed at once).
///
/// # Errors
/// The folder is none, or may not be written.
pub fn scratch_file(folder: &Path, size: u64, engine: IoEngine) -> io::Result<Scratch> {
    let file = tempfile::tempfile_in(folder)?;
    file.set_len(size)?;
    let medium = Medium::new(MediumParts {
        path: folder.to_path_buf(),
        file,
        kind: VolumeKind::File,
        access: Access::ReadWrite,
        engine,
        size,
        present: size,
    });
    Ok(Scratch { medium })
}

impl Volume for Scratch {
    fn size(&self) -> u64 {
        self.medium.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.medium.read_at(offset, buf)
    }

    fn read_if_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool, IoFailure> {
        self.medium.read_if_cached(offset, buf)
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.medium.read_back(offset, buf)
    }

    fn read_back_many(&self, reads: &mut [(u64, &mut [u8])]) -> Result<(), IoFailure> {
        self.medium.read_back_many(reads)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        self.medium.write_at(offset, buf)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> Result<(), IoFailure> {
        self.medium.write_many(writes)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        self.medium.zero(range)
    }

    fn start_writeback(&self, range: Range<u64>) {
        self.medium.start_writeback(range);
    }

    fn flush(&self) -> Result<(), IoFailure> {
        self.medium.flush()
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        self.medium.next_data(from)
    }

    fn advise_sequential(&self) {
        self.medium.advise_sequential();
    }

    fn will_need(&self, range: Range<u64>) {
        self.medium.will_need(range);
    }

    fn has_medium(&self) -> bool {
        self.medium.has_medium()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back_and_the_folder_stays_empty() {
        let folder = tempfile::tempdir().unwrap();
        for engine in [IoEngine::Threads, IoEngine::Uring] {
            let scratch = scratch_file(folder.path(), 1 << 20, engine).unwrap();
            let bytes = vec![7; 256 << 10];
            scratch
                .write_many(&[(0, &bytes), (512 << 10, &bytes)])
                .unwrap();
            scratch.flush().unwrap();
            let mut back = vec![0; 256 << 10];
            scratch.read_back(512 << 10, &mut back).unwrap();
            assert!(back == bytes);
            scratch.read_back(256 << 10, &mut back).unwrap();
            assert!(back.iter().all(|byte| *byte == 0));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_folder_that_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert!(scratch_file(&file, 4096, IoEngine::Threads).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
}
