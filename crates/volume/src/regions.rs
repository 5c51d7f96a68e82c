//! Which parts of a target are written through the page cache just now, and which around it.
//!
//! The two do not mix within one folio of the page cache: a direct write drops the folios under it,
//! and if another thread dirties one of them meanwhile, the kernel reports `EIO` at the next flush,
//! for data that is in fact well. So at any moment each region, at least as large as a folio, is
//! written one way only. Nobody waits for that if it can be helped: a write that comes second goes
//! the way of the first.

use std::ops::Range;
use std::sync::atomic::{AtomicI16, Ordering};
use std::time::Duration;

use crate::kernel;

/// The largest folio with 4 KiB pages.
const LARGEST_FOLIO: u64 = 2 << 20;
/// Pages in the largest folio with larger pages: what the page cache's tree can hold as one.
const LARGEST_FOLIO_PAGES: u64 = 2048;
/// Regions of very large volumes grow instead of becoming more: two bytes each, 8 MiB in all.
const MAX_REGIONS: u64 = 4 << 20;
/// Between two looks at a region that is written the way that a write cannot go.
const PAUSE: Duration = Duration::from_micros(100);

/// One of the two ways of writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Through the page cache.
    Buffered,
    /// Around it, with `O_DIRECT`.
    Direct,
}

/// What a write would like, and what it can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// It is not aligned: only through the page cache, if need be later.
    OnlyBuffered,
    /// It is short: rather through the page cache, which merges neighbours.
    RatherBuffered,
    /// It is bulk: rather direct, which saves the copy.
    RatherDirect,
}

/// The writes under way in each region of a volume: as many direct ones as the number says, or as
/// many buffered ones if it is negative.
#[derive(Debug)]
pub(crate) struct Regions {
    region: u64,
    under_way: Vec<AtomicI16>,
}

/// Leave to write in one region one way; ends when it is dropped.
#[must_use]
pub(crate) struct Pass<'a> {
    under_way: &'a AtomicI16,
    way: Way,
}

impl Regions {
    pub(crate) fn new(size: u64) -> Regions {
        let folio = match kernel::page_size() {
            4096 => LARGEST_FOLIO,
            page => page * LARGEST_FOLIO_PAGES,
        };
        let region = size.div_ceil(MAX_REGIONS).next_power_of_two().max(folio);
        let count = size.div_ceil(region).max(1);
        Regions {
            region,
            under_way: (0..count).map(|_| AtomicI16::new(0)).collect(),
        }
    }

    /// The part of the range that lies in its first region.
    pub(crate) fn first_part(&self, range: Range<u64>) -> Range<u64> {
        let boundary = (range.start / self.region + 1).saturating_mul(self.region);
        range.start..range.end.min(boundary)
    }

    /// Leave to write in the region at `offset`. Waits only if the write cannot go direct while
    /// others do.
    pub(crate) fn pass(&self, offset: u64, wish: Wish) -> Pass<'_> {
        let last = self.under_way.len() - 1;
        let under_way = &self.under_way[last.min((offset / self.region) as usize)];
        loop {
            let step = |now: i16| match wish {
                Wish::RatherDirect if now >= 0 => now.checked_add(1),
                Wish::RatherBuffered if now > 0 => now.checked_add(1),
                Wish::OnlyBuffered if now > 0 => None,
                _ => now.checked_sub(1),
            };
            match under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) {
                Ok(before) => {
                    let is_direct = before > 0 || (before == 0 && wish == Wish::RatherDirect);
                    let way = if is_direct {
                        Way::Direct
                    } else {
                        Way::Buffered
                    };
                    return Pass { under_way, way };
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Pass<'_> {
    pub(crate) fn way(&self) -> Way {
        self.way
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let change = match self.way {
            Way::Direct => -1,
            Way::Buffered => 1,
        };
        self.under_way.fetch_add(change, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn way(regions: &Regions, offset: u64, wish: Wish) -> Way {
        regions.pass(offset, wish).way()
    }

    #[test]
    fn a_write_that_comes_second_goes_the_way_of_the_first_in_its_region_only() {
        let regions = Regions::new(8 * MIB);
        let bulk = regions.pass(0, Wish::RatherDirect);
        assert_eq!(bulk.way(), Way::Direct);
        assert_eq!(way(&regions, MIB, Wish::RatherBuffered), Way::Direct);
        assert_eq!(way(&regions, 7 * MIB, Wish::RatherBuffered), Way::Buffered);
        drop(bulk);
        let page = regions.pass(MIB, Wish::RatherBuffered);
        assert_eq!(page.way(), Way::Buffered);
        assert_eq!(way(&regions, 0, Wish::RatherDirect), Way::Buffered);
        assert_eq!(way(&regions, 0, Wish::OnlyBuffered), Way::Buffered);
        drop(page);
        assert_eq!(way(&regions, 0, Wish::RatherDirect), Way::Direct);
    }

    #[test]
    fn a_write_that_can_only_be_buffered_waits_for_the_direct_ones() {
        let regions = Regions::new(8 * MIB);
        let bulk = regions.pass(0, Wish::RatherDirect);
        let bulk_is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ragged = scope.spawn(|| {
                let pass = regions.pass(5, Wish::OnlyBuffered);
                (pass.way(), bulk_is_over.load(Ordering::Acquire))
            });
            std::thread::sleep(Duration::from_millis(20));
            bulk_is_over.store(true, Ordering::Release);
            drop(bulk);
            assert_eq!(ragged.join().unwrap(), (Way::Buffered, true));
        });
    }

    #[test]
    fn ranges_are_cut_where_regions_meet() {
        let regions = Regions::new(8 * MIB);
        let region = regions.region;
        let part = |range| regions.first_part(range);
        assert_eq!(part(MIB..5 * region), MIB..region);
        assert_eq!(part(region..5 * region), region..2 * region);
        assert_eq!(part(2 * region..2 * region + 1), 2 * region..2 * region + 1);
    }

    #[test]
    fn the_smallest_and_the_largest_volume_have_a_bounded_number_of_regions() {
        assert_eq!(way(&Regions::new(0), 0, Wish::RatherDirect), Way::Direct);
        let regions = Regions::new(1 << 60);
        assert!(regions.under_way.len() as u64 <= MAX_REGIONS);
        assert_eq!(
            way(&regions, (1 << 60) - 1, Wish::RatherDirect),
            Way::Direct
        );
    }
}
