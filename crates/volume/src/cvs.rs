//! The tree of a large volume: 32 bytes a group, in a mapped file that has no name.
#![expect(
    unsafe_code,
    reason = "one view of the mapping as atomic words, so that threads may share it"
)]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_merkle::{Cv, CvTable, GroupIndex};
use memmap2::{MmapMut, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::failure::{Call, IoFailure, Operation};
use crate::transfer::write_fully;

const BYTES_PER_CV: u64 = 32;
const WORDS_PER_CV: usize = 4;
/// Smaller tables live in ordinary memory: the tree of 32 GiB.
const MAX_IN_MEMORY_BYTES: u64 = 16 << 20;

/// The chaining values of one volume, one side of a run.
///
/// Below 16 MiB, or another limit, ordinary memory that costs nothing until it is filled; else a file
/// without a name, whose pages the kernel can write out when memory is short. The file's blocks are
/// allocated before it is mapped, so a full disk is an error here and not a `SIGBUS` later.
pub struct MappedCvs {
    map: MmapRaw,
    group_count: u64,
}

impl MappedCvs {
    /// A table of that many groups, all zero; a large one as an unnamed file in `dir`.
    ///
    /// # Errors
    /// [`IoFailure::NoSpace`] if `dir` has no room, [`IoFailure::Failed`] if no file can be made or
    /// mapped there.
    pub fn new(group_count: u64, dir: &Path) -> Result<MappedCvs, IoFailure> {
        Self::with_memory_limit(group_count, dir, MAX_IN_MEMORY_BYTES)
    }

    /// The same, in memory below another limit, in bytes.
    ///
    /// # Errors
    /// As [`MappedCvs::new`].
    pub fn with_memory_limit(
        group_count: u64,
        dir: &Path,
        in_memory: u64,
    ) -> Result<MappedCvs, IoFailure> {
        let call = Call {
            operation: Operation::Map,
            path: dir,
            offset: 0,
            length: group_count.saturating_mul(BYTES_PER_CV),
        };
        let map = if call.length < in_memory.max(BYTES_PER_CV) {
            map_memory(call)?
        } else {
            map_unnamed_file(call)?
        };
        Ok(MappedCvs { map, group_count })
    }
}

fn map_memory(call: Call<'_>) -> Result<MmapRaw, IoFailure> {
    // A mapping of nothing is refused.
    let length =
        usize::try_from(call.length.max(BYTES_PER_CV)).map_err(|_| call.failed(Errno::FBIG))?;
    let map = MmapMut::map_anon(length).map_err(|error| call.failed(error))?;
    Ok(MmapRaw::from(map))
}

fn map_unnamed_file(call: Call<'_>) -> Result<MmapRaw, IoFailure> {
    let length = usize::try_from(call.length).map_err(|_| call.failed(Errno::FBIG))?;
    let file = tempfile::tempfile_in(call.path).map_err(|error| call.failed(error))?;
    allocate(&file, call.length).map_err(|error| call.failed(error))?;
    MmapOptions::new()
        .len(length)
        .map_raw(&file)
        .map_err(|error| call.failed(error))
}

/// Blocks for the whole file; by writing them where the filesystem cannot do it otherwise.
fn allocate(file: &File, length: u64) -> rustix::io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, length),
        result => result,
    }
}

fn write_zeros(file: &File, length: u64) -> rustix::io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = 0;
    while at < length {
        let count = (length - at).min(ZEROS.len() as u64);
        write_fully(at, &ZEROS[..count as usize], |at, part| {
            rustix::io::pwrite(file, part, at)
        })?;
        at += count;
    }
    Ok(())
}

/// The words of one group of a mapped table of `group_count` groups.
fn words(map: &MmapRaw, group_count: u64, group: GroupIndex) -> &[AtomicU64] {
    assert!(group.0 < group_count, "the table has no group {group}");
    let first = group.0 as usize * WORDS_PER_CV;
    // SAFETY: the mapping is page-aligned, holds `group_count * 32` bytes of memory, or of a file that
    // is allocated and reachable by no other process, lives as long as `map`, and is touched through atomics only.
    unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>().add(first), WORDS_PER_CV) }
}

impl CvTable for MappedCvs {
    fn len(&self) -> u64 {
        self.group_count
    }

    fn cv(&self, group: GroupIndex) -> Cv {
        let mut bytes = [0; BYTES_PER_CV as usize];
        let (parts, _) = bytes.as_chunks_mut::<8>();
        for (part, word) in parts
            .iter_mut()
            .zip(words(&self.map, self.group_count, group))
        {
            *part = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Cv::from_bytes(bytes)
    }

    fn set(&self, group: GroupIndex, cv: Cv) {
        let (parts, _) = cv.as_bytes().as_chunks::<8>();
        for (part, word) in parts.iter().zip(words(&self.map, self.group_count, group)) {
            word.store(u64::from_ne_bytes(*part), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cv_of(group: u64) -> Cv {
        let mut bytes = [0xA5; 32];
        bytes[..8].copy_from_slice(&group.to_le_bytes());
        bytes[24..].copy_from_slice(&(group ^ u64::MAX).to_be_bytes());
        Cv::from_bytes(bytes)
    }

    fn filled_by_threads(table: &MappedCvs) {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for group in (thread..table.len()).step_by(4) {
                        table.set(GroupIndex(group), cv_of(group));
                    }
                });
            }
        });
        let right = |group| table.cv(GroupIndex(group)) == cv_of(group);
        assert!((0..table.len()).all(right));
    }

    #[test]
    fn a_small_table_is_memory_and_a_large_one_a_file_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Path::new("/nonexistent/folder");
        let limit = (16 << 20) / 32;
        MappedCvs::new(limit - 1, nowhere).unwrap();
        assert!(MappedCvs::new(limit, nowhere).is_err());
        let large = MappedCvs::new(limit, dir.path()).unwrap();
        assert_eq!(
            large.cv(GroupIndex(large.len() - 1)),
            Cv::from_bytes([0; 32])
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn threads_fill_a_mapped_table_together() {
        let dir = tempfile::tempdir().unwrap();
        filled_by_threads(&MappedCvs::with_memory_limit(4099, dir.path(), 0).unwrap());
        filled_by_threads(&MappedCvs::new(4099, dir.path()).unwrap());
    }

    #[test]
    fn an_empty_table_needs_no_file_and_a_missing_folder_is_an_error() {
        let nowhere = Path::new("/nonexistent/folder");
        assert_eq!(MappedCvs::new(0, nowhere).unwrap().len(), 0);
        let refused = MappedCvs::new(1 << 20, nowhere).err().unwrap();
        assert!(
            refused.to_string().contains("/nonexistent/folder"),
            "{refused}"
        );
    }

    #[test]
    #[should_panic(expected = "the table has no group 9")]
    fn a_group_past_a_mapped_table_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let table = MappedCvs::with_memory_limit(9, dir.path(), 0).unwrap();
        table.set(GroupIndex(9), cv_of(9));
    }
}
