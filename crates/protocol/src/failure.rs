//! Why a run, or one target of it, did not end well.

use std::fmt;

/// The kinds of failure that a caller can act on. Each has one process exit
/// code, fixed by the command line's contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureKind {
    /// A defect of Lockstep itself.
    Internal,
    /// Arguments or configuration that cannot be carried out.
    Usage,
    /// The primary is not fit, no snapshot can be had, or space is short.
    Preflight,
    /// Nobody agreed to the overwriting.
    NotConfirmed,
    /// The other side refused to let us in.
    Auth,
    /// A higher epoch has taken over.
    Fenced,
    /// A guard protected something: in use, mounted, wrong size, same file.
    Guard,
    /// What was read back is not what was sent, after every repair.
    Mismatch,
    /// A volume or the ledger failed.
    Io,
    /// Unreachable or timed out before anything was changed.
    Temporary,
    /// Cut short while writing; the same command resumes.
    Interrupted,
    /// Another run holds this volume.
    Busy,
    /// The time that the caller allowed is over.
    Deadline,
    /// A signal ended the run; holds its number.
    Signal(u8),
}

/// Exit codes of everything but signals, each also the kind's code on the wire.
const CODES: [(FailureKind, u8, &str); 13] = [
    (FailureKind::Internal, 1, "internal"),
    (FailureKind::Usage, 2, "usage"),
    (FailureKind::Preflight, 3, "preflight"),
    (FailureKind::NotConfirmed, 4, "not-confirmed"),
    (FailureKind::Auth, 5, "auth"),
    (FailureKind::Fenced, 6, "fenced"),
    (FailureKind::Guard, 7, "guard"),
    (FailureKind::Mismatch, 9, "mismatch"),
    (FailureKind::Io, 12, "io"),
    (FailureKind::Temporary, 20, "temporary"),
    (FailureKind::Interrupted, 21, "interrupted"),
    (FailureKind::Busy, 22, "busy"),
    (FailureKind::Deadline, 23, "deadline"),
];

/// Signals are reported as 128 + their number, as shells do.
const SIGNAL_BASE: u8 = 128;

impl FailureKind {
    /// The process exit code of this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        if let FailureKind::Signal(number) = self {
            return SIGNAL_BASE.saturating_add(number);
        }
        CODES
            .iter()
            .find(|row| row.0 == self)
            .map_or(1, |row| row.1)
    }

    /// The kind that has this exit code, if there is one.
    #[must_use]
    pub fn from_exit_code(code: u8) -> Option<FailureKind> {
        if code > SIGNAL_BASE {
            return Some(FailureKind::Signal(code - SIGNAL_BASE));
        }
        CODES.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// The word used for the kind in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        if matches!(self, FailureKind::Signal(_)) {
            return "signal";
        }
        CODES
            .iter()
            .find(|row| row.0 == self)
            .map_or("internal", |row| row.2)
    }

    /// Whether running the same command again can succeed without a change.
    #[must_use]
    pub fn retriable(self) -> bool {
        matches!(
            self,
            FailureKind::Temporary
                | FailureKind::Interrupted
                | FailureKind::Busy
                | FailureKind::Deadline
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A failure in one clear sentence, with what to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind it is; fixes the exit code.
    pub kind: FailureKind,
    /// What happened, where, and who is concerned.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same failure with advice on what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::{CODES, FailureKind};

    #[test]
    fn every_exit_code_names_its_kind_again() {
        for (kind, code, _) in CODES {
            assert_eq!(kind.exit_code(), code);
            assert_eq!(FailureKind::from_exit_code(code), Some(kind));
        }
        assert_eq!(FailureKind::Signal(15).exit_code(), 143);
        assert_eq!(
            FailureKind::from_exit_code(143),
            Some(FailureKind::Signal(15))
        );
        assert_eq!(FailureKind::from_exit_code(0), None);
    }
}
