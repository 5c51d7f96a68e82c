//! The source's side of one session.
//!
//! ```text
//!            welcome                     compared          proceed()
//! Greeting ──────────► Counting (hold, ─────────► Held ──────────────┐
//!    │   │                compare only)             │ compare only:  │
//!    │   └──────────────────────────────────────────┼► over          ▼
//!    │            welcome (no hold)                 │             Serving
//!    │                                              │                │
//!    └── refused ──► Over ◄── failed, from every stage ◄── verified ─┘
//!                          ◄── a violation, from every stage
//! ```
//!
//! A doubt may go out in every stage between the welcome and `Over`, unless the
//! session only compares, and is answered there. Digests flow in `Counting` and
//! `Serving`; wants are counted in the one and
//! answered with data in the other. `Done` goes out once, after the last digest.

use std::ops::Range;

use lockstep_merkle::{ExtentIndex, GroupSet, PAGES_PER_GROUP, Root};

use crate::failure::Failure;
use crate::limits::{
    MAX_CVS_PER_FRAME, MAX_STATE_CHANGES, MAX_UNDO_NOTES, MAX_WANTS_PER_EXTENT, MAX_WARNINGS,
    NEWEST_VERSION, OLDEST_VERSION,
};
use crate::message::{Doubted, Stats, TargetFrame, Text, UndoNote, VolumeState, Want, Welcome};
use crate::terms::{Purpose, Terms, Violation};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Greeting,
    Counting,
    Held,
    Serving,
    Over,
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Stage::Greeting => "greeting",
            Stage::Counting => "counting differences",
            Stage::Held => "waiting for agreement",
            Stage::Serving => "shipping",
            Stage::Over => "ended",
        }
    }
}

/// What the source has to do about a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Served {
    /// The target is open and fit.
    Welcomed(Welcome),
    /// The target will not take part; the session is over.
    Refused {
        /// Why.
        failure: Failure,
        /// Which place it is; may be empty.
        identity: Vec<u8>,
    },
    /// Count the pages that differ, call [`SourceSession::answered`], then
    /// send `Counted`.
    Count(Want),
    /// Read the pages that differ, call [`SourceSession::answered`], then send
    /// them.
    Ship {
        /// What is wanted.
        want: Want,
        /// The extent has not been asked for before, so that what differs in
        /// it is to be counted.
        first: bool,
    },
    /// The target's durable state changed.
    State(VolumeState),
    /// The target has compared everything.
    Compared(Stats),
    /// How far the target is.
    Progress(Stats),
    /// Something that the user should know.
    Warning(Text),
    /// What of the target can be brought back.
    Undo(UndoNote),
    /// What became of the target's record that was doubted.
    Doubted(Doubted),
    /// The target is proved equal; the session is over.
    Verified {
        /// Its ledger's word.
        state: VolumeState,
        /// Totals.
        stats: Stats,
    },
    /// The target failed; the session is over.
    Failed {
        /// Why.
        failure: Failure,
        /// Its ledger's word.
        state: VolumeState,
        /// Totals.
        stats: Stats,
    },
}

/// Per extent: how often it was asked for, and whether an answer is owed.
#[derive(Clone, Copy, Default)]
struct Asked {
    times: u8,
    owed: bool,
}

/// The source's side of one session.
pub struct SourceSession {
    terms: Terms,
    stage: Stage,
    groups_sent: u64,
    outstanding: u16,
    asked: Vec<Asked>,
    compared: bool,
    warnings: u8,
    undo_notes: u8,
    state_changes: u8,
    /// Doubts that are not answered yet.
    doubts: u32,
    done: Option<Root>,
}

impl SourceSession {
    /// A session that has just said hello with these terms.
    #[must_use]
    pub fn new(terms: Terms) -> SourceSession {
        let extents = usize::try_from(terms.geometry.extent_count()).unwrap_or(usize::MAX);
        SourceSession {
            terms,
            stage: Stage::Greeting,
            groups_sent: 0,
            outstanding: 0,
            asked: vec![Asked::default(); extents],
            compared: false,
            warnings: 0,
            undo_notes: 0,
            state_changes: 0,
            doubts: 0,
            done: None,
        }
    }

    /// Takes a frame from the target.
    ///
    /// # Errors
    /// [`Violation`] when the frame is not allowed now; the session is over.
    pub fn handle(&mut self, frame: TargetFrame) -> Result<Served, Violation> {
        let served = self.transition(frame);
        if served.is_err() {
            self.stage = Stage::Over;
        }
        served
    }

    /// The next groups whose chaining values are to be sent, when the source
    /// has hashed all groups below `hashed`.
    pub fn next_digests(&mut self, hashed: u64) -> Option<Range<u64>> {
        if !matches!(self.stage, Stage::Counting | Stage::Serving) {
            return None;
        }
        let end = hashed.min(self.groups_sent + MAX_CVS_PER_FRAME as u64);
        let range = self.groups_sent..end;
        self.groups_sent = self.groups_sent.max(end);
        (!range.is_empty()).then_some(range)
    }

    /// A want is being answered, by data or by a count. To be called before
    /// the answer can reach the target: what the target sends next counts on it.
    pub fn answered(&mut self, extent: ExtentIndex) {
        if let Some(asked) = usize::try_from(extent.0)
            .ok()
            .and_then(|index| self.asked.get_mut(index))
            && asked.owed
        {
            asked.owed = false;
            self.outstanding -= 1;
        }
    }

    /// Whether the target waits for the word to go on.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.stage == Stage::Held
    }

    /// Agreement came; `Proceed` is to be sent.
    ///
    /// # Errors
    /// [`Violation::OutOfTurn`] when the target does not wait for it.
    pub fn proceed(&mut self) -> Result<(), Violation> {
        if self.stage != Stage::Held || self.terms.purpose == Purpose::Compare {
            return Err(Violation::OutOfTurn {
                frame: "proceed",
                stage: self.stage.words(),
            });
        }
        self.stage = Stage::Serving;
        Ok(())
    }

    /// Whether `Done` may be sent: every digest is out and it has not been.
    #[must_use]
    pub fn may_finish(&self) -> bool {
        matches!(self.stage, Stage::Counting | Stage::Held | Stage::Serving)
            && self.done.is_none()
            && self.groups_sent == self.terms.geometry.group_count()
    }

    /// Whether `Done` has been sent.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        self.done.is_some()
    }

    /// `Done` is being sent with this root.
    pub fn finished(&mut self, root: Root) {
        self.done = Some(root);
    }

    /// Whether a doubt may be sent. A comparison changes no record.
    #[must_use]
    pub fn may_doubt(&self) -> bool {
        !matches!(self.stage, Stage::Greeting | Stage::Over) && self.terms.purpose == Purpose::Sync
    }

    /// A doubt is being sent.
    pub fn doubted(&mut self) {
        self.doubts += 1;
    }

    /// Every transition that a frame of the target causes.
    fn transition(&mut self, frame: TargetFrame) -> Result<Served, Violation> {
        match (self.stage, frame) {
            (Stage::Greeting, TargetFrame::Welcome(welcome)) => self.welcomed(welcome),
            (Stage::Greeting, TargetFrame::Refused { failure, identity }) => {
                self.stage = Stage::Over;
                Ok(Served::Refused { failure, identity })
            }
            (Stage::Counting, TargetFrame::Want(want)) => {
                self.accept(&want)?;
                Ok(Served::Count(want))
            }
            (Stage::Serving, TargetFrame::Want(want)) => {
                let first = self.accept(&want)?;
                Ok(Served::Ship { want, first })
            }
            (Stage::Counting | Stage::Serving, TargetFrame::Compared(stats))
                if self.may_be_compared() =>
            {
                self.compared();
                Ok(Served::Compared(stats))
            }
            (Stage::Counting | Stage::Held | Stage::Serving, TargetFrame::Progress(stats)) => {
                Ok(Served::Progress(stats))
            }
            (Stage::Counting | Stage::Held | Stage::Serving, TargetFrame::Warning(message))
                if self.warnings < MAX_WARNINGS =>
            {
                self.warnings += 1;
                Ok(Served::Warning(message))
            }
            (Stage::Counting | Stage::Held | Stage::Serving, TargetFrame::Undo(note))
                if self.undo_notes < MAX_UNDO_NOTES =>
            {
                self.undo_notes += 1;
                Ok(Served::Undo(note))
            }
            (Stage::Counting | Stage::Held | Stage::Serving, TargetFrame::Doubted(doubted))
                if self.doubts > 0 =>
            {
                self.doubts -= 1;
                Ok(Served::Doubted(doubted))
            }
            (Stage::Serving, TargetFrame::State(state))
                if self.state_changes < MAX_STATE_CHANGES =>
            {
                self.state_changes += 1;
                Ok(Served::State(state))
            }
            (Stage::Serving, TargetFrame::Verified { root, state, stats }) => {
                self.verified(root)?;
                Ok(Served::Verified { state, stats })
            }
            (
                Stage::Greeting | Stage::Counting | Stage::Held | Stage::Serving,
                TargetFrame::Failed {
                    failure,
                    state,
                    stats,
                },
            ) => {
                self.stage = Stage::Over;
                Ok(Served::Failed {
                    failure,
                    state,
                    stats,
                })
            }
            (stage, frame) => Err(Violation::OutOfTurn {
                frame: frame.name(),
                stage: stage.words(),
            }),
        }
    }

    /// The target can have compared everything once: after the last digest,
    /// and, where differences are counted, after the last count.
    fn may_be_compared(&self) -> bool {
        let digested = self.groups_sent == self.terms.geometry.group_count();
        let counted = self.stage != Stage::Counting || self.outstanding == 0;
        digested && counted && !self.compared
    }

    fn compared(&mut self) {
        self.compared = true;
        if self.stage == Stage::Counting {
            self.stage = Stage::Held;
        }
    }

    fn welcomed(&mut self, welcome: Welcome) -> Result<Served, Violation> {
        if welcome.version < OLDEST_VERSION || welcome.version > NEWEST_VERSION {
            return Err(Violation::Contradiction { what: "version" });
        }
        if welcome.window > self.terms.window {
            return Err(Violation::Contradiction { what: "window" });
        }
        self.terms.window = welcome.window;
        self.stage = if self.terms.counts_first(welcome.plan) {
            Stage::Counting
        } else {
            Stage::Serving
        };
        Ok(Served::Welcomed(welcome))
    }

    /// Whether the extent is asked for the first time.
    fn accept(&mut self, want: &Want) -> Result<bool, Violation> {
        if want.extent.0 >= self.terms.geometry.extent_count() {
            return Err(Violation::NoSuchExtent(want.extent));
        }
        self.check_shape(want)?;
        if self.terms.geometry.groups_of(want.extent).end > self.groups_sent {
            return Err(Violation::TooEarly(want.extent));
        }
        if self.outstanding >= self.terms.window {
            return Err(Violation::WindowExceeded(self.terms.window));
        }
        let index = usize::try_from(want.extent.0).unwrap_or(usize::MAX);
        let asked = self
            .asked
            .get_mut(index)
            .ok_or(Violation::NoSuchExtent(want.extent))?;
        if asked.owed || asked.times >= MAX_WANTS_PER_EXTENT {
            return Err(Violation::TooManyWants(want.extent));
        }
        asked.owed = true;
        asked.times += 1;
        self.outstanding += 1;
        Ok(asked.times == 1)
    }

    fn check_shape(&self, want: &Want) -> Result<(), Violation> {
        let wrong = Err(Violation::WrongPages(want.extent));
        let sets = [want.whole, want.blank, want.paged];
        let together = sets
            .into_iter()
            .fold(0u32, |sum, set| sum + set.bits().count_ones());
        let all = sets.into_iter().fold(0u16, |sum, set| sum | set.bits());
        if all == 0 || together != all.count_ones() {
            return wrong;
        }
        let groups = self.terms.geometry.groups_in(want.extent);
        if GroupSet::from_bits(all).iter().any(|group| group >= groups) {
            return wrong;
        }
        let pages = self.terms.geometry.pages_in(want.extent);
        let expected: usize = want
            .paged
            .iter()
            .map(|group| (pages - group * PAGES_PER_GROUP).min(PAGES_PER_GROUP))
            .sum();
        if expected == want.digests.len() {
            Ok(())
        } else {
            wrong
        }
    }

    fn verified(&mut self, root: Root) -> Result<(), Violation> {
        if self.done != Some(root) || self.outstanding != 0 {
            return Err(Violation::Contradiction { what: "root" });
        }
        self.stage = Stage::Over;
        Ok(())
    }
}
