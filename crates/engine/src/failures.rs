//! Other crates' errors as failures: one place decides what each means.

use lockstep_ledger::LedgerError;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_snapshot::{SnapshotError, SnapshotErrorKind};
use lockstep_transport::LinkError;
use lockstep_volume::{IoFailure, OpenError, OpenErrorKind};

/// An error with all its causes in one line.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A source that could not be opened.
pub(crate) fn source_unopened(error: &OpenError) -> Failure {
    let failure = unopened(error);
    Failure {
        message: format!("source: {}", failure.message),
        ..failure
    }
}

/// A source of which no snapshot could be made.
pub(crate) fn unfrozen_source(error: &SnapshotError) -> Failure {
    let failure = unfrozen(error);
    Failure {
        message: format!("source: {}", failure.message),
        ..failure
    }
}

/// A snapshot that could not be made, read or released.
pub(crate) fn unfrozen(error: &SnapshotError) -> Failure {
    let kind = match error.kind() {
        SnapshotErrorKind::Preflight | SnapshotErrorKind::Lost => FailureKind::Preflight,
        SnapshotErrorKind::Guard => FailureKind::Guard,
        SnapshotErrorKind::Io => FailureKind::Io,
    };
    Failure::new(kind, sentence(error)).hint(error.hint().unwrap_or(""))
}

/// A volume that could not be opened for reading.
pub(crate) fn unopened(error: &OpenError) -> Failure {
    let kind = match error.kind() {
        OpenErrorKind::Missing | OpenErrorKind::NotAVolume | OpenErrorKind::MissingFolder => {
            FailureKind::Usage
        }
        OpenErrorKind::NoExclusive | OpenErrorKind::Busy | OpenErrorKind::InUse => {
            FailureKind::Preflight
        }
        OpenErrorKind::Io => FailureKind::Io,
        _ => FailureKind::Preflight,
    };
    Failure::new(kind, sentence(error)).hint(error.hint())
}

/// A target that could not be opened; nothing of it was touched.
pub(crate) fn target_unopened(error: &OpenError) -> Failure {
    let kind = match error.kind() {
        OpenErrorKind::Missing | OpenErrorKind::NotAVolume => FailureKind::Usage,
        OpenErrorKind::Permission
        | OpenErrorKind::ReadOnly
        | OpenErrorKind::MissingFolder
        | OpenErrorKind::Io => FailureKind::Temporary,
        OpenErrorKind::Busy => FailureKind::Busy,
        _ => FailureKind::Guard,
    };
    Failure::new(kind, sentence(error)).hint(error.hint())
}

/// A volume that failed while it was read or written.
pub(crate) fn volume_failed(error: &IoFailure) -> Failure {
    Failure::new(FailureKind::Io, sentence(error))
}

/// A ledger that cannot be used.
pub(crate) fn ledger_failed(error: &LedgerError) -> Failure {
    match error {
        LedgerError::Busy { .. } => Failure::new(FailureKind::Busy, sentence(error))
            .hint("wait for the other run to end, then run the same command again"),
        _ => Failure::new(FailureKind::Io, format!("ledger: {}", sentence(error)))
            .hint("give a writable folder with --state-dir"),
    }
}

/// A link that broke, before or after writing may have begun.
pub(crate) fn link_broke(error: &LinkError, writing: bool) -> Failure {
    let kind = if writing {
        FailureKind::Interrupted
    } else {
        FailureKind::Temporary
    };
    Failure::new(kind, format!("the link broke: {}", sentence(error)))
        .hint("run the same command again: it ships only what is missing")
}
