//! A thread that panics ends its run: the others would wait for it for ever.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lockstep_protocol::{Failure, FailureKind};

/// Does a thread's part.
///
/// # Errors
/// [`FailureKind::Internal`] if it panicked; the panic's own words have gone to stderr.
pub(crate) fn guarded<T>(part: impl FnOnce() -> T) -> Result<T, Failure> {
    // What it shares with other threads is behind locks whose poison nobody heeds, and the run
    // ends as a failure whatever state they are in.
    catch_unwind(AssertUnwindSafe(part)).map_err(|_| {
        Failure::new(FailureKind::Internal, "a thread of the run panicked")
            .hint("this is a mistake in lockstep: please report it, with what it printed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure_and_a_result_stays_what_it_is() {
        assert_eq!(guarded(|| 7).unwrap(), 7);
        let failed: Result<(), Failure> = guarded(|| panic!("on purpose"));
        assert_eq!(failed.unwrap_err().kind, FailureKind::Internal);
    }
}
