//! Asks before existing, differing targets are overwritten.

use std::sync::atomic::Ordering;

use lockstep_protocol::{Failure, FailureKind, Plan};

use super::Run;
use super::target::Target;
use crate::monitor::Phase;
use crate::request::{Consent, PlanLine};

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
    })
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
