//! How fast a run may go: fixed limits, and a pace that yields to whoever else uses the machine.
//!
//! Promise: what a limit allows is never exceeded by more than one transfer, a change holds for
//! those who wait already, and no pace is slower than [`FLOOR`].
//!
//! ```text
//!   scan, ship ──► read valve ──► pace valve ──► disk        ship ──► link valve ──► link
//!                      ▲               ▲                                  ▲
//!                   Limits          Pacer ◄── control ◄── signs ◄── look  Limits
//! ```
//!
//! | file | what is in it |
//! | --- | --- |
//! | `bucket`, `control`, `signs` | pure: tokens, the pace, what the kernel's counters say |
//! | `valve` | where threads wait |
//! | `look` | reads the counters |
//! | `pacer` | one run's pace, and what it tells of it |

mod bucket;
mod control;
mod look;
mod pacer;
mod signs;
mod valve;

use std::sync::atomic::{AtomicBool, Ordering};

pub use self::control::FLOOR;
pub use self::pacer::Paced;
pub(crate) use self::pacer::Pacer;
pub(crate) use self::valve::Valve;

/// Whether a run yields to whoever else uses the source's machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Pace {
    /// As fast as it goes.
    #[default]
    Off,
    /// Slower while the source's disk answers late or others wait.
    Auto,
}

/// What a run may use; one for all its volumes and targets, and changed while it goes on.
#[derive(Debug)]
pub struct Limits {
    /// Bytes a second on the link.
    pub(crate) link: Valve,
    /// Bytes a second read from the source.
    pub(crate) read: Valve,
    paces: AtomicBool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(None, None, Pace::Off)
    }
}

impl Limits {
    /// Rates are in bytes a second; `Some(0)` is no limit either.
    #[must_use]
    pub fn new(link: Option<u64>, read: Option<u64>, pace: Pace) -> Limits {
        Limits {
            link: Valve::new(link),
            read: Valve::new(read),
            paces: AtomicBool::new(pace == Pace::Auto),
        }
    }

    /// Bytes a second on the link, for all targets together.
    #[must_use]
    pub fn link(&self) -> Option<u64> {
        self.link.rate()
    }

    /// Bytes a second read from the source.
    #[must_use]
    pub fn read(&self) -> Option<u64> {
        self.read.rate()
    }

    /// Whether it yields.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match self.paces.load(Ordering::Relaxed) {
            true => Pace::Auto,
            false => Pace::Off,
        }
    }

    /// From now on.
    pub fn set_link(&self, rate: Option<u64>) {
        self.link.set(rate);
    }

    /// From now on.
    pub fn set_read(&self, rate: Option<u64>) {
        self.read.set(rate);
    }

    /// From now on.
    pub fn set_pace(&self, pace: Pace) {
        self.paces.store(pace == Pace::Auto, Ordering::Relaxed);
    }
}

/// What whoever reads the source has to pass.
#[derive(Clone, Copy)]
pub(crate) struct ReadGate<'a> {
    pub(crate) limit: &'a Valve,
    pub(crate) pace: &'a Valve,
}

impl ReadGate<'_> {
    /// Waits until `bytes` may be read, or `stop` says so.
    pub(crate) fn pass(&self, bytes: usize, stop: &dyn Fn() -> bool) {
        self.limit.pass(bytes, stop);
        self.pace.pass(bytes, stop);
    }
}
