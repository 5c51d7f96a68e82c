//! A token bucket; time is told to it.

use std::num::NonZeroU64;
use std::time::Duration;

/// What may be saved up while nobody takes anything.
const BURST: Duration = Duration::from_millis(100);
const NANOS: i128 = 1_000_000_000;

/// Hands out bytes at a rate.
///
/// Whoever asks while nothing is owed gets all that he asks for, however much that is, and those
/// who come after him wait until it is paid for. Of what was taken by any moment, all but the last
/// piece fits the rate from the bucket's beginning on.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes that are there, times 10⁹; negative if some are owed.
    level: i128,
    /// When that was so.
    at: Duration,
}

impl Bucket {
    /// An empty one.
    pub(super) fn new(now: Duration) -> Bucket {
        Bucket { level: 0, at: now }
    }

    /// Takes the bytes; if something is owed, how long until it is paid at this rate.
    pub(super) fn take(
        &mut self,
        bytes: u64,
        rate: NonZeroU64,
        now: Duration,
    ) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.level < 0 {
            let rate = i128::from(rate.get());
            let nanos = (-self.level + rate - 1) / rate;
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            return Err(Duration::from_nanos(nanos));
        }
        self.level -= i128::from(bytes) * NANOS;
        Ok(())
    }

    /// Lets what has passed at this rate count; to be called before another rate holds.
    pub(super) fn fill(&mut self, rate: NonZeroU64, now: Duration) {
        let passed = i128::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(i128::MAX);
        let rate = i128::from(rate.get());
        let most = rate * i128::try_from(BURST.as_nanos()).unwrap_or(0);
        let filled = self.level.saturating_add(passed.saturating_mul(rate));
        self.level = filled.min(most);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, Bucket};
    use proptest::prelude::*;
    use std::num::NonZeroU64;
    use std::time::Duration;

    /// What happens to a bucket: a pause, somebody who takes, another rate.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(u64),
        Take(u64),
        Rate(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..2_000_000_000u64).prop_map(Event::Pass),
            (0..(4 << 20) as u64).prop_map(Event::Take),
            (1..(1u64 << 34)).prop_map(Event::Rate),
        ]
    }

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_the_rates_allow(
            events in proptest::collection::vec(event(), 1..200),
        ) {
            let mut bucket = Bucket::new(Duration::ZERO);
            let (mut now, mut held) = (Duration::ZERO, rate(1 << 20));
            let (mut taken, mut allowed) = (0u128, 0u128);
            for event in events {
                match event {
                    Event::Pass(nanos) => {
                        now += Duration::from_nanos(nanos);
                        allowed += u128::from(nanos) * u128::from(held.get());
                    }
                    Event::Take(bytes) => {
                        let before = taken;
                        if bucket.take(bytes, held, now).is_ok() {
                            // What was there before this piece was paid for.
                            prop_assert!(before * 1_000_000_000 <= allowed);
                            taken += u128::from(bytes);
                        }
                    }
                    Event::Rate(bytes) => {
                        bucket.fill(held, now);
                        held = rate(bytes);
                    }
                }
            }
        }

        #[test]
        fn who_waits_as_long_as_is_said_gets_what_he_wants(
            pieces in proptest::collection::vec(0..(4 << 20) as u64, 1..50),
            bytes in 1..(1u64 << 40),
        ) {
            let mut bucket = Bucket::new(Duration::ZERO);
            let mut now = Duration::ZERO;
            for piece in pieces {
                if let Err(wait) = bucket.take(piece, rate(bytes), now) {
                    now += wait;
                    prop_assert_eq!(bucket.take(piece, rate(bytes), now), Ok(()));
                }
            }
        }

        #[test]
        fn nobody_waits_longer_than_the_last_piece_takes(
            piece in 1..(64u64 << 20), bytes in 1..(1u64 << 40),
        ) {
            let mut bucket = Bucket::new(Duration::ZERO);
            prop_assert_eq!(bucket.take(piece, rate(bytes), Duration::ZERO), Ok(()));
            let wait = bucket.take(1, rate(bytes), Duration::ZERO).unwrap_err();
            let takes = u128::from(piece) * 1_000_000_000 / u128::from(bytes);
            prop_assert!((takes..=takes + 1).contains(&wait.as_nanos()), "{wait:?}");
        }
    }

    #[test]
    fn little_is_saved_up() {
        let mut bucket = Bucket::new(Duration::ZERO);
        let later = Duration::from_secs(3600);
        assert_eq!(bucket.take(100, rate(1000), later), Ok(()));
        assert_eq!(bucket.take(1000, rate(1000), later), Ok(()));
        let wait = bucket.take(1, rate(1000), later).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1), "beyond {BURST:?}");
    }

    #[test]
    fn a_higher_rate_shortens_the_wait_of_those_who_wait() {
        let mut bucket = Bucket::new(Duration::ZERO);
        bucket.take(1 << 20, rate(1024), Duration::ZERO).unwrap();
        let slow = bucket.take(1, rate(1024), Duration::ZERO).unwrap_err();
        assert_eq!(slow, Duration::from_secs(1024));
        let fast = bucket.take(1, rate(1 << 20), Duration::ZERO).unwrap_err();
        assert_eq!(fast, Duration::from_secs(1));
    }

    #[test]
    fn no_number_is_too_large() {
        let mut bucket = Bucket::new(Duration::ZERO);
        assert_eq!(bucket.take(u64::MAX, rate(1), Duration::MAX), Ok(()));
        assert!(bucket.take(u64::MAX, rate(1), Duration::MAX).is_err());
        assert!(bucket.take(1, rate(u64::MAX), Duration::MAX).is_err());
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = Bucket::new(Duration::from_secs(10));
        bucket.take(10, rate(1), Duration::from_secs(10)).unwrap();
        assert!(bucket.take(1, rate(1), Duration::from_secs(5)).is_err());
        assert!(bucket.take(1, rate(1), Duration::from_secs(19)).is_err());
        assert!(bucket.take(1, rate(1), Duration::from_secs(20)).is_ok());
    }
}
