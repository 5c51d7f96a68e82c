//! How much of the machines a run may use: the options that `sync`, `diff` and the cluster's verbs share.

use clap::{Args, ValueEnum};
use lockstep_engine::{Pace, Priority};

use crate::units;

/// Beside `--limit-rate`, which has its place among the options of the link.
#[derive(Args, Debug)]
pub(super) struct ThrottleOptions {
    /// Most bytes a second that are read from the source, such as 100MB/s
    #[arg(long, value_name = "RATE", env = "LOCKSTEP_LIMIT_READ", value_parser = units::parse_rate)]
    pub(super) limit_read: Option<u64>,
    /// What the threads that read and hash ask for, at each end: normal, low (nice 10, last of the
    /// best-effort I/O), idle (nice 19, I/O that nobody else wants)
    #[arg(
        long,
        value_enum,
        value_name = "PRIORITY",
        default_value = "normal",
        env = "LOCKSTEP_PRIORITY"
    )]
    pub(super) priority: PriorityChoice,
    /// auto: read slower, but never below 8 MiB/s, while the source's disk answers late or others on
    /// its machine wait; off: as fast as the limits allow
    #[arg(
        long,
        value_enum,
        value_name = "PACE",
        default_value = "off",
        env = "LOCKSTEP_PACE"
    )]
    pub(super) pace: PaceChoice,
}

/// `--priority`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum PriorityChoice {
    Normal,
    Low,
    Idle,
}

/// `--pace`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum PaceChoice {
    Auto,
    Off,
}

impl ThrottleOptions {
    pub(super) fn priority(&self) -> Priority {
        match self.priority {
            PriorityChoice::Normal => Priority::Normal,
            PriorityChoice::Low => Priority::Low,
            PriorityChoice::Idle => Priority::Idle,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.pace.into()
    }
}

impl From<PaceChoice> for Pace {
    fn from(choice: PaceChoice) -> Pace {
        match choice {
            PaceChoice::Auto => Pace::Auto,
            PaceChoice::Off => Pace::Off,
        }
    }
}
