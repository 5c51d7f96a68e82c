//! The target's end of a simulated run: a disk, its tree, and a session.

use std::ops::Range;
use std::sync::Arc;

use lockstep_merkle::{
    CvTable, ExtentIndex, Geometry, GroupIndex, GroupSet, MemoryCvs, PAGE_SIZE, PAGES_PER_GROUP,
    PageSeed, Root, extent_cvs, group_cv, is_zero, page_digest,
};
use lockstep_protocol::limits::DATA_HEAD_LEN;
use lockstep_protocol::{
    Applied, ApplyOrder, CheckOrder, DataHead, Evidence, Failure, FailureKind, FlushTicket, Hello,
    LastWord, Plan, SourceFrame, Stats, TargetFrame, TargetSession, Terms, Violation, VolumeState,
    Want, WantMode, WantOrder, Welcome,
};

use crate::disk::Disk;
use crate::random::Random;
use crate::source_end::bytes_of;

/// How the target's end of a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TargetEnding {
    Verified(Root),
    Exhausted,
    Violation(Violation),
    /// Bytes that are no frame, a body of another length than its head says, or an abort.
    Unusable,
}

struct Arrived {
    head: DataHead,
    order: ApplyOrder,
    body: Vec<u8>,
}

/// Everything of the target that exists before anybody says hello.
pub(crate) struct TargetEnd {
    plan: Plan,
    window: u16,
    pub(crate) disk: Disk,
    pub(crate) running: Option<Running>,
    pub(crate) ending: Option<TargetEnding>,
    pub(crate) state: VolumeState,
}

/// What a hello brings about.
pub(crate) struct Running {
    pub(crate) session: TargetSession,
    terms: Terms,
    seed: PageSeed,
    own: Arc<MemoryCvs>,
    expected: Arc<MemoryCvs>,
    to_scan: Vec<ExtentIndex>,
    arrived: Vec<Arrived>,
    flushing: Vec<(FlushTicket, Vec<Range<usize>>)>,
    checking: Vec<CheckOrder>,
}

/// What the target could do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TargetStep {
    Scan,
    Want,
    Apply,
    BeginFlush,
    EndFlush,
    NextCheck,
    Check,
    Compared,
    Verify,
}

impl TargetEnd {
    pub(crate) fn new(disk: Disk, plan: Plan, window: u16) -> TargetEnd {
        TargetEnd {
            plan,
            window,
            disk,
            running: None,
            ending: None,
            state: VolumeState::Unknown,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.running
            .as_ref()
            .map_or(Stats::default(), |running| running.session.stats())
    }

    /// Ranges that a flush was to make durable when the run ended.
    pub(crate) fn into_disk(mut self) -> (Disk, Vec<Range<usize>>) {
        let running = self.running.take();
        let flushing = running.map_or(Vec::new(), |running| running.flushing);
        (
            self.disk,
            flushing
                .into_iter()
                .flat_map(|(_, ranges)| ranges)
                .collect(),
        )
    }

    pub(crate) fn steps(&self) -> Vec<TargetStep> {
        let Some(running) = self.running.as_ref().filter(|_| self.ending.is_none()) else {
            return Vec::new();
        };
        let session = &running.session;
        let steps = [
            (TargetStep::Scan, !running.to_scan.is_empty()),
            (TargetStep::Want, session.has_wants()),
            (TargetStep::Apply, !running.arrived.is_empty()),
            (TargetStep::BeginFlush, session.flush_is_due(1)),
            (TargetStep::EndFlush, !running.flushing.is_empty()),
            (TargetStep::NextCheck, session.has_checks()),
            (TargetStep::Check, !running.checking.is_empty()),
            (TargetStep::Compared, session.is_at_turn()),
            (TargetStep::Verify, session.settled().is_some()),
        ];
        steps
            .into_iter()
            .filter(|(_, can)| *can)
            .map(|(step, _)| step)
            .collect()
    }

    pub(crate) fn take(&mut self, random: &mut Random, step: TargetStep) -> Vec<TargetFrame> {
        let Some(running) = self.running.as_mut() else {
            return Vec::new();
        };
        let disk = &mut self.disk;
        match step {
            TargetStep::Scan => running.scan(random, disk),
            TargetStep::Want => return running.want(disk),
            TargetStep::Apply => return self.apply(random),
            TargetStep::BeginFlush => {
                let ticket = running.session.begin_flush();
                running.flushing.push((ticket, disk.begin_flush()));
            }
            TargetStep::EndFlush => {
                let (ticket, ranges) = random.take(&mut running.flushing);
                disk.end_flush(random, ranges);
                running.session.flushed(ticket);
            }
            TargetStep::NextCheck => running.checking.extend(running.session.next_check()),
            TargetStep::Check => return self.check(random),
            TargetStep::Compared => {
                let compared = running.session.announce_compared();
                let stats = running.session.stats();
                return compared
                    .then_some(TargetFrame::Compared(stats))
                    .into_iter()
                    .collect();
            }
            TargetStep::Verify => return self.verify(),
        }
        Vec::new()
    }

    pub(crate) fn handle(&mut self, bytes: &[u8]) -> Vec<TargetFrame> {
        let Ok(frame) = SourceFrame::decode(bytes) else {
            return self.fail(TargetEnding::Unusable);
        };
        let (frame, running) = match (frame, self.running.as_mut()) {
            (SourceFrame::Hello(hello), None) => return self.greet(&hello),
            (SourceFrame::Hello(_) | SourceFrame::Abort(_), _) | (_, None) => {
                return self.fail(TargetEnding::Unusable);
            }
            (frame, Some(running)) => (frame, running),
        };
        let session = &mut running.session;
        let result = match frame {
            SourceFrame::Digests { first, cvs } => session.digests(first, &cvs),
            SourceFrame::Counted { extent } => session.counted(extent),
            SourceFrame::Proceed => session.proceed(),
            SourceFrame::Done(word) => session.done(word),
            SourceFrame::Hello(_) | SourceFrame::Abort(_) | SourceFrame::Doubt { .. } => Ok(()),
        };
        match result {
            Ok(()) => Vec::new(),
            Err(violation) => self.fail(TargetEnding::Violation(violation)),
        }
    }

    pub(crate) fn handle_bulk(&mut self, bulk: &[u8]) -> Vec<TargetFrame> {
        let Some(running) = self.running.as_mut() else {
            return self.fail(TargetEnding::Unusable);
        };
        let Some((Ok(head), body)) = bulk
            .split_first_chunk::<DATA_HEAD_LEN>()
            .map(|(head, body)| (DataHead::decode(head), body))
        else {
            return self.fail(TargetEnding::Unusable);
        };
        match running.session.arrived(&head) {
            Err(violation) => self.fail(TargetEnding::Violation(violation)),
            Ok(order) => {
                let body = body.to_vec();
                running.arrived.push(Arrived { head, order, body });
                Vec::new()
            }
        }
    }

    fn greet(&mut self, hello: &Hello) -> Vec<TargetFrame> {
        if hello.size != self.disk.medium().len() as u64 {
            return self.fail(TargetEnding::Unusable);
        }
        let window = self.window.min(hello.window);
        self.running = Some(Running::new(hello, self.plan, window));
        vec![TargetFrame::Welcome(Welcome {
            version: 1,
            window,
            plan: self.plan,
            present_size: Some(hello.size),
            standing: self.state,
            has_medium: true,
            identity: Vec::new(),
        })]
    }

    fn apply(&mut self, random: &mut Random) -> Vec<TargetFrame> {
        let Some(running) = self.running.as_mut() else {
            return Vec::new();
        };
        let arrived = random.take(&mut running.arrived);
        let geometry = running.terms.geometry;
        let Some(image) = arrived.image(geometry, &self.disk) else {
            return self.fail(TargetEnding::Unusable);
        };
        let extent = arrived.head.extent;
        if !running.fits(extent, arrived.order.groups, &image) {
            return match running.session.applied(extent, Applied::Unfit) {
                Ok(()) => Vec::new(),
                Err(_) => self.fail(TargetEnding::Exhausted),
            };
        }
        let announcement = self.mark_inconsistent();
        self.write(&arrived, &image);
        announcement
    }

    fn write(&mut self, arrived: &Arrived, image: &[u8]) {
        let Some(running) = self.running.as_mut() else {
            return;
        };
        let (geometry, extent) = (running.terms.geometry, arrived.head.extent);
        let start = bytes_of(geometry, extent).start;
        let mut bytes = 0;
        for page in arrived.head.data.union(arrived.head.zero).iter() {
            let range = geometry.page_range_in_extent(extent, page);
            bytes += range.len() as u64;
            self.disk
                .write(start + range.start..start + range.end, &image[range]);
        }
        let written = running.session.applied(extent, Applied::Written { bytes });
        assert_eq!(written, Ok(()));
    }

    fn mark_inconsistent(&mut self) -> Vec<TargetFrame> {
        if self.state == VolumeState::Inconsistent {
            return Vec::new();
        }
        self.state = VolumeState::Inconsistent;
        vec![TargetFrame::State(self.state)]
    }

    fn check(&mut self, random: &mut Random) -> Vec<TargetFrame> {
        let Some(running) = self.running.as_mut() else {
            return Vec::new();
        };
        let order = random.take(&mut running.checking);
        let geometry = running.terms.geometry;
        let first = geometry.groups_of(order.extent).start;
        let mut measured = Vec::new();
        for bit in order.groups.iter() {
            let group = GroupIndex(first + bit as u64);
            let range = geometry.group_range(group);
            let bytes = self
                .disk
                .read_back(range.start as usize..range.end as usize);
            measured.push((group, group_cv(geometry, group, bytes)));
        }
        match running.session.checked(order.extent, &measured) {
            Ok(()) => Vec::new(),
            Err(_) => self.fail(TargetEnding::Exhausted),
        }
    }

    fn verify(&mut self) -> Vec<TargetFrame> {
        let Some((session, LastWord { root, evidence, .. })) = self
            .running
            .as_ref()
            .and_then(|running| Some((&running.session, running.session.settled()?)))
        else {
            return Vec::new();
        };
        assert_eq!(session.own_root(), Ok(root), "settled means equal");
        let stats = session.stats();
        self.state = if evidence != Evidence::None {
            VolumeState::Consistent
        } else {
            VolumeState::Inconsistent
        };
        self.ending = Some(TargetEnding::Verified(root));
        vec![TargetFrame::Verified {
            root,
            state: self.state,
            stats,
        }]
    }

    fn fail(&mut self, ending: TargetEnding) -> Vec<TargetFrame> {
        self.ending = Some(ending);
        vec![TargetFrame::Failed {
            failure: Failure::new(FailureKind::Mismatch, "failed"),
            state: self.state,
            stats: self.stats(),
        }]
    }
}

impl Running {
    fn new(hello: &Hello, plan: Plan, window: u16) -> Running {
        let terms = Terms {
            geometry: Geometry::new(hello.size),
            purpose: hello.purpose,
            scope: hello.scope,
            verify: hello.verify,
            hold: hello.hold,
            window,
        };
        let groups = terms.geometry.group_count();
        let tables = [(); 2].map(|()| Arc::new(MemoryCvs::new(groups)));
        let [own, expected] = tables;
        let session = TargetSession::new(terms, plan, own.clone(), expected.clone());
        let scans = terms.scope == lockstep_protocol::Scope::Differences;
        let extents = if scans {
            terms.geometry.extent_count()
        } else {
            0
        };
        Running {
            session,
            terms,
            seed: PageSeed(hello.seed),
            own,
            expected,
            to_scan: (0..extents).map(ExtentIndex).collect(),
            arrived: Vec::new(),
            flushing: Vec::new(),
            checking: Vec::new(),
        }
    }

    fn scan(&mut self, random: &mut Random, disk: &Disk) {
        let extent = random.take(&mut self.to_scan);
        let geometry = self.terms.geometry;
        let cvs = extent_cvs(geometry, extent, disk.read(bytes_of(geometry, extent)));
        for (group, cv) in geometry.groups_of(extent).zip(cvs.iter()) {
            self.own.set(GroupIndex(group), *cv);
        }
        self.session.scanned(extent);
    }

    fn want(&mut self, disk: &Disk) -> Vec<TargetFrame> {
        let Some(order) = self.session.next_want() else {
            return Vec::new();
        };
        vec![TargetFrame::Want(self.want_of(order, disk))]
    }

    fn want_of(&self, order: WantOrder, disk: &Disk) -> Want {
        let mut want = Want {
            extent: order.extent,
            whole: GroupSet::EMPTY,
            blank: GroupSet::EMPTY,
            paged: GroupSet::EMPTY,
            digests: Vec::new(),
        };
        let extent = disk.read(bytes_of(self.terms.geometry, order.extent));
        for group in order.groups.iter() {
            let size = PAGES_PER_GROUP * PAGE_SIZE;
            let bytes = &extent[group * size..extent.len().min((group + 1) * size)];
            match order.mode {
                WantMode::Whole => want.whole.insert(group),
                WantMode::Differing if is_zero(bytes) => want.blank.insert(group),
                WantMode::Differing => {
                    want.paged.insert(group);
                    let digests = bytes.chunks(PAGE_SIZE);
                    want.digests
                        .extend(digests.map(|page| page_digest(self.seed, page)));
                }
            }
        }
        want
    }

    fn fits(&self, extent: ExtentIndex, groups: GroupSet, image: &[u8]) -> bool {
        let geometry = self.terms.geometry;
        let cvs = extent_cvs(geometry, extent, image);
        let first = geometry.groups_of(extent).start;
        groups.iter().all(|bit| {
            let group = GroupIndex(first + bit as u64);
            cvs[bit] == self.expected.cv(group)
        })
    }
}

impl Arrived {
    /// The extent as it will be; `None` when the body is not as long as the head says.
    fn image(&self, geometry: Geometry, disk: &Disk) -> Option<Vec<u8>> {
        let mut image = disk.read(bytes_of(geometry, self.head.extent)).to_vec();
        let mut body = self.body.as_slice();
        for page in self.head.data.iter() {
            let range = geometry.page_range_in_extent(self.head.extent, page);
            let (bytes, rest) = body.split_at_checked(range.len())?;
            image[range].copy_from_slice(bytes);
            body = rest;
        }
        for page in self.head.zero.iter() {
            image[geometry.page_range_in_extent(self.head.extent, page)].fill(0);
        }
        body.is_empty().then_some(image)
    }
}
