//! The target's side of one session: what to ask for, what to check, and when
//! the whole is proved.
//!
//! One extent:
//! ```text
//!          scanned + digests, equal
//! Open ─────────────────────────────────────────────► Settled
//!   │ differ                                             ▲
//!   ▼         next_want          arrived      applied    │ checked: equal
//! Queued ───────────► Asked ───────────► Arrived ───► Written
//!   ▲  ▲                │ counted (hold)    │            │ begin_flush, flushed
//!   │  └── proceed ── Counted               │            ▼
//!   ├───────────────────────────────────────┘         Flushed
//!   │   applied: unfit, at most MAX_REPAIRS              │ next_check
//!   │                                                    ▼
//!   └────────── checked: differs, at most MAX_REPAIRS ─ Checking
//! ```
//! The volume is proved when `Done` came with the root of the promised
//! chaining values, every extent is settled, and the fold of this side's own
//! values is that root too.
//!
//! The lists of extents hold each extent at most once, so that none of them
//! outgrows the volume.

mod compare;
mod orders;
mod slots;

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_merkle::{Cv, CvTable, ExtentIndex, Fold, FoldError, GroupIndex, PageSet, Root, fold};

use crate::limits::{MAX_REPAIRS, MAX_UNCHECKED_EXTENTS, MAX_UNFLUSHED_EXTENTS};
use crate::message::{DataHead, Plan, Stats};
use crate::terms::{LastWord, Purpose, Terms, Violation};

pub use orders::{Applied, ApplyOrder, CheckOrder, Exhausted, FlushTicket, WantMode, WantOrder};

use slots::{Phase, Slot, Slots};

/// Whether wants are counted or answered with data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Counting,
    Held,
    Working,
}

/// The target's side of one session, once it has welcomed the source.
pub struct TargetSession {
    terms: Terms,
    stage: Stage,
    own: Arc<dyn CvTable>,
    expected: Arc<dyn CvTable>,
    slots: Slots,
    groups_digested: u64,
    promised: Fold,
    outstanding: u16,
    queue: VecDeque<ExtentIndex>,
    counted: Vec<ExtentIndex>,
    unflushed: Vec<ExtentIndex>,
    bytes_unflushed: u64,
    checks: VecDeque<ExtentIndex>,
    /// Of `checks`, those that were written.
    written_checks: usize,
    settled: u64,
    stats: Stats,
    announced: bool,
    done: Option<LastWord>,
}

impl TargetSession {
    /// A session under these terms. `own` receives what this side measures,
    /// `expected` what the source promises; both hold one value a group.
    #[must_use]
    pub fn new(
        terms: Terms,
        plan: Plan,
        own: Arc<dyn CvTable>,
        expected: Arc<dyn CvTable>,
    ) -> TargetSession {
        let counting = terms.counts_first(plan);
        TargetSession {
            terms,
            stage: if counting {
                Stage::Counting
            } else {
                Stage::Working
            },
            own,
            expected,
            slots: Slots::new(terms.geometry, terms.scope),
            groups_digested: 0,
            promised: Fold::new(terms.geometry),
            outstanding: 0,
            queue: VecDeque::new(),
            counted: Vec::new(),
            unflushed: Vec::new(),
            bytes_unflushed: 0,
            checks: VecDeque::new(),
            written_checks: 0,
            settled: 0,
            stats: Stats::default(),
            announced: false,
            done: None,
        }
    }

    /// The source's chaining values of the next groups.
    ///
    /// # Errors
    /// [`Violation`] when they are not the next ones or go past the end.
    pub fn digests(&mut self, first: GroupIndex, cvs: &[Cv]) -> Result<(), Violation> {
        let expected = GroupIndex(self.groups_digested);
        let end = self.groups_digested.saturating_add(cvs.len() as u64);
        if first != expected || end > self.terms.geometry.group_count() {
            return Err(Violation::DigestsOutOfOrder {
                got: first,
                expected,
            });
        }
        for (index, cv) in (first.0..).zip(cvs) {
            self.expected.set(GroupIndex(index), *cv);
            self.promised
                .push(*cv)
                .map_err(|_| Violation::DigestsOutOfOrder {
                    got: first,
                    expected,
                })?;
        }
        self.groups_digested = end;
        self.note_digested(first.0, end);
        Ok(())
    }

    /// This side's own chaining values of the extent are in `own`.
    pub fn scanned(&mut self, extent: ExtentIndex) {
        if let Some(slot) = self.slots.reach(extent) {
            slot.scanned = true;
        }
        self.compare(extent);
    }

    /// The next extent to ask for, if the window has room.
    pub fn next_want(&mut self) -> Option<WantOrder> {
        if !self.may_ask() {
            return None;
        }
        let extent = self.queue.pop_front()?;
        let scope = self.terms.scope;
        self.outstanding += 1;
        let slot = self.slots.of(extent)?;
        slot.phase = Phase::Asked;
        Some(WantOrder {
            extent,
            groups: slot.groups,
            mode: slot.mode(scope),
        })
    }

    /// The source has counted an extent that was asked for.
    ///
    /// # Errors
    /// [`Violation`] when it was not asked for, or data was due.
    pub fn counted(&mut self, extent: ExtentIndex) -> Result<(), Violation> {
        if self.stage != Stage::Counting {
            return Err(Violation::OutOfTurn {
                frame: "counted",
                stage: "waiting for data",
            });
        }
        self.expect(extent, Phase::Asked)?.phase = Phase::Counted;
        self.outstanding -= 1;
        self.counted.push(extent);
        Ok(())
    }

    /// True once: everything is compared, and counted where that was asked.
    pub fn announce_compared(&mut self) -> bool {
        if !self.is_compared() {
            return false;
        }
        self.announced = true;
        if self.stage == Stage::Counting {
            self.stage = Stage::Held;
        }
        true
    }

    fn is_compared(&self) -> bool {
        let compared = self.stats.extents_compared == self.terms.geometry.extent_count();
        let counting = self.stage == Stage::Counting;
        let counted = !counting || (self.queue.is_empty() && self.outstanding == 0);
        !self.announced && compared && counted
    }

    /// The source lets writing begin.
    ///
    /// # Errors
    /// [`Violation::OutOfTurn`] when nobody waits for that.
    pub fn proceed(&mut self) -> Result<(), Violation> {
        if self.stage != Stage::Held || self.terms.purpose == Purpose::Compare {
            return Err(Violation::OutOfTurn {
                frame: "proceed",
                stage: "not waiting for agreement",
            });
        }
        self.stage = Stage::Working;
        for extent in std::mem::take(&mut self.counted) {
            self.enqueue(extent);
        }
        Ok(())
    }

    /// Data came; checks that it is what was asked for.
    ///
    /// # Errors
    /// [`Violation`] when it is not.
    pub fn arrived(&mut self, head: &DataHead) -> Result<ApplyOrder, Violation> {
        if self.stage != Stage::Working {
            return Err(Violation::Unasked(head.extent));
        }
        let (geometry, scope) = (self.terms.geometry, self.terms.scope);
        let slot = self.expect(head.extent, Phase::Asked)?;
        let order = ApplyOrder {
            groups: slot.groups,
            mode: slot.mode(scope),
        };
        let asked = PageSet::of_groups(order.groups, geometry.pages_in(head.extent));
        let sent = head.data.union(head.zero);
        let fits = match order.mode {
            WantMode::Whole => sent == asked,
            WantMode::Differing => asked.union(sent) == asked,
        };
        if !fits {
            return Err(Violation::WrongPages(head.extent));
        }
        slot.phase = Phase::Arrived;
        Ok(order)
    }

    /// The data of an extent was applied, or could not be. Says nothing about
    /// an extent whose data has not arrived.
    ///
    /// # Errors
    /// [`Exhausted`] when it did not fit once too often.
    pub fn applied(&mut self, extent: ExtentIndex, applied: Applied) -> Result<(), Exhausted> {
        if !self.is_in(extent, Phase::Arrived) {
            return Ok(());
        }
        self.outstanding -= 1;
        match applied {
            Applied::Written { bytes } => {
                self.stats.bytes_written += bytes;
                self.bytes_unflushed += bytes;
                self.await_flush(extent);
                Ok(())
            }
            Applied::Unfit => self.repair(extent),
        }
    }

    /// Bytes written that no flush covers yet.
    #[must_use]
    pub fn bytes_unflushed(&self) -> u64 {
        self.bytes_unflushed
    }

    /// Whether nothing is being asked for or applied any more, so that what
    /// is unflushed will not grow by itself.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outstanding == 0
            && self.queue.is_empty()
            && self.stage == Stage::Working
            && self.stats.extents_compared == self.terms.geometry.extent_count()
    }

    /// Whether a want could be sent now.
    #[must_use]
    pub fn has_wants(&self) -> bool {
        self.may_ask() && !self.queue.is_empty()
    }

    fn may_ask(&self) -> bool {
        self.stage != Stage::Held
            && self.outstanding < self.terms.window
            && self.written_checks < MAX_UNCHECKED_EXTENTS
    }

    fn was_asked_for(&mut self, extent: ExtentIndex) -> bool {
        self.slots
            .of(extent)
            .is_some_and(|slot| !slot.groups.is_empty())
    }

    /// Whether something is to be read back.
    #[must_use]
    pub fn has_checks(&self) -> bool {
        !self.checks.is_empty()
    }

    /// Whether what is written should be made durable now: enough of it, or
    /// no more to come.
    #[must_use]
    pub fn flush_is_due(&self, threshold: u64) -> bool {
        let enough =
            self.bytes_unflushed >= threshold || self.unflushed.len() >= MAX_UNFLUSHED_EXTENTS;
        !self.unflushed.is_empty() && self.stage == Stage::Working && (enough || self.is_idle())
    }

    /// Whether there is something to announce: all compared, or all settled.
    #[must_use]
    pub fn is_at_turn(&self) -> bool {
        self.is_compared() || self.settled().is_some()
    }

    /// Takes what has been written until now; call before the flush starts.
    pub fn begin_flush(&mut self) -> FlushTicket {
        self.bytes_unflushed = 0;
        FlushTicket(std::mem::take(&mut self.unflushed))
    }

    /// The flush that was begun with this ticket has succeeded.
    pub fn flushed(&mut self, ticket: FlushTicket) {
        for extent in ticket.0 {
            self.set_phase(extent, Phase::Flushed);
            self.written_checks += usize::from(self.was_asked_for(extent));
            self.checks.push_back(extent);
        }
    }

    /// The next extent to read back from the medium.
    pub fn next_check(&mut self) -> Option<CheckOrder> {
        let extent = self.checks.pop_front()?;
        self.written_checks -= usize::from(self.was_asked_for(extent));
        let slot = self.slots.of(extent)?;
        slot.phase = Phase::Checking;
        Some(CheckOrder {
            extent,
            groups: slot.unproved,
        })
    }

    /// What was measured on the medium, for the groups of a check order. A
    /// group that was not measured is wrong; other groups and extents than
    /// those being checked prove nothing.
    ///
    /// # Errors
    /// [`Exhausted`] when the extent was wrong once too often.
    pub fn checked(
        &mut self,
        extent: ExtentIndex,
        measured: &[(GroupIndex, Cv)],
    ) -> Result<(), Exhausted> {
        if !self.is_in(extent, Phase::Checking) {
            return Ok(());
        }
        let wrong = self.still_unproved(extent, measured);
        if wrong.is_empty() {
            self.settle(extent);
            return Ok(());
        }
        if let Some(slot) = self.slots.of(extent) {
            (slot.groups, slot.unproved) = (wrong, wrong);
        }
        self.repair(extent)
    }

    /// The source has hashed everything.
    ///
    /// # Errors
    /// [`Violation`] when digests are missing, it comes twice, or the root is
    /// not that of the digests.
    pub fn done(&mut self, word: LastWord) -> Result<(), Violation> {
        if self.done.is_some() || self.groups_digested != self.terms.geometry.group_count() {
            return Err(Violation::OutOfTurn {
                frame: "done",
                stage: "waiting for digests",
            });
        }
        if self.promised.clone().finish() != Ok(word.root) {
            return Err(Violation::Contradiction { what: "root" });
        }
        self.done = Some(word);
        Ok(())
    }

    /// The source's last word, when `Done` came, every extent is settled and
    /// writing is allowed.
    #[must_use]
    pub fn settled(&self) -> Option<LastWord> {
        let all = self.settled == self.terms.geometry.extent_count();
        self.done.filter(|_| all && self.stage == Stage::Working)
    }

    /// The fold of this side's own chaining values.
    ///
    /// # Errors
    /// When the table does not have a value for every group.
    pub fn own_root(&self) -> Result<Root, FoldError> {
        let groups = self.terms.geometry.group_count();
        fold(
            self.terms.geometry,
            (0..groups).map(|group| self.own.cv(GroupIndex(group))),
        )
    }

    /// Totals so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn settle(&mut self, extent: ExtentIndex) {
        self.set_phase(extent, Phase::Settled);
        self.settled += 1;
    }

    fn await_flush(&mut self, extent: ExtentIndex) {
        self.set_phase(extent, Phase::Written);
        self.unflushed.push(extent);
    }

    fn enqueue(&mut self, extent: ExtentIndex) {
        self.set_phase(extent, Phase::Queued);
        self.queue.push_back(extent);
    }

    fn repair(&mut self, extent: ExtentIndex) -> Result<(), Exhausted> {
        let slot = self.slots.of(extent).ok_or(Exhausted { extent })?;
        if slot.repairs >= MAX_REPAIRS {
            return Err(Exhausted { extent });
        }
        slot.repairs += 1;
        self.enqueue(extent);
        Ok(())
    }

    fn expect(&mut self, extent: ExtentIndex, phase: Phase) -> Result<&mut Slot, Violation> {
        if extent.0 >= self.terms.geometry.extent_count() {
            return Err(Violation::NoSuchExtent(extent));
        }
        self.slots
            .of(extent)
            .filter(|slot| slot.phase == phase)
            .ok_or(Violation::Unasked(extent))
    }

    fn set_phase(&mut self, extent: ExtentIndex, phase: Phase) {
        if let Some(slot) = self.slots.of(extent) {
            slot.phase = phase;
        }
    }

    fn is_in(&mut self, extent: ExtentIndex, phase: Phase) -> bool {
        self.slots
            .of(extent)
            .is_some_and(|slot| slot.phase == phase)
    }
}
