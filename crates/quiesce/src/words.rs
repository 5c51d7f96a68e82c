//! What the freezer and its watchdog say to each other: one word, and perhaps a mount point's number.
//!
//! | freezer says | |
//! | --- | --- |
//! | `hold` | with the mount points' open descriptors: hold these |
//! | `freezing N` | from now on N may be frozen |
//! | `frozen N` | it is |
//! | `not-frozen N` | it is not: it could not be frozen, or was thawed |
//! | `done` | nothing is frozen any more |
//!
//! | watchdog says | |
//! | --- | --- |
//! | `ready` | holds them, ignores signals; now they may be frozen |
//! | `expired` | the time is over; what is frozen is thawed now |
//!
//! The socket keeps records apart, and closes with the last thread of the freezer: after that no freeze
//! of its is under way.

use std::fmt;

/// Longest record in bytes.
pub(crate) const MAX_RECORD: usize = 32;

pub(crate) const HOLD: &str = "hold";
pub(crate) const READY: &str = "ready";
pub(crate) const EXPIRED: &str = "expired";

/// What the freezer says once the watchdog is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Freezing(usize),
    Frozen(usize),
    NotFrozen(usize),
    Done,
}

impl Word {
    pub(crate) fn parse(record: &str) -> Option<Word> {
        let (word, number) = match record.split_once(' ') {
            Some((word, number)) => (word, number.parse().ok()),
            None => (record, None),
        };
        match (word, number) {
            ("freezing", Some(index)) => Some(Word::Freezing(index)),
            ("frozen", Some(index)) => Some(Word::Frozen(index)),
            ("not-frozen", Some(index)) => Some(Word::NotFrozen(index)),
            ("done", None) => Some(Word::Done),
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Freezing(index) => write!(f, "freezing {index}"),
            Word::Frozen(index) => write!(f, "frozen {index}"),
            Word::NotFrozen(index) => write!(f, "not-frozen {index}"),
            Word::Done => f.write_str("done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood_and_nothing_else_is() {
        let words = [
            Word::Freezing(0),
            Word::Frozen(31),
            Word::NotFrozen(7),
            Word::Done,
        ];
        for word in words {
            assert_eq!(Word::parse(&word.to_string()), Some(word));
            assert!(word.to_string().len() <= MAX_RECORD);
        }
        for nonsense in ["", "done 1", "frozen", "frozen x", "frozen -1", "thaw 1"] {
            assert_eq!(Word::parse(nonsense), None, "{nonsense}");
        }
    }
}
