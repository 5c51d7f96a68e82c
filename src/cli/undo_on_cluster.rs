//! `undo VOLUME NODE`: gives a secondary back what the last resync of it overwrote, through its agent.

use std::time::Duration;

use lockstep_agent::reach::{ask_once, out_of_turn};
use lockstep_agent::wire::{Answer, Ask, HookReport, Words};
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::{NodeName, VolumeName};
use lockstep_engine::Cancel;
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::on_cluster::agents;
use super::request::who;
use crate::agents::Agents;
use crate::consent::{is_answered, plain, somebody_is_there};
use crate::events::{HookInfo, Summary, TargetSummary};
use crate::failure::usage;

/// How long a node may take to say what it keeps.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How long a rollback may take: all of a volume is read back, and services stop and start.
const UNDO_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What is to be brought back.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) node: &'a str,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

pub(super) fn run(wanted: &Wanted<'_>, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let selection = agents.select(wanted.name, &[wanted.node.to_owned()])?;
    let volumes: Vec<VolumeName> = (selection.volumes.iter())
        .map(|volume| volume.name.clone())
        .collect();
    let node = selection.nodes.first().cloned();
    let node = node.ok_or_else(|| usage("no NODE is named"))?;
    let offered = ask(&agents, &node, &volumes, true, LOOK_LIMIT)?;
    for what in &offered.what {
        context.output.say(&format!("{node}: {what}"));
    }
    if wanted.dry_run {
        context.output.summary(Summary {
            dry_run: true,
            targets: vec![offered.summary(&node)],
            ..Summary::blank()
        });
        return Ok(0);
    }
    agree(wanted, &offered.what, context)?;
    let undone = ask(&agents, &node, &volumes, false, UNDO_LIMIT)?;
    for what in &undone.what {
        context.output.result(&format!("{node}: as it was: {what}"));
    }
    context.output.result(&format!("{node}: {}", undone.state));
    let mut target = undone.summary(&node);
    let mut summary = Summary {
        changed: true,
        ..Summary::blank()
    };
    if let Some(failure) = &undone.failure {
        context.output.fail(failure, Some(&node));
        summary.result = "failed";
        summary.exit_code = failure.kind.exit_code();
        target.result = "failed";
        target.error = Some(failure.into());
    }
    let code = summary.exit_code;
    summary.targets = vec![target];
    context.output.summary(summary);
    Ok(code)
}

/// What came of it, or would.
struct Undone {
    state: NodeState,
    bytes: u64,
    hooks: Vec<HookReport>,
    what: Vec<Words>,
    failure: Option<Failure>,
}

impl Undone {
    fn summary(&self, node: &NodeName) -> TargetSummary {
        TargetSummary {
            state: self.state.word(),
            bytes_written: self.bytes,
            hooks: self.hooks.iter().map(HookInfo::from).collect(),
            ..TargetSummary::named(node.to_string())
        }
    }
}

fn ask(
    agents: &Agents,
    node: &NodeName,
    volumes: &[VolumeName],
    dry_run: bool,
    limit: Duration,
) -> Result<Undone, Failure> {
    let ask = Ask::Undo {
        volumes: volumes.to_vec(),
        who: Words::new(&who()),
        dry_run,
    };
    match ask_once(agents.reach(), node, &ask, limit)? {
        Answer::Undone {
            state,
            bytes,
            hooks,
            hooks_left_out,
            what,
            failure,
        } => {
            if hooks_left_out > 0 {
                tracing::warn!(%node, "{hooks_left_out} more hooks ran, of which nothing is told");
            }
            for hook in &hooks {
                if let Some(error) = &hook.error {
                    tracing::warn!(%node, "{} failed: {error}", hook.moment);
                }
            }
            Ok(Undone {
                state,
                bytes,
                hooks,
                what,
                failure: failure.map(Into::into),
            })
        }
        _ => Err(out_of_turn(node)),
    }
}

fn agree(wanted: &Wanted<'_>, offers: &[Words], context: &Context) -> Result<(), Failure> {
    if wanted.yes {
        return Ok(());
    }
    let name = wanted.name;
    let refused = |why: &str| {
        let message = format!("`{name}` on `{}` would be overwritten{why}", wanted.node);
        Failure::new(FailureKind::NotConfirmed, message).hint("give --yes to agree beforehand")
    };
    if !somebody_is_there() {
        return Err(refused(", and there is no terminal to ask on"));
    }
    let mut question = format!(
        "What {} holds now will be overwritten and lost:\n",
        wanted.node
    );
    for offer in offers {
        question.push_str(&format!("  {}\n", plain(offer.as_str())));
    }
    question.push_str(&format!("Type the name `{name}` to go on: "));
    match is_answered(&question, name, &context.output, &Cancel::new()) {
        true => Ok(()),
        false => Err(refused(": not confirmed")),
    }
}
