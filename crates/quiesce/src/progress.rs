//! Where a caller looks on, and from where it can stop.

use std::path::Path;

/// What happens next, or has just happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A hook begins.
    Hook(&'a str),
    /// The watchdog, a process with this id, is ready; nothing is frozen yet.
    Watched(u32),
    /// A mount point's filesystem is about to be frozen.
    Freezing(&'a Path),
    /// It is frozen.
    Frozen(&'a Path),
    /// It is about to be thawed.
    Thawing(&'a Path),
    /// It is thawed.
    Thawed(&'a Path),
}

/// Told of each step, and asked whether to go on.
///
/// Whoever implements it must not write to what is being frozen: between [`Step::Freezing`] and
/// [`Step::Thawed`] that would wait for its own end, until the watchdog thaws.
pub trait Progress {
    /// A step begins or is done.
    fn step(&self, step: Step<'_>) {
        let _ = step;
    }

    /// Whether to stop as soon as possible; asked before each freeze and 20 times a second while a
    /// hook runs. What was begun is undone all the same.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Nobody looks on, nobody stops it.
pub(crate) struct Unattended;

impl Progress for Unattended {}
