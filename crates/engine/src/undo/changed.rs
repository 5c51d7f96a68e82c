//! Whether a target may have been written to since the run whose undo is about to be laid over it.

use std::ops::Range;

use lockstep_undo::{Kept, State};
use lockstep_volume::{IoFailure, Target, Volume};

/// What has to be known of a target before its undo is laid over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Suspicion {
    /// Nothing: an image replaces all of it, and what was cut short has the pre-images of all that it
    /// overwrote.
    None,
    /// That it is what the ledger says.
    Written,
    /// Nothing helps: a run ended, and the ledger does not say that the target is what it left.
    Changed,
}

/// Also an undo that says that a run or a rollback is at work may be of a target that the ledger calls
/// consistent: one that was killed before the ledger knew of it, or when the ledger knew already that
/// it had ended well.
pub(super) fn suspicion(kept: &Kept, state: State, is_consistent: bool) -> Suspicion {
    match (kept, is_consistent, state) {
        (Kept::Image(_), _, _) => Suspicion::None,
        (Kept::Log(_), true, _) => Suspicion::Written,
        (Kept::Log(_), false, State::Whole) => Suspicion::Changed,
        (Kept::Log(_), false, State::Keeping | State::Restoring) => Suspicion::None,
    }
}

/// A target that is to be read with the size that it has, not with the one that it is about to get.
pub(super) struct Present<'a> {
    target: &'a Target,
    size: u64,
}

impl Present<'_> {
    pub(super) fn of(target: &Target, size: u64) -> Present<'_> {
        Present { target, size }
    }
}

impl Volume for Present<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.target.read_present(offset, buf)
    }

    fn read_if_cached(&self, _offset: u64, _buf: &mut [u8]) -> Result<bool, IoFailure> {
        Ok(false)
    }

    fn read_back(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        self.target.read_back(offset, buf)
    }

    // The target refuses to be written before its overwriting has begun.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<(), IoFailure> {
        self.target.write_at(offset, buf)
    }

    fn zero(&self, range: Range<u64>) -> Result<(), IoFailure> {
        self.target.zero(range)
    }

    fn start_writeback(&self, range: Range<u64>) {
        self.target.start_writeback(range);
    }

    fn flush(&self) -> Result<(), IoFailure> {
        self.target.flush()
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, IoFailure> {
        Ok((from < self.size).then_some(from..self.size))
    }

    fn advise_sequential(&self) {
        self.target.advise_sequential();
    }

    fn will_need(&self, range: Range<u64>) {
        self.target.will_need(range);
    }

    fn has_medium(&self) -> bool {
        self.target.has_medium()
    }
}

#[cfg(test)]
mod tests {
    use super::{Suspicion, suspicion};
    use lockstep_undo::{Kept, LogFacts, LogId, State};

    #[test]
    fn a_log_is_laid_over_what_the_ledger_says_or_over_what_was_cut_short() {
        let log = Kept::Log(LogFacts {
            id: LogId([0; 16]),
            sealed_bytes: None,
            max_bytes: 1,
        });
        for state in [State::Keeping, State::Whole, State::Restoring] {
            assert_eq!(suspicion(&log, state, true), Suspicion::Written);
            let otherwise = match state {
                State::Whole => Suspicion::Changed,
                State::Keeping | State::Restoring => Suspicion::None,
            };
            assert_eq!(suspicion(&log, state, false), otherwise);
            for is_consistent in [true, false] {
                let kept = Kept::Image(Vec::new());
                assert_eq!(suspicion(&kept, state, is_consistent), Suspicion::None);
            }
        }
    }
}
