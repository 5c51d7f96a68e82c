//! What a run tells while it goes on: the line between engine and screen.

use std::time::Duration;

use lockstep_merkle::Root;
use lockstep_protocol::{Failure, VolumeState};

/// What a target is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Being reached.
    Connecting,
    /// Both sides scan and compare; differences may be shipped meanwhile.
    Comparing,
    /// Waiting for agreement.
    Waiting,
    /// Comparing is over; what differs is still being shipped.
    Shipping,
    /// What was written is read back from the medium.
    Verifying,
    /// Ended, well or not.
    Done,
}

impl Phase {
    /// The phase in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Comparing => "comparing",
            Phase::Waiting => "waiting",
            Phase::Shipping => "shipping",
            Phase::Verifying => "verifying",
            Phase::Done => "done",
        }
    }
}

/// How far one target is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetProgress {
    /// Number of the target in the request.
    pub target: usize,
    /// What it is busy with.
    pub phase: Phase,
    /// Bytes of the volume compared.
    pub bytes_compared: u64,
    /// Bytes found different, so far.
    pub bytes_differing: u64,
    /// Bytes written and not yet, or already, verified.
    pub bytes_written: u64,
    /// Bytes read back and proved.
    pub bytes_verified: u64,
    /// Bytes sent over the link.
    pub bytes_sent: u64,
    /// Bytes received over the link.
    pub bytes_received: u64,
}

/// One thing a run has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The source is open; the first notice of a run that gets that far.
    Started {
        /// The run's name.
        run: String,
        /// The source's size in bytes.
        size: u64,
    },
    /// A target is reached and fit to be written.
    Preflight {
        /// Number of the target in the request.
        target: usize,
        /// `quic`, `ssh` or `memory`.
        transport: &'static str,
        /// What will become of its file: `create`, `keep`, `resize` or `resume`.
        plan: &'static str,
        /// Its size now; `None` for a missing file.
        present_size: Option<u64>,
    },
    /// How the source is held still.
    Snapshot {
        /// The provider's name, `exclusive` or `none`.
        provider: &'static str,
        /// Why nothing better.
        detail: String,
    },
    /// All of the source is hashed.
    Hashed {
        /// Its root.
        root: Root,
        /// Bytes hashed.
        size: u64,
        /// The scan's time.
        elapsed: Duration,
    },
    /// A target is compared.
    Diff {
        /// Number of the target in the request.
        target: usize,
        /// Bytes in differing pages.
        bytes_differing: u64,
        /// Differing byte ranges, merged, when they were asked for (`Compare`).
        ranges: Vec<std::ops::Range<u64>>,
    },
    /// A target's durable state changed.
    State {
        /// Number of the target in the request.
        target: usize,
        /// The state that is durable now.
        state: VolumeState,
    },
    /// Once a second.
    Progress {
        /// Bytes of the source scanned.
        bytes_scanned: u64,
        /// The source's size.
        size: u64,
        /// Since the start.
        elapsed: Duration,
        /// One for each target.
        targets: Vec<TargetProgress>,
    },
    /// Worth knowing; the run goes on.
    Warning {
        /// The target concerned.
        target: Option<usize>,
        /// One sentence.
        message: String,
    },
    /// A target, or the run, has failed.
    Error {
        /// The target concerned; `None` for the run itself.
        target: Option<usize>,
        /// Why.
        failure: Failure,
    },
}

/// Hears what a run has to say; called from several threads.
pub trait Monitor: Send + Sync {
    /// One notice. Must return soon: the run waits for it.
    fn notice(&self, notice: Notice);
}
