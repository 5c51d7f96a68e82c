//! `--limit-rate`: one budget of bytes a second for all targets of a run.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::POLL;

/// Hands out a link's bytes at a steady rate.
pub(crate) struct Throttle {
    rate: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(rate: Option<u64>) -> Throttle {
        Throttle {
            rate: rate.filter(|rate| *rate > 0),
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` may be sent, or `stop` says so.
    pub(crate) fn take(&self, bytes: usize, stop: &dyn Fn() -> bool) {
        let Some(rate) = self.rate else {
            return;
        };
        let start = self.book(bytes, rate);
        while !stop() {
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// The moment at which these bytes may start to be sent.
    fn book(&self, bytes: usize, rate: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free_at).max(Instant::now());
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate needs no more than 52 bits"
        )]
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        *free_at = start + takes;
        start
    }
}

#[cfg(test)]
mod tests {
    use super::Throttle;

    #[test]
    fn bytes_are_booked_one_after_the_other() {
        let throttle = Throttle::new(Some(1000));
        let first = throttle.book(500, 1000);
        let second = throttle.book(500, 1000);
        let gap = second - first;
        assert!((0.49..0.6).contains(&gap.as_secs_f64()), "{gap:?}");
    }

    #[test]
    fn no_rate_never_waits() {
        Throttle::new(None).take(usize::MAX, &|| false);
    }
}
