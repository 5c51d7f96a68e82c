//! `doctor`: what stands in a resync's way, and what to do about it on which machine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use lockstep_agent::config::fingerprint;
use lockstep_agent::reach::{Reach, ask_once, out_of_turn};
use lockstep_agent::wire::{Answer, Ask};
use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};

use super::Context;
use super::on_cluster::agents;
use crate::cluster_file;
use crate::events::{Event, Finding, Summary};
use crate::failure::usage;
use crate::findings::{Facts, Heard, Line, findings};

/// How long a node may take to say what it knows anyway.
const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// How long a node may take to call all others and run its probes.
const CHECKUP_LIMIT: Duration = Duration::from_secs(60);
/// The exit code of failures that say that a node was not reached.
const EXIT_UNREACHED: u8 = 20;

/// Look for what would make a resync fail: reachability both ways, keys, versions, cluster files,
/// clocks, space, devices, hooks, stopped services, MTU, ports for data.
///
/// Each finding is one line with what to do on which node. Exit 0 if nothing is fatal, 3 if a resync
/// would fail, 20 if a node is not reached.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Only these nodes are asked; all without any
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let path = cluster_file::locate(context.cluster.as_deref())?;
    let agents = agents(context)?;
    let own = std::fs::read(&path)
        .map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
    let nodes = wanted(&agents.nodes(), &arguments.nodes)?;
    let heard = ask(agents.reach(), &nodes);
    let lines = findings(&Facts {
        cluster: &agents.cluster,
        cluster_file: &fingerprint(&own),
        release: env!("CARGO_PKG_VERSION"),
        heard: &heard,
    });
    tell(&lines, context);
    let unreached: Vec<&str> = (heard.iter())
        .filter(|(_, heard)| {
            heard
                .as_ref()
                .is_err_and(|it| it.kind.exit_code() == EXIT_UNREACHED)
        })
        .map(|(node, _)| node.as_str())
        .collect();
    let fatal = lines.iter().filter(|line| line.is_fatal).count();
    context
        .output
        .result(&in_short(nodes.len(), fatal, lines.len()));
    let failure = match (unreached.as_slice(), fatal) {
        ([], 0) => {
            context.output.summary(Summary::blank());
            return Ok(0);
        }
        ([], _) => Failure::new(
            FailureKind::Preflight,
            format!("{} would make a resync fail", counted(fatal, "finding")),
        ),
        (nodes, _) => Failure::new(
            FailureKind::Temporary,
            format!("not reached: {}", nodes.join(", ")),
        ),
    };
    let failure = failure.hint("each finding above says what to do, and where");
    let code = failure.kind.exit_code();
    context.output.summary(Summary::failed(&failure));
    Ok(code)
}

/// All unknown names at once.
fn wanted(known: &[NodeName], named: &[String]) -> Result<Vec<NodeName>, Failure> {
    if named.is_empty() {
        return Ok(known.to_vec());
    }
    let is_known = |name: &&String| known.iter().any(|node| node.as_str() == name.as_str());
    let strangers: Vec<String> = (named.iter())
        .filter(|name| !is_known(name))
        .map(|name| format!("`{name}`"))
        .collect();
    let names: Vec<&str> = known.iter().map(NodeName::as_str).collect();
    if !strangers.is_empty() {
        let message = format!("the cluster file has no node {}", strangers.join(", "));
        return Err(usage(message).hint(format!("there are {}", names.join(", "))));
    }
    let is_named = |node: &&NodeName| named.iter().any(|name| name == node.as_str());
    Ok(known.iter().filter(is_named).cloned().collect())
}

fn ask(reach: &dyn Reach, nodes: &[NodeName]) -> BTreeMap<NodeName, Result<Heard, Failure>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = (nodes.iter())
            .map(|node| (node, scope.spawn(move || ask_one(reach, node))))
            .collect();
        let defect = || Failure::new(FailureKind::Internal, "a thread of lockstep panicked");
        (asked.into_iter())
            .map(|(node, thread)| {
                let heard = thread.join().unwrap_or_else(|_| Err(defect()));
                (node.clone(), heard)
            })
            .collect()
    })
}

fn ask_one(reach: &dyn Reach, node: &NodeName) -> Result<Heard, Failure> {
    let before = now_ms();
    let Answer::Status(status) = ask_once(reach, node, &Ask::Status, STATUS_LIMIT)? else {
        return Err(out_of_turn(node));
    };
    let skew_ms = skew(before, status.now_unix_ms, now_ms());
    let begun = Instant::now();
    let Answer::Checkup(checkup) = ask_once(reach, node, &Ask::Checkup, CHECKUP_LIMIT)? else {
        return Err(out_of_turn(node));
    };
    tracing::debug!(%node, seconds = begun.elapsed().as_secs_f32(), "looked at");
    Ok(Heard { checkup, skew_ms })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// By how much a clock that was read between two readings of this one differs, at least.
fn skew(before: u64, theirs: u64, after: u64) -> i64 {
    let (ahead, behind) = (theirs.saturating_sub(after), before.saturating_sub(theirs));
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(ahead).saturating_sub(signed(behind))
}

fn tell(lines: &[Line], context: &Context) {
    for line in lines {
        context.output.event(&Event::Finding(Finding {
            node: line.node.clone(),
            volume: line.volume.clone(),
            peer: line.peer.clone(),
            check: line.check.word(),
            severity: match line.is_fatal {
                true => "fatal",
                false => "warning",
            },
            message: line.message.clone(),
            fix: line.fix.clone(),
        }));
        context.output.result(&line.sentence());
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn in_short(nodes: usize, fatal: usize, all: usize) -> String {
    let nodes = counted(nodes, "node");
    match all {
        0 => format!("{nodes} looked at: nothing to mend"),
        _ => format!(
            "{nodes} looked at: {fatal} fatal, {}",
            counted(all - fatal, "warning")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{in_short, skew};

    #[test]
    fn only_what_is_sure_of_a_clock_is_told() {
        assert_eq!(skew(1000, 1500, 2000), 0);
        assert_eq!(skew(1000, 5000, 2000), 3000);
        assert_eq!(skew(10_000, 5000, 12_000), -5000);
        assert_eq!(skew(0, u64::MAX, 0), i64::MAX);
    }

    #[test]
    fn the_last_line_counts() {
        assert_eq!(in_short(1, 0, 0), "1 node looked at: nothing to mend");
        assert_eq!(in_short(3, 1, 3), "3 nodes looked at: 1 fatal, 2 warnings");
    }
}
