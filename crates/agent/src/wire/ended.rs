//! How a run ended: short enough for a frame a volume, whatever its secondaries say.

use lockstep_cluster::claim::{Epoch, RunName};
use lockstep_cluster::plan::Plan;
use lockstep_cluster::value::{AbsolutePath, VolumeName};
use serde::{Deserialize, Serialize};

use super::ask::Answer;
use super::fit::{self, MAX_FILES};
use super::host::{HookReport, WireFailure};
use super::run::WireOutcome;

/// How a run ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The run's name.
    pub run: RunName,
    /// Its epoch, if it was to write.
    pub epoch: Option<Epoch>,
    /// Each volume; none if it ended before any was read. Each is an answer of its own on its way.
    #[serde(skip)]
    pub volumes: Vec<VolumeEnded>,
    /// Why it ended as a whole, if it did not end well.
    pub error: Option<WireFailure>,
}

/// How a run on a volume ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeEnded {
    /// The volume.
    pub volume: VolumeName,
    /// Its id's root and counts.
    pub outcome: WireOutcome,
    /// What was planned, for a plan.
    pub plan: Option<Plan>,
    /// What else there is to say of each target, in their order.
    pub aftermath: Vec<Aftermath>,
}

/// What is left of a sentence where there are too many of them.
const SHORT: usize = 256;

impl VolumeEnded {
    /// Whether one frame holds it.
    pub(crate) fn fits(&self) -> bool {
        fit::fits(&Answer::VolumeEnded(Box::new(self.clone())))
    }

    /// The same, with no more words than one frame holds: the least telling go first, the outcome never.
    pub(crate) fn fitted(mut self) -> Self {
        type Shorten = fn(&mut VolumeEnded);
        let steps: [Shorten; 3] = [
            Self::leave_files_out,
            Self::leave_hooks_out,
            Self::cut_failures,
        ];
        for shorten in steps {
            if self.fits() {
                break;
            }
            shorten(&mut self);
        }
        self
    }

    fn leave_files_out(&mut self) {
        for aftermath in &mut self.aftermath {
            let left_out = std::mem::take(&mut aftermath.files).len();
            aftermath.leave_out(count(left_out));
        }
    }

    fn leave_hooks_out(&mut self) {
        for aftermath in &mut self.aftermath {
            aftermath.hooks.clear();
        }
    }

    fn cut_failures(&mut self) {
        let of_targets = self.outcome.targets.iter_mut();
        let errors = of_targets.map(|target| &mut target.error);
        for error in errors.chain([&mut self.outcome.error]).flatten() {
            error.message = error.message.cut(SHORT);
            error.hint = error.hint.cut(SHORT);
        }
    }
}

/// Most hooks of a target that are told of; there are four moments.
const MAX_HOOKS: usize = 16;

/// What a run did on a secondary besides its data.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aftermath {
    /// Files that were put in place; the first of them.
    pub files: Vec<AbsolutePath>,
    /// How many more there were.
    pub files_left_out: u64,
    /// What ran.
    pub hooks: Vec<HookReport>,
    /// How long its services were down.
    pub downtime_seconds: Option<f64>,
}

impl Aftermath {
    /// These and those.
    pub(crate) fn add(&mut self, other: Self) {
        self.placed(other.files, other.files_left_out);
        self.ran(other.hooks);
        self.downtime_seconds = other.downtime_seconds.or(self.downtime_seconds);
    }

    /// Files that were put in place, too, and so many more.
    pub(crate) fn placed(&mut self, files: Vec<AbsolutePath>, more: u64) {
        let room = MAX_FILES.saturating_sub(self.files.len());
        self.leave_out(more);
        self.leave_out(count(files.len().saturating_sub(room)));
        self.files.extend(files.into_iter().take(room));
    }

    /// Hooks that ran, too.
    pub(crate) fn ran(&mut self, hooks: Vec<HookReport>) {
        let room = MAX_HOOKS.saturating_sub(self.hooks.len());
        self.hooks.extend(hooks.into_iter().take(room));
    }

    fn leave_out(&mut self, files: u64) {
        self.files_left_out = self.files_left_out.saturating_add(files);
    }
}

fn count(files: usize) -> u64 {
    u64::try_from(files).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Aftermath, MAX_FILES, MAX_HOOKS, VolumeEnded, WireOutcome};
    use crate::wire::run::WireTarget;
    use crate::wire::{HookReport, WireFailure, Words};
    use lockstep_cluster::value::AbsolutePath;
    use lockstep_engine::{Consistency, Outcome, SourceCounts, Verdict};
    use lockstep_ledger::ProofLevel;
    use std::time::Duration;

    /// As wide as it gets: quotation marks are two bytes on their way.
    fn long() -> Words {
        Words::new(&"\"".repeat(4096))
    }

    fn failure() -> WireFailure {
        WireFailure {
            exit_code: 75,
            message: long(),
            hint: long(),
        }
    }

    fn target() -> WireTarget {
        WireTarget {
            target: Words::new(&"n".repeat(63)),
            verdict: Verdict::Failed.into(),
            state: Words::new("inconsistent"),
            bytes_differing: u64::MAX,
            bytes_written: u64::MAX,
            bytes_read: u64::MAX,
            bytes_inherited: u64::MAX,
            bytes_sent: u64::MAX,
            bytes_received: u64::MAX,
            seconds: 1e9,
            transport: None,
            undo: None,
            error: Some(failure()),
        }
    }

    fn aftermath(files: usize) -> Aftermath {
        let path = |number: usize| -> AbsolutePath {
            format!("/{number}{}", "\"".repeat(4000)).parse().unwrap()
        };
        let mut aftermath = Aftermath::default();
        aftermath.placed((0..files).map(path).collect(), 0);
        let hook = HookReport {
            moment: long(),
            seconds: 1.0,
            exit: Some(i32::MIN),
            error: Some(long()),
        };
        aftermath.ran(vec![hook; 1000]);
        aftermath
    }

    fn ended(targets: usize, aftermath: &Aftermath) -> VolumeEnded {
        let outcome = Outcome {
            run: "r".to_owned(),
            verdict: Verdict::Failed,
            error: Some(failure().into()),
            root: None,
            size: 1,
            elapsed: Duration::ZERO,
            snapshot: "",
            level: None,
            proof: ProofLevel::Full,
            consistency: Consistency::PointInTime,
            source: SourceCounts::default(),
            paced: None,
            targets: Vec::new(),
        };
        let mut outcome = WireOutcome::from(&outcome);
        outcome.targets = vec![target(); targets];
        VolumeEnded {
            volume: "v".parse().unwrap(),
            outcome,
            plan: None,
            aftermath: vec![aftermath.clone(); targets],
        }
    }

    #[test]
    fn of_files_and_hooks_the_first_are_kept_and_the_others_counted() {
        let mut kept = aftermath(150);
        assert_eq!((kept.files.len(), kept.files_left_out), (MAX_FILES, 50));
        assert_eq!(kept.hooks.len(), MAX_HOOKS);
        kept.add(aftermath(150));
        assert_eq!((kept.files.len(), kept.files_left_out), (MAX_FILES, 200));
        assert_eq!(kept.hooks.len(), MAX_HOOKS);
    }

    #[test]
    fn the_end_fits_into_a_frame_whatever_the_secondaries_say() {
        let widest = ended(64, &aftermath(150));
        assert!(!widest.fits());
        let fitted = widest.clone().fitted();
        assert!(fitted.fits());
        assert_eq!(fitted.outcome.targets.len(), 64);
        assert_eq!(fitted.outcome.targets[63].bytes_written, u64::MAX);
        assert_eq!(fitted.aftermath[63].files_left_out, 150);
        let small = ended(1, &aftermath(3));
        assert_eq!(
            small.clone().fitted(),
            small,
            "nothing is left out without need"
        );
    }
}
