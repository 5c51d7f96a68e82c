//! The values of the target's own pages, where they are kept: with them, no group is read twice.
//!
//! | a page | its value is |
//! | --- | --- |
//! | that was not written | what the scan measured, or took over from the index |
//! | that was written | what was measured in memory, just before, when its group got its promised value |
//!
//! So the values of a group always fold to what the session has of it, once it is settled: the same
//! scan gave both, or the promise did, which the medium confirmed.

use std::sync::Arc;

use lockstep_merkle::{
    Cv, ExtentIndex, Geometry, GroupIndex, GroupSet, PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex,
    PageSet, group_cv_of_pages, page_cvs, zero_page_cvs,
};

use super::written::{bytes_of, pages_of};
use crate::pages::PageTable;

/// The values of all pages, nothing where none are wanted, or why there is no room for them.
pub(super) struct Values(pub(super) Result<Option<Arc<PageTable>>, String>);

/// The values of one group's pages.
pub(super) struct GroupValues {
    geometry: Geometry,
    group: GroupIndex,
    cvs: [Cv; PAGES_PER_GROUP],
    count: usize,
}

impl Values {
    /// Where they are kept.
    pub(super) fn table(&self) -> Option<&PageTable> {
        self.0.as_ref().ok()?.as_deref()
    }

    /// Those of a group that was scanned.
    pub(super) fn of_group(&self, geometry: Geometry, group: GroupIndex) -> Option<GroupValues> {
        let table = self.table()?;
        let pages = geometry.pages_of_group(group);
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_GROUP];
        let count = (pages.end - pages.start) as usize;
        for (page, cv) in pages.map(PageIndex).zip(&mut cvs) {
            *cv = table.cv(page);
        }
        Some(GroupValues {
            geometry,
            group,
            cvs,
            count,
        })
    }
}

impl GroupValues {
    pub(super) fn cvs(&self) -> &[Cv] {
        &self.cvs[..self.count]
    }

    /// Whether all of the group is zeros.
    pub(super) fn are_of_zeros(&self) -> bool {
        let first = PageIndex(self.geometry.pages_of_group(self.group).start);
        let mut zeros = [Cv::from_bytes([0; 32]); PAGES_PER_GROUP];
        // Few groups begin with a page of zeros and are none.
        zero_page_cvs(self.geometry, first, &mut zeros[..1]);
        if zeros[0] != self.cvs[0] {
            return false;
        }
        zero_page_cvs(self.geometry, first, &mut zeros[..self.count]);
        zeros[..self.count] == *self.cvs()
    }
}

/// The pages of an extent as they will be: some in memory, the others as they are.
pub(super) struct Overlay<'a> {
    pub(super) geometry: Geometry,
    pub(super) extent: ExtentIndex,
    /// The extent's bytes, of which only those of `pages` mean something.
    pub(super) image: &'a [u8],
    pub(super) pages: PageSet,
}

impl Overlay<'_> {
    /// Whether every group will have the value that `promise` has for it; then the table learns the
    /// new values of its pages.
    pub(super) fn fits(
        &self,
        table: &PageTable,
        groups: GroupSet,
        promise: impl Fn(GroupIndex) -> Cv,
    ) -> bool {
        let cvs = self.cvs(table, groups);
        let first = self.geometry.groups_of(self.extent).start;
        let fits = groups.iter().all(|group| {
            let index = GroupIndex(first + group as u64);
            let start = group * PAGES_PER_GROUP;
            let end = (start + PAGES_PER_GROUP).min(self.geometry.pages_in(self.extent));
            group_cv_of_pages(self.geometry, index, &cvs[start..end]) == promise(index)
        });
        if fits {
            for page in self.pages.iter() {
                table.set(self.index(page), cvs[page]);
            }
        }
        fits
    }

    fn cvs(&self, table: &PageTable, groups: GroupSet) -> [Cv; PAGES_PER_EXTENT] {
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
        for page in pages_of(groups, self.image.len()).iter() {
            if !self.pages.contains(page) {
                cvs[page] = table.cv(self.index(page));
            }
        }
        for run in self.pages.runs() {
            let bytes = &self.image[bytes_of(self.geometry, self.extent, &run)];
            page_cvs(self.geometry, self.index(run.start), bytes, &mut cvs[run]);
        }
        cvs
    }

    fn index(&self, page: usize) -> PageIndex {
        PageIndex(self.geometry.pages_of_extent(self.extent).start + page as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_merkle::{EXTENT_SIZE, GROUP_SIZE, PAGE_SIZE, group_cv};

    /// A volume whose second extent has one whole group and a piece of another, scanned.
    struct Scene {
        geometry: Geometry,
        bytes: Vec<u8>,
        values: Values,
    }

    const TAIL: usize = GROUP_SIZE + 3 * PAGE_SIZE + 5;

    fn scene() -> Scene {
        let bytes: Vec<u8> = (0..EXTENT_SIZE + TAIL).map(|at| (at / 3) as u8).collect();
        let geometry = Geometry::new(bytes.len() as u64);
        let table = PageTable::new(geometry, &std::env::temp_dir()).unwrap();
        let mut cvs = vec![Cv::from_bytes([0; 32]); geometry.page_count() as usize];
        page_cvs(geometry, PageIndex(0), &bytes, &mut cvs);
        for (page, cv) in (0..).map(PageIndex).zip(cvs) {
            table.set(page, cv);
        }
        Scene {
            geometry,
            bytes,
            values: Values(Ok(Some(Arc::new(table)))),
        }
    }

    impl Scene {
        /// What the group's bytes hash to.
        fn promise(&self, group: GroupIndex) -> Cv {
            let range = self.geometry.group_range(group);
            let bytes = &self.bytes[range.start as usize..range.end as usize];
            group_cv(self.geometry, group, bytes)
        }
    }

    fn set(pages: &[usize]) -> PageSet {
        let mut set = PageSet::EMPTY;
        pages.iter().for_each(|page| set.insert(*page));
        set
    }

    #[test]
    fn only_what_is_in_memory_has_to_be_there_and_its_values_are_learnt() {
        let mut scene = scene();
        // The last page is a short one.
        for page in [0, 1, 18, 19] {
            scene.bytes[EXTENT_SIZE + page * PAGE_SIZE + 4] ^= 1;
        }
        let table = scene.values.table().unwrap();
        let mut image = vec![0x77; TAIL];
        for page in [0, 1, 18, 19] {
            let range = page * PAGE_SIZE..((page + 1) * PAGE_SIZE).min(TAIL);
            image[range.clone()].copy_from_slice(&scene.bytes[EXTENT_SIZE..][range]);
        }
        let overlay = |pages: &[usize]| Overlay {
            geometry: scene.geometry,
            extent: ExtentIndex(1),
            image: &image,
            pages: set(pages),
        };
        let groups = GroupSet::from_bits(0b11);
        for short in [&[0, 1, 18][..], &[1, 18, 19], &[0, 1, 2, 18, 19], &[]] {
            let before: Vec<Cv> = table.cvs().collect();
            let fits = overlay(short).fits(table, groups, |group| scene.promise(group));
            assert!(!fits, "{short:?}");
            assert!(table.cvs().eq(before), "what does not fit is not learnt");
        }
        let fits = overlay(&[0, 1, 18, 19]).fits(table, groups, |group| scene.promise(group));
        assert!(fits);
        for group in [16, 17].map(GroupIndex) {
            let values = scene.values.of_group(scene.geometry, group).unwrap();
            let cv = group_cv_of_pages(scene.geometry, group, values.cvs());
            assert_eq!(cv, scene.promise(group));
        }
    }

    #[test]
    fn zeros_are_told_from_all_else() {
        let mut scene = scene();
        scene.bytes.fill(0);
        let table = scene.values.table().unwrap();
        let last = scene.geometry.group_count() - 1;
        let pages = scene.geometry.page_count();
        let mut cvs = vec![Cv::from_bytes([0; 32]); pages as usize];
        zero_page_cvs(scene.geometry, PageIndex(0), &mut cvs);
        let of_zeros = |group| {
            let values = scene.values.of_group(scene.geometry, GroupIndex(group));
            values.unwrap().are_of_zeros()
        };
        assert!(!of_zeros(0));
        for (page, cv) in (0..).map(PageIndex).zip(cvs) {
            table.set(page, cv);
        }
        assert!(of_zeros(0) && of_zeros(last));
        table.set(PageIndex(pages - 1), Cv::from_bytes([1; 32]));
        assert!(of_zeros(0) && !of_zeros(last));
    }
}
