//! Values of an earlier run that still hold, by the word of a snapshot's delta: of a source or of a
//! target.
//!
//! ```text
//!   base snapshot + its index ─┐
//!                              ├─ delta ─► plan ─► sample and edges are read: all as before?
//!   snapshot of now ───────────┘                     │ yes                     │ no
//!                                                    ▼                         ▼
//!                              only what changed is read        alarm, no more deltas, read all
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstep_index::Index;
use lockstep_index::inherit::{Delta, Inheritance, SampleSeed, plan};
use lockstep_merkle::{
    Cv, EXTENT_SIZE, Geometry, PAGES_PER_EXTENT, PAGES_PER_GROUP, PageIndex, page_cvs,
};
use lockstep_snapshot::{Provider, Snapshot};
use lockstep_volume::{IoFailure, Volume};
use rayon::prelude::{ParallelIterator, ParallelSlice};

use crate::pages::bytes_of;

/// Runs of pages that are asked of the disk at once, for each thread that checks them.
const RUNS_AT_ONCE: usize = 64;

/// Values that need not be measured again.
pub(crate) struct Base {
    pub(crate) index: Index,
    pub(crate) inheritance: Inheritance,
}

/// What was found of an earlier run.
pub(crate) enum Found {
    /// Nothing that could be of use.
    Nothing,
    /// Something, but there is a doubt, in one clause.
    Doubt(String),
    /// All that is needed.
    Base(Box<Base>),
}

impl Base {
    /// What of an index, which is that of the snapshot `base`, holds in the snapshot `now` too; or
    /// the doubt that stands in the way.
    pub(crate) fn by_delta(
        provider: &dyn Provider,
        index: Index,
        base: &Snapshot,
        now: &Snapshot,
    ) -> Result<Base, String> {
        let changed = provider
            .delta(base, now)
            .map_err(|doubt| doubt.to_string())?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| format!("no random bytes: {error}"))?;
        let delta = Delta {
            base: index.geometry(),
            now: Geometry::new(now.size),
            changed: changed.ranges(),
        };
        let inheritance = plan(delta, SampleSeed(seed)).map_err(|error| error.to_string())?;
        Ok(Base { index, inheritance })
    }

    /// Reads the sample and the edges, which have to be as they were; `pass` is called with the
    /// length of each read before it.
    ///
    /// # Errors
    /// The first failure of the volume.
    pub(crate) fn holds(
        &self,
        volume: &dyn Volume,
        geometry: Geometry,
        pool: &rayon::ThreadPool,
        bytes_read: &AtomicU64,
        pass: &(dyn Fn(usize) + Sync),
    ) -> Result<bool, IoFailure> {
        let checks: Vec<Range<u64>> = self.inheritance.checks().iter().flat_map(pieces).collect();
        let holds = AtomicBool::new(true);
        pool.install(|| {
            checks.par_chunks(RUNS_AT_ONCE).try_for_each_init(
                || vec![0; EXTENT_SIZE],
                |buffer, checks| {
                    self.fetch(volume, geometry, checks);
                    for pages in checks {
                        let range = bytes_of(geometry, pages);
                        let bytes = &mut buffer[..(range.end - range.start) as usize];
                        pass(bytes.len());
                        volume.read_at(range.start, bytes)?;
                        bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        if !self.has(geometry, pages, bytes) {
                            holds.store(false, Ordering::Relaxed);
                        }
                    }
                    Ok(())
                },
            )
        })?;
        Ok(holds.load(Ordering::Relaxed))
    }

    /// Has the disk bring what is read next, all at once, and a short changed run together with the
    /// edges around it: it is read right after.
    fn fetch(&self, volume: &dyn Volume, geometry: Geometry, checks: &[Range<u64>]) {
        let [first, .., last] = checks else {
            return;
        };
        for run in self.inheritance.reads().within(first.start..last.end) {
            if run.end - run.start <= PAGES_PER_GROUP as u64 {
                volume.will_need(bytes_of(geometry, &run));
            }
        }
    }

    /// Whether the pages are as they were.
    fn has(&self, geometry: Geometry, pages: &Range<u64>, bytes: &[u8]) -> bool {
        let mut cvs = [Cv::from_bytes([0; 32]); PAGES_PER_EXTENT];
        let cvs = &mut cvs[..(pages.end - pages.start) as usize];
        page_cvs(geometry, PageIndex(pages.start), bytes, cvs);
        let mut pairs = pages.clone().map(PageIndex).zip(cvs);
        pairs.all(|(page, cv)| self.index.cv(page) == *cv)
    }
}

/// A run of pages in parts that a buffer of one extent holds.
fn pieces(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = run.clone().step_by(PAGES_PER_EXTENT);
    starts.map(move |start| start..run.end.min(start + PAGES_PER_EXTENT as u64))
}
