//! `limit`: changes what the run of a volume that is on may use.

use std::time::Duration;

use clap::{ArgGroup, Args};
use lockstep_agent::reach::ask_once;
use lockstep_agent::wire::{Ask, LimitChange, RateChange, Words};
use lockstep_engine::Pace;
use lockstep_protocol::Failure;

use super::Context;
use super::on_cluster::agents;
use super::throttle::PaceChoice;
use crate::events::Summary;
use crate::units;

const LIMIT: Duration = Duration::from_secs(10);

/// Change the limits of the run of a volume that is on, at once; what is not named stays.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
pub(super) struct Arguments {
    /// The volume, or group
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Most bytes a second that are sent, for all secondaries together, or off
    #[arg(long, value_name = "RATE", group = "change", value_parser = rate)]
    limit_rate: Option<RateChange>,
    /// Most bytes a second that are read from the primary's volume, or off
    #[arg(long, value_name = "RATE", group = "change", value_parser = rate)]
    limit_read: Option<RateChange>,
    /// Whether the run yields to others on the primary: auto, off
    #[arg(long, value_enum, value_name = "PACE", group = "change")]
    pace: Option<PaceChoice>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let selection = agents.select(&arguments.volume, &[])?;
    let primary = agents.primary(&selection)?;
    let ask = Ask::Limit {
        name: Words::new(&arguments.volume),
        change: LimitChange {
            rate: arguments.limit_rate,
            read: arguments.limit_read,
            pace: arguments.pace.map(|pace| Pace::from(pace) == Pace::Auto),
        },
    };
    ask_once(agents.reach(), &primary, &ask, LIMIT)?;
    context.output.say(&format!(
        "the run of `{}` has its new limits",
        arguments.volume
    ));
    context.output.summary(Summary::blank());
    Ok(0)
}

fn rate(text: &str) -> Result<RateChange, String> {
    match text {
        "off" => Ok(RateChange::Off),
        _ => units::parse_rate(text)
            .map(RateChange::To)
            .map_err(|error| format!("not off or a rate: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::rate;
    use lockstep_agent::wire::RateChange;

    #[test]
    fn a_limit_is_a_rate_or_off() {
        assert_eq!(rate("off"), Ok(RateChange::Off));
        assert_eq!(rate("2M/s"), Ok(RateChange::To(2 << 20)));
        assert!(rate("fast").unwrap_err().starts_with("not off"));
    }
}
