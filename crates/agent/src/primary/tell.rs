//! What the engine says, passed on to those who follow the run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockstep_cluster::value::VolumeName;
use lockstep_engine::{Monitor, Notice};
use lockstep_merkle::Root;
use lockstep_protocol::VolumeState;

use super::runs::Live;
use crate::crash;
use crate::wire::Told;

type Hook = Box<dyn Fn(usize) + Send + Sync>;

/// Passes on what a volume's engine says, and remembers what the run itself needs of it.
pub(super) struct Teller {
    live: Arc<Live>,
    volume: VolumeName,
    /// For each target of the engine, its number in the run.
    numbers: Vec<usize>,
    seen: Mutex<Seen>,
    /// Called when a target is consistent, with its number for the engine.
    on_consistent: Option<Hook>,
}

/// What was said so far.
#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) root: Option<Root>,
    pub(super) scanned: Option<Duration>,
    /// For each target of the engine, when it was compared.
    pub(super) compared: Vec<Option<Duration>>,
}

impl Teller {
    pub(super) fn new(
        live: &Arc<Live>,
        volume: &VolumeName,
        numbers: Vec<usize>,
        on_consistent: Option<Hook>,
    ) -> Teller {
        let seen = Seen {
            compared: vec![None; numbers.len()],
            ..Seen::default()
        };
        Teller {
            live: Arc::clone(live),
            volume: volume.clone(),
            numbers,
            seen: Mutex::new(seen),
            on_consistent,
        }
    }

    pub(super) fn seen(&self) -> Seen {
        (self.seen.lock().unwrap_or_else(PoisonError::into_inner)).clone()
    }

    fn remember(&self, notice: &Notice) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Hashed { root, elapsed, .. } => {
                seen.root = Some(*root);
                seen.scanned = Some(*elapsed);
            }
            Notice::Progress {
                elapsed,
                targets,
                size,
                ..
            } => {
                for target in targets {
                    let is_compared = target.bytes_compared >= *size;
                    if let Some(slot) = seen.compared.get_mut(target.target)
                        && slot.is_none()
                        && is_compared
                    {
                        *slot = Some(*elapsed);
                    }
                }
            }
            _ => {}
        }
    }

    fn renumber(&self, told: Told) -> Told {
        let number = |target: usize| self.numbers.get(target).copied().unwrap_or(target);
        match told {
            Told::Preflight {
                target,
                transport,
                plan,
                present_size,
            } => Told::Preflight {
                target: number(target),
                transport,
                plan,
                present_size,
            },
            Told::Diff {
                target,
                bytes_differing,
                ranges,
            } => Told::Diff {
                target: number(target),
                bytes_differing,
                ranges,
            },
            Told::State { target, state } => Told::State {
                target: number(target),
                state,
            },
            Told::Progress {
                bytes_scanned,
                size,
                seconds,
                mut targets,
            } => {
                for target in &mut targets {
                    target.renumber(number);
                }
                Told::Progress {
                    bytes_scanned,
                    size,
                    seconds,
                    targets,
                }
            }
            Told::Warning { target, message } => Told::Warning {
                target: target.map(number),
                message,
            },
            Told::Error { target, failure } => Told::Error {
                target: target.map(number),
                failure,
            },
            other => other,
        }
    }
}

fn pass_point(notice: &Notice) {
    match notice {
        Notice::Snapshot { .. } => crash::point("primary.snapshot"),
        Notice::Hashed { .. } => crash::point("primary.hashed"),
        Notice::State {
            state: VolumeState::Inconsistent,
            ..
        } => crash::point("primary.writing"),
        Notice::State {
            state: VolumeState::Consistent,
            ..
        } => crash::point("primary.proved"),
        _ => {}
    }
}

impl Monitor for Teller {
    fn notice(&self, notice: Notice) {
        self.remember(&notice);
        pass_point(&notice);
        self.live
            .say(&self.volume, self.renumber(Told::from(&notice)));
        if let (
            Notice::State {
                target,
                state: VolumeState::Consistent,
            },
            Some(hook),
        ) = (&notice, &self.on_consistent)
        {
            hook(*target);
        }
    }
}
