//! When to try again, and when to give up. Pure: it is told the time and a random number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// After the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// How long a report is worth being delivered,
const MAX_AGE: Duration = Duration::from_secs(3 * 24 * 3600);
/// if it was tried so often: a machine that was off, or whose clock leapt, has not tried.
const MIN_ATTEMPTS: u32 = 24;

/// How a delivery went so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Attempts {
    /// Those that failed.
    pub(crate) failed: u32,
    pub(crate) queued_unix_ms: u64,
    /// When to try again.
    pub(crate) next_unix_ms: u64,
}

/// What becomes of a delivery that failed for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// It is tried again.
    Retry(Attempts),
    /// It is too old.
    GiveUp,
}

impl Attempts {
    pub(crate) fn new(now_unix_ms: u64) -> Self {
        Self {
            failed: 0,
            queued_unix_ms: now_unix_ms,
            next_unix_ms: now_unix_ms,
        }
    }

    /// How long until it is to be tried. A time further off than any pause is that of a wrong clock.
    pub(crate) fn wait(&self, now_unix_ms: u64) -> Duration {
        let wait = Duration::from_millis(self.next_unix_ms.saturating_sub(now_unix_ms));
        if wait > MAX_PAUSE {
            Duration::ZERO
        } else {
            wait
        }
    }

    /// After one more failure. `asked` is the pause that the receiver wants.
    pub(crate) fn after_failure(
        self,
        now_unix_ms: u64,
        random: u32,
        asked: Option<Duration>,
    ) -> After {
        let failed = self.failed.saturating_add(1);
        let age = Duration::from_millis(now_unix_ms.saturating_sub(self.queued_unix_ms));
        if age >= MAX_AGE && failed >= MIN_ATTEMPTS {
            return After::GiveUp;
        }
        let pause = pause(failed, random).max(asked.unwrap_or_default());
        let pause = u64::try_from(pause.min(MAX_PAUSE).as_millis()).unwrap_or(u64::MAX);
        After::Retry(Self {
            failed,
            next_unix_ms: now_unix_ms.saturating_add(pause),
            ..self
        })
    }
}

/// The pause after this many failures: between half and all of what doubling gives, so that many
/// senders do not come back at once.
pub(crate) fn pause(failed: u32, random: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
    let half = doubled.min(MAX_PAUSE) / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::{After, Attempts, MAX_PAUSE, pause};
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    impl Attempts {
        fn is_due(&self, now_unix_ms: u64) -> bool {
            self.wait(now_unix_ms).is_zero()
        }
    }

    /// Fails until it is given up, always at the moment when it is due.
    fn story(random: u32) -> (u32, u64) {
        let mut attempts = Attempts::new(1000);
        loop {
            let now = attempts.next_unix_ms;
            assert!(attempts.is_due(now) && (attempts.failed == 0 || !attempts.is_due(now - 1)));
            match attempts.after_failure(now, random, None) {
                After::Retry(next) => attempts = next,
                After::GiveUp => return (attempts.failed + 1, now - 1000),
            }
        }
    }

    #[test]
    fn a_dead_receiver_is_tried_for_three_days() {
        for random in [0, u32::MAX / 2, u32::MAX] {
            let (tries, age) = story(random);
            assert!((3 * DAY_MS..3 * DAY_MS + 3_600_000).contains(&age), "{age}");
            assert!((70..170).contains(&tries), "{tries}");
        }
    }

    #[test]
    fn pauses_double_up_to_an_hour() {
        assert_eq!(pause(1, u32::MAX), Duration::from_secs(5));
        assert_eq!(pause(2, u32::MAX), Duration::from_secs(10));
        assert_eq!(pause(2, 0), Duration::from_secs(5));
        assert_eq!(pause(u32::MAX, u32::MAX), MAX_PAUSE);
    }

    #[test]
    fn a_machine_that_was_off_still_tries() {
        let attempts = Attempts::new(0);
        let after = attempts.after_failure(30 * DAY_MS, 0, None);
        assert!(matches!(after, After::Retry(_)));
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let ahead = Attempts::new(100 * DAY_MS);
        assert!(ahead.is_due(DAY_MS));
    }

    #[test]
    fn the_receivers_wish_is_heard_within_bounds() {
        let next = |asked| match Attempts::new(0).after_failure(0, 0, Some(asked)) {
            After::Retry(next) => next.next_unix_ms,
            After::GiveUp => panic!("it is new"),
        };
        assert_eq!(next(Duration::from_secs(60)), 60_000);
        assert_eq!(next(Duration::MAX), 3_600_000);
        assert_eq!(next(Duration::ZERO), 2_500);
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_an_hour(failed in any::<u32>(), random in any::<u32>()) {
            let pause = pause(failed, random);
            assert!(pause <= MAX_PAUSE && pause >= Duration::from_millis(2500));
        }
    }
}
