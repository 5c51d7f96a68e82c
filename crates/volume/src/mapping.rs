//! A finished file of our own, mapped for reading; never a volume.
#![expect(
    unsafe_code,
    reason = "one view of the mapping as atomic words, so that a changed file is no data race"
)]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::io::Errno;

use crate::failure::{Call, IoFailure, Operation};

const WORD_BYTES: u64 = 8;
const WORDS: usize = 4;
const BLOCK_BYTES: u64 = WORD_BYTES * WORDS as u64;

/// The first bytes of a file that nobody changes any more, mapped read-only.
///
/// It keeps the file alive when its name is removed or goes to another file. Whoever shortens the
/// file itself kills the process that reads past its new end (`SIGBUS`), and so does a disk that
/// cannot read a page back: map only files that are replaced by renaming, and read them once before.
#[derive(Debug)]
pub struct FileMapping {
    map: MmapRaw,
    length: u64,
}

impl FileMapping {
    /// Maps the first `length` bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`IoFailure::Truncated`] if the file is shorter, [`IoFailure::Failed`] if it cannot be mapped.
    pub fn new(file: &File, path: &Path, length: u64) -> Result<FileMapping, IoFailure> {
        let call = Call {
            operation: Operation::Map,
            path,
            offset: 0,
            length,
        };
        let end = file.metadata().map_err(|error| call.failed(error))?.len();
        if end < length {
            return Err(call.truncated(end));
        }
        let bytes = usize::try_from(length).map_err(|_| call.failed(Errno::FBIG))?;
        let map = MmapOptions::new()
            .len(bytes)
            .map_raw_read_only(file)
            .map_err(|error| call.failed(error))?;
        Ok(FileMapping { map, length })
    }

    /// Bytes that are mapped.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The 32 bytes at `offset`.
    ///
    /// # Panics
    /// If they do not lie inside the mapping, or `offset` is not a multiple of 8.
    #[must_use]
    pub fn block(&self, offset: u64) -> [u8; BLOCK_BYTES as usize] {
        let mut bytes = [0; BLOCK_BYTES as usize];
        let (parts, _) = bytes.as_chunks_mut::<{ WORD_BYTES as usize }>();
        for (part, word) in parts.iter_mut().zip(self.words(offset)) {
            *part = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        bytes
    }

    fn words(&self, offset: u64) -> &[AtomicU64] {
        let end = offset.checked_add(BLOCK_BYTES);
        assert!(
            end.is_some_and(|end| end <= self.length) && offset.is_multiple_of(WORD_BYTES),
            "no block at {offset} of {} mapped bytes",
            self.length
        );
        let first = (offset / WORD_BYTES) as usize;
        // SAFETY: the mapping is page-aligned, holds `length` bytes, lives as long as `self`, and is
        // only loaded from, through atomics, so that a file changed underneath yields odd values and
        // not undefined behaviour.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>().add(first), WORDS)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn mapped(bytes: &[u8], length: u64) -> Result<FileMapping, IoFailure> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        FileMapping::new(&file, Path::new("/an/index"), length)
    }

    fn some_bytes(count: usize) -> Vec<u8> {
        (0..=250_u8).cycle().take(count).collect()
    }

    #[test]
    fn every_block_reads_as_the_file_has_it() {
        let bytes = some_bytes(9000);
        let mapping = mapped(&bytes, 8192).unwrap();
        assert_eq!(mapping.len(), 8192);
        for offset in (0..=8192 - 32).step_by(8) {
            assert_eq!(mapping.block(offset as u64), bytes[offset..offset + 32]);
        }
    }

    #[test]
    fn a_removed_file_stays_readable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), some_bytes(64)).unwrap();
        let mapping = FileMapping::new(file.as_file(), file.path(), 64).unwrap();
        file.close().unwrap();
        assert_eq!(mapping.block(32), some_bytes(64)[32..]);
    }

    #[test]
    fn a_file_shorter_than_the_mapping_is_refused() {
        let refused = mapped(&some_bytes(63), 64).unwrap_err();
        assert!(
            refused.to_string().contains("/an/index: it ends at 63"),
            "{refused}"
        );
    }

    #[test]
    fn an_empty_mapping_has_no_block() {
        let mapping = mapped(&[], 0).unwrap();
        assert!(mapping.is_empty());
    }

    #[test]
    #[should_panic(expected = "no block at 8 of 32 mapped bytes")]
    fn a_block_across_the_end_is_refused() {
        let _ = mapped(&some_bytes(64), 32).unwrap().block(8);
    }

    #[test]
    #[should_panic(expected = "no block at 4 of 64 mapped bytes")]
    fn a_block_between_two_words_is_refused() {
        let _ = mapped(&some_bytes(64), 64).unwrap().block(4);
    }
}
