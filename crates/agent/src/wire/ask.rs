//! What agents are asked, and what they answer.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::{ChangeLimit, FileDifference, FileState, NodeState};
use lockstep_cluster::value::{AbsolutePath, NodeName, VolumeName};
use lockstep_engine::Priority;
use serde::{Deserialize, Serialize};

use super::checkup::Checkup;
use super::ended::{Ended, VolumeEnded};
use super::fit;
use super::host::{CompareAsk, Hex32, HookReport, UndoWord, WireFailure, WriteAsk};
use super::run::Told;
use super::text::Words;

/// The first word of a call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// What the node knows of its volumes; answered by `Status`.
    Status,
    /// The node's records of a volume, the newest first; answered by `History`.
    History {
        /// The volume.
        volume: VolumeName,
    },
    /// What the node says of its role for a volume; answered by `Role`.
    Role {
        /// The volume.
        volume: VolumeName,
    },
    /// To the primary: compare, stop, overwrite, start; or a part of that. Answered by `Run`, any
    /// number of `Told`, a `VolumeEnded` for each volume, and `Ended`.
    Run(RunAsk),
    /// To the primary: follow the run that is on; answered as `Run`.
    Attach {
        /// A volume's or a group's name.
        name: Words,
    },
    /// To the primary: end the run that is on; answered by `Done`.
    Cancel {
        /// A volume's or a group's name.
        name: Words,
    },
    /// To the primary: change what the run that is on may use; answered by `Done`.
    Limit {
        /// A volume's or a group's name.
        name: Words,
        /// What changes.
        change: LimitChange,
    },
    /// To a secondary: bring volumes back to what they held before their last run; answered by
    /// `Undone`.
    Undo {
        /// One volume, or all of a group.
        volumes: Vec<VolumeName>,
        /// Who asks, and why.
        who: Words,
        /// Whether anything is done, or only told.
        dry_run: bool,
    },
    /// From the primary to a secondary: a run's part there.
    Write(WriteAsk),
    /// From the primary to a secondary: a comparison's part there.
    Compare(CompareAsk),
    /// Which configuration files of a volume are not as those of the next frame, a [`FileStates`];
    /// answered by `Differing`.
    Files {
        /// The volume.
        volume: VolumeName,
    },
    /// What a plan has to know of a volume on a secondary; answered by `Facts`.
    Facts {
        /// The volume.
        volume: VolumeName,
    },
    /// Whether all is well on a node, and whether it reaches the others; answered by `Checkup`.
    Checkup,
    /// Open a port as a run's data would have it, and give back what comes with this word first;
    /// answered by `Echo`.
    Echo {
        /// What nobody else knows.
        word: Hex32,
    },
}

/// Each file below a volume's `files` on the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileStates(pub BTreeMap<AbsolutePath, FileState>);

/// Most plans of a run: one for each volume of a group.
pub const MAX_PLANS: u8 = 128;

/// What a run is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// Say what a resync would do.
    Plan,
    /// Do it.
    Resync,
    /// Say whether all are equal.
    Verify,
}

/// A run that somebody wants.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunAsk {
    /// What for.
    pub aim: Aim,
    /// A volume's or a group's name.
    pub name: Words,
    /// Only these secondaries; all if none is named.
    pub nodes: Vec<NodeName>,
    /// Who asks.
    pub who: Words,
    /// Why.
    pub reason: Option<Words>,
    /// The run's fencing number; the next one if none is given.
    pub epoch: Option<Epoch>,
    /// Secondaries whose data may be lost though lockstep never wrote it.
    pub adopt: Vec<NodeName>,
    /// No more than this may change.
    pub max_change: Option<ChangeLimit>,
    /// Do exactly what so many plans say; each is a frame that follows.
    pub plans: u8,
    /// How it is done.
    pub terms: RunTerms,
}

/// How a run is done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunTerms {
    /// Ship everything, compare nothing.
    pub full: bool,
    /// Read everything back, not only what was written.
    pub verify_full: bool,
    /// `auto`, `off` or a zstd level.
    pub compress: CompressWord,
    /// Bytes a second on the link.
    pub limit_rate: Option<u64>,
    /// Bytes a second read from the primary's volume.
    #[serde(default)]
    pub limit_read: Option<u64>,
    /// Bytes a second that the way to each secondary is known to carry.
    #[serde(default)]
    pub rate: Option<u64>,
    /// What the threads that read and hash ask for, at both ends.
    #[serde(default)]
    pub priority: PriorityWord,
    /// Whether it yields to others on the primary.
    #[serde(default)]
    pub pace: bool,
    /// Gives up after so many seconds.
    pub max_seconds: Option<u64>,
    /// Whether a snapshot's word for what did not change is believed.
    pub delta: bool,
    /// Of so many runs, one reads everything.
    pub full_scan_runs: NonZeroU32,
    /// After so many seconds a run reads everything.
    pub full_scan_seconds: u64,
    /// Whether what is overwritten is kept.
    pub undo: UndoWord,
    /// For so many seconds after the run.
    pub keep_undo_seconds: u64,
    /// Whether larger devices are taken.
    pub allow_larger: bool,
}

/// `--compress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressWord {
    /// Where it pays.
    Auto,
    /// Never.
    Off,
    /// Always, at this level.
    Level(i32),
}

/// `--priority`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityWord {
    /// As much as anybody.
    #[default]
    Normal,
    /// Less than others.
    Low,
    /// What nobody else wants.
    Idle,
}

impl From<Priority> for PriorityWord {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
            Priority::Idle => Self::Idle,
        }
    }
}

impl From<PriorityWord> for Priority {
    fn from(word: PriorityWord) -> Self {
        match word {
            PriorityWord::Normal => Self::Normal,
            PriorityWord::Low => Self::Low,
            PriorityWord::Idle => Self::Idle,
        }
    }
}

/// What changes of a run's limits; what is not named stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// Bytes a second on the link.
    pub rate: Option<RateChange>,
    /// Bytes a second read from the primary's volume.
    pub read: Option<RateChange>,
    /// Whether it yields to others on the primary.
    pub pace: Option<bool>,
}

/// A limit that changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateChange {
    /// There is none any more.
    Off,
    /// It is so many bytes a second.
    To(u64),
}

/// What an agent answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It cannot be done; nothing was changed by this call.
    Failed(WireFailure),
    /// What the node knows.
    Status(NodeStatus),
    /// Its records.
    History {
        /// The newest first.
        records: Vec<PastRun>,
    },
    /// Its role.
    Role {
        /// `primary` or `replica`, or why it cannot be said.
        role: Result<RoleWord, Words>,
    },
    /// A run begins, or is followed from here on.
    Run {
        /// Its name.
        run: RunName,
        /// Its epoch, if it writes.
        epoch: Option<Epoch>,
        /// Whether it was on before this call.
        attached: bool,
        /// Its aim.
        aim: Aim,
        /// Where the data comes from.
        primary: NodeName,
        /// Where it goes, in the order of the numbers in what is told.
        targets: Vec<NodeName>,
    },
    /// Something that a run says.
    Told {
        /// The volume that it is about.
        volume: VolumeName,
        /// What.
        told: Told,
    },
    /// What came of one of a run's volumes; said of each before the end.
    VolumeEnded(Box<VolumeEnded>),
    /// A run is over.
    Ended(Ended),
    /// It is done.
    Done,
    /// Volumes are back, or would be.
    Undone {
        /// What the ledger says now; the worst of several.
        state: NodeState,
        /// Bytes that were put back.
        bytes: u64,
        /// What ran; the first of them.
        hooks: Vec<HookReport>,
        /// How many more there were.
        hooks_left_out: u64,
        /// For each volume one sentence about what can be, or was, brought back; the last one may count
        /// volumes for which there was no room.
        what: Vec<Words>,
        /// What did not work besides, such as a service that did not start.
        failure: Option<WireFailure>,
    },
    /// Files that are not as the primary's, by path.
    Differing {
        /// Which.
        files: Vec<FileDifference>,
    },
    /// What a plan has to know.
    Facts(VolumeFacts),
    /// How a node is.
    Checkup(Checkup),
    /// A port that gives back what comes, for a few seconds.
    Echo {
        /// Its number.
        port: u16,
    },
}

impl Answer {
    /// `Undone`, with as much as one frame holds.
    pub(crate) fn undone(
        state: NodeState,
        bytes: u64,
        hooks: Vec<HookReport>,
        what: Vec<Words>,
        failure: Option<WireFailure>,
    ) -> Self {
        let (hooks, hooks_left_out) = fit::first(hooks);
        let (mut what, more) = fit::first(what);
        if more > 0 {
            // In place of the last one, so that there is room.
            what.pop();
            what.push(Words::new(&format!("and {} more volumes", more + 1)));
        }
        Self::Undone {
            state,
            bytes,
            hooks,
            hooks_left_out,
            what,
            failure,
        }
    }
}

/// What a plan has to know of a volume on a secondary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeFacts {
    /// What its ledger says.
    pub state: NodeState,
    /// The newest epoch that it promised.
    pub epoch: Option<Epoch>,
    /// The file or device, in words that change when it is replaced.
    pub device: Words,
    /// The root that its last good run left there.
    pub last_root: Option<Hex32>,
    /// Lockstep never wrote it, and it is not blank.
    pub is_foreign: bool,
    /// There is nothing on it but zeros, or it does not exist.
    pub is_blank: bool,
}

/// A role in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleWord {
    /// Its data counts.
    Primary,
    /// It follows.
    Replica,
}

/// What a node knows of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// The version of what is said over calls.
    pub protocol: u8,
    /// The release of lockstep.
    pub release: Words,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_unix_ms: u64,
    /// BLAKE3 of its cluster file, so that different ones are seen.
    pub cluster_file: Words,
    /// Each volume with a place there.
    pub volumes: BTreeMap<VolumeName, VolumeStatus>,
}

/// What a node knows of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeStatus {
    /// Its role, as far as it knows without asking anybody.
    pub role: Option<RoleWord>,
    /// What its ledger says.
    pub state: NodeState,
    /// The epoch of its last run, or the newest that it promised.
    pub epoch: Option<Epoch>,
    /// The root of its last good run.
    pub root: Option<Words>,
    /// When that ended, in milliseconds since the Unix epoch.
    pub verified_unix_ms: Option<u64>,
    /// The run that it has a part in now.
    pub run: Option<RunName>,
    /// Its services were stopped by a run and are down still.
    pub is_stopped: bool,
}

/// A record of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastRun {
    /// Its name.
    pub run: Words,
    /// Its epoch; 0 for an ad hoc run.
    pub epoch: u64,
    /// What came of it.
    pub state: NodeState,
    /// Where the data came from.
    pub source: Words,
    /// Who asked, and why.
    pub who: Words,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// The root, if it ended well.
    pub root: Option<Words>,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes made equal.
    pub bytes_written: u64,
    /// `full` or `delta`.
    pub proof: Words,
    /// Why it did not end well.
    pub why: Option<Words>,
}
