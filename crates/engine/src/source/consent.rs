//! Asks before existing, differing targets are overwritten.

use std::sync::atomic::Ordering;

use lockstep_merkle::PAGE_SIZE;
use lockstep_protocol::{Failure, FailureKind, Plan, UndoKind};

use super::Run;
use super::target::Target;
use crate::monitor::Phase;
use crate::request::{Consent, PlanLine, PlannedUndo};
use crate::undo::UndoMode;

/// What a log takes beside the pages: for each of its records, and once.
const RECORD_HEAD_BYTES: u64 = 128;
const LOG_FIXED_BYTES: u64 = 64 << 10;

/// Whether every target waits for agreement, needs none, or is over; and one waits.
pub(super) fn all_held_or_over(targets: &[Target]) -> bool {
    let mut held = false;
    for target in targets {
        let facts = target.facts();
        let waits = facts.phase == Some(Phase::Waiting);
        let needs_none = facts
            .welcome
            .as_ref()
            .is_some_and(|welcome| matches!(welcome.plan, Plan::Create | Plan::Resume));
        if !waits && !needs_none && facts.end.is_none() {
            return false;
        }
        held |= waits;
    }
    held
}

/// Asks once for all; lets the targets go on, or ends the run, unless a signal
/// came meanwhile, which ends it by itself. Always `true`: the question is
/// settled.
pub(super) fn settle(run: &Run<'_>, names: &[String]) -> bool {
    let held: Vec<&Target> = run
        .targets
        .iter()
        .filter(|target| target.facts().phase == Some(Phase::Waiting))
        .collect();
    let lines: Vec<PlanLine> = held
        .iter()
        .filter_map(|target| line(run, target, names))
        .collect();
    if let Some(failure) = held.iter().find_map(|target| unkept(run, target, names)) {
        run.abort(failure);
        return true;
    }
    let agreed = lines.is_empty()
        || match &run.request.consent {
            Consent::Given => true,
            Consent::Ask(ask) => ask(&lines),
            Consent::Refused => false,
        };
    if agreed {
        held.iter().for_each(|target| target.proceed());
    } else if run.cancel.cause().is_none() {
        run.abort(refusal(&run.request.consent, &lines));
    }
    true
}

/// What will be overwritten; nothing for an equal target.
fn line(run: &Run<'_>, target: &Target, names: &[String]) -> Option<PlanLine> {
    // Looks at the same facts, whose lock is not to be held then.
    let undo = planned(run, target);
    let facts = target.facts();
    let welcome = facts.welcome.as_ref()?;
    let resized_from = welcome
        .present_size
        .filter(|_| welcome.plan == Plan::Resize);
    let bytes_differing = target.differing.load(Ordering::Relaxed);
    if bytes_differing == 0 && resized_from.is_none() {
        return None;
    }
    Some(PlanLine {
        target: names[target.index].clone(),
        bytes_differing,
        size: run.feed.geometry().size(),
        resized_from,
        undo,
    })
}

/// Whether what is about to be overwritten will be kept.
fn planned(run: &Run<'_>, target: &Target) -> PlannedUndo {
    let policy = run.request.undo;
    if policy.mode == UndoMode::Off {
        return PlannedUndo::Unwanted;
    }
    match why_not_kept(run, target) {
        None => PlannedUndo::Kept(policy.keep),
        Some(why) => PlannedUndo::Lost(why),
    }
}

/// Nothing is overwritten whose undo is required and has no room.
fn unkept(run: &Run<'_>, target: &Target, names: &[String]) -> Option<Failure> {
    let overwrites = line(run, target, names).is_some();
    if run.request.undo.mode != UndoMode::Require || !overwrites {
        return None;
    }
    let why = why_not_kept(run, target)?;
    let name = &names[target.index];
    let message = format!("{name}: --undo require: what is overwritten cannot be kept: {why}");
    Some(
        Failure::new(FailureKind::Preflight, message)
            .hint("make room in its state directory or beside it, or give --undo auto"),
    )
}

/// Why what differs now could not be kept, by the target's offer.
fn why_not_kept(run: &Run<'_>, target: &Target) -> Option<String> {
    let facts = target.facts();
    let Some(note) = &facts.undo else {
        return Some("the target does not say that it can be".to_owned());
    };
    let cut_off = facts
        .welcome
        .as_ref()
        .and_then(|welcome| welcome.present_size)
        .map_or(0, |size| size.saturating_sub(run.feed.geometry().size()));
    let overwritten = target
        .differing
        .load(Ordering::Relaxed)
        .saturating_add(cut_off);
    match note.kept {
        None => Some(note.why.as_str().to_owned()),
        Some(kind) => {
            let needed = needed_bytes(kind, overwritten);
            (needed > note.bytes).then(|| {
                format!(
                    "that takes {needed} bytes, and there is room for {}",
                    note.bytes
                )
            })
        }
    }
}

/// At worst, each page has a record of its own in a log.
fn needed_bytes(kind: UndoKind, overwritten: u64) -> u64 {
    match kind {
        // Of a thin pool there is room for the whole volume, or it is not offered.
        UndoKind::Reflink | UndoKind::Thin => overwritten,
        UndoKind::Log => {
            let heads = overwritten
                .div_ceil(PAGE_SIZE as u64)
                .saturating_mul(RECORD_HEAD_BYTES);
            overwritten
                .saturating_add(heads)
                .saturating_add(LOG_FIXED_BYTES)
        }
    }
}

fn refusal(consent: &Consent, lines: &[PlanLine]) -> Failure {
    let targets: Vec<&str> = lines.iter().map(|line| line.target.as_str()).collect();
    let what = format!("{} would be overwritten", targets.join(", "));
    let failure = match consent {
        Consent::Ask(_) => {
            Failure::new(FailureKind::NotConfirmed, format!("{what}: not confirmed"))
        }
        _ => Failure::new(
            FailureKind::NotConfirmed,
            format!("{what}, and there is no terminal to ask on"),
        ),
    };
    failure.hint("give --yes to agree beforehand")
}
