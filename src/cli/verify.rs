//! `verify`: whether a volume's secondaries are equal to its primary, by frozen images of all.

use clap::Args;
use lockstep_agent::wire::Aim;
use lockstep_protocol::Failure;

use super::Context;
use super::on_cluster::{
    HowOptions, Overwriting, Shown, agents, node_names, run_ask, tell, watched,
};
use crate::report::Place;

/// Compare the roots of frozen images of a volume on all nodes, and list what differs; change no state
/// (exit 10 if anything differs).
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, or a group of them
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Only these secondaries
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    how: HowOptions,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let selection = agents.select(&arguments.volume, &arguments.nodes)?;
    let primary = agents.primary(&selection)?;
    let cancel = watched(&context.output)?;
    let mut terms = arguments.how.terms(&Overwriting::default());
    // A proof rests on nothing that was not read.
    terms.delta = false;
    let nodes = node_names(&arguments.nodes)?;
    let ask = run_ask(Aim::Verify, &arguments.volume, nodes, terms);
    let mut shown = Shown::new(
        Aim::Verify,
        true,
        arguments.how.progress(context),
        &context.output,
        &agents,
        &selection,
    );
    let ended = agents.run(&primary, ask, &[], &mut shown, &cancel);
    shown.clear();
    Ok(tell(&ended?, Aim::Verify, Place::Aside, &context.output))
}
