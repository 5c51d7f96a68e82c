//! Bitmaps of the pages and of the groups of one extent.

use std::ops::Range;

use crate::geometry::{GROUPS_PER_EXTENT, PAGES_PER_EXTENT, PAGES_PER_GROUP};

const WORD: usize = u64::BITS as usize;
const WORDS: usize = PAGES_PER_EXTENT / WORD;

/// A set of the 256 pages of one extent, numbered from its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PageSet([u64; WORDS]);

impl PageSet {
    /// No page.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The first `pages` pages.
    ///
    /// # Panics
    /// If an extent has not so many.
    pub fn all(pages: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert_range(0..pages);
        set
    }

    /// The pages of these groups, in an extent that has `pages` pages.
    pub fn of_groups(groups: GroupSet, pages: usize) -> Self {
        let mut set = Self::EMPTY;
        for group in groups.iter() {
            let start = group * PAGES_PER_GROUP;
            set.insert_range(start..(start + PAGES_PER_GROUP).min(pages));
        }
        set
    }

    /// Adds a page.
    ///
    /// # Panics
    /// If an extent has no such page.
    pub fn insert(&mut self, page: usize) {
        assert!(page < PAGES_PER_EXTENT, "an extent has no page {page}");
        self.0[page / WORD] |= 1 << (page % WORD);
    }

    /// Adds a range of pages.
    ///
    /// # Panics
    /// If an extent has no such pages.
    pub fn insert_range(&mut self, pages: Range<usize>) {
        pages.for_each(|page| self.insert(page));
    }

    /// Whether the page is in the set; never true past the end of an extent.
    pub fn contains(&self, page: usize) -> bool {
        let word = self.0.get(page / WORD);
        word.is_some_and(|word| word >> (page % WORD) & 1 == 1)
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// Pages in the set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Page numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let set = *self;
        (0..PAGES_PER_EXTENT).filter(move |page| set.contains(*page))
    }

    /// Maximal ranges of neighbouring pages, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let set = *self;
        Runs::new(PAGES_PER_EXTENT, move |page| set.contains(page))
    }

    /// The pages in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Whether some page is in both sets.
    pub fn intersects(self, other: Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .any(|(left, right)| left & right != 0)
    }

    /// Whether every page of this set is in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.union(other) == other
    }

    /// 32 bytes; page `n` is bit `n % 8` of byte `n / 8`.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (word, bytes) in self.0.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// The set whose [`PageSet::to_bytes`] these are; every 32 bytes are one.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let words = bytes.as_chunks::<8>().0;
        Self(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }
}

/// A set of the 16 groups of one extent, numbered from its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupSet(u16);

impl GroupSet {
    /// No group.
    pub const EMPTY: Self = Self(0);

    /// The first `groups` groups.
    ///
    /// # Panics
    /// If an extent has not so many.
    pub fn all(groups: usize) -> Self {
        let mut set = Self::EMPTY;
        set.insert_range(0..groups);
        set
    }

    /// Adds a group.
    ///
    /// # Panics
    /// If an extent has no such group.
    pub fn insert(&mut self, group: usize) {
        assert!(group < GROUPS_PER_EXTENT, "an extent has no group {group}");
        self.0 |= 1 << group;
    }

    /// Adds a range of groups.
    ///
    /// # Panics
    /// If an extent has no such groups.
    pub fn insert_range(&mut self, groups: Range<usize>) {
        groups.for_each(|group| self.insert(group));
    }

    /// Whether the group is in the set; never true past the end of an extent.
    pub fn contains(&self, group: usize) -> bool {
        group < GROUPS_PER_EXTENT && self.0 >> group & 1 == 1
    }

    /// Whether no group is in the set.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Groups in the set.
    pub fn count(&self) -> usize {
        self.0.count_ones() as usize
    }

    /// Group numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let set = *self;
        (0..GROUPS_PER_EXTENT).filter(move |group| set.contains(*group))
    }

    /// Maximal ranges of neighbouring groups, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let set = *self;
        Runs::new(GROUPS_PER_EXTENT, move |group| set.contains(group))
    }

    /// The groups in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether some group is in both sets.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every group of this set is in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.union(other) == other
    }

    /// Group `n` as bit `n`.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The set whose [`GroupSet::bits`] these are; every number is one.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// Maximal runs of the numbers below `end` that `contains` holds for.
struct Runs<F> {
    at: usize,
    end: usize,
    contains: F,
}

impl<F: Fn(usize) -> bool> Runs<F> {
    fn new(end: usize, contains: F) -> Self {
        Self {
            at: 0,
            end,
            contains,
        }
    }
}

impl<F: Fn(usize) -> bool> Iterator for Runs<F> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = (self.at..self.end).find(|at| (self.contains)(*at))?;
        let end = (start..self.end).find(|at| !(self.contains)(*at));
        self.at = end.unwrap_or(self.end);
        Some(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_set;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn pages(numbers: &BTreeSet<usize>) -> PageSet {
        let mut set = PageSet::EMPTY;
        numbers.iter().for_each(|page| set.insert(*page));
        set
    }

    proptest! {
        #[test]
        fn a_page_set_is_a_set(
            left in btree_set(0..PAGES_PER_EXTENT, 0..80),
            right in btree_set(0..PAGES_PER_EXTENT, 0..8),
        ) {
            let (l, r) = (pages(&left), pages(&right));
            prop_assert!(l.iter().eq(left.iter().copied()));
            prop_assert_eq!(l.count(), left.len());
            prop_assert_eq!(l.is_empty(), left.is_empty());
            prop_assert_eq!(l.union(r), pages(&left.union(&right).copied().collect()));
            prop_assert_eq!(l.intersects(r), !left.is_disjoint(&right));
            prop_assert_eq!(r.is_subset(l), right.is_subset(&left));
            prop_assert!(l.is_subset(l.union(r)));
            prop_assert_eq!(PageSet::from_bytes(l.to_bytes()), l);
            prop_assert!(l.runs().flatten().eq(left.iter().copied()));
            let runs: Vec<_> = l.runs().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }

        #[test]
        fn every_number_is_a_group_set(bits: u16, other: u16) {
            let (set, other) = (GroupSet::from_bits(bits), GroupSet::from_bits(other));
            prop_assert_eq!(set.bits(), bits);
            let mut again = GroupSet::EMPTY;
            set.runs().for_each(|run| again.insert_range(run));
            prop_assert_eq!(again, set);
            prop_assert_eq!(set.iter().count(), set.count());
            prop_assert_eq!(set.intersects(other), set.iter().any(|group| other.contains(group)));
            prop_assert_eq!(set.is_subset(other), set.iter().all(|group| other.contains(group)));
        }
    }

    #[test]
    fn a_full_extent_is_one_run_up_to_its_last_page_and_group() {
        let (pages, groups) = (
            PageSet::all(PAGES_PER_EXTENT),
            GroupSet::all(GROUPS_PER_EXTENT),
        );
        assert!(pages.runs().eq(std::iter::once(0..PAGES_PER_EXTENT)));
        assert!(groups.runs().eq(std::iter::once(0..GROUPS_PER_EXTENT)));
        assert_eq!(pages.to_bytes(), [0xff; 32]);
        assert_eq!(groups.bits(), u16::MAX);
        assert!(!pages.contains(PAGES_PER_EXTENT) && !groups.contains(GROUPS_PER_EXTENT));
        assert_eq!(PageSet::all(0), PageSet::default());
    }

    #[test]
    fn page_nine_is_the_second_bit_of_the_second_byte() {
        let mut set = PageSet::EMPTY;
        set.insert(9);
        assert_eq!(set.to_bytes()[..3], [0, 2, 0]);
    }

    #[test]
    #[should_panic(expected = "an extent has no page 256")]
    fn a_page_past_the_extent_is_refused() {
        PageSet::all(PAGES_PER_EXTENT + 1);
    }
}
