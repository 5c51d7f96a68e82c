//! What the scan has found so far, for every target to follow at its own pace.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstep_merkle::{Cv, CvTable, ExtentIndex, Geometry, GroupIndex};
use lockstep_protocol::{Failure, LastWord};

/// What a follower finds when it looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Groups below this are hashed.
    pub(crate) groups: u64,
    /// Set once all are hashed and the source was checked.
    pub(crate) finish: Option<LastWord>,
}

#[derive(Default)]
struct Inner {
    frontier: u64,
    ahead: BTreeSet<u64>,
    released: bool,
    finish: Option<LastWord>,
}

/// The growing tree of the source, and the word that ends the run.
pub(crate) struct Feed {
    geometry: Geometry,
    tree: Box<dyn CvTable>,
    inner: Mutex<Inner>,
    grown: Condvar,
    over: AtomicBool,
    abort: Mutex<Option<Failure>>,
    doubts: Mutex<Vec<[u8; 16]>>,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_scanned: AtomicU64,
    /// Of those, what was taken over from an earlier run.
    pub(crate) bytes_inherited: AtomicU64,
}

impl Feed {
    pub(crate) fn new(geometry: Geometry, tree: Box<dyn CvTable>) -> Feed {
        Feed {
            geometry,
            tree,
            inner: Mutex::default(),
            grown: Condvar::new(),
            over: AtomicBool::new(false),
            abort: Mutex::new(None),
            doubts: Mutex::default(),
            bytes_read: AtomicU64::new(0),
            bytes_scanned: AtomicU64::new(0),
            bytes_inherited: AtomicU64::new(0),
        }
    }

    /// An extent is hashed.
    pub(crate) fn scanned(&self, extent: ExtentIndex, cvs: &[Cv]) {
        for (group, cv) in self.geometry.groups_of(extent).zip(cvs.iter()) {
            self.tree.set(GroupIndex(group), *cv);
        }
        let length = self.geometry.extent_len(extent) as u64;
        self.bytes_scanned.fetch_add(length, Ordering::Relaxed);
        let mut inner = self.lock();
        inner.ahead.insert(extent.0);
        let before = inner.frontier;
        loop {
            let next = inner.frontier;
            if !inner.ahead.remove(&next) {
                break;
            }
            inner.frontier += 1;
        }
        if inner.frontier != before {
            self.grown.notify_all();
        }
    }

    /// Lets the digests flow: every target has answered, or was waited for.
    pub(crate) fn release(&self) {
        self.lock().released = true;
        self.grown.notify_all();
    }

    /// What these runs proved is not believed any more; the targets are told before anything else,
    /// and before the last word if this comes before [`Feed::finish`].
    pub(crate) fn doubt(&self, runs: &[[u8; 16]]) {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs {
            if !doubts.contains(run) {
                doubts.push(*run);
            }
        }
        drop(doubts);
        self.grown.notify_all();
    }

    /// The doubted runs but the first so many.
    pub(crate) fn doubts_beyond(&self, told: usize) -> Vec<[u8; 16]> {
        let doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.get(told..).unwrap_or_default().to_vec()
    }

    /// Everything is hashed.
    pub(crate) fn finish(&self, finish: LastWord) {
        self.lock().finish = Some(finish);
        self.grown.notify_all();
    }

    /// Ends the run early. The first reason stays.
    pub(crate) fn abort(&self, failure: Failure) {
        let mut abort = self.abort.lock().unwrap_or_else(PoisonError::into_inner);
        abort.get_or_insert(failure);
        drop(abort);
        self.stop();
    }

    /// No target is left: nothing more needs to be scanned.
    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.grown.notify_all();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn aborted(&self) -> Option<Failure> {
        self.abort
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn finished(&self) -> Option<LastWord> {
        self.lock().finish
    }

    /// Waits at most `timeout` for more than `seen` groups, or for the finish
    /// when all are seen.
    pub(crate) fn wait_beyond(&self, seen: u64, timeout: Duration) -> Found {
        let all = self.geometry.group_count();
        let waits = |inner: &mut Inner| {
            !self.is_over()
                && (!inner.released
                    || (self.groups_below(inner) <= seen
                        && !(seen == all && inner.finish.is_some())))
        };
        let (inner, _) = self
            .grown
            .wait_timeout_while(self.lock(), timeout, waits)
            .unwrap_or_else(PoisonError::into_inner);
        Found {
            groups: if inner.released {
                self.groups_below(&inner)
            } else {
                0
            },
            finish: inner.finish.filter(|_| inner.released),
        }
    }

    pub(crate) fn cv(&self, group: GroupIndex) -> Cv {
        self.tree.cv(group)
    }

    pub(crate) fn tree(&self) -> &dyn CvTable {
        self.tree.as_ref()
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn groups_below(&self, inner: &Inner) -> u64 {
        match inner.frontier {
            0 => 0,
            extents => self.geometry.groups_of(ExtentIndex(extents - 1)).end,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
