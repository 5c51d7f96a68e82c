//! What a caller asks of a run.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_index::FullScanEvery;
use lockstep_protocol::{Failure, Purpose, Scope, VerifyScope};
use lockstep_snapshot::Space;
use lockstep_transport::Link;
use lockstep_volume::{IoEngine, Priority};

use crate::pace::Limits;
use crate::together::TakenSnapshot;
use crate::undo::UndoPolicy;

/// How the source is kept from changing while it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotChoice {
    /// The best way that is sound: a snapshot where one can be made.
    Auto,
    /// A snapshot by this provider; refuse the run if it cannot make one.
    Provider(String),
    /// A snapshot by this program, the same.
    Program(PathBuf),
    /// A lease or an exclusive open; refuse the run if it cannot be had.
    Exclusive,
    /// Take what is there; the run is fuzzy unless the source is proved unchanged.
    None,
}

/// What is to be still while the snapshot is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stillness {
    /// Mount points whose filesystems are frozen.
    pub freeze: Vec<PathBuf>,
    /// Programs that make applications ready, and let them go on, in this order.
    pub hooks: Vec<StillHook>,
    /// Longest that anything is frozen, and that a hook runs; at most ten minutes.
    pub limit: Duration,
}

/// What an application is told around a snapshot. Programs and their arguments, never a shell's line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StillHook {
    /// In messages.
    pub name: String,
    /// To get ready; empty for nothing.
    pub before: Vec<OsString>,
    /// To go on, whatever happened; empty for nothing.
    pub after: Vec<OsString>,
    /// Variables besides our own environment, `LOCKSTEP_MOMENT` (`freeze` or `thaw`) and those that name
    /// volumes and snapshots, in whose place they come.
    pub environment: Vec<(String, OsString)>,
}

impl StillHook {
    /// A program that is called with `before`, and with `after`.
    #[must_use]
    pub fn program(program: &Path) -> StillHook {
        let call = |when: &str| vec![program.into(), when.into()];
        StillHook {
            name: program.display().to_string(),
            before: call("before"),
            after: call("after"),
            environment: Vec::new(),
        }
    }
}

impl Stillness {
    /// Whether nothing is asked for.
    pub(crate) fn is_none(&self) -> bool {
        self.freeze.is_empty() && self.hooks.is_empty()
    }
}

impl Default for Stillness {
    fn default() -> Stillness {
        Stillness {
            freeze: Vec::new(),
            hooks: Vec::new(),
            limit: Duration::from_secs(10),
        }
    }
}

/// What a run takes over from earlier ones, and leaves for later ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reuse {
    /// Whether a snapshot's word for what did not change is believed.
    pub delta: bool,
    /// How seldom everything is read all the same.
    pub full_scan_every: FullScanEvery,
    /// Whether the snapshot stays as the base of the next run.
    pub keep_base: KeepBase,
}

/// When a volume's snapshot is kept as the base of the next run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepBase {
    /// If a tenth of what it may come to hold is free.
    WhileThereIsRoom,
    /// If it cannot come to hold more bytes than this.
    AtMost(u64),
    /// Never.
    Never,
}

/// Of what the base may come to pin, this part must be free for it to be kept: one in ten.
const FREE_PART: u64 = 10;

impl KeepBase {
    /// Whether a snapshot that costs this much space is kept.
    pub(crate) fn has_room(self, space: Space) -> bool {
        match self {
            KeepBase::Never => false,
            KeepBase::AtMost(bytes) => space.at_risk <= bytes,
            KeepBase::WhileThereIsRoom => space.free >= space.at_risk / FREE_PART,
        }
    }
}

/// Runs, the next full scan included, of which one reads everything.
const FULL_SCAN_RUNS: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Time after which a run reads everything.
const FULL_SCAN_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Default for Reuse {
    fn default() -> Reuse {
        Reuse {
            delta: true,
            full_scan_every: FullScanEvery {
                runs: FULL_SCAN_RUNS,
                age: FULL_SCAN_AGE,
            },
            keep_base: KeepBase::WhileThereIsRoom,
        }
    }
}

/// When pages are compressed before they are shipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// When it shrinks the data and the link is slower than the compressor.
    Auto,
    /// Never.
    Off,
    /// Always, at this zstd level (-7..=19).
    Level(i32),
}

/// One line of what a run is about to overwrite, shown before it asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanLine {
    /// The target as the user named it.
    pub target: String,
    /// Bytes in 4 KiB pages that differ.
    pub bytes_differing: u64,
    /// The volume's size.
    pub size: u64,
    /// The target's size before, when it will be resized.
    pub resized_from: Option<u64>,
    /// Whether it can be brought back afterwards.
    pub undo: PlannedUndo,
}

/// Whether what is about to be overwritten will be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlannedUndo {
    /// It will, for so long after the run.
    Kept(Duration),
    /// It will not, for this reason.
    Lost(String),
    /// Nobody wants it kept.
    Unwanted,
}

/// Shows what will be overwritten; `true` agrees.
pub type Question = Box<dyn Fn(&[PlanLine]) -> bool + Send + Sync>;

/// Who may agree to the overwriting of existing, differing targets.
pub enum Consent {
    /// It has been given beforehand (`--yes`).
    Given,
    /// Ask this; `true` goes on. Called at most once in a run.
    Ask(Question),
    /// Nobody can be asked: fail with `NotConfirmed`.
    Refused,
}

/// A target that is reached.
pub struct Connected {
    /// The frames' way to it.
    pub link: Link,
    /// Said to the user, such as that UDP did not get through.
    pub warning: Option<String>,
    /// Held until the target is finished with; ends the far side when dropped.
    pub lifeline: Box<dyn Send>,
}

/// How a target is reached. Called on a thread of its own.
pub trait Connect: Send + Sync {
    /// Reaches the target and starts its side of the run there.
    ///
    /// # Errors
    /// Says in one sentence why it cannot be reached.
    fn connect(self: Box<Self>) -> Result<Connected, Failure>;

    /// The target's path, if it is on this machine and the ledger in `state_dir` has its record.
    fn local_path(&self, state_dir: &Path) -> Option<&Path> {
        let _ = state_dir;
        None
    }
}

/// One target of a run.
pub struct TargetSpec {
    /// As the user named it; used in events and messages.
    pub name: String,
    /// The way to it.
    pub connect: Box<dyn Connect>,
}

/// One run.
pub struct Request {
    /// The volume that is right.
    pub source: PathBuf,
    /// The volumes to be made equal to it.
    pub targets: Vec<TargetSpec>,
    /// Whether anything may be written.
    pub purpose: Purpose,
    /// How the source is frozen.
    pub snapshot: SnapshotChoice,
    /// A snapshot of the source that was made already, and is this run's from now on.
    pub taken: Option<TakenSnapshot>,
    /// The run's name; one at random where none is given.
    pub run: Option<[u8; 16]>,
    /// What is still while it is frozen.
    pub stillness: Stillness,
    /// Differences or everything.
    pub scope: Scope,
    /// What is re-read at the end.
    pub verify: VerifyScope,
    /// zstd or not.
    pub compression: Compression,
    /// How the source's disk is read.
    pub io: IoEngine,
    /// What the run may use, for all targets together; whoever keeps it can change it meanwhile.
    pub limits: Arc<Limits>,
    /// How much the threads that read and hash ask for; each target is told by its connection.
    pub priority: Priority,
    /// Bytes of buffers, at least [`crate::MIN_MEMORY`].
    pub memory: u64,
    /// Threads that hash, 1..=256.
    pub threads: usize,
    /// Agreement to overwrite.
    pub consent: Consent,
    /// Larger block devices are taken; only their first bytes are made equal.
    pub allow_larger_target: bool,
    /// Gives up after this time.
    pub max_duration: Option<Duration>,
    /// Where the tree of a large volume is kept while the run lasts.
    pub scratch: PathBuf,
    /// Where this machine keeps what it knows of its own volumes.
    pub state_dir: PathBuf,
    /// What is taken over from earlier runs.
    pub reuse: Reuse,
    /// What becomes of what is overwritten; each target is told by its connection.
    pub undo: UndoPolicy,
    /// Who asked, for the ledger's record.
    pub who: String,
}
