//! Which groups of a volume are read again although a delta calls most of them unchanged.
//!
//! Promise: whatever the delta names is read, and so is enough of the rest that a delta which hides
//! changes is caught with the probability that [`chance_of_catching`] states. Pure: no I/O, no clock,
//! and memory for the delta's ranges and the sample, whatever the size of the volume.
//!
//! ```text
//!   delta      ░░░░░░▓▓░░░░░░░░▓░░░░░░░░░░░    ▓ bytes that changed, by the delta
//!   changed          CC        C               every group that such bytes touch, or that the base
//!                                              has not: hashed, any value may come out
//!   edges      E    E  E      E E         E    their neighbours, the first and the last group:
//!   sample        S                 S          0.1 % of the rest, at least 64: hashed, and must
//!                                              come out as in the base
//!   inherited   iii i   iiiiii   iii iiiii     not read: the base's values
//! ```
//!
//! Edges are there because a provider that is wrong by a little (rounding, an extent cut short) is
//! wrong there. The sample is for one that is wrong anywhere.
//!
//! # How likely a lie is caught
//!
//! Of `n` groups that are neither changed nor an edge, `s = max(64, ⌈n/1000⌉)` are sampled, each set of
//! `s` with equal probability. If the delta hides `h` changed groups among them, one run catches it
//! with probability `1 − C(n−h, s) / C(n, s)`:
//!
//! | volume | n | s | h = 1 | h = 10 | h = 100 | h = 1000 | h = 10,000 |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | 1 GiB | 16,384 | 64 | 0.39 % | 3.8 % | 32 % | 98.2 % | certain but for 10⁻²⁶ |
//! | 64 GiB | 1,048,576 | 1,049 | 0.10 % | 1.0 % | 9.5 % | 63 % | 99.996 % |
//! | 1 TiB | 16,777,216 | 16,778 | 0.10 % | 1.0 % | 9.5 % | 63 % | 99.995 % |
//!
//! So one hidden group is found by a full scan, and hardly ever by sampling: sampling is for a
//! provider that is broken, not for one that is wrong once. A lie that goes on hiding the same groups
//! is caught after `r` runs with `1 − (1 − p)ʳ`.

mod chance;
mod runs;
mod sample;

use std::iter::once;
use std::ops::Range;

use lockstep_merkle::{GROUP_SIZE, Geometry, GroupIndex};

pub use chance::chance_of_catching;
pub use runs::GroupRuns;
pub use sample::SampleSeed;

/// One unchanged group of so many is sampled.
pub const SAMPLE_ONE_IN: u64 = 1000;
/// Unchanged groups that are sampled at least, if there are so many.
pub const MIN_SAMPLE: u64 = 64;

const GROUP_BYTES: u64 = GROUP_SIZE as u64;

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
    group_count: u64,
    changed: GroupRuns,
    reads: GroupRuns,
    sample: Vec<GroupIndex>,
    unchanged: u64,
}

/// Decides what is read again. The same delta and the same seed give the same decision.
///
/// # Errors
/// [`BadDelta`] if the ranges are not a delta.
pub fn plan(delta: Delta<'_>, seed: SampleSeed) -> Result<Inheritance, BadDelta> {
    check(delta.changed)?;
    let group_count = delta.now.group_count();
    let changed = changed_groups(delta);
    let with_edges = with_edges(&changed, group_count);
    let unchanged = group_count - with_edges.count();
    let ranks = sample::ranks(seed, unchanged, sample_size(unchanged));
    let sample = runs::nth_of_each(with_edges.gaps(group_count), &ranks);
    let sampled = sample.iter().map(|group| group.0..group.0 + 1);
    Ok(Inheritance {
        group_count,
        reads: with_edges.union(&sampled.collect()),
        changed,
        sample,
        unchanged,
    })
}

impl Inheritance {
    /// Groups that have to be read and hashed: changed ones, edges and sample.
    pub fn reads(&self) -> &GroupRuns {
        &self.reads
    }

    /// Groups that the delta calls changed, or that the base does not have as they are now.
    pub fn changed(&self) -> &GroupRuns {
        &self.changed
    }

    /// Runs of groups that are not read: their values are the base's.
    pub fn inherited(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.reads.gaps(self.group_count)
    }

    /// Whether a group is read only to check the delta: if its value is not the base's, the delta
    /// lied, and no value may be inherited.
    pub fn must_match(&self, group: GroupIndex) -> bool {
        self.reads.contains(group) && !self.changed.contains(group)
    }

    /// The sample, ascending.
    pub fn sample(&self) -> &[GroupIndex] {
        &self.sample
    }

    /// Groups that the sample was drawn from.
    pub fn unchanged(&self) -> u64 {
        self.unchanged
    }

    /// Probability that this sample's size catches a delta that hides `hidden` changed groups among
    /// those that the sample was drawn from.
    pub fn chance_of_catching(&self, hidden: u64) -> f64 {
        chance_of_catching(self.unchanged, hidden, self.sample.len() as u64)
    }
}

/// Groups that are sampled of so many unchanged ones.
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

fn changed_groups(delta: Delta<'_>) -> GroupRuns {
    let size = delta.now.size();
    let inside = delta
        .changed
        .iter()
        .map(|range| range.start..range.end.min(size))
        .filter(|range| range.start < range.end);
    let touched = inside.map(|range| range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES));
    let touched: GroupRuns = touched.collect();
    touched.union(&once(groups_without_base(delta.base, delta.now)).collect())
}

/// Groups whose value in the base, if there is one, is that of another stretch of bytes: those from
/// the end of the shorter volume on, and all of them if one volume fits into a single group, whose
/// value is a root.
fn groups_without_base(base: Geometry, now: Geometry) -> Range<u64> {
    let end = now.group_count();
    if base.size() == now.size() {
        return end..end;
    }
    if base.group_count() <= 1 || end <= 1 {
        return 0..end;
    }
    base.size().min(now.size()) / GROUP_BYTES..end
}

/// The runs, each with the group before and after it, and the first and the last group.
fn with_edges(changed: &GroupRuns, group_count: u64) -> GroupRuns {
    let widened = changed
        .iter()
        .map(|run| run.start.saturating_sub(1)..(run.end + 1).min(group_count));
    let widened: GroupRuns = widened.collect();
    let first = 0..group_count.min(1);
    let last = group_count.saturating_sub(1)..group_count;
    widened.union(&[first, last].into_iter().collect())
}

#[cfg(test)]
mod tests;
