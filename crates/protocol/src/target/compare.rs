//! What differs in an extent, and what of it is proved.

use lockstep_merkle::{Cv, ExtentIndex, GROUPS_PER_EXTENT, GroupIndex, GroupSet};

use super::TargetSession;
use super::slots::Phase;
use crate::terms::{Purpose, Scope, VerifyScope};

impl TargetSession {
    pub(super) fn note_digested(&mut self, from: u64, to: u64) {
        let geometry = self.terms.geometry;
        let mut group = from;
        while group < to {
            let extent = geometry.extent_of(GroupIndex(group));
            let end = geometry.groups_of(extent).end;
            if end > to {
                break;
            }
            if let Some(slot) = self.slots.reach(extent) {
                slot.digested = true;
            }
            self.compare(extent);
            group = end;
        }
    }

    /// Decides on an extent once both sides of it are known.
    pub(super) fn compare(&mut self, extent: ExtentIndex) {
        let Some(slot) = self.slots.of(extent) else {
            return;
        };
        if !slot.scanned || !slot.digested || slot.phase != Phase::Open {
            return;
        }
        let (groups, unproved) = (self.differing(extent), self.to_read_back(extent));
        let unproved = unproved.union(groups);
        if let Some(slot) = self.slots.of(extent) {
            (slot.groups, slot.unproved) = (groups, unproved);
        }
        self.stats.extents_compared += 1;
        if !groups.is_empty() {
            self.enqueue(extent);
        } else if unproved.is_empty() {
            self.settle(extent);
        } else {
            self.await_flush(extent);
        }
    }

    fn differing(&self, extent: ExtentIndex) -> GroupSet {
        let geometry = self.terms.geometry;
        let mut groups = GroupSet::EMPTY;
        for (bit, group) in geometry.groups_of(extent).map(GroupIndex).enumerate() {
            let everything = self.terms.scope == Scope::Everything;
            if everything || self.own.cv(group) != self.expected.cv(group) {
                groups.insert(bit);
            }
        }
        groups
    }

    /// Groups that have to be read back even if they are equal.
    fn to_read_back(&self, extent: ExtentIndex) -> GroupSet {
        match (self.terms.verify, self.terms.purpose) {
            (VerifyScope::Full, Purpose::Sync) => {
                GroupSet::all(self.terms.geometry.groups_in(extent))
            }
            _ => GroupSet::EMPTY,
        }
    }

    /// The groups being checked that were not measured, or measured wrong.
    pub(super) fn still_unproved(
        &mut self,
        extent: ExtentIndex,
        measured: &[(GroupIndex, Cv)],
    ) -> GroupSet {
        let first = self.terms.geometry.groups_of(extent).start;
        let asked = self
            .slots
            .of(extent)
            .map_or(GroupSet::EMPTY, |slot| slot.unproved);
        let mut wrong = GroupSet::EMPTY;
        for (group, bit) in (first..).map(GroupIndex).zip(0..GROUPS_PER_EXTENT) {
            if asked.contains(bit) && !self.prove(group, measured) {
                wrong.insert(bit);
            }
        }
        wrong
    }

    /// Whether the group was measured, and has its promised value.
    fn prove(&mut self, group: GroupIndex, measured: &[(GroupIndex, Cv)]) -> bool {
        let Some((_, cv)) = measured.iter().find(|(index, _)| *index == group) else {
            return false;
        };
        self.own.set(group, *cv);
        let right = *cv == self.expected.cv(group);
        if right {
            self.stats.bytes_verified += self.terms.geometry.group_len(group) as u64;
        }
        right
    }
}
