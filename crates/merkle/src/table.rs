//! Where the chaining values of a volume are kept while it is scanned.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cv::Cv;
use crate::geometry::GroupIndex;

const WORDS_PER_CV: u64 = 4;

/// A row of chaining values that several threads fill at once, each its own indexes.
///
/// A reader sees a value whole if something orders its read after the write: a channel, a join, a
/// lock. Without that it may see a mixture of two values, never anything outside the table.
pub trait CvTable: Send + Sync {
    /// Groups that the table holds.
    fn len(&self) -> u64;

    /// Whether the table holds no group.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a group; 32 zero bytes before it was set.
    ///
    /// # Panics
    /// If the group is not below [`CvTable::len`].
    fn cv(&self, group: GroupIndex) -> Cv;

    /// Sets the value of a group.
    ///
    /// # Panics
    /// If the group is not below [`CvTable::len`].
    fn set(&self, group: GroupIndex, cv: Cv);
}

/// A table in memory: 32 bytes a group, so 512 KiB for each GiB of volume.
#[derive(Debug)]
pub struct MemoryCvs {
    words: Vec<AtomicU64>,
}

impl MemoryCvs {
    /// A table of that many groups, all zero.
    pub fn new(group_count: u64) -> Self {
        let words = (0..group_count * WORDS_PER_CV).map(|_| AtomicU64::new(0));
        Self {
            words: words.collect(),
        }
    }

    fn words(&self, group: GroupIndex) -> &[AtomicU64] {
        assert!(group.0 < self.len(), "the table has no group {group}");
        let start = (group.0 * WORDS_PER_CV) as usize;
        &self.words[start..start + WORDS_PER_CV as usize]
    }
}

impl CvTable for MemoryCvs {
    fn len(&self) -> u64 {
        self.words.len() as u64 / WORDS_PER_CV
    }

    fn cv(&self, group: GroupIndex) -> Cv {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(self.words(group))
        {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        Cv::from_bytes(bytes)
    }

    fn set(&self, group: GroupIndex, cv: Cv) {
        for (bytes, word) in cv
            .as_bytes()
            .as_chunks::<8>()
            .0
            .iter()
            .zip(self.words(group))
        {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cv_of(group: u64) -> Cv {
        Cv::from_bytes(*blake3::hash(&group.to_le_bytes()).as_bytes())
    }

    #[test]
    fn threads_fill_one_table_together() {
        let table = MemoryCvs::new(1001);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for group in (thread..table.len()).step_by(4) {
                        table.set(GroupIndex(group), cv_of(group));
                    }
                });
            }
        });
        assert_eq!(table.len(), 1001);
        assert!((0..1001).all(|group| table.cv(GroupIndex(group)) == cv_of(group)));
    }

    #[test]
    fn a_new_table_is_zero_and_an_empty_one_is_empty() {
        let table = MemoryCvs::new(2);
        assert_eq!(table.cv(GroupIndex(1)), Cv::from_bytes([0; 32]));
        assert!(!table.is_empty());
        assert!(MemoryCvs::new(0).is_empty());
    }

    #[test]
    #[should_panic(expected = "the table has no group 2")]
    fn a_group_past_the_table_is_refused() {
        MemoryCvs::new(2).cv(GroupIndex(2));
    }
}
