//! `bench net`: memory to memory over the connections of runs.

use clap::Args;
use lockstep_bench::Direction;
use lockstep_protocol::Failure;

use super::DEVICE_SECONDS;
use super::host::{Address, HostOptions};
use super::options::Measuring;
use super::sheet::Sheet;
use crate::cli::Context;
use crate::measures::Bench;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "HOST|NODE",
        help = "[USER@]HOST, or a node of the cluster file that has an `ssh`"
    )]
    host: String,
    #[command(flatten)]
    reach: HostOptions,
    #[command(flatten)]
    pub(super) measuring: Measuring,
}

pub(super) fn run(
    arguments: &Arguments,
    context: &Context,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let limit = arguments.measuring.limit(DEVICE_SECONDS);
    let address = Address::parse(&arguments.host, context)?;
    let host = arguments.reach.host(address, sheet)?;
    // Nothing else is under way yet: later the link's own queues would be part of it.
    let rtt = host.far.round_trip()?;
    for direction in [Direction::To, Direction::From] {
        let flow = host.far.flow(direction, limit)?;
        sheet.add(Bench::of_flow(&host.name, rtt, &flow));
    }
    host.leave();
    Ok(())
}
