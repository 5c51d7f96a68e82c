//! Which pages of the volume have a pre-image already.

use std::collections::BTreeMap;
use std::ops::Range;

use lockstep_merkle::{ExtentIndex, Geometry, PAGE_SIZE, PageSet};

/// Pages with a pre-image, 48 bytes or so for each extent that has any.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Covered(BTreeMap<u64, PageSet>);

impl Covered {
    /// Those of the pages that have none.
    pub(super) fn missing(&self, extent: ExtentIndex, pages: &Range<usize>) -> PageSet {
        let there = self.0.get(&extent.0).copied().unwrap_or(PageSet::EMPTY);
        let mut missing = PageSet::EMPTY;
        for page in pages.clone().filter(|page| !there.contains(*page)) {
            missing.insert(page);
        }
        missing
    }

    pub(super) fn insert(&mut self, extent: ExtentIndex, pages: Range<usize>) {
        let there = self.0.entry(extent.0).or_insert(PageSet::EMPTY);
        there.insert_range(pages);
    }
}

/// The bytes of a volume that pages of an extent are.
pub(super) fn bytes_of(size: u64, extent: ExtentIndex, pages: &Range<usize>) -> Range<u64> {
    let whole = Geometry::new(size).extent_range(extent);
    let byte = |page: usize| whole.end.min(whole.start + (page * PAGE_SIZE) as u64);
    byte(pages.start)..byte(pages.end)
}
