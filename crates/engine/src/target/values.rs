//! The values of the target's own pages, where they are kept: with them, no group is read twice.
//!
//! | a page | its value is |
//! | --- | --- |
//! | that was not written | what the scan measured, or took over from the index |
//! | that was written | what the medium gave back |
//!
//! So the values of a group always fold to what the session has of it, once it is settled: the same
//! scan gave both, or the same reading of the medium did.

use std::sync::Arc;

use lockstep_merkle::{
    Cv, ExtentIndex, Geometry, GroupIndex, PAGES_PER_GROUP, PageIndex, PageSet, zero_page_cvs,
};

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

    /// Pages of an extent are found to have these values, one for each page of the extent.
    pub(super) fn learn(
        &self,
        geometry: Geometry,
        extent: ExtentIndex,
        pages: PageSet,
        cvs: &[Cv],
    ) {
        let Some(table) = self.table() else { return };
        let first = geometry.pages_of_extent(extent).start;
        for page in pages.iter() {
            table.set(PageIndex(first + page as u64), cvs[page]);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_merkle::{
        EXTENT_SIZE, GROUP_SIZE, PAGE_SIZE, group_cv, group_cv_of_pages, page_cvs,
        page_cvs_in_extent,
    };

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

    #[test]
    fn only_the_pages_that_were_read_are_learnt() {
        let mut scene = scene();
        // The last page is a short one.
        for page in [0, 1, 18, 19] {
            scene.bytes[EXTENT_SIZE + page * PAGE_SIZE + 4] ^= 1;
        }
        let mut cvs = vec![Cv::from_bytes([0x77; 32]); scene.geometry.pages_in(ExtentIndex(1))];
        let mut learn = |pages: &[usize]| {
            let mut set = PageSet::EMPTY;
            pages.iter().for_each(|page| set.insert(*page));
            let bytes = &scene.bytes[EXTENT_SIZE..];
            page_cvs_in_extent(scene.geometry, ExtentIndex(1), set, bytes, &mut cvs);
            (scene.values).learn(scene.geometry, ExtentIndex(1), set, &cvs);
        };
        let folds = |group| {
            let values = scene.values.of_group(scene.geometry, group).unwrap();
            let cv = group_cv_of_pages(scene.geometry, group, values.cvs());
            cv == scene.promise(group)
        };
        learn(&[0, 18]);
        assert!(!folds(GroupIndex(16)) && !folds(GroupIndex(17)));
        learn(&[1]);
        assert!(folds(GroupIndex(16)) && !folds(GroupIndex(17)));
        learn(&[19]);
        assert!(folds(GroupIndex(16)) && folds(GroupIndex(17)));
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
