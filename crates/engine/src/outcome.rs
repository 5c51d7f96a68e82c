//! How a run ended, for the summary.

use std::time::Duration;

use lockstep_ledger::ProofLevel;
use lockstep_merkle::Root;
use lockstep_protocol::{Failure, FailureKind, UndoKind, VolumeState};
use lockstep_quiesce::Level;

use crate::pace::Paced;

/// How one target, or a whole run, ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Equal to the source, proved.
    Ok,
    /// Some targets good, some not; of a run only.
    Partial,
    /// Not good.
    Failed,
    /// Compared only, and different.
    Different,
}

/// Whether what was read is one instant of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// One instant.
    PointInTime,
    /// Nobody can say.
    Fuzzy,
}

/// What the source side did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SourceCounts {
    /// Bytes fetched from the source: the scan, and later reads that memory
    /// (the kernel's page cache included) did not answer.
    pub bytes_read: u64,
    /// Bytes hashed into the root, holes included; not those whose hashes an
    /// earlier run left.
    pub bytes_hashed: u64,
}

/// What is kept of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptBytes {
    /// In what.
    pub kind: UndoKind,
    /// When it is released, in milliseconds since the Unix epoch.
    pub until_unix_ms: u64,
    /// Bytes of the log, or bytes that a clone holds what they were.
    pub bytes: u64,
}

/// How one target ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetOutcome {
    /// As the user named it.
    pub target: String,
    /// Its verdict; never [`Verdict::Partial`].
    pub verdict: Verdict,
    /// What its ledger says now, as far as is known here.
    pub state: VolumeState,
    /// 4 KiB pages that differed, in bytes, the last at its true length.
    pub bytes_differing: u64,
    /// Bytes made equal, zeroed ranges included.
    pub bytes_written: u64,
    /// Bytes that the target read of itself, those read back left out.
    pub bytes_read: u64,
    /// Bytes that it did not read because an earlier run left their hashes.
    pub bytes_inherited: u64,
    /// Bytes sent over the link, framing included.
    pub bytes_sent: u64,
    /// Bytes received over the link, framing included.
    pub bytes_received: u64,
    /// From its connection to its end.
    pub elapsed: Duration,
    /// `quic`, `ssh` or `memory`; `None` when it was never reached.
    pub transport: Option<&'static str>,
    /// What can be brought back of what was overwritten.
    pub undo: Option<KeptBytes>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The run's name, 32 hex digits.
    pub run: String,
    /// The verdict of the whole.
    pub verdict: Verdict,
    /// A failure of the run itself (source, arguments, signal).
    pub error: Option<Failure>,
    /// The source's root, once all of it is hashed.
    pub root: Option<Root>,
    /// The source's size in bytes; 0 when it was never opened.
    pub size: u64,
    /// The whole run.
    pub elapsed: Duration,
    /// The snapshot's provider, `exclusive` or `none`.
    pub snapshot: &'static str,
    /// How still the volume's users were when it was made; `None` without a snapshot.
    pub level: Option<Level>,
    /// Whether every byte was read at both ends, or some hashes were taken over.
    pub proof: ProofLevel,
    /// One instant or not.
    pub consistency: Consistency,
    /// The source's work.
    pub source: SourceCounts,
    /// How far it yielded to others; `None` if the run did not watch them.
    pub paced: Option<Paced>,
    /// One for each target of the request, in its order.
    pub targets: Vec<TargetOutcome>,
}

/// When no target is good, the exit code is the worst of theirs in this order.
/// Kinds that the order does not name come before the one that promises that
/// nothing was changed.
const WORST_FIRST: [FailureKind; 12] = [
    FailureKind::Mismatch,
    FailureKind::Io,
    FailureKind::Fenced,
    FailureKind::Auth,
    FailureKind::Guard,
    FailureKind::Preflight,
    FailureKind::Interrupted,
    FailureKind::Internal,
    FailureKind::Usage,
    FailureKind::Deadline,
    FailureKind::Busy,
    FailureKind::Temporary,
];

/// Some targets are good and some are not.
const EXIT_PARTIAL: u8 = 8;
/// Differences were found.
const EXIT_DIFFERENT: u8 = 10;

impl Outcome {
    /// The exit code of the process, by the command line's contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Ok => 0,
            Verdict::Partial => EXIT_PARTIAL,
            Verdict::Different => EXIT_DIFFERENT,
            Verdict::Failed => self.failed_kind().exit_code(),
        }
    }

    fn failed_kind(&self) -> FailureKind {
        if let Some(failure) = &self.error {
            return failure.kind;
        }
        let kinds: Vec<FailureKind> = self
            .targets
            .iter()
            .filter_map(|target| target.error.as_ref().map(|failure| failure.kind))
            .collect();
        WORST_FIRST
            .into_iter()
            .find(|kind| kinds.contains(kind))
            .or_else(|| kinds.first().copied())
            .unwrap_or(FailureKind::Internal)
    }

    /// Whether any target's bytes were changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.targets.iter().any(|target| target.bytes_written > 0)
    }
}
