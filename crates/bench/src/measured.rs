//! An amount of work and what it took.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// `USER_HZ`: what times in `/proc` are counted in, fixed by the kernel's interface (proc_pid_stat(5)).
const TICKS_PER_SECOND: u64 = 100;

/// Bytes that went through a stage, and the time that it took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Bytes.
    pub bytes: u64,
    /// Time on the clock.
    pub elapsed: Duration,
    /// Processor time of this process, all threads, kernel included; known to 10 ms.
    pub cpu: Duration,
}

impl Measured {
    /// Bytes a second; 0 where nothing was measured.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match self.elapsed.is_zero() {
            true => 0.0,
            false => float(self.bytes) / self.elapsed.as_secs_f64(),
        }
    }

    /// Seconds of processor time a byte.
    #[must_use]
    pub fn cpu_per_byte(&self) -> f64 {
        match self.bytes {
            0 => 0.0,
            bytes => self.cpu.as_secs_f64() / float(bytes),
        }
    }
}

/// A number of bytes for arithmetic that is shown with three digits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Runs from its start.
pub(crate) struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Stopwatch {
        Stopwatch {
            cpu: process_cpu(),
            started: Instant::now(),
        }
    }

    /// What so many bytes took up to now.
    pub(crate) fn stop(&self, bytes: u64) -> Measured {
        Measured {
            bytes,
            elapsed: self.started.elapsed(),
            cpu: self.cpu(),
        }
    }

    pub(crate) fn cpu(&self) -> Duration {
        process_cpu().saturating_sub(self.cpu)
    }
}

/// Processor time of this process so far; none where `/proc` is missing.
fn process_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Duration::from_millis(ticks(&stat).unwrap_or(0) * 1000 / TICKS_PER_SECOND)
}

/// `utime + stime` of proc_pid_stat(5): fields 14 and 15, counted after the name, which may hold
/// anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::{Measured, ticks};
    use std::time::Duration;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 30 0 0 20 0";
        assert_eq!(ticks(stat), Some(280));
        assert_eq!(ticks("7 (x"), None);
        assert_eq!(ticks("7 (x) S 1 2"), None);
        assert_eq!(ticks("7 (x) S 1 2 3 4 5 6 7 8 9 10 a b"), None);
    }

    #[test]
    fn rates_of_nothing_are_nothing() {
        assert!(Measured::default().rate().abs() < f64::EPSILON);
        assert!(Measured::default().cpu_per_byte().abs() < f64::EPSILON);
        let measured = Measured {
            bytes: 3_000,
            elapsed: Duration::from_millis(1500),
            cpu: Duration::from_secs(3),
        };
        assert!((measured.rate() - 2000.0).abs() < 1e-6);
        assert!((measured.cpu_per_byte() - 0.001).abs() < 1e-9);
    }
}
