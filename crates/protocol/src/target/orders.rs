//! What a target session asks its caller to do, and what the caller reports.

use lockstep_merkle::{ExtentIndex, GroupSet};
use thiserror::Error;

use crate::limits::MAX_REPAIRS;

/// How the groups of a want are to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WantMode {
    /// By what differs from the pages held here.
    Differing,
    /// All their pages: nothing held here is trusted.
    Whole,
}

/// An extent to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantOrder {
    /// The extent.
    pub extent: ExtentIndex,
    /// Its groups that differ.
    pub groups: GroupSet,
    /// How to ask.
    pub mode: WantMode,
}

/// Data that has come and may be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyOrder {
    /// The groups that the data makes equal.
    pub groups: GroupSet,
    /// Whether the data holds every page of them.
    pub mode: WantMode,
}

/// What became of the data of one extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The groups had their promised chaining values and were written.
    Written {
        /// Bytes written or zeroed.
        bytes: u64,
    },
    /// Some group would not have had its promised chaining value; nothing of
    /// the extent was written.
    Unfit,
}

/// Extents that one flush makes durable.
#[must_use]
#[derive(Debug)]
pub struct FlushTicket(pub(super) Vec<ExtentIndex>);

impl FlushTicket {
    /// Whether there is nothing to be made durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Groups to be read back from the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckOrder {
    /// The extent.
    pub extent: ExtentIndex,
    /// Its groups to read back.
    pub groups: GroupSet,
}

/// An extent is still wrong after every repair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("extent {extent} is still wrong after {MAX_REPAIRS} repairs")]
pub struct Exhausted {
    /// The extent.
    pub extent: ExtentIndex,
}
