//! What the run amounts to, once every target has ended.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lockstep_ledger::ProofLevel;
use lockstep_protocol::{
    Evidence, Failure, FailureKind, Purpose, UndoNote, UndoStage, VolumeState,
};
use lockstep_volume::Volume;

use super::feed::Feed;
use super::frozen::Frozen;
use super::target::{End, Target};
use crate::outcome::{Consistency, KeptBytes, Outcome, SourceCounts, TargetOutcome, Verdict};
use crate::pace::Paced;
use crate::request::{Request, SnapshotChoice};

/// All that an outcome is made of.
pub(super) struct Ending<'a> {
    pub(super) run: String,
    pub(super) names: &'a [String],
    pub(super) targets: &'a [Target],
    pub(super) feed: &'a Feed,
    pub(super) frozen: &'a Frozen,
    pub(super) purpose: Purpose,
    pub(super) choice: &'a SnapshotChoice,
    pub(super) elapsed: Duration,
    pub(super) paced: Option<Paced>,
}

/// The outcome of a run whose source was opened.
pub(super) fn outcome(ending: &Ending<'_>) -> Outcome {
    let targets: Vec<TargetOutcome> = ending
        .targets
        .iter()
        .zip(ending.names)
        .map(|(target, name)| one(ending, target, name))
        .collect();
    let finish = ending.feed.finished();
    let held = ending.frozen.is_held();
    let proved = finish.is_some_and(|finish| finish.evidence != Evidence::None);
    let aborted = ending.feed.aborted();
    let verdict = whole(&targets);
    Outcome {
        run: ending.run.clone(),
        verdict,
        error: aborted
            .filter(|_| verdict == Verdict::Failed)
            .map(|failure| truthful(failure, targets.iter().any(is_touched))),
        root: finish.map(|finish| finish.root),
        size: ending.frozen.source.size(),
        elapsed: ending.elapsed,
        snapshot: ending.frozen.provider(ending.choice),
        level: ending.frozen.level(),
        proof: proof(ending),
        consistency: if held && (proved || finish.is_none()) {
            Consistency::PointInTime
        } else {
            Consistency::Fuzzy
        },
        source: SourceCounts {
            bytes_read: ending.feed.bytes_read.load(Ordering::Relaxed),
            bytes_hashed: (ending.feed.bytes_scanned.load(Ordering::Relaxed))
                .saturating_sub(ending.feed.bytes_inherited.load(Ordering::Relaxed)),
        },
        paced: ending.paced,
        targets,
    }
}

/// Full only if nobody took over a hash, at either end.
fn proof(ending: &Ending<'_>) -> ProofLevel {
    let evidence = ending.feed.finished().map(|finish| finish.evidence);
    let inherits = |target: &Target| target.facts().stats.bytes_inherited > 0;
    if evidence == Some(Evidence::Delta) || ending.targets.iter().any(inherits) {
        ProofLevel::Delta
    } else {
        ProofLevel::Full
    }
}

/// The outcome of a run that never got as far as its targets.
pub(super) fn unopened(
    request: &Request,
    run: String,
    failure: Failure,
    started: Instant,
) -> Outcome {
    let untouched = |name: &String| TargetOutcome {
        target: name.clone(),
        verdict: Verdict::Failed,
        state: VolumeState::Unknown,
        bytes_differing: 0,
        bytes_written: 0,
        bytes_read: 0,
        bytes_inherited: 0,
        bytes_sent: 0,
        bytes_received: 0,
        elapsed: Duration::ZERO,
        transport: None,
        undo: None,
        error: Some(failure.clone()),
    };
    Outcome {
        run,
        verdict: Verdict::Failed,
        root: None,
        size: 0,
        elapsed: started.elapsed(),
        snapshot: "none",
        level: None,
        proof: ProofLevel::Full,
        consistency: Consistency::Fuzzy,
        source: SourceCounts::default(),
        paced: None,
        targets: request
            .targets
            .iter()
            .map(|target| untouched(&target.name))
            .collect(),
        error: Some(failure),
    }
}

fn one(ending: &Ending<'_>, target: &Target, name: &str) -> TargetOutcome {
    let touched = target.may_be_written();
    let facts = target.facts();
    let differing = target.differing.load(Ordering::Relaxed);
    let resizes = facts.welcome.as_ref().is_some_and(|welcome| {
        welcome
            .present_size
            .is_some_and(|size| size != ending.frozen.source.size())
            && welcome.plan == lockstep_protocol::Plan::Resize
    }) || facts
        .welcome
        .as_ref()
        .is_some_and(|welcome| welcome.present_size.is_none());
    let (verdict, state, error) = match &facts.end {
        Some(End::Verified(state)) => (Verdict::Ok, *state, None),
        Some(End::Compared) => {
            let different = differing > 0 || resizes;
            let standing = facts
                .welcome
                .as_ref()
                .map_or(VolumeState::Unknown, |welcome| welcome.standing);
            let verdict = if different {
                Verdict::Different
            } else {
                Verdict::Ok
            };
            (verdict, standing, None)
        }
        Some(End::Failed(failure, state)) => {
            let unsafe_now = matches!(state, VolumeState::Inconsistent | VolumeState::Failed);
            let failure = truthful(failure.clone(), unsafe_now && touched);
            (Verdict::Failed, *state, Some(failure))
        }
        None => (
            Verdict::Failed,
            VolumeState::Unknown,
            Some(Failure::new(FailureKind::Internal, "the target has no end")),
        ),
    };
    TargetOutcome {
        target: name.to_owned(),
        verdict,
        state,
        bytes_differing: differing,
        bytes_written: match ending.purpose {
            Purpose::Sync => facts.stats.bytes_written,
            Purpose::Compare => 0,
        },
        bytes_read: facts.stats.bytes_read,
        bytes_inherited: facts.stats.bytes_inherited,
        bytes_sent: facts.meter.as_ref().map_or(0, |meter| meter.bytes_sent()),
        bytes_received: facts
            .meter
            .as_ref()
            .map_or(0, |meter| meter.bytes_received()),
        elapsed: facts.elapsed,
        transport: facts.transport,
        undo: facts.undo.as_ref().and_then(kept),
        error,
    }
}

/// What is kept of what was overwritten; an offer that was not taken up is nothing.
fn kept(note: &UndoNote) -> Option<KeptBytes> {
    let kind = note.kept.filter(|_| note.stage != UndoStage::Offered)?;
    Some(KeptBytes {
        kind,
        until_unix_ms: note.until_unix_ms,
        bytes: note.bytes,
    })
}

/// Whether a target's bytes may have been changed and it is not good.
fn is_touched(target: &TargetOutcome) -> bool {
    target
        .error
        .as_ref()
        .is_some_and(|failure| failure.kind == FailureKind::Interrupted)
}

/// "Temporary" and "preflight" promise that nothing was changed.
fn truthful(failure: Failure, touched: bool) -> Failure {
    match failure.kind {
        FailureKind::Temporary | FailureKind::Preflight if touched => Failure {
            kind: FailureKind::Interrupted,
            ..failure
        },
        _ => failure,
    }
}

fn whole(targets: &[TargetOutcome]) -> Verdict {
    let failed = targets
        .iter()
        .filter(|target| target.verdict == Verdict::Failed)
        .count();
    let different = targets
        .iter()
        .any(|target| target.verdict == Verdict::Different);
    match failed {
        0 if different => Verdict::Different,
        0 => Verdict::Ok,
        some if some == targets.len() => Verdict::Failed,
        _ => Verdict::Partial,
    }
}
