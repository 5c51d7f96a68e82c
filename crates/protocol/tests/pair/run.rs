//! One simulated run: two ends, the lanes between them, and chance as the scheduler.

use std::collections::VecDeque;

use lockstep_merkle::{Geometry, Root};
use lockstep_protocol::{
    Hold, Plan, Purpose, Scope, SourceFrame, Stats, TargetFrame, Terms, VerifyScope, VolumeState,
};

use crate::disk::{Disk, DiskFaults};
use crate::hostile;
use crate::random::Random;
use crate::source_end::{Answer, SourceEnd, SourceEnding};
use crate::target_end::{TargetEnd, TargetEnding, TargetStep};
use crate::volumes::Volumes;

/// Steps after which a run is taken to go round in circles; the longest honest ones take
/// about two thousand.
const MAX_STEPS: usize = 100_000;

/// A change of the source while it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    Never,
    Passing,
    Lasting,
}

/// Who sends frames that an honest peer would not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hostile {
    Nobody,
    Source,
    Target,
}

/// What a run is given, apart from its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) purpose: Purpose,
    pub(crate) scope: Scope,
    pub(crate) verify: VerifyScope,
    pub(crate) hold: Hold,
    pub(crate) plan: Plan,
    pub(crate) agree: bool,
    pub(crate) faults: DiskFaults,
    pub(crate) change: Change,
    pub(crate) hostile: Hostile,
    /// The link breaks for good when this many messages have been delivered.
    pub(crate) cut_after: Option<u64>,
}

impl Setup {
    pub(crate) fn plain() -> Setup {
        Setup {
            purpose: Purpose::Sync,
            scope: Scope::Differences,
            verify: VerifyScope::Written,
            hold: Hold::None,
            plan: Plan::Keep,
            agree: true,
            faults: DiskFaults::default(),
            change: Change::Never,
            hostile: Hostile::Nobody,
            cut_after: None,
        }
    }

    /// Any combination that a command line can ask of an honest pair.
    pub(crate) fn any(random: &mut Random) -> Setup {
        Setup {
            scope: random.of(&[Scope::Differences, Scope::Differences, Scope::Everything]),
            verify: random.of(&[VerifyScope::Written, VerifyScope::Full]),
            hold: random.of(&[Hold::None, Hold::UntilProceed]),
            plan: random.of(&[Plan::Keep, Plan::Create, Plan::Resize, Plan::Resume]),
            ..Setup::plain()
        }
    }
}

/// What was left when nothing more could happen.
pub(crate) struct Outcome {
    pub(crate) source: Option<SourceEnding>,
    pub(crate) target: Option<TargetEnding>,
    /// The source's volume as it was at the end.
    pub(crate) source_volume: Vec<u8>,
    pub(crate) done: Option<Root>,
    pub(crate) compared: bool,
    pub(crate) stats: Stats,
    pub(crate) state: VolumeState,
    pub(crate) wants: u64,
    pub(crate) states: u64,
    pub(crate) bytes_counted: u64,
    pub(crate) bytes_shipped: u64,
    pub(crate) writes: u64,
    pub(crate) faults_done: usize,
    pub(crate) delivered: u64,
    pub(crate) medium: Vec<u8>,
    /// What the next run finds, if the program or the machine stopped here.
    pub(crate) left: Vec<u8>,
}

impl Outcome {
    /// The root, if both ends say that the target is proved.
    pub(crate) fn verified(&self) -> Option<Root> {
        match (&self.source, &self.target) {
            (Some(SourceEnding::Verified(told)), Some(TargetEnding::Verified(root))) => {
                assert_eq!(told, root);
                Some(*root)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    SourceScans,
    SourceDigests,
    SourceFinishes,
    SourceAnswers,
    SourceProceeds,
    SourceChanges,
    SourceChangesBack,
    ControlToTarget,
    ControlToSource,
    BulkToTarget,
    TargetTells,
    Target(TargetStep),
}

struct Pair {
    setup: Setup,
    random: Random,
    source: SourceEnd,
    target: TargetEnd,
    to_target: VecDeque<Vec<u8>>,
    to_source: VecDeque<Vec<u8>>,
    bulk: Vec<Vec<u8>>,
    delivered: u64,
    changes_left: usize,
    tells_left: usize,
}

pub(crate) fn run(random: Random, setup: Setup, volumes: Volumes) -> Outcome {
    let mut pair = Pair::new(random, setup, volumes);
    for _ in 0..MAX_STEPS {
        let steps = pair.steps();
        if pair.is_over() || steps.is_empty() {
            return pair.outcome();
        }
        let step = pair.random.of(&steps);
        pair.take(step);
    }
    panic!("the run goes round in circles: {:?}", pair.steps());
}

impl Pair {
    fn new(mut random: Random, setup: Setup, volumes: Volumes) -> Pair {
        let terms = Terms {
            geometry: Geometry::new(volumes.source.len() as u64),
            purpose: setup.purpose,
            scope: setup.scope,
            verify: setup.verify,
            hold: setup.hold,
            window: random.of(&[1, 2, 3, 8]),
        };
        let source = SourceEnd::new(terms, volumes.source);
        let disk = Disk::new(volumes.target, setup.faults);
        let target = TargetEnd::new(disk, setup.plan, random.of(&[1, 2, 64]));
        let mut pair = Pair {
            setup,
            random,
            source,
            target,
            to_target: VecDeque::new(),
            to_source: VecDeque::new(),
            bulk: Vec::new(),
            delivered: 0,
            changes_left: usize::from(setup.change != Change::Never),
            tells_left: 3,
        };
        pair.to_target.push_back(pair.source.hello().encode());
        pair
    }

    fn is_over(&self) -> bool {
        let told = self.target.ending.is_some() && self.to_source.is_empty();
        let cut = self.setup.cut_after == Some(self.delivered);
        self.source.ending.is_some() || told || cut
    }

    fn steps(&self) -> Vec<Step> {
        let source = &self.source;
        let changed = source.is_changed();
        let held = source.session.is_held() && self.setup.purpose == Purpose::Sync;
        let tells = self.target.running.is_some() && self.target.ending.is_none();
        let steps = [
            (Step::SourceScans, source.may_scan()),
            (Step::SourceDigests, source.has_digests()),
            (Step::SourceFinishes, source.may_finish()),
            (Step::SourceAnswers, source.owes()),
            (Step::SourceProceeds, held && self.setup.agree),
            (Step::SourceChanges, self.changes_left > 0),
            (
                Step::SourceChangesBack,
                changed && self.setup.change == Change::Passing,
            ),
            (Step::ControlToTarget, !self.to_target.is_empty()),
            (Step::ControlToSource, !self.to_source.is_empty()),
            (Step::BulkToTarget, !self.bulk.is_empty()),
            (Step::TargetTells, tells && self.tells_left > 0),
        ];
        let steps = steps
            .into_iter()
            .filter(|(_, can)| *can)
            .map(|(step, _)| step);
        steps
            .chain(self.target.steps().into_iter().map(Step::Target))
            .collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::SourceScans => self.source.scan(),
            Step::SourceDigests => {
                let digests = self.source.digests(&mut self.random);
                self.to_target
                    .extend(digests.iter().map(SourceFrame::encode));
            }
            Step::SourceFinishes => self.to_target.push_back(self.source.finish().encode()),
            Step::SourceAnswers => match self.source.answer(&mut self.random) {
                Answer::Control(frame) => self.to_target.push_back(frame.encode()),
                Answer::Bulk(bulk) => self.bulk.push(bulk),
            },
            Step::SourceProceeds => {
                self.source.session.proceed().unwrap();
                self.to_target.push_back(SourceFrame::Proceed.encode());
            }
            Step::SourceChanges => {
                self.changes_left -= 1;
                self.source.change(&mut self.random);
            }
            Step::SourceChangesBack => self.source.change_back(),
            Step::ControlToTarget => self.deliver_to_target(),
            Step::ControlToSource => self.deliver_to_source(),
            Step::BulkToTarget => self.deliver_bulk(),
            Step::TargetTells => {
                self.tells_left -= 1;
                let stats = self.target.stats();
                self.send_to_source(vec![TargetFrame::Progress(stats)]);
            }
            Step::Target(step) => {
                let frames = self.target.take(&mut self.random, step);
                self.send_to_source(frames);
            }
        }
    }

    fn send_to_source(&mut self, frames: Vec<TargetFrame>) {
        self.to_source
            .extend(frames.iter().map(TargetFrame::encode));
    }

    fn deliver_to_target(&mut self) {
        let frame = self.to_target.pop_front().unwrap();
        self.delivered += 1;
        let frames = match self.setup.hostile {
            Hostile::Source => {
                hostile::source_frames(&mut self.random, self.source.extents(), frame)
            }
            _ => vec![frame],
        };
        for frame in frames {
            if self.target.ending.is_none() {
                let answers = self.target.handle(&frame);
                self.send_to_source(answers);
            }
        }
    }

    fn deliver_bulk(&mut self) {
        let bulk = self.random.take(&mut self.bulk);
        self.delivered += 1;
        let bulks = match self.setup.hostile {
            Hostile::Source => hostile::bulks(&mut self.random, self.source.extents(), bulk),
            _ => vec![bulk],
        };
        for bulk in bulks {
            if self.target.ending.is_none() {
                let answers = self.target.handle_bulk(&bulk);
                self.send_to_source(answers);
            }
        }
    }

    fn deliver_to_source(&mut self) {
        let frame = self.to_source.pop_front().unwrap();
        self.delivered += 1;
        let frames = match self.setup.hostile {
            Hostile::Target => {
                let (extents, done) = (self.source.extents(), self.source.done);
                hostile::target_frames(&mut self.random, extents, done, frame)
            }
            _ => vec![frame],
        };
        for frame in frames {
            if self.source.ending.is_none() {
                self.source.handle(TargetFrame::decode(&frame).unwrap());
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let stats = self.target.stats();
        let (target, state) = (self.target.ending.clone(), self.target.state);
        let (disk, flushing) = self.target.into_disk();
        let medium = disk.medium().to_vec();
        let (writes, faults_done) = (disk.writes, disk.faults_done);
        let left = if self.random.percent(50) {
            disk.crash(&mut self.random, flushing)
        } else {
            disk.stop()
        };
        Outcome {
            source: self.source.ending,
            target,
            source_volume: self.source.volume,
            done: self.source.done,
            compared: self.source.compared,
            stats,
            state,
            wants: self.source.wants,
            states: self.source.states,
            bytes_counted: self.source.bytes_counted,
            bytes_shipped: self.source.bytes_shipped,
            writes,
            faults_done,
            delivered: self.delivered,
            medium,
            left,
        }
    }
}
