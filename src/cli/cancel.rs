//! `cancel`: ends the run of a volume that is on.

use std::time::Duration;

use clap::Args;
use lockstep_agent::reach::ask_once;
use lockstep_agent::wire::{Ask, Words};
use lockstep_protocol::Failure;

use super::Context;
use super::on_cluster::agents;
use crate::events::Summary;

const LIMIT: Duration = Duration::from_secs(10);

/// End the run of a volume that is on; what it has begun to overwrite stays inconsistent until the next one.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, or group
    #[arg(value_name = "VOLUME")]
    volume: String,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let selection = agents.select(&arguments.volume, &[])?;
    let primary = agents.primary(&selection)?;
    let ask = Ask::Cancel {
        name: Words::new(&arguments.volume),
    };
    ask_once(agents.reach(), &primary, &ask, LIMIT)?;
    context.output.say(&format!(
        "the run of `{0}` is told to end; `lockstep status {0}` says what is left",
        arguments.volume
    ));
    context.output.summary(Summary::blank());
    Ok(0)
}
