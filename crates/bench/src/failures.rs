//! Other crates' errors as failures.

use lockstep_engine::sentence;
use lockstep_protocol::{Failure, FailureKind};
use lockstep_transport::LinkError;
use lockstep_volume::{IoFailure, OpenError, OpenErrorKind};

/// A volume that could not be opened for reading.
pub(crate) fn unopened(error: &OpenError) -> Failure {
    let kind = match error.kind() {
        OpenErrorKind::Missing | OpenErrorKind::NotAVolume | OpenErrorKind::MissingFolder => {
            FailureKind::Usage
        }
        OpenErrorKind::Io => FailureKind::Io,
        OpenErrorKind::Busy => FailureKind::Busy,
        _ => FailureKind::Preflight,
    };
    Failure::new(kind, sentence(error)).hint(error.hint())
}

/// A disk that failed.
pub(crate) fn disk_failed(error: &IoFailure) -> Failure {
    Failure::new(FailureKind::Io, sentence(error))
}

/// A link that broke: nothing was changed by that.
pub(crate) fn link_broke(error: &LinkError) -> Failure {
    Failure::new(FailureKind::Temporary, sentence(error)).hint("run the same command again")
}

/// The other end said something else than it was asked.
pub(crate) fn out_of_turn() -> Failure {
    Failure::new(
        FailureKind::Usage,
        "the other end answered something else than it was asked",
    )
    .hint("install the same version of lockstep on both machines")
}

/// A thread that panicked.
pub(crate) fn defect() -> Failure {
    Failure::new(FailureKind::Internal, "a thread of lockstep panicked")
}
