//! What plan, resync and verify have in common: a run of the primary's agent, followed to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use lockstep_agent::wire::{
    Aftermath, Aim, Answer, CompressWord, Ended, RunAsk, RunTerms, Told, UndoWord, Words,
};
use lockstep_cluster::ClusterFile;
use lockstep_cluster::claim::RunName;
use lockstep_cluster::file::Volume;
use lockstep_cluster::plan::Plan;
use lockstep_cluster::selection::Selection;
use lockstep_cluster::value::{NodeName, VolumeName};
use lockstep_engine::{
    Cancel, Compression, Monitor, Outcome, Pace, Paced, Purpose, TargetOutcome, Verdict,
};
use lockstep_protocol::{Failure, VolumeState};

use super::Context;
use super::options::RateOption;
use super::request::{state_dir, who};
use super::throttle::ThrottleOptions;
use crate::agents::{Agents, Follower};
use crate::events::{HookInfo, RunNames, Summary, TargetSummary};
use crate::listener::{Listener, RangeList};
use crate::output::Output;
use crate::progress::{Choice, Progress};
use crate::report::{self, Place};
use crate::signals::{self, Reaction};
use crate::units;

/// How the primary's agent is to do it.
#[derive(Args, Debug)]
pub(super) struct HowOptions {
    /// Most bytes a second that are sent, for all secondaries together, such as 100MB/s
    #[arg(long, value_name = "RATE", env = "LOCKSTEP_LIMIT_RATE", value_parser = units::parse_rate)]
    limit_rate: Option<u64>,
    #[command(flatten)]
    rate: RateOption,
    #[command(flatten)]
    throttle: ThrottleOptions,
    /// Read everything, even if a snapshot says that it did not change
    #[arg(long)]
    no_delta: bool,
    /// Of so many runs, one reads everything
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        env = "LOCKSTEP_FULL_SCAN_RUNS"
    )]
    full_scan_runs: NonZeroU32,
    /// After so many days a run reads everything
    #[arg(
        long,
        value_name = "DAYS",
        default_value = "7",
        env = "LOCKSTEP_FULL_SCAN_DAYS"
    )]
    full_scan_days: u32,
    /// Give up after this time, such as 30m
    #[arg(long, value_name = "TIME", env = "LOCKSTEP_MAX_DURATION", value_parser = units::parse_time)]
    max_duration: Option<Duration>,
    /// Take larger block devices; only their first bytes are made equal
    #[arg(long)]
    allow_larger_target: bool,
    /// How progress is shown: auto (bars on a terminal), plain, none
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "auto",
        env = "LOCKSTEP_PROGRESS"
    )]
    progress: Choice,
}

/// What only an overwriting run is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overwriting {
    pub(super) full: bool,
    pub(super) verify_full: bool,
    pub(super) compress: Compression,
    pub(super) undo: UndoWord,
    pub(super) keep_undo: Duration,
}

impl Default for Overwriting {
    fn default() -> Overwriting {
        Overwriting {
            full: false,
            verify_full: false,
            compress: Compression::Auto,
            undo: UndoWord::Auto,
            keep_undo: Duration::from_secs(24 * 3600),
        }
    }
}

impl HowOptions {
    pub(super) fn terms(&self, overwriting: &Overwriting) -> RunTerms {
        RunTerms {
            full: overwriting.full,
            verify_full: overwriting.verify_full,
            compress: match overwriting.compress {
                Compression::Auto => CompressWord::Auto,
                Compression::Off => CompressWord::Off,
                Compression::Level(level) => CompressWord::Level(level),
            },
            limit_rate: self.limit_rate,
            limit_read: self.throttle.limit_read,
            rate: self.rate.rate,
            priority: self.throttle.priority().into(),
            pace: self.throttle.pace() == Pace::Auto,
            max_seconds: self.max_duration.map(|limit| limit.as_secs().max(1)),
            delta: !self.no_delta,
            full_scan_runs: self.full_scan_runs,
            full_scan_seconds: u64::from(self.full_scan_days) * 24 * 3600,
            undo: overwriting.undo,
            keep_undo_seconds: overwriting.keep_undo.as_secs(),
            allow_larger: self.allow_larger_target,
        }
    }

    pub(super) fn progress(&self, context: &Context) -> Choice {
        match context.quiet {
            true => Choice::None,
            false => self.progress,
        }
    }
}

/// The cluster that a command is about.
pub(super) fn agents(context: &Context) -> Result<Agents, Failure> {
    let state_dir = state_dir(context.state_dir.as_deref())?;
    Agents::open(context.cluster.as_deref(), &state_dir, &context.output)
}

/// What is asked of the primary's agent.
pub(super) fn run_ask(aim: Aim, name: &str, nodes: Vec<NodeName>, terms: RunTerms) -> RunAsk {
    RunAsk {
        aim,
        name: Words::new(name),
        nodes,
        who: Words::new(&who()),
        reason: None,
        epoch: None,
        adopt: Vec::new(),
        max_change: None,
        plans: 0,
        terms,
    }
}

/// Ends with the command when a signal comes; the run itself is the agent's.
pub(super) fn watched(output: &Arc<Output>) -> Result<Arc<Cancel>, Failure> {
    let cancel = Arc::new(Cancel::new());
    signals::watch(
        Reaction::Cancel(Arc::clone(&cancel)),
        Arc::clone(output),
        || {},
    )?;
    Ok(cancel)
}

/// Shows what a run says.
pub(super) struct Shown {
    output: Arc<Output>,
    aim: Aim,
    ranges: bool,
    choice: Choice,
    listener: Option<BTreeMap<VolumeName, Listener>>,
    progress: Vec<Arc<Progress>>,
    names: Vec<String>,
    primary: String,
    /// Of these alone is anything shown: a peer cannot fill the screen.
    volumes: Vec<VolumeName>,
    nodes: BTreeSet<NodeName>,
    /// Its name, once it is known.
    pub(super) run: Arc<Mutex<Option<RunName>>>,
}

impl Shown {
    pub(super) fn new(
        aim: Aim,
        ranges: bool,
        choice: Choice,
        output: &Arc<Output>,
        agents: &Agents,
        selection: &Selection<'_>,
    ) -> Shown {
        let volumes = shown_volumes(&agents.cluster, selection);
        let nodes = volumes.iter().flat_map(|volume| volume.paths.keys());
        Shown {
            nodes: nodes.cloned().collect(),
            volumes: volumes.iter().map(|volume| volume.name.clone()).collect(),
            output: Arc::clone(output),
            aim,
            ranges,
            choice,
            listener: None,
            progress: Vec::new(),
            names: Vec::new(),
            primary: String::new(),
            run: Arc::default(),
        }
    }

    pub(super) fn clear(&self) {
        self.progress.iter().for_each(|progress| progress.clear());
    }
}

/// The volumes of a selection, and those that go with them: a run of a group can be followed by the name
/// of one of its volumes.
fn shown_volumes<'a>(cluster: &'a ClusterFile, selection: &Selection<'_>) -> Vec<&'a Volume> {
    let selected = |name: &VolumeName| selection.volumes.iter().any(|one| one.name == *name);
    let goes_with = |name: &VolumeName| {
        let mut groups = cluster.groups.iter();
        groups.any(|group| group.volumes.contains(name) && group.volumes.iter().any(selected))
    };
    let volumes = cluster.volumes.iter();
    volumes
        .filter(|volume| selected(&volume.name) || goes_with(&volume.name))
        .collect()
}

impl Follower for Shown {
    fn begun(&mut self, head: &Answer) {
        if let Answer::Run {
            run,
            epoch,
            primary,
            targets,
            ..
        } = head
        {
            *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.clone());
            let known = |node: &NodeName| self.nodes.contains(node);
            if targets.len() > self.nodes.len() || !targets.iter().all(known) {
                // Its end is told all the same.
                self.output
                    .warn("the run's secondaries are not those of the cluster file here");
                return;
            }
            self.names = targets.iter().map(ToString::to_string).collect();
            self.primary = primary.to_string();
            let epoch = epoch
                .map(|epoch| format!(", epoch {epoch}"))
                .unwrap_or_default();
            self.output
                .say(&format!("run {run}{epoch}, from {primary}"));
            self.listener = Some(BTreeMap::new());
        }
    }

    fn told(&mut self, volume: &VolumeName, told: &Told) {
        let Some(listeners) = &mut self.listener else {
            return;
        };
        if !self.volumes.contains(volume) {
            return;
        }
        let listener = listeners.entry(volume.clone()).or_insert_with(|| {
            let progress = Arc::new(Progress::new(
                self.choice,
                self.names.clone(),
                Arc::clone(&self.output),
            ));
            self.progress.push(Arc::clone(&progress));
            let names = RunNames {
                source: self.primary.clone(),
                targets: self.names.clone(),
                dry_run: self.aim != Aim::Resync,
            };
            let ranges = match self.ranges {
                true => RangeList::Printed,
                false => RangeList::Left,
            };
            Listener::new(names, ranges, progress, Arc::clone(&self.output))
        });
        listener.notice(told.to_notice());
    }
}

/// Tells how a run ended, for people and programs; returns the exit code.
pub(super) fn tell(ended: &Ended, aim: Aim, place: Place, output: &Output) -> u8 {
    let purpose = match aim {
        Aim::Resync => Purpose::Sync,
        Aim::Plan | Aim::Verify => Purpose::Compare,
    };
    let failure: Option<Failure> = ended.error.clone().map(Into::into);
    let mut outcomes: Vec<(Outcome, &[Aftermath])> = Vec::new();
    for volume in &ended.volumes {
        let outcome = volume.outcome.to_outcome();
        if ended.volumes.len() > 1 {
            output.say(&format!("volume {}:", volume.volume));
        }
        report::report(
            &outcome,
            purpose,
            place,
            Some(volume.volume.as_str()),
            output,
        );
        for (target, aftermath) in outcome.targets.iter().zip(&volume.aftermath) {
            tell_aftermath(target, aftermath, output);
        }
        outcomes.push((outcome, &volume.aftermath));
    }
    if let Some(failure) = &failure {
        output.fail(failure, None);
    }
    let mut whole = merged(ended);
    let mut plans = ended.volumes.iter().filter_map(|it| it.plan.as_ref());
    if whole.verdict == Verdict::Ok && plans.any(Plan::changes_anything) {
        // Equal data, and configuration files that are not.
        whole.verdict = Verdict::Different;
    }
    let mut summary = Summary::of_run(&whole, purpose == Purpose::Compare);
    summary.run = ended.run.to_string();
    summary.epoch = ended.epoch.map(|epoch| epoch.get());
    for (number, target) in summary.targets.iter_mut().enumerate() {
        add_aftermath(target, number, &outcomes);
    }
    let code = summary.exit_code;
    output.summary(summary);
    code
}

fn tell_aftermath(target: &TargetOutcome, aftermath: &Aftermath, output: &Output) {
    for hook in &aftermath.hooks {
        if let Some(error) = &hook.error {
            output.warn(&format!(
                "{}: {} failed: {error}",
                target.target, hook.moment
            ));
        }
    }
    for file in &aftermath.files {
        output.say(&format!(
            "{}: {} is as on the primary",
            target.target,
            file.as_str()
        ));
    }
    if aftermath.files_left_out > 0 {
        output.say(&format!(
            "{}: and {} more files",
            target.target, aftermath.files_left_out
        ));
    }
    if let Some(span) = aftermath
        .downtime_seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
    {
        output.say(&format!(
            "{}: services were down for {}",
            target.target,
            units::span(span)
        ));
    }
}

fn add_aftermath(target: &mut TargetSummary, number: usize, outcomes: &[(Outcome, &[Aftermath])]) {
    let of_target = outcomes
        .iter()
        .filter_map(|(_, aftermath)| aftermath.get(number));
    for aftermath in of_target {
        target
            .files
            .extend(aftermath.files.iter().map(|file| file.as_str().to_owned()));
        target
            .hooks
            .extend(aftermath.hooks.iter().map(HookInfo::from));
        let down = aftermath.downtime_seconds.unwrap_or(0.0);
        if aftermath.downtime_seconds.is_some() {
            target.downtime_seconds = Some(target.downtime_seconds.unwrap_or(0.0).max(down));
        }
    }
}

/// One outcome for all volumes: a secondary is good only with all of them.
pub(super) fn merged(ended: &Ended) -> Outcome {
    let failure: Option<Failure> = ended.error.clone().map(Into::into);
    let mut outcomes = ended
        .volumes
        .iter()
        .map(|volume| volume.outcome.to_outcome());
    let Some(mut whole) = outcomes.next() else {
        return Outcome {
            run: String::new(),
            verdict: Verdict::Failed,
            error: failure,
            root: None,
            size: 0,
            elapsed: Duration::ZERO,
            snapshot: "",
            level: None,
            proof: lockstep_ledger::ProofLevel::Full,
            consistency: lockstep_engine::Consistency::PointInTime,
            source: lockstep_engine::SourceCounts::default(),
            paced: None,
            targets: Vec::new(),
        };
    };
    for other in outcomes {
        // Of several volumes no single root says anything.
        whole.root = None;
        more(&mut whole.size, other.size);
        whole.elapsed = whole.elapsed.saturating_add(other.elapsed);
        more(&mut whole.source.bytes_read, other.source.bytes_read);
        more(&mut whole.source.bytes_hashed, other.source.bytes_hashed);
        whole.paced = both_paced(whole.paced, other.paced);
        for (target, of_other) in whole.targets.iter_mut().zip(&other.targets) {
            add(target, of_other);
        }
        if whole.error.is_none() {
            whole.error = other.error;
        }
    }
    whole.error = failure.or(whole.error);
    whole.verdict = verdict(&whole);
    whole
}

fn both_paced(one: Option<Paced>, other: Option<Paced>) -> Option<Paced> {
    let (Some(one), Some(other)) = (one, other) else {
        return one.or(other);
    };
    let rates = one.lowest_rate.into_iter().chain(other.lowest_rate);
    Some(Paced {
        held: one.held.saturating_add(other.held),
        lowest_rate: rates.min(),
    })
}

/// A peer's number added to another: never past the end.
fn more(sum: &mut u64, number: u64) {
    *sum = sum.saturating_add(number);
}

fn add(target: &mut TargetOutcome, other: &TargetOutcome) {
    more(&mut target.bytes_differing, other.bytes_differing);
    more(&mut target.bytes_written, other.bytes_written);
    more(&mut target.bytes_read, other.bytes_read);
    more(&mut target.bytes_inherited, other.bytes_inherited);
    more(&mut target.bytes_sent, other.bytes_sent);
    more(&mut target.bytes_received, other.bytes_received);
    target.elapsed = target.elapsed.saturating_add(other.elapsed);
    // Of several volumes that failed, the one whose data is worse says why; the others wait for it.
    let badness = |it: &TargetOutcome| (rank(it.verdict), unsafety(it.state));
    if badness(other) > badness(target) {
        target.verdict = other.verdict;
        target.error.clone_from(&other.error);
    }
    if unsafety(other.state) > unsafety(target.state) {
        target.state = other.state;
    }
}

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Ok => 0,
        Verdict::Different => 1,
        Verdict::Partial | Verdict::Failed => 2,
    }
}

fn unsafety(state: VolumeState) -> u8 {
    match state {
        VolumeState::Consistent => 0,
        VolumeState::Unknown => 1,
        VolumeState::Inconsistent => 2,
        VolumeState::Failed => 3,
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    let count = |verdict| {
        (outcome.targets.iter())
            .filter(|target| target.verdict == verdict)
            .count()
    };
    let (failed, different) = (count(Verdict::Failed), count(Verdict::Different));
    match outcome.targets.len() {
        0 => Verdict::Failed,
        _ if outcome.error.is_some() && failed == 0 => Verdict::Failed,
        all if failed == all => Verdict::Failed,
        _ if failed > 0 => Verdict::Partial,
        _ if different > 0 => Verdict::Different,
        _ => Verdict::Ok,
    }
}

/// The nodes that were named, as names.
pub(super) fn node_names(nodes: &[String]) -> Result<Vec<NodeName>, Failure> {
    nodes
        .iter()
        .map(|node| {
            node.parse()
                .map_err(|_| crate::failure::usage(format!("`{node}` is no name of a node")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::merged;
    use lockstep_agent::wire::{Ended, VolumeEnded, WireOutcome};
    use lockstep_engine::{Consistency, Outcome, SourceCounts, TargetOutcome, Verdict};
    use lockstep_ledger::ProofLevel;
    use lockstep_protocol::VolumeState;
    use std::time::Duration;

    /// Two of these are more than a `u64` or a `Duration` holds.
    const HALF: u64 = 1 << 63;

    fn ended(volume: &str) -> VolumeEnded {
        let target = TargetOutcome {
            target: "b".to_owned(),
            verdict: Verdict::Ok,
            state: VolumeState::Consistent,
            bytes_differing: HALF,
            bytes_written: HALF,
            bytes_read: HALF,
            bytes_inherited: HALF,
            bytes_sent: HALF,
            bytes_received: HALF,
            elapsed: Duration::from_secs(HALF),
            transport: None,
            undo: None,
            error: None,
        };
        let outcome = Outcome {
            run: "r".to_owned(),
            verdict: Verdict::Ok,
            error: None,
            root: None,
            size: HALF,
            elapsed: Duration::from_secs(HALF),
            snapshot: "",
            level: None,
            proof: ProofLevel::Full,
            consistency: Consistency::PointInTime,
            source: SourceCounts {
                bytes_read: HALF,
                bytes_hashed: HALF,
            },
            paced: Some(lockstep_engine::Paced {
                held: Duration::from_secs(HALF),
                lowest_rate: Some(HALF),
            }),
            targets: vec![target],
        };
        VolumeEnded {
            volume: volume.parse().unwrap(),
            outcome: WireOutcome::from(&outcome),
            plan: None,
            aftermath: Vec::new(),
        }
    }

    #[test]
    fn what_peers_count_may_be_as_much_as_they_like() {
        let whole = merged(&Ended {
            run: "r".parse().unwrap(),
            epoch: None,
            volumes: vec![ended("a"), ended("b")],
            error: None,
        });
        assert_eq!((whole.size, whole.elapsed), (u64::MAX, Duration::MAX));
        assert_eq!(whole.targets[0].bytes_sent, u64::MAX);
        assert_eq!(whole.targets[0].elapsed, Duration::MAX);
        assert_eq!(whole.verdict, Verdict::Ok);
    }
}
