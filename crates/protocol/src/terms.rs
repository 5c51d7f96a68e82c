//! What both ends of a session have agreed on, and how a peer can break it.

use lockstep_merkle::{ExtentIndex, Geometry, GroupIndex, Root};
use thiserror::Error;

use crate::message::Plan;

/// Whether the run may change its targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Make the target byte-equal to the source.
    Sync,
    /// Compare only; nothing is written anywhere.
    Compare,
}

/// What is shipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Only what differs.
    Differences,
    /// Everything; nothing is compared.
    Everything,
}

/// How the pages of a differing group are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestKind {
    /// By a fast hash under the session's seed: either side hashes the pages of the group.
    Seeded,
    /// By their chaining values: the source knows those, and reads only pages that differ.
    Chained,
}

/// Which bytes are re-read from the medium before a target is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VerifyScope {
    /// Everything written in this run.
    Written,
    /// The whole volume.
    Full,
}

/// The agreement of one session; fixed once the target has welcomed the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The volume's shape, from the source's size.
    pub geometry: Geometry,
    /// Whether anything may be written.
    pub purpose: Purpose,
    /// Differences or everything.
    pub scope: Scope,
    /// What is re-read at the end.
    pub verify: VerifyScope,
    /// Nothing is written before the source says so.
    pub hold: Hold,
    /// Wants that may be unanswered at once.
    pub window: u16,
}

impl Terms {
    /// Whether differences are counted, and writing waits, with a target of
    /// this plan. Making a file, or finishing one, asks nobody.
    #[must_use]
    pub fn counts_first(&self, plan: Plan) -> bool {
        let asks = self.hold == Hold::UntilProceed && matches!(plan, Plan::Keep | Plan::Resize);
        asks || self.purpose == Purpose::Compare
    }
}

/// What the source can say for the bytes that its root stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// Nothing: it may have changed while it was read.
    None,
    /// They are of one instant, and all of them were read in this run.
    Full,
    /// They are of one instant; of what did not change since an earlier run,
    /// by a snapshot's word, the hashes of that run were taken.
    Delta,
}

/// How still the source's users were when its snapshot was made; the later the better.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SourceLevel {
    /// Nothing was made still: the snapshot is what a power cut would have left.
    CrashConsistent,
    /// Its filesystem was frozen.
    FilesystemConsistent,
    /// The application was told, and got ready.
    ApplicationConsistent,
}

/// What the source says last: everything is hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// Its root.
    pub root: Root,
    /// What it can say for it.
    pub evidence: Evidence,
    /// How still its users were; `None` if it was read without a snapshot.
    pub level: Option<SourceLevel>,
}

/// Whether writing waits for agreement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Write as differences are found.
    None,
    /// Compare everything, then wait for the word to go on.
    UntilProceed,
}

/// A peer did what the protocol forbids; its session is over.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// A frame that cannot come in this stage.
    #[error("the peer sent a {frame} frame while {stage}")]
    OutOfTurn {
        /// The frame.
        frame: &'static str,
        /// What this end was doing.
        stage: &'static str,
    },
    /// Chaining values for other groups than the next ones.
    #[error("the peer sent digests from group {got}, expected group {expected}")]
    DigestsOutOfOrder {
        /// The first group of the frame.
        got: GroupIndex,
        /// The group that comes next.
        expected: GroupIndex,
    },
    /// Something about an extent that the volume does not have.
    #[error("the peer named extent {0}, past the end of the volume")]
    NoSuchExtent(ExtentIndex),
    /// Groups or pages that were not asked for, or not all that were.
    #[error("the peer's pages of extent {0} are not those asked for")]
    WrongPages(ExtentIndex),
    /// An extent that nobody asked for.
    #[error("the peer sent extent {0} unasked")]
    Unasked(ExtentIndex),
    /// More unanswered wants than agreed.
    #[error("the peer has more than {0} unanswered requests")]
    WindowExceeded(u16),
    /// One extent asked for again and again.
    #[error("the peer asked for extent {0} too often")]
    TooManyWants(ExtentIndex),
    /// An extent asked for before its digests went out.
    #[error("the peer asked for extent {0} before its digests were sent")]
    TooEarly(ExtentIndex),
    /// Another root, size or version than agreed.
    #[error("the peer's {what} contradicts what was agreed")]
    Contradiction {
        /// What it contradicts.
        what: &'static str,
    },
}
