//! What is known of one target while it is driven.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_merkle::{ExtentIndex, Geometry, PageSet};
use lockstep_protocol::{Failure, Plan, Stats, UndoNote, VolumeState, Welcome};
use lockstep_transport::Meter;

use crate::monitor::Phase;

/// What the run hears from its targets.
pub(crate) enum News {
    /// Open and fit, or not, with its identity.
    Ready(usize),
    /// Compared, waiting for agreement.
    Held,
    /// Over.
    Ended,
}

/// How one target's session ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Verified(VolumeState),
    Compared,
    Failed(Failure, VolumeState),
}

/// What is known of one target while it is driven; read by the run's thread.
pub(crate) struct Target {
    pub(crate) index: usize,
    pub(crate) started: Instant,
    facts: Mutex<Facts>,
    pub(super) shipped: AtomicBool,
    pub(super) proceed: AtomicBool,
    /// `Done` is out and nothing is held: a target that only changes its size
    /// may do so now.
    pub(super) may_settle: AtomicBool,
    /// Doubted runs that it was told of.
    pub(super) doubts_told: AtomicUsize,
    pub(crate) differing: AtomicU64,
}

/// The parts that change seldom.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) phase: Option<Phase>,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) refused_identity: Vec<u8>,
    pub(crate) state: Option<VolumeState>,
    pub(crate) stats: Stats,
    pub(crate) undo: Option<UndoNote>,
    pub(crate) transport: Option<&'static str>,
    pub(crate) meter: Option<Meter>,
    pub(crate) end: Option<End>,
    pub(crate) elapsed: Duration,
    pub(super) lacking: BTreeMap<u64, PageSet>,
    /// Doubts that it has not answered.
    pub(super) doubts_unanswered: usize,
}

impl Target {
    pub(crate) fn new(index: usize) -> Target {
        Target {
            index,
            started: Instant::now(),
            facts: Mutex::default(),
            shipped: AtomicBool::new(false),
            proceed: AtomicBool::new(false),
            may_settle: AtomicBool::new(false),
            doubts_told: AtomicUsize::new(0),
            differing: AtomicU64::new(0),
        }
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Agreement came: the session may go on to writing.
    pub(crate) fn proceed(&self) {
        self.proceed.store(true, Ordering::SeqCst);
    }

    /// Whether it ended consistent.
    pub(super) fn is_verified(&self) -> bool {
        matches!(
            self.facts().end,
            Some(End::Verified(VolumeState::Consistent))
        )
    }

    /// Whether its record rests on none of the doubted runs, of which there are so many.
    pub(super) fn has_settled(&self, doubts: usize) -> bool {
        self.facts().doubts_unanswered == 0 && self.doubts_told.load(Ordering::SeqCst) == doubts
    }

    /// Whether it may have been marked by this run, for all that is known here.
    pub(super) fn may_be_marked(&self) -> bool {
        self.may_settle.load(Ordering::SeqCst)
    }

    /// Whether bytes of the target may have been overwritten.
    pub(super) fn may_be_written(&self) -> bool {
        let facts = self.facts();
        let resizes = facts
            .welcome
            .as_ref()
            .is_some_and(|welcome| welcome.plan == Plan::Resize);
        self.shipped.load(Ordering::SeqCst)
            || facts.state == Some(VolumeState::Inconsistent)
            || (resizes && self.may_settle.load(Ordering::SeqCst))
    }

    /// The state to report when the target could not tell its own.
    pub(super) fn supposed_state(&self) -> VolumeState {
        let facts = self.facts();
        let standing = facts.welcome.as_ref().map(|welcome| welcome.standing);
        drop(facts);
        if self.may_be_written() {
            VolumeState::Inconsistent
        } else {
            standing.unwrap_or(VolumeState::Unknown)
        }
    }

    /// Differing byte ranges found by a comparison, merged.
    pub(crate) fn ranges(&self, geometry: Geometry) -> Vec<Range<u64>> {
        let mut merged: Vec<Range<u64>> = Vec::new();
        for (extent, pages) in &self.facts().lacking {
            let extent = ExtentIndex(*extent);
            let start = geometry.extent_range(extent).start;
            for run in pages.runs() {
                let first = geometry.page_range_in_extent(extent, run.start).start as u64;
                let end = geometry.page_range_in_extent(extent, run.end - 1).end as u64;
                match merged.last_mut() {
                    Some(last) if last.end == start + first => last.end = start + end,
                    _ => merged.push(start + first..start + end),
                }
            }
        }
        merged
    }
}
