//! A volume's pages: where runs of them lie, and their values, kept while a run lasts.

use std::ops::Range;
use std::path::Path;

use lockstep_merkle::{Cv, CvTable, ExtentIndex, Geometry, GroupIndex, PageIndex};
use lockstep_volume::{IoFailure, MappedCvs};

use crate::failures::sentence;

/// Smaller tables live in ordinary memory: those of volumes of 8 GiB.
const IN_MEMORY_BYTES: u64 = 64 << 20;
/// The largest volume whose pages' values are kept only to save reading and hashing: 128 MiB of them.
const MAX_CASUAL_VOLUME: u64 = 16 << 30;

/// A row of chaining values, one for each page: 0.8 % of the volume. As with every [`CvTable`], a
/// reader needs something that orders it after the writer.
pub(crate) struct PageTable(MappedCvs);

impl PageTable {
    /// A table for all pages; a large one as an unnamed file in `dir`.
    pub(crate) fn new(geometry: Geometry, dir: &Path) -> Result<PageTable, IoFailure> {
        let pages = geometry.page_count();
        MappedCvs::with_memory_limit(pages, dir, IN_MEMORY_BYTES).map(PageTable)
    }

    /// The same where it only saves work in this run: none for a large volume, nor without room.
    pub(crate) fn if_small(geometry: Geometry, dir: &Path) -> Option<PageTable> {
        if geometry.size() > MAX_CASUAL_VOLUME {
            return None;
        }
        PageTable::new(geometry, dir)
            .inspect_err(|error| tracing::debug!("no table of pages: {}", sentence(error)))
            .ok()
    }

    // The table below counts entries, whatever they are of.
    pub(crate) fn cv(&self, page: PageIndex) -> Cv {
        self.0.cv(GroupIndex(page.0))
    }

    pub(crate) fn set(&self, page: PageIndex, cv: Cv) {
        self.0.set(GroupIndex(page.0), cv);
    }

    /// Those of the pages of an extent.
    pub(crate) fn extent(&self, geometry: Geometry, extent: ExtentIndex, cvs: &mut [Cv]) {
        for (cv, page) in cvs.iter_mut().zip(geometry.pages_of_extent(extent)) {
            *cv = self.cv(PageIndex(page));
        }
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
