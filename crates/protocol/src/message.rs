//! The messages. `codec` holds their byte maps.

use lockstep_merkle::{Cv, ExtentIndex, GroupIndex, GroupSet, PageDigest, PageSet, Root};

use crate::failure::Failure;
use crate::limits::MAX_TEXT;
use crate::terms::{DigestKind, Hold, LastWord, Purpose, Scope, VerifyScope};

/// One line of text from or to a peer: at most [`MAX_TEXT`] bytes, without
/// control characters, line separators and changes of direction. Longer text
/// is cut, at a character's edge.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Text(String);

impl Text {
    /// Makes any text fit: what is not allowed becomes `?`, the rest is cut.
    #[must_use]
    pub fn new(text: &str) -> Text {
        let mut kept = String::new();
        for character in text.chars() {
            let safe = if disturbs(character) { '?' } else { character };
            if kept.len() + safe.len_utf8() > MAX_TEXT {
                break;
            }
            kept.push(safe);
        }
        Text(kept)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character would break a line in two, steer a terminal, or turn the line's order around.
#[must_use]
pub fn disturbs(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a node's ledger says about a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VolumeState {
    /// Nothing is known of it.
    Unknown,
    /// Proved equal to its source at the end of its last run.
    Consistent,
    /// Being overwritten, or left half-way.
    Inconsistent,
    /// Its disk failed; nothing about it can be trusted.
    Failed,
}

impl VolumeState {
    /// The state in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            VolumeState::Unknown => "unknown",
            VolumeState::Consistent => "consistent",
            VolumeState::Inconsistent => "inconsistent",
            VolumeState::Failed => "failed",
        }
    }
}

/// What will become of the target's file or device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Its bytes change, its size does not.
    Keep,
    /// A file is made.
    Create,
    /// A file of another size is cut or grown.
    Resize,
    /// A file that an earlier run left unfinished is finished.
    Resume,
}

impl Plan {
    /// The plan in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Plan::Keep => "keep",
            Plan::Create => "create",
            Plan::Resize => "resize",
            Plan::Resume => "resume",
        }
    }
}

/// The source's opening.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Oldest version the source speaks.
    pub oldest: u16,
    /// Newest version the source speaks.
    pub newest: u16,
    /// The run's name.
    pub run: [u8; 16],
    /// The volume's size in bytes.
    pub size: u64,
    /// Whether anything may be written.
    pub purpose: Purpose,
    /// Differences or everything.
    pub scope: Scope,
    /// What is re-read at the end.
    pub verify: VerifyScope,
    /// Whether writing waits for [`SourceFrame::Proceed`].
    pub hold: Hold,
    /// Take a block device larger than the source.
    pub allow_larger: bool,
    /// Permission bits for a file to be made (`0o777` at most).
    pub mode_bits: u16,
    /// What page digests are in this session.
    pub digests: DigestKind,
    /// Whether the source reads everything because that is due: then the target is to do so too, so that
    /// the whole is proved in full now and then.
    pub full_scan: bool,
    /// Seed of seeded page digests.
    pub seed: u64,
    /// Wants that may be unanswered at once.
    pub window: u16,
    /// The source's identity, as the volume crate encodes it.
    pub identity: Vec<u8>,
    /// The source as the user named it, for the target's ledger.
    pub source: Text,
    /// Who asked, for the target's ledger.
    pub who: Text,
}

/// The target's answer: it is open, guarded and fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u16,
    /// Wants that may be unanswered at once; at most what was offered.
    pub window: u16,
    /// What will become of its file.
    pub plan: Plan,
    /// Its size now; `None` for a missing file.
    pub present_size: Option<u64>,
    /// What its ledger said before this run.
    pub standing: VolumeState,
    /// Whether reading back can reach a medium; memory filesystems have none.
    pub has_medium: bool,
    /// Its identity, as the volume crate encodes it; empty for a missing file.
    pub identity: Vec<u8>,
}

/// What a target asks of one extent. The three sets do not overlap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// The extent.
    pub extent: ExtentIndex,
    /// Groups of which every page is wanted.
    pub whole: GroupSet,
    /// Groups that hold zeros here: pages that are not zero are wanted.
    pub blank: GroupSet,
    /// Groups of which the pages that differ from `digests` are wanted.
    pub paged: GroupSet,
    /// One digest for each page of the groups in `paged`, in order.
    pub digests: Vec<PageDigest>,
}

/// Totals of a target, for the summary.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Extents compared.
    pub extents_compared: u64,
    /// Bytes made equal, zeroed ranges included.
    pub bytes_written: u64,
    /// Bytes of the groups that are proved by what was read back of them.
    pub bytes_verified: u64,
    /// Bytes read to compare and to complete what came; not those read back.
    pub bytes_read: u64,
    /// Bytes that were not read because their hashes are an earlier run's.
    pub bytes_inherited: u64,
}

/// What a target keeps of itself, so that the run can be undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UndoNote {
    /// Whether it is what could be kept, or what is.
    pub stage: UndoStage,
    /// What it is kept in; `None` if nothing is.
    pub kept: Option<UndoKind>,
    /// When it is released, in milliseconds since the Unix epoch; 0 if nothing is kept.
    pub until_unix_ms: u64,
    /// Of an offer: how many overwritten bytes there is room for. Later: how many are kept.
    pub bytes: u64,
    /// Why nothing is kept; empty where nobody asked for anything.
    pub why: Text,
}

/// How far keeping has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UndoStage {
    /// Nothing has been written yet.
    Offered,
    /// Kept from here on, or not.
    Begun,
    /// The run has ended.
    Ended,
}

/// What overwritten bytes are kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UndoKind {
    /// A clone of the whole file.
    Reflink,
    /// A thin snapshot of the whole logical volume.
    Thin,
    /// A log of the overwritten pages.
    Log,
}

impl UndoKind {
    /// The kind in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            UndoKind::Reflink => "reflink",
            UndoKind::Thin => "thin",
            UndoKind::Log => "log",
        }
    }
}

/// From source to target, on the control lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceFrame {
    /// Opens the session.
    Hello(Hello),
    /// Chaining values of the next groups, in order.
    Digests {
        /// The first group.
        first: GroupIndex,
        /// Its chaining value and those after it; at most
        /// [`crate::limits::MAX_CVS_PER_FRAME`].
        cvs: Vec<Cv>,
    },
    /// The extent's difference is counted; nothing is shipped for this want.
    Counted {
        /// The extent.
        extent: ExtentIndex,
    },
    /// Writing may begin.
    Proceed,
    /// All of the source has been hashed.
    Done(LastWord),
    /// The source gives up.
    Abort(Failure),
    /// What these runs proved rests on something that is not true: a record of
    /// one of them is to be taken back before anything else is done.
    Doubt {
        /// Their names; 1 to [`crate::limits::MAX_DOUBTED_RUNS`].
        runs: Vec<[u8; 16]>,
    },
}

/// From target to source, on the control lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetFrame {
    /// Fit to be compared and written.
    Welcome(Welcome),
    /// Not fit; nothing was touched.
    Refused {
        /// Why.
        failure: Failure,
        /// Which place it is, when that is known; may be empty.
        identity: Vec<u8>,
    },
    /// Asks for what differs in one extent.
    Want(Want),
    /// The durable state changed.
    State(VolumeState),
    /// Everything is compared and every want of the comparison was answered.
    Compared(Stats),
    /// How far it is; at most a few a second.
    Progress(Stats),
    /// What of it can be brought back.
    Undo(UndoNote),
    /// The end: proved equal, and marked so unless the source was not proved.
    Verified {
        /// Its own root.
        root: Root,
        /// Its ledger's word now.
        state: VolumeState,
        /// Totals.
        stats: Stats,
    },
    /// The end: failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Its ledger's word now.
        state: VolumeState,
        /// Totals.
        stats: Stats,
    },
    /// Something that the user should know; at most
    /// [`crate::limits::MAX_WARNINGS`] in a session.
    Warning(Text),
    /// Answers a doubt: what became of the volume's record.
    Doubted(Doubted),
}

/// What became of a record that the source doubted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubted {
    /// It was of one of those runs, and says `inconsistent` now, durably.
    Downgraded,
    /// It does not rest on them.
    Stands,
}

/// How a data frame's pages are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// The head of a data frame on the bulk lane; the pages in `data` follow,
/// concatenated, the volume's last page at its true length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHead {
    /// The extent.
    pub extent: ExtentIndex,
    /// Pages whose bytes follow.
    pub data: PageSet,
    /// Pages that are to become zeros.
    pub zero: PageSet,
    /// How the pages are packed.
    pub encoding: Encoding,
}

impl SourceFrame {
    /// The frame's name in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            SourceFrame::Hello(_) => "hello",
            SourceFrame::Digests { .. } => "digests",
            SourceFrame::Counted { .. } => "counted",
            SourceFrame::Proceed => "proceed",
            SourceFrame::Done(_) => "done",
            SourceFrame::Abort(_) => "abort",
            SourceFrame::Doubt { .. } => "doubt",
        }
    }
}

impl TargetFrame {
    /// The frame's name in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            TargetFrame::Welcome(_) => "welcome",
            TargetFrame::Refused { .. } => "refused",
            TargetFrame::Want(_) => "want",
            TargetFrame::State(_) => "state",
            TargetFrame::Compared(_) => "compared",
            TargetFrame::Progress(_) => "progress",
            TargetFrame::Undo(_) => "undo",
            TargetFrame::Verified { .. } => "verified",
            TargetFrame::Failed { .. } => "failed",
            TargetFrame::Warning(_) => "warning",
            TargetFrame::Doubted(_) => "doubted",
        }
    }
}
