//! A volume's pages: where runs of them lie, and their values, kept while a run lasts.

use std::ops::Range;
use std::path::Path;

use lockstep_merkle::{Cv, CvTable, Geometry, GroupIndex, PageIndex};
use lockstep_volume::{IoFailure, MappedCvs};

/// A row of chaining values, one for each page: 0.8 % of the volume. As with every [`CvTable`], a
/// reader needs something that orders it after the writer.
pub(crate) struct PageTable(MappedCvs);

impl PageTable {
    /// A table for all pages; a large one as an unnamed file in `dir`.
    pub(crate) fn new(geometry: Geometry, dir: &Path) -> Result<PageTable, IoFailure> {
        Ok(PageTable(MappedCvs::new(geometry.page_count(), dir)?))
    }

    // The table below counts entries, whatever they are of.
    pub(crate) fn cv(&self, page: PageIndex) -> Cv {
        self.0.cv(GroupIndex(page.0))
    }

    pub(crate) fn set(&self, page: PageIndex, cv: Cv) {
        self.0.set(GroupIndex(page.0), cv);
    }

    /// All values in order.
    pub(crate) fn cvs(&self) -> impl Iterator<Item = Cv> + '_ {
        (0..self.0.len()).map(|page| self.cv(PageIndex(page)))
    }
}

/// The bytes of a run of pages, which is not empty.
pub(crate) fn bytes_of(geometry: Geometry, pages: &Range<u64>) -> Range<u64> {
    let last = PageIndex(pages.end.saturating_sub(1));
    geometry.page_range(PageIndex(pages.start)).start..geometry.page_range(last).end
}
