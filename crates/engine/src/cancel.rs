//! One flag that ends a run from outside.

use std::sync::atomic::{AtomicU8, Ordering};

/// Why a run is to end early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A signal with this number, 1..=64.
    Signal(u8),
    /// The time allowed is over.
    Deadline,
    /// Somebody who may do so wants it to end.
    Withdrawn,
}

const DEADLINE: u8 = u8::MAX;
const WITHDRAWN: u8 = u8::MAX - 1;

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
            Cause::Withdrawn => WITHDRAWN,
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
            WITHDRAWN => Some(Cause::Withdrawn),
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
}
