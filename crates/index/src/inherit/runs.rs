//! Sets of pages as maximal runs, so that a set costs what its ranges cost and not what the volume
//! does.

use std::iter::once;
use std::ops::Range;

use lockstep_merkle::PageIndex;

/// A set of pages as maximal runs: ascending, not empty, none touching the next.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PageRuns {
    runs: Vec<Range<u64>>,
}

/// From ranges by ascending starts; they may overlap, touch, or be empty.
impl FromIterator<Range<u64>> for PageRuns {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.push(range));
        set
    }
}

impl PageRuns {
    fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if range.start <= last.end => {
                assert!(range.start >= last.start, "the ranges are not in order");
                last.end = last.end.max(range.end);
            }
            _ => self.runs.push(range),
        }
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().cloned()
    }

    /// Pages in the set.
    pub fn count(&self) -> u64 {
        self.iter().map(|run| run.end - run.start).sum()
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether a page is in the set.
    pub fn contains(&self, page: PageIndex) -> bool {
        let after = self.runs.partition_point(|run| run.end <= page.0);
        self.runs.get(after).is_some_and(|run| run.start <= page.0)
    }

    /// The pages in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut right = other.iter().peekable();
        let mut set = Self::default();
        for left in self.iter() {
            while let Some(before) = right.next_if(|run| run.start < left.start) {
                set.push(before);
            }
            set.push(left);
        }
        right.for_each(|run| set.push(run));
        set
    }

    /// The runs as far as they lie in `pages`.
    pub fn within(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.runs.partition_point(|run| run.end <= pages.start);
        self.runs[first..]
            .iter()
            .map(move |run| run.start.max(pages.start)..run.end.min(pages.end))
            .take_while(|run| run.start < run.end)
    }

    /// The pages of this set that are not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.iter().flat_map(|run| other.gaps_within(run)).collect()
    }

    /// Maximal runs of the pages below `page_count` that are not in the set.
    pub fn gaps(&self, page_count: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        self.gaps_within(0..page_count)
    }

    /// Maximal runs of the pages in `pages` that are not in the set.
    pub fn gaps_within(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let starts = once(pages.start).chain(self.within(pages.clone()).map(|run| run.end));
        let ends = self.within(pages.clone()).map(|run| run.start);
        starts
            .zip(ends.chain(once(pages.end)))
            .map(|(start, end)| start..end)
            .filter(|gap| gap.start < gap.end)
    }
}

/// Takes the `n`th page of `runs` for each `n` in `ranks`, which ascend; both are walked once.
pub(super) fn nth_of_each(runs: impl Iterator<Item = Range<u64>>, ranks: &[u64]) -> Vec<PageIndex> {
    let mut ranks = ranks.iter().copied().peekable();
    let mut pages = Vec::with_capacity(ranks.len());
    let mut passed = 0;
    for run in runs {
        let length = run.end - run.start;
        while let Some(rank) = ranks.next_if(|rank| *rank < passed + length) {
            pages.push(PageIndex(run.start + (rank - passed)));
        }
        passed += length;
    }
    pages
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::Strategy;
    use proptest::{collection, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const PAGES: u64 = 200;

    /// Ranges by ascending starts: overlapping, touching and empty ones too.
    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        let range = (0..PAGES, 0..12_u64).prop_map(|(start, len)| start..(start + len).min(PAGES));
        collection::vec(range, 0..20).prop_map(|mut ranges| {
            ranges.sort_by_key(|range| range.start);
            ranges
        })
    }

    /// The slow twin: one number a page.
    fn slow(ranges: &[Range<u64>]) -> BTreeSet<u64> {
        ranges.iter().cloned().flatten().collect()
    }

    fn set_of(ranges: &[Range<u64>]) -> PageRuns {
        ranges.iter().cloned().collect()
    }

    proptest! {
        #[test]
        fn runs_are_the_set_of_their_pages(left in ranges(), right in ranges()) {
            let (l, r) = (set_of(&left), set_of(&right));
            let (slow_l, slow_r) = (slow(&left), slow(&right));
            prop_assert!(l.iter().flatten().eq(slow_l.iter().copied()));
            prop_assert_eq!(l.count(), slow_l.len() as u64);
            prop_assert_eq!(l.is_empty(), slow_l.is_empty());
            let has = |page: &u64| l.contains(PageIndex(*page));
            prop_assert!((0..PAGES + 2).filter(has).eq(slow_l.iter().copied()));
            let union = l.union(&r);
            prop_assert!(union.iter().flatten().eq(slow_l.union(&slow_r).copied()));
            prop_assert_eq!(&union, &r.union(&l));
            let minus = l.minus(&r);
            prop_assert!(minus.iter().flatten().eq(slow_l.difference(&slow_r).copied()));
            for run in slow_r.iter().map(|start| *start..start + 30) {
                let inside = slow_l.iter().filter(|page| run.contains(page));
                prop_assert!(l.within(run.clone()).flatten().eq(inside.copied()));
                let outside = run.clone().filter(|page| !slow_l.contains(page));
                prop_assert!(l.gaps_within(run.clone()).flatten().eq(outside));
            }
            let rest = (0..PAGES).filter(|page| !slow_l.contains(page));
            prop_assert!(l.gaps(PAGES).flatten().eq(rest));
        }

        #[test]
        fn runs_are_maximal(left in ranges(), right in ranges()) {
            let union = set_of(&left).union(&set_of(&right));
            let minus = set_of(&left).minus(&set_of(&right));
            for runs in [union.iter().collect::<Vec<_>>(), union.gaps(PAGES).collect(), minus.iter().collect()] {
                prop_assert!(runs.iter().all(|run| run.start < run.end));
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }

        #[test]
        fn ranks_are_counted_through_the_runs(ranges in ranges(), ranks in collection::btree_set(0..PAGES, 0..30)) {
            let pages: Vec<u64> = slow(&ranges).into_iter().collect();
            let ranks: Vec<u64> = ranks.into_iter().filter(|rank| *rank < pages.len() as u64).collect();
            let expected = ranks.iter().map(|rank| PageIndex(pages[*rank as usize]));
            prop_assert!(nth_of_each(set_of(&ranges).iter(), &ranks).into_iter().eq(expected));
        }
    }

    #[test]
    #[should_panic(expected = "the ranges are not in order")]
    fn ranges_out_of_order_are_a_callers_mistake() {
        set_of(&[5..9, 4..6]);
    }
}
