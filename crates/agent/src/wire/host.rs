//! What the primary's agent and a secondary's say to each other in a run.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::{FileState, NodeState};
use lockstep_cluster::value::{AbsolutePath, VolumeId, VolumeName};
use lockstep_protocol::{Failure, FailureKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ask::PriorityWord;
use super::fit;
use super::text::Words;

/// Longest that a run waits at a secondary for the earlier one there to end: a `start` hook, which is
/// never cut short, takes at most two minutes where the cluster file does not say otherwise, and what
/// was written is flushed then.
pub(crate) const CLAIM_IN_LINE: Duration = Duration::from_secs(300);
/// Longest that a secondary looks at what it is asked for before: probes, and whether it is blank.
const CLAIM_LOOK: Duration = Duration::from_secs(120);
/// Longest that a primary waits for the answer. Longer than a secondary needs for it: else a run would
/// be let in that nobody is there for any more, and why it was not would never be told.
pub(crate) const CLAIM_ANSWER: Duration = CLAIM_IN_LINE
    .saturating_add(CLAIM_LOOK)
    .saturating_add(Duration::from_secs(10));

/// A run wants to write a volume: the first word of the call that lasts as long as its part there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteAsk {
    /// The volume's name; its place is the secondary's own affair.
    pub volume: VolumeName,
    /// Its id, which both cluster files must agree on.
    pub id: VolumeId,
    /// The run's epoch.
    pub epoch: Epoch,
    /// The run's name.
    pub run: RunName,
    /// Who asked for it.
    pub who: Words,
    /// Why.
    pub reason: Option<Words>,
    /// The operator agreed that data is lost which lockstep never wrote.
    pub adopt: bool,
    /// Whether this call runs the volume's hooks: of the volumes of a group, only the first with the
    /// same hooks does.
    pub hooks: bool,
    /// The volume is one of a group: services run only on what the primary calls usable.
    pub group: bool,
}

/// A volume is only to be compared; nothing is claimed, stopped, or written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareAsk {
    /// The volume's name.
    pub volume: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// The name of the comparison, which names a snapshot.
    pub run: RunName,
}

/// What the primary's agent says next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "bid", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostBid {
    /// The state of every configuration file on the primary; answered by `Differing`.
    Files {
        /// Each file below the volume's `files`.
        states: BTreeMap<AbsolutePath, FileState>,
    },
    /// A file that differs; frames with its bytes follow until all are there. Put aside until the
    /// volume is consistent.
    File(FileBytes),
    /// The last file was sent; answered by `Staged`.
    FilesEnd,
    /// Run `stop`; answered by `Stopped`.
    Stop,
    /// Open a port for the data and serve one run on it; answered by `Serving`, and by `Served` once
    /// that run is over.
    Serve(ServeTerms),
    /// The run is over everywhere that matters here. `usable`: every volume of the group is consistent
    /// on this node; then files are put in place, and `configure`, `start` and `check` run. Answered
    /// by `Concluded`.
    Conclude {
        /// Whether services may run on what is here now.
        usable: bool,
    },
}

/// The bytes of a file that follow, in frames of at most 64 KiB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileBytes {
    /// Where it belongs.
    pub path: AbsolutePath,
    /// What it is to be; none if it is to be removed.
    pub state: Option<FileState>,
    /// How many bytes follow, at most 16 MiB.
    pub bytes: u64,
}

/// What the secondary takes over from earlier runs, and keeps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeTerms {
    /// The public key that the dialer has for this run alone.
    pub key: Hex32,
    /// Whether a snapshot's word for what did not change is believed.
    pub delta: bool,
    /// Of so many runs, one reads everything.
    pub full_scan_runs: NonZeroU32,
    /// After so many seconds a run reads everything.
    pub full_scan_seconds: u64,
    /// Whether what is overwritten is kept: `auto`, `require` or `off`.
    pub undo: UndoWord,
    /// For so many seconds after the run.
    pub keep_undo_seconds: u64,
    /// What the threads that read and hash ask for.
    #[serde(default)]
    pub priority: PriorityWord,
}

/// `--undo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndoWord {
    /// If there is a way and the room.
    Auto,
    /// Or nothing is overwritten.
    Require,
    /// No.
    Off,
}

/// Where the data of a run goes: ports that are open for this run alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServingAt {
    /// UDP ports of the host that the call goes to.
    pub ports: Vec<u16>,
    /// The public key of the listener, for this run alone, in hexadecimal.
    pub key: Hex32,
    /// What the dialer proves itself with, in hexadecimal.
    pub token: Hex32,
}

/// 32 bytes, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex32(pub [u8; 32]);

impl fmt::Debug for Hex32 {
    /// Tokens do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hex32(…)")
    }
}

impl Serialize for Hex32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// What the secondary's agent says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostTell {
    /// The run may write there.
    Granted {
        /// What the ledger says of the volume now.
        state: NodeState,
        /// The file or device, in words that change when it is replaced.
        device: Words,
    },
    /// It may not, for this reason; nothing was touched.
    Refused {
        /// Why.
        failure: WireFailure,
        /// The epoch that fences it, if that is why.
        promised: Option<Epoch>,
    },
    /// Files that are not as the primary's.
    Differing {
        /// Which, in their order.
        files: Vec<AbsolutePath>,
        /// How many more there are: then none of them can be sent.
        left_out: u64,
    },
    /// All files are there, or why not.
    Staged {
        /// Why not.
        failure: Option<WireFailure>,
    },
    /// The services are down, or why not.
    Stopped {
        /// What ran.
        hooks: Vec<HookReport>,
        /// Why the volume must not be written.
        failure: Option<WireFailure>,
    },
    /// The data goes there.
    Serving(ServingAt),
    /// The run on the volume is over.
    Served {
        /// What the ledger says now.
        state: NodeState,
        /// What the volume holds, if all of it was measured.
        root: Option<Hex32>,
        /// Why it did not end well.
        failure: Option<WireFailure>,
    },
    /// Nothing more will happen.
    Concluded {
        /// What the ledger says now.
        state: NodeState,
        /// Files that were put in place; the first of them.
        files: Vec<AbsolutePath>,
        /// How many more there were.
        files_left_out: u64,
        /// What ran, in order.
        hooks: Vec<HookReport>,
        /// How long the services were down; none if they were not stopped, or are down still.
        downtime_seconds: Option<f64>,
        /// What did not work: the data is as `state` says all the same.
        failure: Option<WireFailure>,
    },
}

impl HostTell {
    /// `Differing`, with as many as one frame holds.
    pub(crate) fn differing(files: Vec<AbsolutePath>) -> Self {
        let (files, left_out) = fit::first(files);
        Self::Differing { files, left_out }
    }

    /// `Concluded`, with as much as one frame holds.
    pub(crate) fn concluded(
        state: NodeState,
        files: Vec<AbsolutePath>,
        hooks: Vec<HookReport>,
        downtime_seconds: Option<f64>,
        failure: Option<WireFailure>,
    ) -> Self {
        let (files, files_left_out) = fit::named(files);
        // A volume has few moments; nothing is left out of them.
        let (hooks, _) = fit::first(hooks);
        Self::Concluded {
            state,
            files,
            files_left_out,
            hooks,
            downtime_seconds,
            failure,
        }
    }
}

/// How a hook ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookReport {
    /// `stop`, `configure`, `start`, `check`, …
    pub moment: Words,
    /// How long it took.
    #[serde(deserialize_with = "possible_seconds")]
    pub seconds: f64,
    /// What it exited with; none if it was killed, or did not run.
    pub exit: Option<i32>,
    /// What went wrong, with the end of what it printed.
    pub error: Option<Words>,
}

/// No peer's number is negative, or so large that a sum of them means nothing.
fn possible_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    const MOST: f64 = 1e9;
    Ok(f64::deserialize(deserializer)?.clamp(0.0, MOST))
}

/// A failure on its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireFailure {
    /// Its exit code, which says its kind.
    pub exit_code: u8,
    /// One sentence.
    pub message: Words,
    /// What to do next; may be empty.
    pub hint: Words,
}

impl From<&Failure> for WireFailure {
    fn from(failure: &Failure) -> Self {
        Self {
            exit_code: failure.kind.exit_code(),
            message: Words::new(&failure.message),
            hint: Words::new(&failure.hint),
        }
    }
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Self {
        let kind = FailureKind::from_exit_code(wire.exit_code).unwrap_or(FailureKind::Internal);
        Failure::new(kind, wire.message.as_str()).hint(wire.hint.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::HookReport;

    #[test]
    fn a_hook_took_a_possible_time() {
        let read = |seconds: &str| {
            let text = format!(r#"{{"moment":"stop","seconds":{seconds},"error":null}}"#);
            serde_json::from_str::<HookReport>(&text).unwrap().seconds
        };
        assert_eq!(
            [read("-1e300"), read("2.5"), read("1e300")],
            [0.0, 2.5, 1e9]
        );
    }
}
