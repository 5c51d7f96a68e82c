//! Where pages, groups and extents lie in a volume: arithmetic on its size and nothing else.

use std::fmt;
use std::ops::Range;

/// Bytes of a page, the unit of difference.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a group, the unit of hashing: one chaining value each.
pub const GROUP_SIZE: usize = 65536;
/// Bytes of an extent, the unit of I/O and of transfer.
pub const EXTENT_SIZE: usize = 1 << 20;
/// Pages in a whole group.
pub const PAGES_PER_GROUP: usize = GROUP_SIZE / PAGE_SIZE;
/// Groups in a whole extent.
pub const GROUPS_PER_EXTENT: usize = EXTENT_SIZE / GROUP_SIZE;
/// Pages in a whole extent.
pub const PAGES_PER_EXTENT: usize = EXTENT_SIZE / PAGE_SIZE;
/// Largest size in bytes that a peer may name: 64 PiB, far from every overflow here.
pub const MAX_VOLUME_SIZE: u64 = 1 << 56;

const GROUP_BYTES: u64 = GROUP_SIZE as u64;
const EXTENT_BYTES: u64 = EXTENT_SIZE as u64;
const EXTENT_GROUPS: u64 = GROUPS_PER_EXTENT as u64;

/// Number of a page, counted from the start of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageIndex(pub u64);

/// Number of a group, counted from the start of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupIndex(pub u64);

/// Number of an extent, counted from the start of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentIndex(pub u64);

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ExtentIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a volume of a given size divides into extents, groups and pages.
///
/// Every method is total: an index past the end of the volume has an empty range at the end, and a
/// length of zero. Only the last extent, group and page can be short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    size: u64,
}

impl Geometry {
    /// The geometry of a volume of `size` bytes.
    pub const fn new(size: u64) -> Self {
        Self { size }
    }

    /// Bytes of the volume.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Groups of the volume; 0 for an empty one.
    pub const fn group_count(&self) -> u64 {
        self.size.div_ceil(GROUP_BYTES)
    }

    /// Extents of the volume; 0 for an empty one.
    pub const fn extent_count(&self) -> u64 {
        self.size.div_ceil(EXTENT_BYTES)
    }

    /// Pages of the volume; 0 for an empty one.
    pub const fn page_count(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE as u64)
    }

    /// Byte range of a page inside the volume, cut at the volume's end.
    pub const fn page_range(&self, page: PageIndex) -> Range<u64> {
        self.cut(page.0, PAGE_SIZE as u64)
    }

    /// Byte range of a group inside the volume, cut at the volume's end.
    pub const fn group_range(&self, group: GroupIndex) -> Range<u64> {
        self.cut(group.0, GROUP_BYTES)
    }

    /// Byte range of an extent inside the volume, cut at the volume's end.
    pub const fn extent_range(&self, extent: ExtentIndex) -> Range<u64> {
        self.cut(extent.0, EXTENT_BYTES)
    }

    /// Numbers of the groups of an extent, cut at the volume's last group.
    pub const fn groups_of(&self, extent: ExtentIndex) -> Range<u64> {
        let count = self.group_count();
        let first = extent.0.saturating_mul(EXTENT_GROUPS);
        min(first, count)..min(first.saturating_add(EXTENT_GROUPS), count)
    }

    /// Numbers of the pages of an extent, cut at the volume's last page.
    pub const fn pages_of_extent(&self, extent: ExtentIndex) -> Range<u64> {
        self.pages_within(extent.0, PAGES_PER_EXTENT as u64)
    }

    /// Numbers of the pages of a group, cut at the volume's last page.
    pub const fn pages_of_group(&self, group: GroupIndex) -> Range<u64> {
        self.pages_within(group.0, PAGES_PER_GROUP as u64)
    }

    /// The extent which holds a group.
    pub const fn extent_of(&self, group: GroupIndex) -> ExtentIndex {
        ExtentIndex(group.0 / EXTENT_GROUPS)
    }

    /// Groups in an extent: at most [`GROUPS_PER_EXTENT`].
    pub const fn groups_in(&self, extent: ExtentIndex) -> usize {
        self.extent_len(extent).div_ceil(GROUP_SIZE)
    }

    /// Pages in an extent: at most [`PAGES_PER_EXTENT`].
    pub const fn pages_in(&self, extent: ExtentIndex) -> usize {
        self.extent_len(extent).div_ceil(PAGE_SIZE)
    }

    /// Bytes of an extent: [`EXTENT_SIZE`], less for a short last one.
    pub const fn extent_len(&self, extent: ExtentIndex) -> usize {
        let range = self.extent_range(extent);
        (range.end - range.start) as usize
    }

    /// Bytes of a group: [`GROUP_SIZE`], less for a short last one.
    pub const fn group_len(&self, group: GroupIndex) -> usize {
        let range = self.group_range(group);
        (range.end - range.start) as usize
    }

    /// Byte range of a page inside its extent, cut at the extent's length.
    ///
    /// `page` counts from the start of the extent.
    pub const fn page_range_in_extent(&self, extent: ExtentIndex, page: usize) -> Range<usize> {
        let len = self.extent_len(extent) as u64;
        let range = Geometry::new(len).cut(page as u64, PAGE_SIZE as u64);
        range.start as usize..range.end as usize
    }

    /// Numbers of the pages of the `index`th unit of `unit` pages.
    const fn pages_within(&self, index: u64, unit: u64) -> Range<u64> {
        let count = self.page_count();
        let first = index.saturating_mul(unit);
        min(first, count)..min(first.saturating_add(unit), count)
    }

    /// The `index`th unit of `unit` bytes, cut at the volume's end.
    const fn cut(&self, index: u64, unit: u64) -> Range<u64> {
        let start = min(index.saturating_mul(unit), self.size);
        let end = min(start.saturating_add(unit), self.size);
        start..end
    }
}

/// `Ord::min` is not const.
const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 14] = [
        0,
        1,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        1048575,
        1048576,
        1048577,
        3145735,
        MAX_VOLUME_SIZE,
        u64::MAX,
    ];

    #[test]
    fn the_last_extents_of_every_size_end_at_the_size() {
        for size in SIZES {
            let geometry = Geometry::new(size);
            let Some(last) = geometry.extent_count().checked_sub(1) else {
                continue;
            };
            let extent = ExtentIndex(last);
            assert_eq!(geometry.extent_range(extent).end, size);
            assert_eq!(geometry.groups_of(extent).end, geometry.group_count());
            let pages = geometry.pages_in(extent);
            let last_page = geometry.page_range_in_extent(extent, pages - 1);
            assert_eq!(last_page.end, geometry.extent_len(extent));
            assert!(!last_page.is_empty());
        }
    }

    #[test]
    fn groups_and_extents_tile_the_volume_without_gap_or_overlap() {
        for size in SIZES.into_iter().filter(|size| *size < 1 << 30) {
            let geometry = Geometry::new(size);
            let (mut groups_end, mut extents_end, mut groups, mut pages) = (0, 0, 0, 0);
            for extent in (0..geometry.extent_count()).map(ExtentIndex) {
                let range = geometry.extent_range(extent);
                assert_eq!(range.start, extents_end);
                assert_eq!(
                    (range.end - range.start) as usize,
                    geometry.extent_len(extent)
                );
                extents_end = range.end;
                assert_eq!(
                    geometry.groups_of(extent).count(),
                    geometry.groups_in(extent)
                );
                let numbers = geometry.pages_of_extent(extent);
                assert_eq!(numbers, pages..pages + geometry.pages_in(extent) as u64);
                let by_group = geometry.groups_of(extent).map(GroupIndex);
                let by_group = by_group.flat_map(|group| geometry.pages_of_group(group));
                assert!(by_group.eq(numbers.clone()));
                assert_eq!(geometry.page_range(PageIndex(pages)).start, range.start);
                pages = numbers.end;
                assert_eq!(geometry.page_range(PageIndex(pages - 1)).end, range.end);
                for group in geometry.groups_of(extent).map(GroupIndex) {
                    assert_eq!(geometry.extent_of(group), extent);
                    assert_eq!(geometry.group_range(group).start, groups_end);
                    assert_ne!(geometry.group_len(group), 0);
                    groups_end = geometry.group_range(group).end;
                    groups += 1;
                }
            }
            assert_eq!((groups_end, extents_end), (size, size));
            assert_eq!(groups, geometry.group_count());
            assert_eq!(pages, geometry.page_count());
        }
    }

    #[test]
    fn an_index_past_the_end_is_empty_and_never_overflows() {
        for size in SIZES {
            let geometry = Geometry::new(size);
            for index in [geometry.group_count(), u64::MAX / 2, u64::MAX] {
                if index < geometry.group_count() {
                    continue;
                }
                assert_eq!(geometry.group_range(GroupIndex(index)), size..size);
                assert_eq!(geometry.group_len(GroupIndex(index)), 0);
                assert_eq!(geometry.extent_len(ExtentIndex(index)), 0);
                assert_eq!(geometry.groups_of(ExtentIndex(index)).count(), 0);
                assert_eq!(geometry.pages_of_extent(ExtentIndex(index)).count(), 0);
                assert_eq!(geometry.pages_of_group(GroupIndex(index)).count(), 0);
            }
            let extent = ExtentIndex(0);
            for page in [PAGES_PER_EXTENT, usize::MAX] {
                assert!(geometry.page_range_in_extent(extent, page).is_empty());
            }
        }
    }
}
