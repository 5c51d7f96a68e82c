//! How fast the source may be read beside whoever else uses its machine; no clock, no files.
//!
//! ```text
//!            after LEARN looks            a bad look
//!  Learning ───────────────────► Opening ───────────► Steady ◄──┐ bad: half as fast,
//!  (at FLOOR)                    (doubles)            (adds) ───┘      never below FLOOR
//! ```
//! What is bad is judged by each sign against its own baseline: what it was while the run hardly
//! read, and the least it has been since. At [`FLOOR`] what is seen is not the run's doing, so the
//! baseline follows it there, and a run never stays slow for good.

use super::signs::Signs;

/// No pace is slower, in bytes a second.
pub const FLOOR: u64 = 8 << 20;
/// Nor is any faster: by then nothing waits for it.
const CEILING: u64 = 1 << 40;
/// Looks that the baseline is learnt from.
const LEARN: u32 = 4;
/// Looks in a row that have to be bad before the run yields: one can be chance.
const PATIENCE: u32 = 2;
/// What is added after a good look, at least, and as a part of the speed before the run yielded.
const STEP: u64 = 8 << 20;
const STEP_PART: u64 = 32;
/// The part by which that speed is forgotten with each look: it may have been too much.
const FORGET: u64 = 256;
/// Of the difference to what is seen, the part by which a baseline falls, or rises at [`FLOOR`].
const FALL: f64 = 1.0 / 16.0;
const RISE: f64 = 1.0 / 16.0;

/// A disk may take twice as long as without us, and a millisecond: within it nobody notices.
const LATENCY: Bound = Bound {
    factor: 2.0,
    slack: 0.001,
};
/// Shares of the time that others may wait in addition.
const IO_STALL: Bound = Bound {
    factor: 1.0,
    slack: 0.15,
};
const CPU_STALL: Bound = Bound {
    factor: 1.0,
    slack: 0.25,
};

/// Decides the rate, look by look.
#[derive(Debug)]
pub(super) struct Controller {
    phase: Phase,
    rate: u64,
    bad_in_a_row: u32,
    /// The speed before it yielded; 0 if it does not yield.
    yielded_from: u64,
    latency: Gauge,
    io_stall: Gauge,
    cpu_stall: Gauge,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Learning { looks: u32 },
    Opening,
    Steady,
}

/// What came of a look.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Step {
    /// The rate stays, or rises.
    On,
    /// It fell, because of this.
    Yielded(Reason),
    /// It is nearly back at what it was before the run yielded.
    Recovered,
}

/// Why a run yields.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Reason {
    pub(super) sign: &'static str,
    pub(super) seen: f64,
    pub(super) bound: f64,
}

impl Controller {
    pub(super) fn new() -> Controller {
        Controller {
            phase: Phase::Learning { looks: 0 },
            rate: FLOOR,
            bad_in_a_row: 0,
            yielded_from: 0,
            latency: Gauge::new("seconds a read of the disk", LATENCY),
            io_stall: Gauge::new("share of time waited for disks", IO_STALL),
            cpu_stall: Gauge::new("share of time waited for processors", CPU_STALL),
        }
    }

    /// Bytes a second that may be read.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Whether the run would read faster if the rate were higher.
    pub(super) fn holds(&self, signs: &Signs) -> bool {
        signs.read_rate >= self.rate / 4 * 3
    }

    /// Whether it has yielded and not recovered yet.
    fn yields(&self) -> bool {
        self.yielded_from != 0
    }

    /// What the baselines are, for whoever looks on.
    pub(super) fn baselines(&self) -> [(&'static str, Option<f64>); 3] {
        [&self.latency, &self.io_stall, &self.cpu_stall].map(|gauge| (gauge.sign, gauge.base))
    }

    /// Takes a look into account.
    pub(super) fn step(&mut self, signs: &Signs) -> Step {
        let seen = [
            signs.latency.map(|latency| latency.as_secs_f64()),
            signs.io_stall,
            signs.cpu_stall,
        ];
        if let Phase::Learning { looks } = self.phase {
            self.each(&seen, |gauge, value| gauge.learn(value, looks));
            self.phase = match looks + 1 {
                LEARN => Phase::Opening,
                looks => Phase::Learning { looks },
            };
            return Step::On;
        }
        self.yielded_from -= self.yielded_from.div_ceil(FORGET);
        let at_floor = self.rate == FLOOR;
        let mut bad = None;
        self.each(&seen, |gauge, value| {
            bad = bad.or(gauge.judge(value, at_floor));
        });
        match bad {
            None => {
                self.bad_in_a_row = 0;
                self.rise(signs.read_rate)
            }
            Some(reason) => {
                self.bad_in_a_row += 1;
                self.fall(signs.read_rate, reason)
            }
        }
    }

    fn each(&mut self, seen: &[Option<f64>; 3], mut act: impl FnMut(&mut Gauge, f64)) {
        let gauges = [&mut self.latency, &mut self.io_stall, &mut self.cpu_stall];
        for (gauge, value) in gauges.into_iter().zip(seen) {
            if let Some(value) = value {
                act(gauge, *value);
            }
        }
    }

    /// A rate that the run does not use up is no experience, and does not rise.
    fn rise(&mut self, read_rate: u64) -> Step {
        if read_rate < self.rate / 2 {
            return Step::On;
        }
        let more = match self.phase {
            Phase::Opening => self.rate,
            _ => STEP.max(self.yielded_from / STEP_PART),
        };
        self.rate = (self.rate + more).min(CEILING);
        if self.yields() && self.rate >= self.yielded_from / 8 * 7 {
            self.yielded_from = 0;
            return Step::Recovered;
        }
        Step::On
    }

    /// A run that hardly reads has nothing to yield.
    fn fall(&mut self, read_rate: u64, reason: Reason) -> Step {
        if self.bad_in_a_row < PATIENCE || read_rate < FLOOR / 2 {
            return Step::On;
        }
        self.bad_in_a_row = 0;
        self.phase = Phase::Steady;
        let before = self.rate;
        let from = before.min(read_rate.max(FLOOR));
        self.rate = (from / 2).max(FLOOR);
        if self.rate == before {
            return Step::On;
        }
        self.yielded_from = self.yielded_from.max(from);
        Step::Yielded(reason)
    }
}

/// How far a sign may be above its baseline.
#[derive(Clone, Copy, Debug)]
struct Bound {
    factor: f64,
    slack: f64,
}

/// One sign and what is usual of it.
#[derive(Debug)]
struct Gauge {
    sign: &'static str,
    bound: Bound,
    base: Option<f64>,
}

impl Gauge {
    fn new(sign: &'static str, bound: Bound) -> Gauge {
        Gauge {
            sign,
            bound,
            base: None,
        }
    }

    /// The mean of what is seen while the run hardly reads.
    fn learn(&mut self, value: f64, looks: u32) {
        self.base = Some(match self.base {
            Some(base) => base + (value - base) / f64::from(looks + 1),
            None => value,
        });
    }

    fn judge(&mut self, value: f64, at_floor: bool) -> Option<Reason> {
        let base = self.base.get_or_insert(value);
        let bound = *base * self.bound.factor + self.bound.slack;
        if value < *base {
            *base += (value - *base) * FALL;
        } else if at_floor {
            *base += (value - *base) * RISE;
        }
        (value > bound).then_some(Reason {
            sign: self.sign,
            seen: value,
            bound,
        })
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
