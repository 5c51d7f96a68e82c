//! One flag that ends a run from outside.

use std::sync::atomic::{AtomicU8, Ordering};

/// Why a run is to end early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A signal with this number, 1..=64.
    Signal(u8),
    /// The time allowed is over.
    Deadline,
    /// A newer run took the volume over.
    Fenced,
    /// Whoever had ordered the run is gone.
    Abandoned,
}

const DEADLINE: u8 = u8::MAX;
const FENCED: u8 = u8::MAX - 1;
const ABANDONED: u8 = u8::MAX - 2;

/// Set once by a signal handler or a timer, looked at by every thread.
#[derive(Debug, Default)]
pub struct Cancel {
    cause: AtomicU8,
}

impl Cancel {
    /// A run that goes on.
    #[must_use]
    pub const fn new() -> Cancel {
        Cancel {
            cause: AtomicU8::new(0),
        }
    }

    /// Asks the run to end; the first cause stays.
    pub fn request(&self, cause: Cause) {
        let code = match cause {
            Cause::Signal(number) => number.clamp(1, 64),
            Cause::Deadline => DEADLINE,
            Cause::Fenced => FENCED,
            Cause::Abandoned => ABANDONED,
        };
        // The first cause is the one reported; a later one changes nothing.
        let _ = self
            .cause
            .compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Why the run is to end, if it is.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self.cause.load(Ordering::SeqCst) {
            0 => None,
            DEADLINE => Some(Cause::Deadline),
            FENCED => Some(Cause::Fenced),
            ABANDONED => Some(Cause::Abandoned),
            number => Some(Cause::Signal(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cancel, Cause};

    #[test]
    fn the_first_cause_stays() {
        let cancel = Cancel::new();
        assert_eq!(cancel.cause(), None);
        cancel.request(Cause::Signal(2));
        cancel.request(Cause::Deadline);
        assert_eq!(cancel.cause(), Some(Cause::Signal(2)));
    }

    #[test]
    fn every_cause_comes_back_as_it_was_given() {
        let causes = [
            Cause::Signal(1),
            Cause::Signal(64),
            Cause::Deadline,
            Cause::Fenced,
            Cause::Abandoned,
        ];
        for cause in causes {
            let cancel = Cancel::new();
            cancel.request(cause);
            assert_eq!(cancel.cause(), Some(cause));
        }
    }
}
