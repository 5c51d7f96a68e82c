//! What the threads of one target share, and how they wait for one another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use lockstep_merkle::{
    Cv, CvTable, EXTENT_SIZE, ExtentIndex, Geometry, GroupIndex, PageSeed, PageSet,
};
use lockstep_protocol::{
    DigestKind, Failure, FailureKind, FlushTicket, Hello, Plan, Purpose, Scope, Stats, TargetFrame,
    TargetSession, Terms, UndoNote, VerifyScope, VolumeState,
};
use lockstep_transport::{Link, LinkSender};
use lockstep_volume::{BufferPool, IoBuffer, IoFailure, IoFailureKind, MappedCvs};

use super::keep::Keep;
use super::mark::Marks;
use super::open::Opened;
use super::own::Own;
use super::place::Place;
use super::values::Values;
use super::want::Digests;
use super::written::WaitingForProof;
use super::{ServeOptions, state_frame};
use crate::base::Base;
use crate::failures::{sentence, volume_failed};
use crate::guard::guarded;
use crate::limits::{APPLY_THREADS, FLUSH_EVERY, FLUSH_NEW_EVERY, MIN_MEMORY, POLL};
use crate::pages::PageTable;
use crate::scan::{Known, Scan, ScanFrom};

/// One target's run, shared by its threads.
pub(super) struct Work<'a> {
    pub(super) volume: Box<dyn Place>,
    pub(super) geometry: Geometry,
    pub(super) digests: Digests,
    pub(super) plan: Plan,
    pub(super) standing: VolumeState,
    pub(super) expected: Arc<dyn CvTable>,
    pub(super) unproved: WaitingForProof,
    pool: BufferPool,
    pub(super) marks: Mutex<Marks>,
    pub(super) keep: Keep,
    pub(super) sender: &'a LinkSender,
    /// What the target was found, or made, to hold.
    measured: Arc<dyn CvTable>,
    /// The same by pages, where that is kept.
    pub(super) values: Values,
    /// Its past and its future, where it can have any.
    pub(super) own: Option<Arc<Own>>,
    pub(super) base: OnceLock<Box<Base>>,
    pub(super) counts: Counts,
    terms: Terms,
    from: ScanFrom,
    session: Mutex<TargetSession>,
    wants: Condvar,
    flushes: Condvar,
    checks: Condvar,
    turns: Condvar,
    writing: AtomicBool,
    full: AtomicBool,
    broken: AtomicBool,
    over: AtomicBool,
    stopped: Mutex<Option<Failure>>,
}

/// What is counted beside the session.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_inherited: AtomicU64,
}

impl Counts {
    pub(super) fn added_to(&self, stats: Stats) -> Stats {
        Stats {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_inherited: self.bytes_inherited.load(Ordering::Relaxed),
            ..stats
        }
    }
}

impl<'a> Work<'a> {
    pub(super) fn new(
        link: &'a Link,
        options: &ServeOptions,
        hello: &Hello,
        opened: Opened,
    ) -> Result<Work<'a>, Failure> {
        let geometry = opened.geometry;
        let table = || -> Result<Arc<dyn CvTable>, Failure> {
            let table = MappedCvs::new(geometry.group_count(), &scratch(options)).map_err(|e| {
                Failure::new(FailureKind::Io, format!("tree: {}", sentence(&e)))
                    .hint("give a folder with free space with --state-dir")
            })?;
            Ok(Arc::new(table))
        };
        let (measured, expected) = (table()?, table()?);
        let pages = match &opened.own {
            Some(own) => own.page_table(geometry, &scratch(options)),
            None => Ok(None),
        };
        // Without a scan there is nothing that they would save.
        let pages = pages.map(|pages| match hello.scope {
            Scope::Differences => {
                pages.or_else(|| PageTable::if_small(geometry, &scratch(options)))
            }
            Scope::Everything => pages,
        });
        let terms = Terms {
            geometry,
            purpose: hello.purpose,
            scope: hello.scope,
            verify: hello.verify,
            hold: hello.hold,
            window: opened.welcome.window,
        };
        let plan = opened.welcome.plan;
        let session = TargetSession::new(terms, plan, Arc::clone(&measured), Arc::clone(&expected));
        Ok(Work {
            volume: opened.volume,
            geometry,
            digests: match hello.digests {
                DigestKind::Seeded => Digests::Seeded(PageSeed(hello.seed)),
                DigestKind::Chained => Digests::Chained,
            },
            plan,
            standing: opened.welcome.standing,
            expected,
            unproved: WaitingForProof::default(),
            pool: BufferPool::new(EXTENT_SIZE, buffers(options)),
            marks: Mutex::new(opened.marks),
            keep: opened.keep,
            sender: &link.sender,
            measured,
            values: Values(pages.map(|pages| pages.map(Arc::new))),
            own: opened.own.map(Arc::new),
            base: OnceLock::new(),
            counts: Counts::default(),
            terms,
            from: opened.from,
            session: Mutex::new(session),
            wants: Condvar::new(),
            flushes: Condvar::new(),
            checks: Condvar::new(),
            turns: Condvar::new(),
            writing: AtomicBool::new(false),
            full: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            over: AtomicBool::new(false),
            stopped: Mutex::new(None),
        })
    }

    /// Changes the session and wakes the threads that have work by it.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut TargetSession) -> T) -> T {
        let mut session = self.session();
        let result = change(&mut session);
        let (wants, flush) = (
            session.has_wants(),
            session.flush_is_due(self.flush_every()),
        );
        let (checks, turn) = (session.has_checks(), session.is_at_turn());
        drop(session);
        let due = [
            (wants, &self.wants),
            (flush, &self.flushes),
            (checks, &self.checks),
            (turn, &self.turns),
        ];
        for (_, waiting) in due.iter().filter(|(due, _)| *due) {
            waiting.notify_one();
        }
        result
    }

    /// Waits for work of one kind; `None` when the run is over.
    fn wait<T>(
        &self,
        on: &Condvar,
        mut take: impl FnMut(&mut TargetSession) -> Option<T>,
    ) -> Option<T> {
        let mut session = self.session();
        loop {
            if self.is_over() {
                return None;
            }
            if let Some(taken) = take(&mut session) {
                return Some(taken);
            }
            // The time-out only bounds how late an ending run is noticed.
            session = on
                .wait_timeout(session, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn flush_every(&self) -> u64 {
        match self.plan {
            Plan::Create => FLUSH_NEW_EVERY,
            Plan::Keep | Plan::Resize | Plan::Resume => FLUSH_EVERY,
        }
    }

    pub(super) fn next_want(&self) -> Option<lockstep_protocol::WantOrder> {
        self.wait(&self.wants, TargetSession::next_want)
    }

    pub(super) fn next_flush(&self) -> Option<FlushTicket> {
        self.wait(&self.flushes, |session| {
            session
                .flush_is_due(self.flush_every())
                .then(|| session.begin_flush())
        })
    }

    pub(super) fn next_check(&self) -> Option<lockstep_protocol::CheckOrder> {
        let order = self.wait(&self.checks, TargetSession::next_check);
        // One call wakes one thread; more checks want more of them.
        self.checks.notify_one();
        order
    }

    /// Waits for a buffer of one extent; `None` when the run is over.
    pub(super) fn buffer(&self) -> Option<IoBuffer> {
        while !self.is_over() {
            if let Some(buffer) = self.pool.take_timeout(POLL) {
                return Some(buffer);
            }
        }
        None
    }

    /// Waits until the session is at a turn, or a moment.
    pub(super) fn wait_for_turn<T>(&self, look: impl FnOnce(&mut TargetSession) -> T) -> T {
        let session = self.session();
        let mut session = if session.is_at_turn() || self.is_over() {
            session
        } else {
            self.turns
                .wait_timeout(session, POLL)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        };
        look(&mut session)
    }

    /// Scans the target into its own table.
    pub(super) fn scan(&self, pool: &rayon::ThreadPool) {
        if self.terms.scope == Scope::Everything {
            return;
        }
        let base = match self.find_base(pool) {
            Ok(base) => base,
            Err(failure) => return self.stop(failure),
        };
        let scanned = self.measure(pool, self.from, base, &|| self.is_over(), &|extent, cvs| {
            self.keep.scanned(extent, cvs);
            self.update(|session| session.scanned(extent));
        });
        if let Err(failure) = scanned {
            self.stop(failure);
        }
    }

    /// Measures the target, but what still holds of the base.
    pub(super) fn measure(
        &self,
        pool: &rayon::ThreadPool,
        from: ScanFrom,
        base: Option<&Base>,
        stop: &(dyn Fn() -> bool + Sync),
        each: &(dyn Fn(ExtentIndex, &[Cv]) + Sync),
    ) -> Result<(), Failure> {
        let scan = Scan {
            volume: self.volume.as_ref(),
            geometry: self.geometry,
            from,
            bytes_read: &self.counts.bytes_read,
            pages: self.values.table(),
            known: base.map(|base| Known {
                index: &base.index,
                changed: base.inheritance.changed(),
                bytes_inherited: &self.counts.bytes_inherited,
            }),
            gate: None,
        };
        let scanned = scan.run(pool, stop, &|extent, cvs| {
            for (group, cv) in self.geometry.groups_of(extent).zip(cvs.iter()) {
                self.measured.set(GroupIndex(group), *cv);
            }
            each(extent, cvs);
        });
        scanned.map_err(|error| self.disk_failed(&error))
    }

    /// The medium holds pages of these values.
    pub(super) fn learn(&self, extent: ExtentIndex, pages: PageSet, cvs: &[Cv]) {
        self.values.learn(self.geometry, extent, pages, cvs);
    }

    /// Reads the target beside the scan.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        self.counts
            .bytes_read
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.volume
            .read_at(offset, bytes)
            .map_err(|error| self.disk_failed(&error))
    }

    /// Before the first write: `inconsistent` and the undo are durable, no index is
    /// left that would not know of it, the file has its size, and the source knows.
    pub(super) fn begin_overwrite(&self) -> Result<(), Failure> {
        if self.writing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut marks = self.marks();
        if self.writing.load(Ordering::SeqCst) {
            return Ok(());
        }
        // The size is part of the identity; one that is about to change must
        // not make an interrupted run read as if nothing were known.
        let identity = match self.plan {
            Plan::Resize => None,
            _ => self.volume.durable_identity(),
        };
        // What the ledger calls unsafe already loses nothing by being called so
        // again, and its undo can be continued only by a run that the ledger
        // names. Otherwise an undo that cannot be begun leaves no trace.
        let continues = self.keep.continues();
        if !continues {
            self.keep.begin(self.volume.as_ref(), self.sender)?;
        }
        marks.overwrite(identity.as_deref())?;
        if continues {
            self.keep.begin(self.volume.as_ref(), self.sender)?;
        }
        if let Some(own) = &self.own {
            own.forget()?;
        }
        self.volume
            .begin_overwrite()
            .map_err(|error| self.disk_failed(&error))?;
        self.writing.store(true, Ordering::SeqCst);
        drop(marks);
        // A link that is gone is found by the thread that listens to it.
        let _ = self.sender.control(state_frame(VolumeState::Inconsistent));
        Ok(())
    }

    /// The run ended well: what it overwrote is kept for its time.
    pub(super) fn keep_is_finished(&self) -> Option<UndoNote> {
        self.keep.finish();
        self.kept()
    }

    /// What can be brought back of what this run wrote.
    pub(super) fn kept(&self) -> Option<UndoNote> {
        self.keep.ended(self.stats().bytes_written)
    }

    /// Takes back what one of these runs said of the volume, durably, and says
    /// so; nothing that the source says later is heard before.
    pub(super) fn doubt(&self, runs: &[[u8; 16]]) -> Result<(), Failure> {
        let doubted = self.marks().doubt(runs)?;
        let answer = TargetFrame::Doubted(doubted).encode();
        // A link that is gone is found by the thread that listens to it.
        let _ = self.sender.control(Bytes::from(answer));
        Ok(())
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.load(Ordering::SeqCst)
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything of a group that is proved has to come from the
    /// medium, not only what this run wrote of it.
    pub(super) fn trusts_no_cache(&self) -> bool {
        self.from == ScanFrom::Medium || self.terms.verify == VerifyScope::Full
    }

    pub(super) fn compares(&self) -> bool {
        self.terms.purpose == Purpose::Compare
    }

    pub(super) fn stats(&self) -> Stats {
        let stats = self.session().stats();
        self.counts.added_to(stats)
    }

    /// The target's disk failed, or is full.
    pub(super) fn disk_failed(&self, error: &IoFailure) -> Failure {
        let flag = match error.kind() {
            IoFailureKind::NoSpace => &self.full,
            _ => &self.broken,
        };
        flag.store(true, Ordering::SeqCst);
        volume_failed(error)
    }

    /// The target's disk failed outside the volume's reads and writes.
    pub(super) fn disk_broke(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    pub(super) fn disk_has_failed(&self) -> bool {
        self.broken.load(Ordering::SeqCst) || self.disk_is_full()
    }

    pub(super) fn disk_is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// Ends the run with a failure; the first one stays.
    pub(super) fn stop(&self, failure: Failure) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert(failure);
        drop(stopped);
        self.end();
    }

    /// Does the part of one thread; a panic ends the run.
    pub(super) fn guard(&self, part: impl FnOnce()) {
        if let Err(failure) = guarded(part) {
            self.stop(failure);
        }
    }

    /// Lets every thread end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        for waiting in [&self.wants, &self.flushes, &self.checks, &self.turns] {
            waiting.notify_all();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn session(&self) -> MutexGuard<'_, TargetSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn scratch(options: &ServeOptions) -> std::path::PathBuf {
    if options.state_dir.is_dir() {
        options.state_dir.clone()
    } else {
        std::env::temp_dir()
    }
}

fn buffers(options: &ServeOptions) -> usize {
    let memory = options.memory.max(MIN_MEMORY);
    let extents = usize::try_from(memory).unwrap_or(usize::MAX) / EXTENT_SIZE;
    extents
        .saturating_sub(options.threads + 2 * APPLY_THREADS)
        .max(12)
}
