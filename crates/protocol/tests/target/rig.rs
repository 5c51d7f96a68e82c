//! A session whose source promises made-up values, and the steps of its caller.

use std::sync::Arc;

use lockstep_merkle::{
    Cv, CvTable, EXTENT_SIZE, ExtentIndex, Geometry, GroupIndex, GroupSet, MemoryCvs, PageSet,
    Root, fold,
};
use lockstep_protocol::{
    Applied, ApplyOrder, CheckOrder, DataHead, Encoding, Evidence, Exhausted, Hold, LastWord, Plan,
    Purpose, Scope, SourceLevel, TargetSession, Terms, VerifyScope, Violation, WantOrder,
};

pub(crate) const MIB: u64 = EXTENT_SIZE as u64;
pub(crate) const FIRST: ExtentIndex = ExtentIndex(0);

pub(crate) fn terms(size: u64) -> Terms {
    Terms {
        geometry: Geometry::new(size),
        purpose: Purpose::Sync,
        scope: Scope::Differences,
        verify: VerifyScope::Written,
        hold: Hold::None,
        window: 2,
    }
}

/// What the source promises for a group. The values need not be hashes of anything here.
pub(crate) fn promised(group: u64) -> Cv {
    let mut bytes = [0xee; 32];
    bytes[..8].copy_from_slice(&group.to_le_bytes());
    Cv::from_bytes(bytes)
}

/// A source's last word.
pub(crate) fn word(root: Root, evidence: Evidence) -> LastWord {
    LastWord {
        root,
        evidence,
        level: Some(SourceLevel::CrashConsistent),
    }
}

pub(crate) const STALE: Cv = Cv::from_bytes([1; 32]);

pub(crate) struct Target {
    pub(crate) session: TargetSession,
    pub(crate) geometry: Geometry,
}

/// A target that differs in `differing` groups, before anything is scanned or digested.
pub(crate) fn target(terms: Terms, differing: &[u64]) -> Target {
    let geometry = terms.geometry;
    let own = Arc::new(MemoryCvs::new(geometry.group_count()));
    for group in 0..geometry.group_count() {
        let stale = differing.contains(&group);
        own.set(
            GroupIndex(group),
            if stale { STALE } else { promised(group) },
        );
    }
    let expected = Arc::new(MemoryCvs::new(geometry.group_count()));
    let session = TargetSession::new(terms, Plan::Keep, own, expected);
    Target { session, geometry }
}

pub(crate) fn compared(terms: Terms, differing: &[u64]) -> Target {
    let mut target = target(terms, differing);
    target.scan();
    target.digest(0..target.geometry.group_count());
    target
}

impl Target {
    pub(crate) fn scan(&mut self) {
        for extent in 0..self.geometry.extent_count() {
            self.session.scanned(ExtentIndex(extent));
        }
    }

    pub(crate) fn digest(&mut self, groups: std::ops::Range<u64>) {
        let cvs: Vec<Cv> = groups.clone().map(promised).collect();
        self.session
            .digests(GroupIndex(groups.start), &cvs)
            .unwrap();
    }

    pub(crate) fn root(&self) -> Root {
        fold(
            self.geometry,
            (0..self.geometry.group_count()).map(promised),
        )
        .unwrap()
    }

    pub(crate) fn done(&mut self) {
        self.session
            .done(word(self.root(), Evidence::Full))
            .unwrap();
    }

    /// Asks, gets exactly what was asked for, and writes it.
    pub(crate) fn write(&mut self) -> WantOrder {
        let want = self.session.next_want().unwrap();
        self.arrive(want).unwrap();
        let written = Applied::Written { bytes: 4096 };
        self.session.applied(want.extent, written).unwrap();
        want
    }

    pub(crate) fn arrive(&mut self, want: WantOrder) -> Result<ApplyOrder, Violation> {
        let pages = self.pages(want);
        self.session
            .arrived(&head(want.extent, pages, PageSet::EMPTY))
    }

    pub(crate) fn pages(&self, want: WantOrder) -> PageSet {
        let mut pages = PageSet::EMPTY;
        for group in want.groups.iter() {
            let end = (16 * group + 16).min(self.geometry.pages_in(want.extent));
            pages.insert_range(16 * group..end);
        }
        pages
    }

    pub(crate) fn flush(&mut self) {
        let ticket = self.session.begin_flush();
        self.session.flushed(ticket);
    }

    /// Reads back the next extent; the medium lost the groups in `lost`.
    pub(crate) fn read_back(&mut self, lost: &[u64]) -> Result<CheckOrder, Exhausted> {
        let order = self.session.next_check().unwrap();
        let first = self.geometry.groups_of(order.extent).start;
        let measured: Vec<(GroupIndex, Cv)> = order
            .groups
            .iter()
            .map(|bit| first + bit as u64)
            .map(|group| {
                (
                    GroupIndex(group),
                    if lost.contains(&group) {
                        STALE
                    } else {
                        promised(group)
                    },
                )
            })
            .collect();
        self.session.checked(order.extent, &measured)?;
        Ok(order)
    }

    pub(crate) fn is_proved(&self) -> bool {
        let Some(LastWord { root, .. }) = self.session.settled() else {
            return false;
        };
        assert_eq!(
            self.session.own_root(),
            Ok(root),
            "settled without being equal"
        );
        true
    }
}

pub(crate) fn head(extent: ExtentIndex, data: PageSet, zero: PageSet) -> DataHead {
    DataHead {
        extent,
        data,
        zero,
        encoding: Encoding::Raw,
    }
}

pub(crate) fn groups(numbers: &[usize]) -> GroupSet {
    let mut set = GroupSet::EMPTY;
    numbers.iter().for_each(|group| set.insert(*group));
    set
}

pub(crate) fn page(number: usize) -> PageSet {
    let mut set = PageSet::EMPTY;
    set.insert(number);
    set
}
