//! What was written and is still to be proved: which pages, and the hash that
//! the medium has to give back.
//!
//! ```text
//!   group      ░░██░█░░░░░░░░██          █ sent   ░ the target's own, equal
//!   written      ▒▒▒▒        ▒▒          small gaps are written along
//! ```
//! A group's chaining value is computed before it is written, over what it
//! will hold: what was sent, and for the rest its own pages, read once more
//! through the page cache as the scan reads. The medium then has to give back
//! the written pages, byte for byte. A group of which nothing was written is
//! read from the medium as a whole: the scan and the second reading disagree.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lockstep_merkle::{ExtentIndex, Geometry, GroupSet, PAGE_SIZE, PageSet};

use crate::limits::BRIDGED_PAGES;

/// The pages of one extent that were written together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// The groups that now have their promised chaining values.
    pub(super) groups: GroupSet,
    /// The pages, of those groups only, that were written or zeroed.
    pub(super) pages: PageSet,
    /// Hash of the pages' bytes, one after the other.
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

/// Hashes these pages of an extent, one after the other.
pub(super) fn hash_pages(
    geometry: Geometry,
    extent: ExtentIndex,
    pages: PageSet,
    image: &[u8],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for run in pages.runs() {
        hasher.update(&image[bytes_of(geometry, extent, &run)]);
    }
    hasher.finalize()
}

/// Where a run of pages lies in its extent, in bytes.
pub(super) fn bytes_of(
    geometry: Geometry,
    extent: ExtentIndex,
    pages: &std::ops::Range<usize>,
) -> std::ops::Range<usize> {
    let start = geometry.page_range_in_extent(extent, pages.start).start;
    let end = geometry.page_range_in_extent(extent, pages.end - 1).end;
    start..end
}

/// The pages of these groups, in an extent of so many bytes.
pub(super) fn pages_of(groups: GroupSet, extent_len: usize) -> PageSet {
    PageSet::of_groups(groups, extent_len.div_ceil(PAGE_SIZE))
}

/// `pages`, and the gaps between them that are short and may be written
/// along: one larger transfer costs a disk less than two.
pub(super) fn bridged(pages: PageSet, may_bridge: impl Fn(usize) -> bool) -> PageSet {
    let mut bridged = pages;
    let mut end: Option<usize> = None;
    for run in pages.runs() {
        if let Some(end) = end
            && run.start - end <= BRIDGED_PAGES
            && (end..run.start).all(&may_bridge)
        {
            bridged.insert_range(end..run.start);
        }
        end = Some(run.end);
    }
    bridged
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

    use super::{bridged, pages_of};

    fn set(pages: &[usize]) -> PageSet {
        let mut set = PageSet::EMPTY;
        pages.iter().for_each(|page| set.insert(*page));
        set
    }

    #[test]
    fn short_gaps_that_may_be_written_are_and_others_are_not() {
        let pages = set(&[0, 3, 7, 8, 10, 255]);
        assert_eq!(
            bridged(pages, |_| true),
            set(&[0, 1, 2, 3, 7, 8, 9, 10, 255])
        );
        assert_eq!(
            bridged(pages, |page| page != 2),
            set(&[0, 3, 7, 8, 9, 10, 255])
        );
        assert_eq!(bridged(pages, |_| false), pages);
        assert_eq!(bridged(PageSet::EMPTY, |_| true), PageSet::EMPTY);
    }

    #[test]
    fn the_last_group_has_the_pages_that_are_there() {
        let groups = GroupSet::from_bits(0b110);
        let pages = pages_of(groups, (2 << 16) + 4097);
        assert_eq!(pages.count(), 16 + 2);
        assert!(pages.contains(33) && !pages.contains(34));
    }
}
