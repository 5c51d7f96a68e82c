//! Which pages of a volume are read again although a delta calls most of them unchanged.
//!
//! Promise: whatever the delta names is read, and so is enough of the rest that a delta which hides
//! changes is caught with the probability that [`chance_of_catching`] states. Pure: no I/O, no clock,
//! and memory for the delta's ranges and the sample, whatever the size of the volume.
//!
//! ```text
//!   delta      ░░░░░░▓▓░░░░░░░░▓░░░░░░░░░░░    ▓ bytes that changed, by the delta
//!   changed          CC        C               every page that such bytes touch, or that the base
//!                                              has not: hashed, any value may come out
//!   edges      E    E  E      E E         E    their neighbours, the first and the last page:
//!   sample        S                 S          0.1 % of the rest, at least 1024: hashed, and
//!                                              must come out as in the base
//!   inherited   iii i   iiiiii   iii iiiii     not read: the base's values
//! ```
//!
//! Edges are there because a provider that is wrong by a little (rounding, an extent cut short) is
//! wrong there. The sample is for one that is wrong anywhere.
//!
//! # How likely a lie is caught
//!
//! Of `n` pages that are neither changed nor an edge, `s = max(1024, ⌈n/1000⌉)` are sampled, each set
//! of `s` with equal probability. If the delta hides `h` changed pages among them, one run catches it
//! with probability `1 − C(n−h, s) / C(n, s)`:
//!
//! | volume | n | s | h = 1 | h = 10 | h = 100 | h = 1000 | h = 10,000 |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | 1 GiB | 262,144 | 1,024 | 0.39 % | 3.8 % | 32 % | 98.0 % | certain but for 10⁻¹⁷ |
//! | 64 GiB | 16,777,216 | 16,778 | 0.10 % | 1.0 % | 9.5 % | 63 % | 99.995 % |
//! | 1 TiB | 268,435,456 | 268,436 | 0.10 % | 1.0 % | 9.5 % | 63 % | 99.995 % |
//!
//! The sample is drawn in pages and not in groups of 64 KiB: 1,024 pages cost what 64 groups do, and
//! meet a change of a single page as often; a hidden extent of 1 MiB, which is 256 pages, is met by one
//! run with 63 % in a volume of 1 GiB and with 23 % in a large one, where groups would do it with 6 %
//! and 1.6 %.
//!
//! So one hidden page is found by a full scan, and hardly ever by sampling: sampling is for a
//! provider that is broken, not for one that is wrong once. A lie that goes on hiding the same pages
//! is caught after `r` runs with `1 − (1 − p)ʳ`.

mod chance;
mod runs;
mod sample;

use std::iter::once;
use std::ops::Range;

use lockstep_merkle::{Geometry, PAGE_SIZE, PageIndex};

pub use chance::chance_of_catching;
pub use runs::PageRuns;
pub use sample::SampleSeed;

/// One unchanged page of so many is sampled.
pub const SAMPLE_ONE_IN: u64 = 1000;
/// Unchanged pages that are sampled at least, if there are so many: 4 MiB.
pub const MIN_SAMPLE: u64 = 1024;

const PAGE_BYTES: u64 = PAGE_SIZE as u64;

/// What a provider says of the difference between two snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// The older one, of which the values are known.
    pub base: Geometry,
    /// The newer one.
    pub now: Geometry,
    /// Bytes that may differ, by ascending starts. Ranges may overlap; what lies past the end of the
    /// newer one counts for nothing, because providers speak in whole blocks.
    pub changed: &'a [Range<u64>],
}

/// Why a delta is not one; the volume has to be scanned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadDelta {
    /// A range ends before it starts.
    #[error("range {at} of the delta ends at {}, before its start at {}", range.end, range.start)]
    Reversed {
        /// Which one, counted from 0.
        at: usize,
        /// The range.
        range: Range<u64>,
    },
    /// The ranges are not in order.
    #[error("range {at} of the delta starts at {start}, before the one in front of it")]
    Unsorted {
        /// Which one, counted from 0.
        at: usize,
        /// Where it starts.
        start: u64,
    },
}

/// What of a volume is read again and what is inherited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inheritance {
    page_count: u64,
    changed: PageRuns,
    reads: PageRuns,
    checks: PageRuns,
    sample: Vec<PageIndex>,
    unchanged: u64,
}

/// Decides what is read again. The same delta and the same seed give the same decision.
///
/// # Errors
/// [`BadDelta`] if the ranges are not a delta.
pub fn plan(delta: Delta<'_>, seed: SampleSeed) -> Result<Inheritance, BadDelta> {
    check(delta.changed)?;
    let page_count = delta.now.page_count();
    let changed = changed_pages(delta);
    let with_edges = with_edges(&changed, page_count);
    let unchanged = page_count - with_edges.count();
    let ranks = sample::ranks(seed, unchanged, sample_size(unchanged));
    let sample = runs::nth_of_each(with_edges.gaps(page_count), &ranks);
    let sampled = sample.iter().map(|page| page.0..page.0 + 1);
    let reads = with_edges.union(&sampled.collect());
    Ok(Inheritance {
        page_count,
        checks: reads.minus(&changed),
        reads,
        changed,
        sample,
        unchanged,
    })
}

impl Inheritance {
    /// Pages that have to be read and hashed: changed ones, edges and sample.
    pub fn reads(&self) -> &PageRuns {
        &self.reads
    }

    /// Pages that the delta calls changed, or that the base does not have as they are now.
    pub fn changed(&self) -> &PageRuns {
        &self.changed
    }

    /// Runs of pages that are not read: their values are the base's.
    pub fn inherited(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.reads.gaps(self.page_count)
    }

    /// Pages that are read only to check the delta, edges and sample: if the value of one is not the
    /// base's, the delta lied, and no value may be inherited.
    pub fn checks(&self) -> &PageRuns {
        &self.checks
    }

    /// The sample, ascending.
    pub fn sample(&self) -> &[PageIndex] {
        &self.sample
    }

    /// Pages that the sample was drawn from.
    pub fn unchanged(&self) -> u64 {
        self.unchanged
    }

    /// Probability that this sample's size catches a delta that hides `hidden` changed pages among
    /// those that the sample was drawn from.
    pub fn chance_of_catching(&self, hidden: u64) -> f64 {
        chance_of_catching(self.unchanged, hidden, self.sample.len() as u64)
    }
}

/// Pages that are sampled of so many unchanged ones.
pub fn sample_size(unchanged: u64) -> u64 {
    let share = unchanged.div_ceil(SAMPLE_ONE_IN);
    share.max(MIN_SAMPLE).min(unchanged)
}

fn check(ranges: &[Range<u64>]) -> Result<(), BadDelta> {
    let mut last = 0;
    for (at, range) in ranges.iter().enumerate() {
        if range.end < range.start {
            let range = range.clone();
            return Err(BadDelta::Reversed { at, range });
        }
        if range.start < last {
            let start = range.start;
            return Err(BadDelta::Unsorted { at, start });
        }
        last = range.start;
    }
    Ok(())
}

fn changed_pages(delta: Delta<'_>) -> PageRuns {
    let size = delta.now.size();
    let inside = delta
        .changed
        .iter()
        .map(|range| range.start..range.end.min(size))
        .filter(|range| range.start < range.end);
    let touched = inside.map(|range| range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES));
    let touched: PageRuns = touched.collect();
    touched.union(&once(pages_without_base(delta.base, delta.now)).collect())
}

/// Pages whose value in the base, if there is one, is that of another stretch of bytes: those from
/// the end of the shorter volume on, and all of them if one volume fits into a single page, whose
/// value is a root.
fn pages_without_base(base: Geometry, now: Geometry) -> Range<u64> {
    let end = now.page_count();
    if base.size() == now.size() {
        return end..end;
    }
    if base.page_count() <= 1 || end <= 1 {
        return 0..end;
    }
    base.size().min(now.size()) / PAGE_BYTES..end
}

/// The runs, each with the page before and after it, and the first and the last page.
fn with_edges(changed: &PageRuns, page_count: u64) -> PageRuns {
    let widened = changed
        .iter()
        .map(|run| run.start.saturating_sub(1)..(run.end + 1).min(page_count));
    let widened: PageRuns = widened.collect();
    let first = 0..page_count.min(1);
    let last = page_count.saturating_sub(1)..page_count;
    widened.union(&[first, last].into_iter().collect())
}

#[cfg(test)]
mod tests;
