//! One run's pace: looks on, decides, and keeps account of it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::control::{Controller, Step};
use super::look::Lookout;
use super::signs::Counts;
use super::{Limits, Pace, Valve};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a pace did to a run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Paced {
    /// For how long the pace was what kept it from reading faster.
    pub held: Duration,
    /// The slowest that it yielded to, in bytes a second; `None` if it never did.
    pub lowest_rate: Option<u64>,
}

/// Yields to others where the limits say so. Ticked by one thread; others pass its valve.
pub(crate) struct Pacer {
    pub(crate) valve: Valve,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watch: Watch,
    paced: Option<Paced>,
}

#[derive(Default)]
enum Watch {
    #[default]
    Off,
    /// There is nothing to look at, and that has been said.
    Blind,
    On(Box<Looking>),
}

struct Looking {
    lookout: Lookout,
    controller: Controller,
    at: Instant,
    counts: Counts,
}

impl Pacer {
    pub(crate) fn new() -> Pacer {
        Pacer {
            valve: Valve::new(None),
            state: Mutex::default(),
        }
    }

    /// To be called several times a second. A sentence to warn the user with comes at most once
    /// each time that the pace is turned on.
    pub(crate) fn tick(&self, limits: &Limits, volume: &Path, bytes_read: u64) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { watch, paced } = &mut *state;
        match (limits.pace(), &mut *watch) {
            (Pace::Off, Watch::Off) | (Pace::Auto, Watch::Blind) => None,
            (Pace::Off, _) => {
                *watch = Watch::Off;
                self.valve.set(None);
                None
            }
            (Pace::Auto, Watch::Off) => {
                let Some(looking) = Looking::begin(volume, bytes_read) else {
                    *watch = Watch::Blind;
                    return Some(
                        "--pace auto does nothing: no disk is known below the source, and the \
                         kernel tells no pressure"
                            .to_owned(),
                    );
                };
                paced.get_or_insert_default();
                self.valve.set(Some(looking.controller.rate()));
                *watch = Watch::On(Box::new(looking));
                None
            }
            (Pace::Auto, Watch::On(looking)) => {
                let passed = looking.at.elapsed();
                if passed >= LOOK_EVERY {
                    looking.look(bytes_read, passed, paced.get_or_insert_default());
                    self.valve.set(Some(looking.controller.rate()));
                }
                None
            }
        }
    }

    /// What it did; `None` if it was never on.
    pub(crate) fn paced(&self) -> Option<Paced> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .paced
    }
}

impl Looking {
    fn begin(volume: &Path, bytes_read: u64) -> Option<Looking> {
        let lookout = Lookout::of(volume)?;
        tracing::info!("pace: watches {}", lookout.describe());
        Some(Looking {
            counts: lookout.look(bytes_read),
            at: Instant::now(),
            controller: Controller::new(),
            lookout,
        })
    }

    fn look(&mut self, bytes_read: u64, passed: Duration, paced: &mut Paced) {
        let counts = self.lookout.look(bytes_read);
        let signs = counts.since(&self.counts, passed);
        self.counts = counts;
        self.at += passed;
        if self.controller.holds(&signs) {
            paced.held += passed;
        }
        let step = self.controller.step(&signs);
        let rate = self.controller.rate();
        match step {
            Step::On => {}
            Step::Yielded(why) => {
                let lowest = paced.lowest_rate.unwrap_or(u64::MAX);
                paced.lowest_rate = Some(lowest.min(rate));
                tracing::info!(
                    "pace: yields to {rate} B/s: {} is {:.4}, more than {:.4}",
                    why.sign,
                    why.seen,
                    why.bound
                );
            }
            Step::Recovered => tracing::info!("pace: recovered, {rate} B/s"),
        }
        let baselines = self.controller.baselines();
        tracing::debug!(rate, ?signs, ?baselines, "pace");
    }
}

#[cfg(test)]
mod tests {
    use super::{LOOK_EVERY, Pacer};
    use crate::pace::{FLOOR, Limits, Pace};
    use std::path::Path;

    #[test]
    fn it_holds_back_at_once_and_lets_go_when_turned_off() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let limits = Limits::default();
        let pacer = Pacer::new();
        assert_eq!(pacer.tick(&limits, file.path(), 0), None);
        assert_eq!((pacer.valve.rate(), pacer.paced()), (None, None));
        limits.set_pace(Pace::Auto);
        if let Some(why) = pacer.tick(&limits, file.path(), 0) {
            println!("skipped: {why}");
            return;
        }
        assert_eq!(pacer.valve.rate(), Some(FLOOR));
        // A run that reads all it may, on a machine where anything may happen.
        for looks in 0..8 {
            std::thread::sleep(LOOK_EVERY);
            pacer.tick(&limits, file.path(), looks << 30);
            assert!(pacer.valve.rate() >= Some(FLOOR));
        }
        limits.set_pace(Pace::Off);
        assert_eq!(pacer.tick(&limits, file.path(), 0), None);
        assert_eq!(pacer.valve.rate(), None);
        assert!(pacer.paced().is_some(), "it is told all the same");
    }

    #[test]
    fn a_volume_on_nothing_is_watched_by_what_there_is() {
        let limits = Limits::new(None, None, Pace::Auto);
        let pacer = Pacer::new();
        let nowhere = Path::new("/nonexistent/volume");
        let warned = pacer.tick(&limits, nowhere, 0);
        match Path::new("/proc/pressure/io").exists() {
            true => assert_eq!((warned, pacer.valve.rate()), (None, Some(FLOOR))),
            false => {
                assert!(warned.unwrap().contains("does nothing"));
                assert_eq!(pacer.tick(&limits, nowhere, 0), None, "once");
                assert_eq!((pacer.valve.rate(), pacer.paced()), (None, None));
            }
        }
    }
}
