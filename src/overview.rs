//! How a cluster is: one word, a table, and what to type next. Pure: what nodes said comes in.

use std::collections::BTreeMap;

use lockstep_agent::wire::{NodeStatus, RoleWord, VolumeStatus};
use lockstep_cluster::ClusterFile;
use lockstep_cluster::file::{Primary, Volume};
use lockstep_cluster::value::NodeName;
use serde::Serialize;

use crate::events::time;

/// What a node said, or why it said nothing.
pub(crate) type Heard = BTreeMap<NodeName, Result<NodeStatus, String>>;
/// What nodes said of their roles where probes decide, by volume and node.
pub(crate) type Probed = BTreeMap<(String, NodeName), Result<RoleWord, String>>;

/// The verdict on a volume, or on all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Every secondary is consistent, and everybody answers.
    Ok,
    /// Something is not as it should be, and a good secondary is left.
    Degraded,
    /// No primary, or no good secondary.
    Broken,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Degraded => "DEGRADED",
            Verdict::Broken => "BROKEN",
        }
    }
}

/// A cluster at a glance.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    pub(crate) verdict: Verdict,
    pub(crate) volumes: Vec<VolumeLine>,
    #[serde(skip)]
    pub(crate) next: Option<String>,
}

/// A volume at a glance.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeLine {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) primary: Option<String>,
    pub(crate) nodes: Vec<NodeLine>,
}

/// A volume on a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeLine {
    pub(crate) node: String,
    pub(crate) role: Option<&'static str>,
    pub(crate) state: &'static str,
    pub(crate) epoch: Option<u64>,
    pub(crate) root: Option<String>,
    pub(crate) verified_at: Option<String>,
    pub(crate) link: &'static str,
    pub(crate) run: Option<String>,
    pub(crate) services: &'static str,
    #[serde(skip)]
    why: Option<String>,
}

/// Sums up what nodes said of these volumes.
pub(crate) fn overview<'a>(
    cluster: &ClusterFile,
    volumes: impl IntoIterator<Item = &'a Volume>,
    heard: &Heard,
    probed: &Probed,
) -> Overview {
    let volumes: Vec<VolumeLine> = volumes
        .into_iter()
        .map(|volume| volume_line(volume, heard, probed))
        .collect();
    let verdict = volumes.iter().map(|volume| volume.verdict).max();
    let next = volumes.iter().find_map(next);
    let next = next.or_else(|| strange(cluster, heard));
    Overview {
        verdict: verdict.unwrap_or(Verdict::Ok),
        volumes,
        next,
    }
}

fn volume_line(volume: &Volume, heard: &Heard, probed: &Probed) -> VolumeLine {
    let nodes: Vec<NodeLine> = (volume.paths.keys())
        .filter(|node| is_of(volume, node))
        .map(|node| node_line(volume, node, heard, probed))
        .collect();
    let primaries: Vec<&NodeLine> = (nodes.iter())
        .filter(|node| node.role == Some("primary"))
        .collect();
    let primary = match primaries.as_slice() {
        [one] => Some(one.node.clone()),
        _ => None,
    };
    let is_primary_up = primaries.iter().all(|node| node.link == "up") && primary.is_some();
    let secondaries = || nodes.iter().filter(|node| node.role != Some("primary"));
    let is_good =
        |node: &&NodeLine| node.link == "up" && node.state == "consistent" && node.services == "up";
    let verdict = match (is_primary_up, secondaries().all(|node| is_good(&node))) {
        (true, true) => Verdict::Ok,
        (true, false) if secondaries().any(|node| is_good(&node)) => Verdict::Degraded,
        _ => Verdict::Broken,
    };
    VolumeLine {
        name: volume.name.to_string(),
        verdict,
        primary,
        nodes,
    }
}

fn is_of(volume: &Volume, node: &NodeName) -> bool {
    let is_primary = match &volume.primary {
        Primary::Node(primary) => primary == node,
        Primary::Probe(_) => true,
    };
    is_primary || volume.replicas.contains(node)
}

fn node_line(volume: &Volume, node: &NodeName, heard: &Heard, probed: &Probed) -> NodeLine {
    let status = heard.get(node);
    let known: Option<&VolumeStatus> =
        status.and_then(|status| status.as_ref().ok()?.volumes.get(&volume.name));
    let role = match &volume.primary {
        Primary::Node(primary) if primary == node => Some("primary"),
        Primary::Node(_) => Some("secondary"),
        Primary::Probe(_) => match probed.get(&(volume.name.to_string(), node.clone())) {
            Some(Ok(RoleWord::Primary)) => Some("primary"),
            Some(Ok(RoleWord::Replica)) => Some("secondary"),
            _ => None,
        },
    };
    NodeLine {
        node: node.to_string(),
        role,
        state: known.map_or("unknown", |known| known.state.word()),
        epoch: known.and_then(|known| known.epoch.map(|epoch| epoch.get())),
        root: known.and_then(|known| known.root.as_ref().map(ToString::to_string)),
        verified_at: known.and_then(|known| known.verified_unix_ms.map(time)),
        link: match status {
            Some(Ok(_)) => "up",
            _ => "down",
        },
        run: known.and_then(|known| known.run.as_ref().map(ToString::to_string)),
        services: match known {
            Some(known) if known.is_stopped => "stopped",
            _ => "up",
        },
        why: status.and_then(|status| status.as_ref().err().cloned()),
    }
}

/// What to type for a volume.
fn next(volume: &VolumeLine) -> Option<String> {
    let name = &volume.name;
    if let Some(run) = volume.nodes.iter().find_map(|node| node.run.as_ref()) {
        return Some(format!(
            "lockstep resync {name} --attach   # run {run} is on"
        ));
    }
    if volume.verdict == Verdict::Ok {
        return None;
    }
    if volume.nodes.iter().any(|node| node.link == "down") || volume.primary.is_none() {
        return Some("lockstep doctor".to_owned());
    }
    Some(format!("lockstep plan {name}"))
}

/// Nodes with another cluster file.
fn strange(cluster: &ClusterFile, heard: &Heard) -> Option<String> {
    let mut files = heard.values().flatten().map(|status| &status.cluster_file);
    let first = files.next()?;
    files.any(|file| file != first).then(|| {
        format!(
            "lockstep doctor   # the nodes of {} have not the same cluster file",
            cluster.name
        )
    })
}

impl Overview {
    /// The table, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for volume in &self.volumes {
            let primary = volume.primary.as_deref().unwrap_or("no primary");
            lines.push(format!(
                "{}  {}, primary {primary}",
                volume.name,
                volume.verdict.word()
            ));
            let columns = volume
                .nodes
                .iter()
                .map(|node| node.node.len())
                .max()
                .unwrap_or(0);
            for node in &volume.nodes {
                lines.push(format!("  {:columns$}  {}", node.node, node.sentence()));
            }
        }
        lines
    }
}

impl NodeLine {
    fn sentence(&self) -> String {
        let mut parts = vec![format!("{:9}", self.role.unwrap_or("?"))];
        match (&self.why, self.role) {
            (Some(why), _) => parts.push(format!("no answer: {why}")),
            // What counts is not proved against itself.
            (None, Some("primary")) => {}
            (None, _) => parts.push(format!("{:12}", self.state)),
        }
        if let Some(epoch) = self.epoch {
            parts.push(format!("epoch {epoch}"));
        }
        if let Some(at) = &self.verified_at {
            parts.push(format!("since {at}"));
        }
        if let Some(root) = &self.root {
            parts.push(format!("root {}…", root.get(..12).unwrap_or(root)));
        }
        if self.services == "stopped" {
            parts.push("services stopped".to_owned());
        }
        if let Some(run) = &self.run {
            parts.push(format!("run {run} is on"));
        }
        parts.join("  ").trim_end().to_owned()
    }
}
