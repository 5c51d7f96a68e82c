//! `status` and `history`: how a cluster is, and how it came to be so.

use std::time::Duration;

use clap::Args;
use lockstep_agent::reach::ask_all;
use lockstep_agent::wire::{Answer, Ask, PastRun};
use lockstep_cluster::file::Primary;
use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};
use serde::Serialize;

use super::Context;
use super::on_cluster::{agents, watched};
use crate::agents::Agents;
use crate::events::{Event, Past, Summary, time};
use crate::overview::{Heard, Overview, Probed, Verdict, overview};
use crate::units;

/// How long a node may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(2);
const EXIT_NOT_OK: u8 = 10;

/// Say how the cluster is: OK, DEGRADED or BROKEN, each volume on each node, and what to type next.
///
/// Exit 0 for OK, else 10. --json prints one object.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Only this volume, or group
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
    /// Go on, every two seconds
    #[arg(short, long)]
    watch: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    if let Some(name) = &arguments.volume {
        agents.select(name, &[])?;
    }
    let cancel = watched(&context.output)?;
    loop {
        let overview = look(&agents, arguments.volume.as_deref())?;
        show(&overview, context)?;
        let code = match overview.verdict {
            Verdict::Ok => 0,
            Verdict::Degraded | Verdict::Broken => EXIT_NOT_OK,
        };
        if !arguments.watch {
            return Ok(code);
        }
        let until = std::time::Instant::now() + EVERY;
        while std::time::Instant::now() < until {
            if cancel.cause().is_some() {
                return Ok(code);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn look(agents: &Agents, name: Option<&str>) -> Result<Overview, Failure> {
    let volumes: Vec<_> = match name {
        Some(name) => agents.select(name, &[])?.volumes,
        None => agents.cluster.volumes.iter().collect(),
    };
    let nodes = agents.nodes();
    let answers = ask_all(agents.reach(), &nodes, &Ask::Status, LIMIT);
    let heard: Heard = nodes
        .iter()
        .cloned()
        .zip(answers.into_iter().map(|answer| match answer {
            Ok(Answer::Status(status)) => Ok(status),
            Ok(_) => Err("its agent answered something else".to_owned()),
            Err(failure) => Err(failure.message),
        }))
        .collect();
    let mut probed = Probed::new();
    for volume in &volumes {
        if matches!(volume.primary, Primary::Node(_)) {
            continue;
        }
        let asked: Vec<NodeName> = (volume.paths.keys())
            .filter(|node| heard.get(*node).is_some_and(Result::is_ok))
            .cloned()
            .collect();
        let ask = Ask::Role {
            volume: volume.name.clone(),
        };
        let limit = volume.limits.probe + LIMIT;
        for (node, answer) in asked
            .iter()
            .zip(ask_all(agents.reach(), &asked, &ask, limit))
        {
            let role = match answer {
                Ok(Answer::Role { role }) => role.map_err(|why| why.to_string()),
                Ok(_) => Err("its agent answered something else".to_owned()),
                Err(failure) => Err(failure.message),
            };
            probed.insert((volume.name.to_string(), node.clone()), role);
        }
    }
    Ok(overview(&agents.cluster, volumes, &heard, &probed))
}

fn show(overview: &Overview, context: &Context) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Object<'a> {
        v: u8,
        r#type: &'static str,
        #[serde(flatten)]
        overview: &'a Overview,
    }
    let object = Object {
        v: 1,
        r#type: "status",
        overview,
    };
    let output = &context.output;
    if context.json {
        let line = serde_json::to_string(&object)
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        output.only_line(&line);
        return Ok(());
    }
    output.result(overview.verdict.word());
    overview.lines().iter().for_each(|line| output.result(line));
    if let Some(next) = &overview.next {
        output.result(&format!("next: {next}"));
    }
    Ok(())
}

/// List the runs on a volume, on every node, the newest first.
#[derive(Args, Debug)]
pub(super) struct HistoryArguments {
    /// The volume, or group; all without it
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

pub(super) fn history(arguments: &HistoryArguments, context: &Context) -> Result<u8, Failure> {
    let agents = agents(context)?;
    let output = &context.output;
    let volumes: Vec<_> = match &arguments.volume {
        Some(name) => agents.select(name, &[])?.volumes,
        None => agents.cluster.volumes.iter().collect(),
    };
    let mut silent = None;
    for volume in volumes {
        let nodes: Vec<NodeName> = volume.paths.keys().cloned().collect();
        let ask = Ask::History {
            volume: volume.name.clone(),
        };
        let mut records = Vec::new();
        for (node, answer) in nodes
            .iter()
            .zip(ask_all(agents.reach(), &nodes, &ask, LIMIT))
        {
            match answer {
                Ok(Answer::History { records: theirs }) => {
                    records.extend(theirs.into_iter().map(|record| (node.clone(), record)));
                }
                Ok(_) => {}
                Err(failure) => {
                    output.warn(&failure.message);
                    silent = Some(failure);
                }
            }
        }
        records.sort_by_key(|(_, record)| std::cmp::Reverse(record.started_unix_ms));
        for (node, record) in &records {
            output.event(&Event::Past(Past::of(
                volume.name.as_str(),
                node.as_str(),
                record,
            )));
            output.result(&line(volume.name.as_str(), node, record));
        }
    }
    match silent {
        // Without some nodes it is not the whole history.
        Some(failure) => Err(failure),
        None => {
            output.summary(Summary::blank());
            Ok(0)
        }
    }
}

fn line(volume: &str, node: &NodeName, record: &PastRun) -> String {
    let state = record.state;
    let epoch = match record.epoch {
        0 => "ad hoc".to_owned(),
        epoch => format!("epoch {epoch}"),
    };
    let why = record
        .why
        .as_ref()
        .map(|why| format!("; {why}"))
        .unwrap_or_default();
    format!(
        "{}  {volume}  {node}  {state}  {epoch}  {} written  from {}  by {}  run {}{why}",
        time(record.started_unix_ms),
        units::amount(record.bytes_written),
        record.source,
        record.who,
        record.run,
    )
}
