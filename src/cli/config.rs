//! `config`: whether the cluster file can be used.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lockstep_cluster::value::NodeName;
use lockstep_cluster::{AgentFile, ClusterFile};
use lockstep_protocol::Failure;

use super::Context;
use crate::cluster_file;
use crate::events::Summary;
use crate::failure::usage;

/// Check the configuration of a cluster.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Find every mistake in the cluster file and in this node's agent.toml
    Check {
        /// This node's own settings [default: agent.toml beside the cluster file, if it is there]
        #[arg(long, value_name = "FILE", env = "LOCKSTEP_AGENT")]
        agent: Option<PathBuf>,
    },
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let Verb::Check { agent } = &arguments.verb;
    let output = &context.output;
    let path = cluster_file::locate(context.cluster.as_deref())?;
    let cluster = cluster_file::read(&path, output)?;
    let node = named_node(&cluster, context)?;
    let agent = agent.clone().or_else(|| {
        let beside = path.with_file_name("agent.toml");
        beside.try_exists().unwrap_or(true).then_some(beside)
    });
    if let Some(path) = &agent {
        let agent =
            AgentFile::read(path, &cluster).map_err(|error| cluster_file::failed(error, output))?;
        same_node(node.as_ref(), &agent)?;
        output.say(&format!("{}: no mistakes", path.display()));
    }
    output.result(&format!(
        "{}: no mistakes; {}",
        path.display(),
        in_short(&cluster)
    ));
    output.summary(Summary::blank());
    Ok(0)
}

/// The node that `--node` names, which the file has to have.
fn named_node(cluster: &ClusterFile, context: &Context) -> Result<Option<NodeName>, Failure> {
    let Some(text) = &context.node else {
        return Ok(None);
    };
    let name = text
        .parse::<NodeName>()
        .ok()
        .filter(|name| cluster.node(name).is_some());
    if name.is_none() {
        let known: Vec<&str> = cluster
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let message = format!("the cluster file has no node `{text}`");
        return Err(usage(message).hint(format!("nodes there: {}", known.join(", "))));
    }
    Ok(name)
}

fn same_node(named: Option<&NodeName>, agent: &AgentFile) -> Result<(), Failure> {
    match (named, &agent.node) {
        (Some(named), Some(own)) if named != own => {
            let message = format!("--node says `{named}`, but agent.toml says `{own}`");
            Err(usage(message).hint("leave out one of the two, or correct it"))
        }
        _ => Ok(()),
    }
}

fn in_short(cluster: &ClusterFile) -> String {
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    format!(
        "cluster {}: {}, {}, {}, {}",
        cluster.name,
        count(cluster.nodes.len(), "node"),
        count(cluster.operators.len(), "operator"),
        count(cluster.volumes.len(), "volume"),
        count(cluster.groups.len(), "group"),
    )
}
