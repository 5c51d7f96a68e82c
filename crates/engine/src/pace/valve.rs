//! What threads pass on their way to a disk or a link.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use crate::limits::POLL;

/// Lets bytes through at a rate that can be changed at any moment; those who wait see it within
/// [`POLL`]. Without a rate it costs the load of one number.
#[derive(Debug)]
pub(crate) struct Valve {
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    begun: Instant,
}

impl Valve {
    pub(crate) fn new(rate: Option<u64>) -> Valve {
        Valve {
            rate: AtomicU64::new(rate.unwrap_or(0)),
            bucket: Mutex::new(Bucket::new(Duration::ZERO)),
            begun: Instant::now(),
        }
    }

    pub(crate) fn rate(&self) -> Option<u64> {
        NonZeroU64::new(self.rate.load(Ordering::Relaxed)).map(NonZeroU64::get)
    }

    /// 0 is no limit, too.
    pub(crate) fn set(&self, rate: Option<u64>) {
        let mut bucket = self.bucket();
        let before = self.rate.swap(rate.unwrap_or(0), Ordering::Relaxed);
        if let Some(before) = NonZeroU64::new(before) {
            bucket.fill(before, self.begun.elapsed());
        }
    }

    /// Waits until `bytes` may pass, or `stop` says so.
    pub(crate) fn pass(&self, bytes: usize, stop: &dyn Fn() -> bool) {
        if self.rate.load(Ordering::Relaxed) != 0 {
            self.wait(bytes, stop);
        }
    }

    #[cold]
    fn wait(&self, bytes: usize, stop: &dyn Fn() -> bool) {
        while !stop() {
            let taken = {
                let mut bucket = self.bucket();
                let Some(rate) = NonZeroU64::new(self.rate.load(Ordering::Relaxed)) else {
                    return;
                };
                bucket.take(bytes as u64, rate, self.begun.elapsed())
            };
            match taken {
                Ok(()) => return,
                Err(left) => std::thread::sleep(left.min(POLL)),
            }
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Valve;
    use std::time::{Duration, Instant};

    #[test]
    fn without_a_rate_nobody_waits() {
        for rate in [None, Some(0)] {
            let valve = Valve::new(rate);
            valve.pass(usize::MAX, &|| unreachable!());
            valve.pass(usize::MAX, &|| unreachable!());
            assert_eq!(valve.rate(), None);
        }
    }

    #[test]
    fn several_threads_share_one_rate() {
        let valve = Valve::new(Some(1 << 20));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| valve.pass(32 << 10, &|| false)));
            }
        });
        // All but the last of 16 pieces.
        let least = Duration::from_secs_f64(15.0 / 32.0);
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    }

    #[test]
    fn who_waits_goes_on_when_the_rate_rises_or_goes() {
        for rate in [None, Some(1 << 40)] {
            let valve = Valve::new(Some(1));
            valve.pass(1 << 20, &|| false);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| valve.pass(1, &|| false));
                std::thread::sleep(Duration::from_millis(50));
                valve.set(rate);
            });
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn who_waits_goes_on_when_the_run_ends() {
        let valve = Valve::new(Some(1));
        valve.pass(1 << 20, &|| false);
        let begun = Instant::now();
        valve.pass(1, &|| begun.elapsed() > Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
