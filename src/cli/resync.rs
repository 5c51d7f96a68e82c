//! `resync`: overwrites a volume's secondaries with the primary's data, and proves it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lockstep_agent::wire::{Aim, Ask, RunAsk, UndoWord, Words};
use lockstep_cluster::claim::Epoch;
use lockstep_cluster::plan::{ChangeLimit, Plan};
use lockstep_engine::{Cancel, Compression};
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::on_cluster::{
    HowOptions, Overwriting, Shown, agents, node_names, run_ask, tell, watched,
};
use super::plan;
use super::sync::compression;
use crate::agents::Agents;
use crate::consent::{is_answered, plain, somebody_is_there};
use crate::events::Summary;
use crate::failure::usage;
use crate::plan_table;
use crate::report::Place;
use crate::units;

/// Overwrite a volume's secondaries with the primary's data, and prove it.
///
/// Shows what will be overwritten and asks for the volume's name; services are stopped before and started
/// after. What secondaries hold that the primary does not have is lost.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The volume, or a group of them
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Only these secondaries
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Say what would be done, as `plan` does; write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Agree beforehand; needs --confirm
    #[arg(long)]
    yes: bool,
    /// The volume's name once more, with --yes
    #[arg(long, value_name = "VOLUME")]
    confirm: Option<String>,
    /// Do exactly what this file of `plan --out` says, or exit 7
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "attach"])]
    plan: Option<PathBuf>,
    /// The run's fencing number; without it, the next one
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
    /// Overwrite nothing if more than this of a secondary would change, such as 5%
    #[arg(long, value_name = "PCT", value_parser = change_limit)]
    max_change: Option<ChangeLimit>,
    /// Let this node's data be lost though lockstep never wrote it
    #[arg(long, value_name = "NODE")]
    adopt: Vec<String>,
    /// Return as soon as the run is on, and print its name
    #[arg(long, conflicts_with = "attach")]
    detach: bool,
    /// Follow the run of this volume that is on; begin none
    #[arg(long)]
    attach: bool,
    /// Why, for the ledgers and notifications
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Ship everything, compare nothing
    #[arg(long)]
    full: bool,
    /// Keep what is overwritten, for `lockstep undo`: auto, require, off
    #[arg(
        long,
        value_enum,
        value_name = "WHETHER",
        default_value = "auto",
        env = "LOCKSTEP_UNDO"
    )]
    undo: UndoChoice,
    /// How long it is kept after the run
    #[arg(long, value_name = "TIME", default_value = "24h", env = "LOCKSTEP_KEEP_UNDO",
          value_parser = units::parse_time)]
    keep_undo: Duration,
    /// What is re-read from the medium at the end: what was written, or all
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "written",
        env = "LOCKSTEP_VERIFY"
    )]
    verify: VerifyChoice,
    /// Compression of the data: auto, off, or a zstd level
    #[arg(long, value_name = "HOW", default_value = "auto", env = "LOCKSTEP_COMPRESS",
          allow_hyphen_values = true, value_parser = compression)]
    compress: Compression,
    #[command(flatten)]
    how: HowOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VerifyChoice {
    Written,
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum UndoChoice {
    Auto,
    Require,
    Off,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    if arguments.attach {
        return attach(arguments, context);
    }
    let agents = agents(context)?;
    // Names that stand for nothing come before everything else, and all of them at once.
    let named = [&arguments.nodes[..], &arguments.adopt].concat();
    agents.select(&arguments.volume, &named)?;
    let selection = agents.select(&arguments.volume, &arguments.nodes)?;
    let plans = match &arguments.plan {
        Some(path) => plan_table::read(path)?,
        None => Vec::new(),
    };
    for planned in &plans {
        if !selection
            .volumes
            .iter()
            .any(|volume| volume.id == planned.id)
        {
            return Err(usage(format!(
                "the plan is of `{}`, not of `{}`",
                planned.volume, arguments.volume
            )));
        }
    }
    let primary = agents.primary(&selection)?;
    if arguments.dry_run {
        return dry_run(arguments, context);
    }
    let cancel = watched(&context.output)?;
    agree(arguments, &plans, context, &cancel)?;
    let ask = arguments.ask(&plans)?;
    let output = &context.output;
    let mut shown = Shown::new(
        Aim::Resync,
        false,
        arguments.how.progress(context),
        output,
        &agents,
        &selection,
    );
    if arguments.detach {
        return detached(&agents, &primary, ask, &plans, context);
    }
    let ended = agents.run(&primary, ask, &plans, &mut shown, &cancel);
    shown.clear();
    Ok(tell(
        &ended.map_err(|failure| goes_on(failure, arguments))?,
        Aim::Resync,
        Place::Result,
        output,
    ))
}

/// A signal ends the command, not the run.
fn goes_on(failure: Failure, arguments: &Arguments) -> Failure {
    match failure.kind {
        FailureKind::Signal(_) => Failure {
            message: format!("{}; the run goes on", failure.message),
            ..failure
        }
        .hint(format!(
            "follow it with `lockstep resync {0} --attach`, end it with `lockstep cancel {0}`",
            arguments.volume
        )),
        _ => failure,
    }
}

fn dry_run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let (ended, plans) = plan::made(&arguments.volume, &arguments.nodes, &arguments.how, context)?;
    plan::show(&plans, &context.output);
    Ok(tell(&ended, Aim::Plan, Place::Aside, &context.output))
}

fn attach(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let selection = agents.select(&arguments.volume, &arguments.nodes)?;
    let primary = agents.primary(&selection)?;
    let cancel = watched(&context.output)?;
    let mut shown = Shown::new(
        Aim::Resync,
        false,
        arguments.how.progress(context),
        &context.output,
        &agents,
        &selection,
    );
    let ask = Ask::Attach {
        name: Words::new(&arguments.volume),
    };
    let ended = agents.follow(&primary, &ask, &[], &mut shown, &cancel);
    shown.clear();
    let ended = ended.map_err(|failure| goes_on(failure, arguments))?;
    Ok(tell(&ended, Aim::Resync, Place::Result, &context.output))
}

/// Nobody waits: the run's name is all that there is to tell.
fn detached(
    agents: &Agents,
    primary: &lockstep_cluster::value::NodeName,
    ask: RunAsk,
    plans: &[Plan],
    context: &Context,
) -> Result<u8, Failure> {
    let run = agents.begin(primary, ask, plans)?;
    context.output.result(run.as_str());
    context.output.summary(Summary {
        run: run.to_string(),
        ..Summary::blank()
    });
    Ok(0)
}

/// # Errors
/// `NotConfirmed`, with nothing touched.
fn agree(
    arguments: &Arguments,
    plans: &[Plan],
    context: &Context,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let name = &arguments.volume;
    if !plans.is_empty() {
        // Whoever made the plan has seen it.
        return Ok(());
    }
    let refused = |why: String| {
        Failure::new(FailureKind::NotConfirmed, why).hint(format!(
            "look at `lockstep plan {name}`, then give --yes --confirm {name}"
        ))
    };
    if arguments.yes {
        return match &arguments.confirm {
            Some(confirmed) if confirmed == name => Ok(()),
            Some(other) => Err(refused(format!(
                "--confirm names `{other}`, and the volume is `{name}`"
            ))),
            None => Err(refused(
                "--yes needs --confirm with the volume's name".to_owned(),
            )),
        };
    }
    if !somebody_is_there() {
        return Err(refused(format!(
            "the secondaries of `{name}` would be overwritten, and there is no terminal to ask on"
        )));
    }
    let (ended, plans) = plan::made(name, &arguments.nodes, &arguments.how, context)?;
    if let Some(failure) = ended.error {
        return Err(failure.into());
    }
    if plans.iter().any(Plan::changes_anything)
        && !is_answered(&question(name, &plans), name, &context.output, cancel)
    {
        return Err(refused("not confirmed".to_owned()));
    }
    Ok(())
}

fn question(name: &str, plans: &[Plan]) -> String {
    let mut text = String::from("This is about to be done:\n");
    for line in plans.iter().flat_map(plan_table::lines) {
        text.push_str(&format!("  {}\n", plain(&line)));
    }
    text.push_str(
        "The data on these secondaries will be overwritten with the primary's; changes there that the\n\
         primary does not have, unreplicated ones too, are lost.\n",
    );
    text.push_str(&format!("Type the name `{name}` to go on: "));
    text
}

impl Arguments {
    fn ask(&self, plans: &[Plan]) -> Result<RunAsk, Failure> {
        let overwriting = Overwriting {
            full: self.full,
            verify_full: self.verify == VerifyChoice::Full,
            compress: self.compress,
            undo: match self.undo {
                UndoChoice::Auto => UndoWord::Auto,
                UndoChoice::Require => UndoWord::Require,
                UndoChoice::Off => UndoWord::Off,
            },
            keep_undo: self.keep_undo,
        };
        let epoch = match self.epoch {
            Some(number) => {
                Some(Epoch::new(number).ok_or_else(|| usage("an epoch is 1 or higher"))?)
            }
            None => None,
        };
        let mut nodes = node_names(&self.nodes)?;
        if nodes.is_empty() {
            // A plan says which nodes it is about.
            for node in plans.iter().flat_map(|plan| &plan.nodes) {
                if !nodes.contains(&node.node) {
                    nodes.push(node.node.clone());
                }
            }
        }
        Ok(RunAsk {
            reason: self.reason.as_deref().map(Words::new),
            epoch,
            adopt: node_names(&self.adopt)?,
            max_change: self.max_change,
            plans: u8::try_from(plans.len()).map_err(|_| usage("the file has too many plans"))?,
            ..run_ask(
                Aim::Resync,
                &self.volume,
                nodes,
                self.how.terms(&overwriting),
            )
        })
    }
}

fn change_limit(text: &str) -> Result<ChangeLimit, String> {
    text.parse()
        .map_err(|error: lockstep_cluster::value::Unfit| error.to_string())
}
