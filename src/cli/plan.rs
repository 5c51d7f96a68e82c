//! `plan`: what a resync would do, node by node; nothing is written.

use std::path::PathBuf;

use clap::Args;
use lockstep_agent::wire::{Aim, Ended};
use lockstep_cluster::plan::Plan;
use lockstep_protocol::Failure;

use super::Context;
use super::on_cluster::{
    HowOptions, Overwriting, Shown, agents, node_names, run_ask, tell, watched,
};
use crate::output::Output;
use crate::plan_table;
use crate::report::Place;

/// Say what a resync of a volume would do: per node the state, bytes that differ and would be sent, time,
/// downtime, files and services; write nothing (exit 10 if anything would change).
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, or a group of them
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Only these secondaries
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Write the plan to a file, for `resync --plan FILE`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    how: HowOptions,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let output = &context.output;
    let (ended, plans) = made(&arguments.volume, &arguments.nodes, &arguments.how, context)?;
    show(&plans, output);
    if let Some(path) = &arguments.out
        && !plans.is_empty()
    {
        plan_table::write(path, &plans)?;
        output.say(&format!(
            "written to {0}: `lockstep resync {1} --plan {0}` does exactly that",
            path.display(),
            arguments.volume
        ));
    }
    Ok(tell(&ended, Aim::Plan, Place::Aside, output))
}

/// Has the primary make plans.
pub(super) fn made(
    volume: &str,
    nodes: &[String],
    how: &HowOptions,
    context: &Context,
) -> Result<(Ended, Vec<Plan>), Failure> {
    let agents = agents(context)?;
    let selection = agents.select(volume, nodes)?;
    let primary = agents.primary(&selection)?;
    let cancel = watched(&context.output)?;
    let terms = how.terms(&Overwriting::default());
    let ask = run_ask(Aim::Plan, volume, node_names(nodes)?, terms);
    let mut shown = Shown::new(
        Aim::Plan,
        false,
        how.progress(context),
        &context.output,
        &agents,
        &selection,
    );
    let ended = agents.run(&primary, ask, &[], &mut shown, &cancel);
    shown.clear();
    let ended = ended?;
    let plans = ended
        .volumes
        .iter()
        .filter_map(|volume| volume.plan.clone());
    let plans = plans.collect();
    Ok((ended, plans))
}

/// The table, and every plan as an event.
pub(super) fn show(plans: &[Plan], output: &Output) {
    for plan in plans {
        output.event(&crate::events::Event::Plan(crate::events::Planned {
            plan: serde_json::to_value(plan).unwrap_or_default(),
        }));
        plan_table::lines(plan)
            .iter()
            .for_each(|line| output.result(line));
    }
}
