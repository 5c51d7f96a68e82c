//! What a run says on its way to the one who asked for it: the engine's notices and outcome.

use std::time::Duration;

use lockstep_engine::{
    Consistency, KeptBytes, Level, Notice, Outcome, Paced, Phase, SourceCounts, TargetOutcome,
    TargetProgress, Verdict,
};
use lockstep_ledger::ProofLevel;
use lockstep_merkle::Root;
use lockstep_protocol::{UndoKind, VolumeState};
use serde::{Deserialize, Serialize};

use super::host::{Hex32, WireFailure};
use super::text::Words;

/// Words of the engine that are the same on both sides; a peer's word that is none of them is shown
/// as `other`.
const KNOWN: [&str; 20] = [
    "quic",
    "ssh",
    "memory",
    "create",
    "keep",
    "resize",
    "resume",
    "reflink",
    "btrfs",
    "lvm",
    "zfs",
    "exec",
    "exclusive",
    "none",
    "",
    "auto",
    "snapshot",
    "image",
    "file",
    "other",
];

fn known(word: &str) -> &'static str {
    let found = KNOWN.into_iter().find(|known| *known == word);
    found.unwrap_or("other")
}

/// Most ranges of differences that are passed on.
const MAX_RANGES: usize = 8192;

/// One thing that a run says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
    /// The source is open.
    Started {
        /// The run's name.
        run: Words,
        /// Bytes of the source.
        size: u64,
    },
    /// A target is reached.
    Preflight {
        /// Its number.
        target: usize,
        /// How.
        transport: Words,
        /// What becomes of its file.
        plan: Words,
        /// Its size now.
        present_size: Option<u64>,
    },
    /// How the source is held still.
    Snapshot {
        /// By what.
        provider: Words,
        /// Why nothing better.
        detail: Words,
    },
    /// All of the source is hashed.
    Hashed {
        /// Its root.
        root: Hex32,
        /// Bytes hashed.
        size: u64,
        /// How long that took.
        seconds: f64,
    },
    /// A target is compared.
    Diff {
        /// Its number.
        target: usize,
        /// Bytes in differing pages.
        bytes_differing: u64,
        /// Begin and end of what differs.
        ranges: Vec<(u64, u64)>,
    },
    /// A target's durable state changed.
    State {
        /// Its number.
        target: usize,
        /// The state.
        state: Words,
    },
    /// How far it is.
    Progress {
        /// Bytes of the source scanned.
        bytes_scanned: u64,
        /// Its size.
        size: u64,
        /// Since the start.
        seconds: f64,
        /// Each target.
        targets: Vec<Far>,
    },
    /// Worth knowing.
    Warning {
        /// The target concerned.
        target: Option<usize>,
        /// One sentence.
        message: Words,
    },
    /// A target, or the run, has failed.
    Error {
        /// The target concerned.
        target: Option<usize>,
        /// Why.
        failure: WireFailure,
    },
}

/// How far a target is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Far {
    target: usize,
    phase: Words,
    bytes: [u64; 6],
}

impl Far {
    /// Gives the target another number.
    pub(crate) fn renumber(&mut self, number: impl Fn(usize) -> usize) {
        self.target = number(self.target);
    }
}

const PHASES: [Phase; 6] = [
    Phase::Connecting,
    Phase::Comparing,
    Phase::Waiting,
    Phase::Shipping,
    Phase::Verifying,
    Phase::Done,
];

impl From<&TargetProgress> for Far {
    fn from(progress: &TargetProgress) -> Self {
        Self {
            target: progress.target,
            phase: Words::new(progress.phase.word()),
            bytes: [
                progress.bytes_compared,
                progress.bytes_differing,
                progress.bytes_written,
                progress.bytes_verified,
                progress.bytes_sent,
                progress.bytes_received,
            ],
        }
    }
}

impl From<&Far> for TargetProgress {
    fn from(far: &Far) -> Self {
        let phase = PHASES
            .into_iter()
            .find(|phase| phase.word() == far.phase.as_str());
        Self {
            target: far.target,
            phase: phase.unwrap_or(Phase::Connecting),
            bytes_compared: far.bytes[0],
            bytes_differing: far.bytes[1],
            bytes_written: far.bytes[2],
            bytes_verified: far.bytes[3],
            bytes_sent: far.bytes[4],
            bytes_received: far.bytes[5],
        }
    }
}

const STATES: [VolumeState; 4] = [
    VolumeState::Unknown,
    VolumeState::Consistent,
    VolumeState::Inconsistent,
    VolumeState::Failed,
];

fn state(word: &Words) -> VolumeState {
    let found = STATES
        .into_iter()
        .find(|state| state.word() == word.as_str());
    found.unwrap_or(VolumeState::Unknown)
}

impl From<&Notice> for Told {
    fn from(notice: &Notice) -> Self {
        match notice {
            Notice::Started { run, size } => Self::Started {
                run: Words::new(run),
                size: *size,
            },
            Notice::Preflight {
                target,
                transport,
                plan,
                present_size,
            } => Self::Preflight {
                target: *target,
                transport: Words::new(transport),
                plan: Words::new(plan),
                present_size: *present_size,
            },
            Notice::Snapshot { provider, detail } => Self::Snapshot {
                provider: Words::new(provider),
                detail: Words::new(detail),
            },
            Notice::Hashed {
                root,
                size,
                elapsed,
            } => Self::Hashed {
                root: Hex32(*root.as_bytes()),
                size: *size,
                seconds: elapsed.as_secs_f64(),
            },
            Notice::Diff {
                target,
                bytes_differing,
                ranges,
            } => Self::Diff {
                target: *target,
                bytes_differing: *bytes_differing,
                ranges: (ranges.iter())
                    .take(MAX_RANGES)
                    .map(|range| (range.start, range.end))
                    .collect(),
            },
            Notice::State { target, state } => Self::State {
                target: *target,
                state: Words::new(state.word()),
            },
            Notice::Progress {
                bytes_scanned,
                size,
                elapsed,
                targets,
            } => Self::Progress {
                bytes_scanned: *bytes_scanned,
                size: *size,
                seconds: elapsed.as_secs_f64(),
                targets: targets.iter().map(Far::from).collect(),
            },
            Notice::Warning { target, message } => Self::Warning {
                target: *target,
                message: Words::new(message),
            },
            Notice::Error { target, failure } => Self::Error {
                target: *target,
                failure: failure.into(),
            },
        }
    }
}

impl Told {
    /// The notice that it was.
    #[must_use]
    pub fn to_notice(&self) -> Notice {
        match self {
            Self::Started { run, size } => Notice::Started {
                run: run.to_string(),
                size: *size,
            },
            Self::Preflight {
                target,
                transport,
                plan,
                present_size,
            } => Notice::Preflight {
                target: *target,
                transport: known(transport.as_str()),
                plan: known(plan.as_str()),
                present_size: *present_size,
            },
            Self::Snapshot { provider, detail } => Notice::Snapshot {
                provider: known(provider.as_str()),
                detail: detail.to_string(),
            },
            Self::Hashed {
                root,
                size,
                seconds: took,
            } => Notice::Hashed {
                root: Root::from_bytes(root.0),
                size: *size,
                elapsed: seconds(*took),
            },
            Self::Diff {
                target,
                bytes_differing,
                ranges,
            } => Notice::Diff {
                target: *target,
                bytes_differing: *bytes_differing,
                ranges: ranges.iter().map(|(start, end)| *start..*end).collect(),
            },
            Self::State {
                target,
                state: word,
            } => Notice::State {
                target: *target,
                state: state(word),
            },
            Self::Progress {
                bytes_scanned,
                size,
                seconds: took,
                targets,
            } => Notice::Progress {
                bytes_scanned: *bytes_scanned,
                size: *size,
                elapsed: seconds(*took),
                targets: targets.iter().map(TargetProgress::from).collect(),
            },
            Self::Warning { target, message } => Notice::Warning {
                target: *target,
                message: message.to_string(),
            },
            Self::Error { target, failure } => Notice::Error {
                target: *target,
                failure: failure.clone().into(),
            },
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// The engine's outcome.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireOutcome {
    run: Words,
    verdict: VerdictWord,
    pub(super) error: Option<WireFailure>,
    root: Option<Hex32>,
    size: u64,
    seconds: f64,
    snapshot: Words,
    level: Option<Words>,
    is_delta: bool,
    is_fuzzy: bool,
    bytes_read: u64,
    bytes_hashed: u64,
    #[serde(default)]
    paced: Option<WirePaced>,
    pub(super) targets: Vec<WireTarget>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePaced {
    seconds_held: f64,
    lowest_rate: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerdictWord {
    Ok,
    Partial,
    Failed,
    Different,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireTarget {
    pub(super) target: Words,
    pub(super) verdict: VerdictWord,
    pub(super) state: Words,
    pub(super) bytes_differing: u64,
    pub(super) bytes_written: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_inherited: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) seconds: f64,
    pub(super) transport: Option<Words>,
    pub(super) undo: Option<WireKept>,
    pub(super) error: Option<WireFailure>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireKept {
    kind: Words,
    until_unix_ms: u64,
    bytes: u64,
}

impl From<Verdict> for VerdictWord {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Ok => Self::Ok,
            Verdict::Partial => Self::Partial,
            Verdict::Failed => Self::Failed,
            Verdict::Different => Self::Different,
        }
    }
}

impl From<VerdictWord> for Verdict {
    fn from(word: VerdictWord) -> Self {
        match word {
            VerdictWord::Ok => Self::Ok,
            VerdictWord::Partial => Self::Partial,
            VerdictWord::Failed => Self::Failed,
            VerdictWord::Different => Self::Different,
        }
    }
}

impl From<&Outcome> for WireOutcome {
    fn from(outcome: &Outcome) -> Self {
        Self {
            run: Words::new(&outcome.run),
            verdict: outcome.verdict.into(),
            error: outcome.error.as_ref().map(WireFailure::from),
            root: outcome.root.map(|root| Hex32(*root.as_bytes())),
            size: outcome.size,
            seconds: outcome.elapsed.as_secs_f64(),
            snapshot: Words::new(outcome.snapshot),
            level: outcome.level.map(|level| Words::new(level.word())),
            is_delta: outcome.proof == ProofLevel::Delta,
            is_fuzzy: outcome.consistency == Consistency::Fuzzy,
            bytes_read: outcome.source.bytes_read,
            bytes_hashed: outcome.source.bytes_hashed,
            paced: outcome.paced.map(|paced| WirePaced {
                seconds_held: paced.held.as_secs_f64(),
                lowest_rate: paced.lowest_rate,
            }),
            targets: outcome.targets.iter().map(WireTarget::from).collect(),
        }
    }
}

impl From<&TargetOutcome> for WireTarget {
    fn from(target: &TargetOutcome) -> Self {
        Self {
            target: Words::new(&target.target),
            verdict: target.verdict.into(),
            state: Words::new(target.state.word()),
            bytes_differing: target.bytes_differing,
            bytes_written: target.bytes_written,
            bytes_read: target.bytes_read,
            bytes_inherited: target.bytes_inherited,
            bytes_sent: target.bytes_sent,
            bytes_received: target.bytes_received,
            seconds: target.elapsed.as_secs_f64(),
            transport: target.transport.map(Words::new),
            undo: target.undo.as_ref().map(|kept| WireKept {
                kind: Words::new(kept.kind.word()),
                until_unix_ms: kept.until_unix_ms,
                bytes: kept.bytes,
            }),
            error: target.error.as_ref().map(WireFailure::from),
        }
    }
}

impl WireOutcome {
    /// The engine's outcome again.
    #[must_use]
    pub fn to_outcome(&self) -> Outcome {
        Outcome {
            run: self.run.to_string(),
            verdict: self.verdict.into(),
            error: self.error.clone().map(Into::into),
            root: self.root.map(|root| Root::from_bytes(root.0)),
            size: self.size,
            elapsed: seconds(self.seconds),
            snapshot: known(self.snapshot.as_str()),
            level: (self.level.as_ref()).and_then(|level| Level::from_word(level.as_str())),
            proof: match self.is_delta {
                true => ProofLevel::Delta,
                false => ProofLevel::Full,
            },
            consistency: match self.is_fuzzy {
                true => Consistency::Fuzzy,
                false => Consistency::PointInTime,
            },
            source: SourceCounts {
                bytes_read: self.bytes_read,
                bytes_hashed: self.bytes_hashed,
            },
            paced: self.paced.as_ref().map(|paced| Paced {
                held: seconds(paced.seconds_held),
                lowest_rate: paced.lowest_rate,
            }),
            targets: self.targets.iter().map(WireTarget::to_outcome).collect(),
        }
    }
}

impl WireTarget {
    fn to_outcome(&self) -> TargetOutcome {
        TargetOutcome {
            target: self.target.to_string(),
            verdict: self.verdict.into(),
            state: state(&self.state),
            bytes_differing: self.bytes_differing,
            bytes_written: self.bytes_written,
            bytes_read: self.bytes_read,
            bytes_inherited: self.bytes_inherited,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            elapsed: seconds(self.seconds),
            transport: self.transport.as_ref().map(|word| known(word.as_str())),
            undo: self.undo.as_ref().map(WireKept::to_kept),
            error: self.error.clone().map(Into::into),
        }
    }
}

impl WireKept {
    fn to_kept(&self) -> KeptBytes {
        KeptBytes {
            kind: match self.kind.as_str() {
                word if word == UndoKind::Reflink.word() => UndoKind::Reflink,
                word if word == UndoKind::Thin.word() => UndoKind::Thin,
                _ => UndoKind::Log,
            },
            until_unix_ms: self.until_unix_ms,
            bytes: self.bytes,
        }
    }
}
