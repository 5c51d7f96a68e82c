//! What was written and is still to be proved: which pages, and the hash that
//! the medium has to give back.
//!
//! ```text
//!   group      ░░██░█░░░░░░░░██          █ sent   ░ the target's own, equal
//!   written      ▒▒▒▒        ▒▒          small gaps are written along
//! ```
//! A group's chaining value is folded, before it is written, from its pages':
//! of what was sent as it lies in memory, and of its own others as this run's
//! scan measured them, or as they are read once more. The same values are what
//! the medium has to give back of the pages that were written. A group of
//! which nothing was written is read from the medium as a whole: the scan and
//! the second reading disagree.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lockstep_merkle::{
    Cv, ExtentIndex, Geometry, GroupIndex, GroupSet, PAGE_SIZE, PAGES_PER_GROUP, PageSet,
    group_cv_of_pages,
};

use crate::limits::BRIDGED_PAGES;

/// The pages of one extent that were written together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// The groups that now have their promised chaining values.
    pub(super) groups: GroupSet,
    /// The pages, of those groups only, that were written or zeroed.
    pub(super) pages: PageSet,
    /// Hash of the pages' chaining values, one after the other.
    pub(super) hash: blake3::Hash,
}

impl Written {
    /// Whether something of each of its groups was written.
    pub(super) fn touches_every_group(&self, geometry: Geometry, extent: ExtentIndex) -> bool {
        let extent_len = geometry.extent_len(extent);
        self.groups.iter().all(|group| {
            let mut one = GroupSet::EMPTY;
            one.insert(group);
            pages_of(one, extent_len).intersects(self.pages)
        })
    }
}

/// Hashes the chaining values of these pages of an extent, one after the other.
pub(super) fn hash_values(pages: PageSet, cvs: &[Cv]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for page in pages.iter() {
        hasher.update(cvs[page].as_bytes());
    }
    hasher.finalize()
}

/// The chaining value of a group of an extent, from those of the extent's pages.
pub(super) fn group_value(geometry: Geometry, extent: ExtentIndex, group: usize, cvs: &[Cv]) -> Cv {
    let index = GroupIndex(geometry.groups_of(extent).start + group as u64);
    let first = group * PAGES_PER_GROUP;
    let pages = &cvs[first..(first + PAGES_PER_GROUP).min(cvs.len())];
    group_cv_of_pages(geometry, index, pages)
}

/// Where a run of pages lies in its extent, in bytes.
pub(super) fn bytes_of(
    geometry: Geometry,
    extent: ExtentIndex,
    pages: &Range<usize>,
) -> Range<usize> {
    let start = geometry.page_range_in_extent(extent, pages.start).start;
    let end = geometry.page_range_in_extent(extent, pages.end - 1).end;
    start..end
}

/// The pages of these groups, in an extent of so many bytes.
pub(super) fn pages_of(groups: GroupSet, extent_len: usize) -> PageSet {
    PageSet::of_groups(groups, extent_len.div_ceil(PAGE_SIZE))
}

/// The gaps between runs of `pages` that are short enough to be written along: one larger transfer
/// costs a disk less than two.
pub(super) fn short_gaps(pages: PageSet) -> impl Iterator<Item = Range<usize>> {
    let mut end = None;
    let before = move |run: Range<usize>| {
        let gap = end.replace(run.end).map(|end| end..run.start);
        gap.filter(|gap| gap.len() <= BRIDGED_PAGES)
    };
    pages.runs().filter_map(before)
}

/// What waits for its proof, a hundred bytes an extent. The session asks for
/// nothing more while too many extents wait.
#[derive(Default)]
pub(super) struct WaitingForProof(Mutex<HashMap<u64, Written>>);

impl WaitingForProof {
    /// Replaces what was known of the extent: it was written again.
    pub(super) fn insert(&self, extent: ExtentIndex, written: Written) {
        self.lock().insert(extent.0, written);
    }

    /// What was written of these groups; `None` when nobody can say, and all
    /// of them have to be read.
    pub(super) fn take(&self, extent: ExtentIndex, groups: GroupSet) -> Option<Written> {
        let written = self.lock().remove(&extent.0)?;
        (written.groups == groups).then_some(written)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_merkle::{GroupSet, PageSet};

    use super::{pages_of, short_gaps};

    fn set(pages: &[usize]) -> PageSet {
        let mut set = PageSet::EMPTY;
        pages.iter().for_each(|page| set.insert(*page));
        set
    }

    #[test]
    fn gaps_of_two_pages_are_short_and_longer_ones_are_not() {
        let gaps = |pages: &[usize]| short_gaps(set(pages)).collect::<Vec<_>>();
        assert_eq!(gaps(&[0, 3, 7, 8, 10, 255]), [1..3, 9..10]);
        assert_eq!(gaps(&[5]), []);
        assert_eq!(gaps(&[]), []);
    }

    #[test]
    fn the_last_group_has_the_pages_that_are_there() {
        let groups = GroupSet::from_bits(0b110);
        let pages = pages_of(groups, (2 << 16) + 4097);
        assert_eq!(pages.count(), 16 + 2);
        assert!(pages.contains(33) && !pages.contains(34));
    }
}
