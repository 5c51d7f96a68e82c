//! What a target session remembers of each extent.

use lockstep_merkle::{ExtentIndex, Geometry, GroupSet};

use super::orders::WantMode;
use crate::terms::Scope;

/// Where an extent is on its way; `target` draws the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    Queued,
    Asked,
    Counted,
    Arrived,
    Written,
    Flushed,
    Checking,
    Settled,
}

/// One extent: eight bytes for each MiB of volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    pub(super) scanned: bool,
    pub(super) digested: bool,
    pub(super) repairs: u8,
    /// Groups to ask for.
    pub(super) groups: GroupSet,
    /// Groups to read back before the extent is settled.
    pub(super) unproved: GroupSet,
}

impl Slot {
    pub(super) fn mode(&self, scope: Scope) -> WantMode {
        if self.repairs > 0 || scope == Scope::Everything {
            WantMode::Whole
        } else {
            WantMode::Differing
        }
    }
}

/// The extents of one session. It grows as they are scanned or their digests
/// come, so that a peer which names a vast size has to pay for the memory.
pub(super) struct Slots {
    geometry: Geometry,
    blank: Slot,
    slots: Vec<Slot>,
}

impl Slots {
    pub(super) fn new(geometry: Geometry, scope: Scope) -> Slots {
        let blank = Slot {
            phase: Phase::Open,
            scanned: scope == Scope::Everything,
            digested: false,
            repairs: 0,
            groups: GroupSet::EMPTY,
            unproved: GroupSet::EMPTY,
        };
        Slots {
            geometry,
            blank,
            slots: Vec::new(),
        }
    }

    /// The slot of an extent of the volume that was reached before.
    pub(super) fn of(&mut self, extent: ExtentIndex) -> Option<&mut Slot> {
        let index = usize::try_from(extent.0).ok()?;
        self.slots.get_mut(index)
    }

    /// The slot of an extent of the volume.
    pub(super) fn reach(&mut self, extent: ExtentIndex) -> Option<&mut Slot> {
        let index = usize::try_from(extent.0).ok()?;
        if extent.0 >= self.geometry.extent_count() {
            return None;
        }
        if index >= self.slots.len() {
            self.slots.resize(index + 1, self.blank);
        }
        self.slots.get_mut(index)
    }
}
