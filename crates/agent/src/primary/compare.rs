//! Comparisons: what a resync would do, and whether all are equal. Nothing is claimed or written.

use std::sync::Arc;
use std::time::Duration;

use lockstep_cluster::file::Volume;
use lockstep_cluster::plan::{
    ChangeLimit, FileDifference, Frozen, NodeFacts, Ownership, Plan, Root,
};
use lockstep_cluster::value::NodeName;
use lockstep_engine::{Outcome, Purpose, TargetOutcome, Verdict, run};
use lockstep_protocol::{Failure, FailureKind};

use super::part::{Opened, Part};
use super::rates::{Measured, rate};
use super::resync::{stale_plan, without_part};
use super::tell::{Seen, Teller};
use super::{Driven, files, now, resync};
use crate::reach::{ask_once, out_of_turn, said_by, tell, unheard};
use crate::talk::hear;
use crate::wire::{
    Aftermath, Aim, Answer, Ask, CompareAsk, FileStates, VolumeEnded, VolumeFacts, WireOutcome,
    fits,
};

/// How long a secondary may take to say what it knows: whether a volume is blank takes a look at it.
const FACTS_LIMIT: Duration = Duration::from_secs(120);

/// What a comparison of one volume found.
struct Compared {
    outcome: Outcome,
    seen: Seen,
    parts: Vec<Option<Arc<Part>>>,
}

impl Driven {
    /// Compares every volume; plans with what was found, if that is the aim.
    pub(super) fn compare(&self) -> Result<Vec<VolumeEnded>, Failure> {
        let mut ended = Vec::new();
        for volume in &self.job.volumes {
            let compared = self.compare_volume(volume)?;
            let plan = match self.job.ask.aim {
                Aim::Plan => Some(self.plan(volume, &compared)?),
                Aim::Resync | Aim::Verify => None,
            };
            ended.push(tellable(VolumeEnded {
                volume: volume.name.clone(),
                outcome: WireOutcome::from(&compared.outcome),
                plan,
                aftermath: vec![Aftermath::default(); self.job.targets.len()],
            })?);
        }
        Ok(ended)
    }

    /// A plan that says something else than what would be done now is not carried out.
    pub(super) fn refuse_stale_plans(&self) -> Result<(), Failure> {
        for volume in &self.job.volumes {
            let planned = self.job.plans.iter().find(|plan| plan.id == volume.id);
            let planned =
                planned.ok_or_else(|| stale_plan(&format!("it has no `{}`", volume.name)))?;
            let compared = self.compare_volume(volume)?;
            let fresh = self.plan(volume, &compared)?;
            let differences = planned.stale_against(&fresh);
            if !differences.is_empty() {
                let differences: Vec<String> =
                    differences.iter().map(ToString::to_string).collect();
                return Err(stale_plan(&differences.join("; ")));
            }
        }
        Ok(())
    }

    /// A group is judged as a whole, before anything is claimed or stopped.
    pub(super) fn refuse_too_much(&self) -> Result<(), Failure> {
        let Some(limit) = self.job.ask.max_change else {
            return Ok(());
        };
        for volume in &self.job.volumes {
            let compared = self.compare_volume(volume)?;
            for target in &compared.outcome.targets {
                if limit.is_exceeded(target.bytes_differing, compared.outcome.size) {
                    let message = format!(
                        "{} of `{}` on `{}` would change, more than --max-change {limit}",
                        ChangeLimit::of(target.bytes_differing, compared.outcome.size),
                        volume.name,
                        target.target
                    );
                    return Err(Failure::new(FailureKind::Guard, message).hint(
                        "see that these are the right volumes, then give a higher --max-change",
                    ));
                }
            }
        }
        Ok(())
    }

    fn compare_volume(&self, volume: &Volume) -> Result<Compared, Failure> {
        let parts: Vec<Result<Arc<Part>, Failure>> = (self.job.targets.iter())
            .map(|node| self.part(node, volume))
            .collect();
        let there: Vec<Arc<Part>> = parts.iter().flatten().cloned().collect();
        let numbers: Vec<usize> = (0..parts.len()).filter(|at| parts[*at].is_ok()).collect();
        let teller = Arc::new(Teller::new(&self.live, &volume.name, numbers.clone(), None));
        let mut outcome = run(
            self.base_request(volume, &there, Purpose::Compare)?,
            Arc::clone(&teller) as Arc<dyn lockstep_engine::Monitor>,
            Arc::clone(&self.live.cancel),
        );
        if let Some(failure) = outcome.error.take() {
            return Err(failure);
        }
        let mut found = std::mem::take(&mut outcome.targets).into_iter();
        for (number, part) in parts.iter().enumerate() {
            let target = match part {
                Ok(_) => found.next(),
                Err(failure) => {
                    self.live
                        .say(&volume.name, resync::told(Some(number), failure));
                    None
                }
            };
            outcome.targets.push(target.unwrap_or_else(|| {
                let failure = part.as_ref().err().cloned();
                without_part(&self.job.targets[number], failure)
            }));
        }
        outcome.verdict = verdict(&outcome.targets);
        Ok(Compared {
            outcome,
            seen: teller.seen(),
            parts: parts.into_iter().map(Result::ok).collect(),
        })
    }

    fn part(&self, node: &NodeName, volume: &Volume) -> Result<Arc<Part>, Failure> {
        let ask = Ask::Compare(CompareAsk {
            volume: volume.name.clone(),
            id: volume.id,
            run: self.live.run.clone(),
        });
        let reached = self.reach().call_in(&self.live.run, node, &ask)?;
        match Part::opened(node, reached, &self.live.cancel)? {
            Opened::Granted(part) => Ok(Arc::new(part)),
            Opened::Refused(failure, _) => Err(failure),
        }
    }

    /// What a resync would do; everything in it was found just now.
    fn plan(&self, volume: &Volume, compared: &Compared) -> Result<Plan, Failure> {
        let outcome = &compared.outcome;
        let root = outcome.root.ok_or_else(|| {
            Failure::new(FailureKind::Internal, "the primary's image was not hashed")
        })?;
        let root = Root::from_bytes(*root.as_bytes());
        let config = &self.job.config;
        let mut measured = Measured::read(&config.state_dir);
        let scan = (compared.seen.scanned).and_then(|took| rate(outcome.source.bytes_hashed, took));
        if let Some(scan) = scan {
            measured.of(&volume.name, &config.node).scan = scan;
        }
        let own = files::own(&volume.files)?;
        let mut facts = Vec::new();
        for (number, target) in outcome.targets.iter().enumerate() {
            if let Some(failure) = &target.error {
                return Err(failure.clone());
            }
            let Some(part) = compared.parts.get(number).and_then(Option::as_ref) else {
                continue;
            };
            let node = part.node();
            if let Some(took) = compared.seen.compared.get(number).copied().flatten()
                && let Some(scan) = rate(outcome.size, took)
            {
                measured.of(&volume.name, node).scan = scan;
            }
            let served = part.served()?;
            let known = self.facts(node, volume)?;
            let held = served.root.map(Root::from_bytes);
            facts.push(NodeFacts {
                node: node.clone(),
                state: known.state,
                epoch: known.epoch,
                device: known.device.to_string(),
                // What is equal has the same root.
                root: held.unwrap_or(root),
                last_root: known.last_root.map(|root| Root::from_bytes(root.0)),
                ownership: match (known.is_foreign, known.is_blank) {
                    (true, _) => Ownership::Foreign,
                    (false, true) => Ownership::Blank,
                    (false, false) => Ownership::Ours,
                },
                bytes_differing: target.bytes_differing,
                bytes_zero: 0,
                pages_newer: None,
                files: self.differing(node, volume, &own)?,
                rates: measured.rates(&volume.name, &config.node, node),
            });
        }
        measured.write(&config.state_dir);
        let frozen = Frozen {
            root,
            size: outcome.size,
            at_unix_ms: now(),
        };
        Ok(Plan::new(
            &config.cluster.name,
            volume,
            &self.job.roles,
            frozen,
            facts,
        ))
    }

    fn facts(&self, node: &NodeName, volume: &Volume) -> Result<VolumeFacts, Failure> {
        let ask = Ask::Facts {
            volume: volume.name.clone(),
        };
        match ask_once(self.reach(), node, &ask, FACTS_LIMIT)? {
            Answer::Facts(facts) => Ok(facts),
            _ => Err(out_of_turn(node)),
        }
    }

    fn differing(
        &self,
        node: &NodeName,
        volume: &Volume,
        own: &std::collections::BTreeMap<
            lockstep_cluster::value::AbsolutePath,
            lockstep_cluster::plan::FileState,
        >,
    ) -> Result<Vec<FileDifference>, Failure> {
        if volume.files.is_empty() {
            return Ok(Vec::new());
        }
        let ask = Ask::Files {
            volume: volume.name.clone(),
        };
        let states = FileStates(own.clone());
        if !fits(&states) {
            return Err(files::too_many(own.len()));
        }
        let mut reached = self.reach().call(node, &ask)?;
        tell(node, &mut *reached.talk, &states)?;
        match hear(&mut *reached.talk, FACTS_LIMIT).map_err(|error| unheard(node, &error))? {
            Answer::Differing { files } => Ok(files),
            Answer::Failed(failure) => Err(said_by(node, failure.into())),
            _ => Err(out_of_turn(node)),
        }
    }
}

/// A plan is exact: what is too long for a call is not cut.
fn tellable(ended: VolumeEnded) -> Result<VolumeEnded, Failure> {
    let nodes = ended.plan.iter().flat_map(|plan| &plan.nodes);
    let files: usize = nodes.map(|node| node.files.len()).sum();
    if files == 0 || ended.fits() {
        return Ok(ended);
    }
    let failure = too_long_a_plan(files);
    Err(Failure {
        message: format!("`{}`: {}", ended.volume, failure.message),
        ..failure
    })
}

/// Why files that differ are not part of a plan.
pub(crate) fn too_long_a_plan(files: usize) -> Failure {
    let message = format!("the plan is too long to be told: {files} configuration files differ");
    Failure::new(FailureKind::Preflight, message)
        .hint("plan for single secondaries, or resync without a plan: that tells only their names")
}

/// Failures first: what could not be compared is not known to be equal.
fn verdict(targets: &[TargetOutcome]) -> Verdict {
    let has = |verdict| targets.iter().any(|target| target.verdict == verdict);
    match (
        has(Verdict::Failed),
        has(Verdict::Different),
        has(Verdict::Ok),
    ) {
        (true, _, true) | (true, true, _) => Verdict::Partial,
        (true, false, false) => Verdict::Failed,
        (false, true, _) => Verdict::Different,
        (false, false, _) => Verdict::Ok,
    }
}
