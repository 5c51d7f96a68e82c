//! The source's end of a simulated run: a volume, its tree, and a session.

use lockstep_merkle::{
    CvTable, ExtentIndex, Geometry, GroupIndex, MemoryCvs, PAGES_PER_GROUP, PageSeed, PageSet,
    Root, extent_cvs, fold, is_zero, page_digest,
};
use lockstep_protocol::{
    DataHead, DigestKind, Encoding, Evidence, Hello, LastWord, Served, SourceFrame, SourceSession,
    TargetFrame, Terms, Text, Violation, Want,
};

use crate::random::Random;

/// How the source's end of a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SourceEnding {
    Verified(Root),
    TargetFailed,
    Violation(Violation),
}

enum Owed {
    Count(Want),
    Ship(Want),
}

pub(crate) struct SourceEnd {
    pub(crate) session: SourceSession,
    terms: Terms,
    seed: PageSeed,
    pub(crate) volume: Vec<u8>,
    tree: MemoryCvs,
    extents_scanned: u64,
    before_change: Option<Vec<u8>>,
    changed: bool,
    welcomed: bool,
    groups_sent: u64,
    owed: Vec<Owed>,
    pub(crate) done: Option<Root>,
    pub(crate) compared: bool,
    pub(crate) ending: Option<SourceEnding>,
    pub(crate) wants: u64,
    pub(crate) states: u64,
    pub(crate) bytes_counted: u64,
    pub(crate) bytes_shipped: u64,
}

impl SourceEnd {
    pub(crate) fn new(terms: Terms, volume: Vec<u8>) -> SourceEnd {
        SourceEnd {
            session: SourceSession::new(terms),
            terms,
            seed: PageSeed(42),
            volume,
            tree: MemoryCvs::new(terms.geometry.group_count()),
            extents_scanned: 0,
            before_change: None,
            changed: false,
            welcomed: false,
            groups_sent: 0,
            owed: Vec::new(),
            done: None,
            compared: false,
            ending: None,
            wants: 0,
            states: 0,
            bytes_counted: 0,
            bytes_shipped: 0,
        }
    }

    pub(crate) fn hello(&self) -> SourceFrame {
        SourceFrame::Hello(Hello {
            oldest: 1,
            newest: 1,
            run: [5; 16],
            size: self.terms.geometry.size(),
            purpose: self.terms.purpose,
            scope: self.terms.scope,
            verify: self.terms.verify,
            hold: self.terms.hold,
            allow_larger: false,
            mode_bits: 0o600,
            digests: DigestKind::Seeded,
            full_scan: false,
            seed: self.seed.0,
            window: self.terms.window,
            identity: Vec::new(),
            source: Text::new("source"),
            who: Text::new("test"),
        })
    }

    pub(crate) fn extents(&self) -> u64 {
        self.terms.geometry.extent_count()
    }

    pub(crate) fn may_scan(&self) -> bool {
        self.extents_scanned < self.terms.geometry.extent_count()
    }

    pub(crate) fn scan(&mut self) {
        let geometry = self.terms.geometry;
        let extent = ExtentIndex(self.extents_scanned);
        let cvs = extent_cvs(geometry, extent, &self.volume[bytes_of(geometry, extent)]);
        for (group, cv) in geometry.groups_of(extent).zip(cvs.iter()) {
            self.tree.set(GroupIndex(group), *cv);
        }
        self.extents_scanned += 1;
    }

    fn groups_hashed(&self) -> u64 {
        match self.extents_scanned {
            0 => 0,
            extents => self.terms.geometry.groups_of(ExtentIndex(extents - 1)).end,
        }
    }

    pub(crate) fn has_digests(&self) -> bool {
        self.welcomed && self.groups_sent < self.groups_hashed()
    }

    /// The next digests, cut anywhere: frames need not end where extents do.
    pub(crate) fn digests(&mut self, random: &mut Random) -> Option<SourceFrame> {
        let hashed = self.groups_hashed();
        let less = if random.percent(50) {
            random.below(20) as u64
        } else {
            0
        };
        let range = self.session.next_digests(hashed.saturating_sub(less))?;
        self.groups_sent = range.end;
        Some(SourceFrame::Digests {
            first: GroupIndex(range.start),
            cvs: range.map(|group| self.tree.cv(GroupIndex(group))).collect(),
        })
    }

    pub(crate) fn may_finish(&self) -> bool {
        self.session.may_finish() && !self.may_scan()
    }

    pub(crate) fn finish(&mut self) -> SourceFrame {
        let groups = 0..self.terms.geometry.group_count();
        let cvs = groups.map(|group| self.tree.cv(GroupIndex(group)));
        let root = fold(self.terms.geometry, cvs).unwrap();
        self.session.finished(root);
        self.done = Some(root);
        SourceFrame::Done(LastWord {
            root,
            evidence: if self.changed {
                Evidence::None
            } else {
                Evidence::Full
            },
            level: None,
        })
    }

    /// Somebody writes to the source while it is read.
    pub(crate) fn change(&mut self, random: &mut Random) {
        self.before_change = Some(self.volume.clone());
        self.changed = true;
        if self.volume.is_empty() {
            return;
        }
        for _ in 0..=random.below(3) {
            let at = random.below(self.volume.len());
            self.volume[at] ^= 1;
        }
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.before_change.is_some()
    }

    /// The write is undone: it was in flight when it was read.
    pub(crate) fn change_back(&mut self) {
        self.volume = self.before_change.take().unwrap_or_default();
    }

    pub(crate) fn handle(&mut self, frame: TargetFrame) {
        let verified = match &frame {
            TargetFrame::Verified { root, .. } => Some(*root),
            _ => None,
        };
        match self.session.handle(frame) {
            Err(violation) => self.ending = Some(SourceEnding::Violation(violation)),
            Ok(Served::Count(want)) => self.owe(Owed::Count(want)),
            Ok(Served::Ship { want, .. }) => self.owe(Owed::Ship(want)),
            Ok(Served::Compared(_)) => self.compared = true,
            Ok(Served::Verified { .. }) => self.ending = verified.map(SourceEnding::Verified),
            Ok(Served::Failed { .. } | Served::Refused { .. }) => {
                self.ending = Some(SourceEnding::TargetFailed);
            }
            Ok(Served::Welcomed(_)) => self.welcomed = true,
            Ok(Served::State(_)) => self.states += 1,
            Ok(Served::Progress(_) | Served::Warning(_) | Served::Undo(_) | Served::Doubted(_)) => {
            }
        }
    }

    fn owe(&mut self, owed: Owed) {
        self.wants += 1;
        self.owed.push(owed);
        assert!(
            self.owed.len() <= usize::from(self.terms.window),
            "the window holds"
        );
    }

    pub(crate) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Answers one of the wants, whichever.
    pub(crate) fn answer(&mut self, random: &mut Random) -> Answer {
        match random.take(&mut self.owed) {
            Owed::Count(want) => {
                let (data, zero) = self.lacking(&want);
                self.bytes_counted += self.length(want.extent, data.union(zero));
                self.session.answered(want.extent);
                Answer::Control(SourceFrame::Counted {
                    extent: want.extent,
                })
            }
            Owed::Ship(want) => {
                let bulk = self.pack(&want);
                self.session.answered(want.extent);
                Answer::Bulk(bulk)
            }
        }
    }

    fn pack(&mut self, want: &Want) -> Vec<u8> {
        let (data, zero) = self.lacking(want);
        self.bytes_shipped += self.length(want.extent, data);
        let head = DataHead {
            extent: want.extent,
            data,
            zero,
            encoding: Encoding::Raw,
        };
        let mut bulk = head.encode();
        for page in data.iter() {
            bulk.extend_from_slice(self.page(want.extent, page));
        }
        bulk
    }

    /// Pages that the target lacks: those with bytes, and those that are zeros here.
    fn lacking(&self, want: &Want) -> (PageSet, PageSet) {
        let mut digests = want.digests.iter();
        let (mut data, mut zero) = (PageSet::EMPTY, PageSet::EMPTY);
        for page in 0..self.terms.geometry.pages_in(want.extent) {
            let (group, bytes) = (page / PAGES_PER_GROUP, self.page(want.extent, page));
            let lacks = if want.paged.contains(group) {
                digests.next() != Some(&page_digest(self.seed, bytes))
            } else {
                want.whole.contains(group) || want.blank.contains(group) && !is_zero(bytes)
            };
            match (lacks, is_zero(bytes)) {
                (false, _) => {}
                (true, true) => zero.insert(page),
                (true, false) => data.insert(page),
            }
        }
        (data, zero)
    }

    fn page(&self, extent: ExtentIndex, page: usize) -> &[u8] {
        let range = self.terms.geometry.page_range_in_extent(extent, page);
        let start = bytes_of(self.terms.geometry, extent).start;
        &self.volume[start + range.start..start + range.end]
    }

    fn length(&self, extent: ExtentIndex, pages: PageSet) -> u64 {
        pages
            .iter()
            .map(|page| self.page(extent, page).len() as u64)
            .sum()
    }
}

/// What answers a want.
pub(crate) enum Answer {
    Control(SourceFrame),
    Bulk(Vec<u8>),
}

pub(crate) fn bytes_of(geometry: Geometry, extent: ExtentIndex) -> std::ops::Range<usize> {
    let range = geometry.extent_range(extent);
    range.start as usize..range.end as usize
}
