//! What a resync would do, before it does it: per node what would be overwritten, sent and stopped.
//!
//! Pure: whoever measures hands in [`NodeFacts`] and [`Rates`]. A plan that was written to a file is
//! carried out only if a fresh one says exactly the same ([`Plan::stale_against`]).

mod amount;
mod estimate;
mod files;
mod json;
mod stale;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use amount::{ChangeLimit, Root};
pub use estimate::{Estimate, Rates};
pub use files::{FileDifference, FileState, differences};
pub use json::{FORMAT, MAX_PLAN_BYTES, PlanFileError};
pub use stale::Stale;

use crate::claim::Epoch;
use crate::file::{Moment, Volume};
use crate::roles::Roles;
use crate::value::{Argv, ClusterName, NodeName, VolumeId, VolumeName};

/// Bytes of a page, the unit in which differences are counted.
const PAGE_BYTES: u64 = 4096;

/// What a resync of one volume would do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The format, [`FORMAT`].
    pub v: u8,
    /// The cluster.
    pub cluster: ClusterName,
    /// The volume.
    pub volume: VolumeName,
    /// The volume's id.
    pub id: VolumeId,
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_unix_ms: u64,
    /// Where the data comes from.
    pub primary: NodeName,
    /// The root of the primary's frozen image.
    pub root: Root,
    /// Its size in bytes.
    pub size: u64,
    /// Each secondary, in the order of the file.
    pub nodes: Vec<NodePlan>,
}

/// What a resync would do to one secondary.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlan {
    /// The node.
    pub node: NodeName,
    /// What its ledger says now.
    pub state: NodeState,
    /// The newest epoch that it promised.
    pub epoch: Option<Epoch>,
    /// The file or device, in words that change when it is replaced.
    pub device: String,
    /// The root of what it holds now.
    pub root: Root,
    /// Lockstep never wrote it, and it is not blank: only `--adopt` lets it be overwritten.
    pub needs_adopt: bool,
    /// Bytes of the pages that differ.
    pub bytes_differing: u64,
    /// Bytes that would cross the link.
    pub bytes_to_send: u64,
    /// How long it would take.
    pub estimate: Estimate,
    /// Configuration files that would be replaced.
    pub files: Vec<FileDifference>,
    /// What would be run there, in this order.
    pub services: Vec<Service>,
    /// What a person should know first.
    pub warnings: Vec<String>,
}

/// What a ledger says of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Nothing that can be relied on.
    Unknown,
    /// It was proven equal to its source.
    Consistent,
    /// It is half overwritten.
    Inconsistent,
    /// Its medium failed.
    Failed,
}

/// A hook that would run on a secondary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// `stop`, `configure`, `start` or `check`.
    pub moment: String,
    /// The program and its arguments.
    pub argv: Argv,
}

/// What was measured on a secondary.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeFacts {
    /// The node.
    pub node: NodeName,
    /// What its ledger says.
    pub state: NodeState,
    /// The newest epoch that it promised.
    pub epoch: Option<Epoch>,
    /// Its file or device.
    pub device: String,
    /// The root of what it holds.
    pub root: Root,
    /// The root that its last good run left, if there was one.
    pub last_root: Option<Root>,
    /// Whether Lockstep wrote it before, or there is nothing on it but zeros.
    pub ownership: Ownership,
    /// Bytes of the pages that differ.
    pub bytes_differing: u64,
    /// How many of those would become zeros, which are not sent.
    pub bytes_zero: u64,
    /// Pages that were changed there since its last good run, where that is known.
    pub pages_newer: Option<u64>,
    /// Configuration files that differ.
    pub files: Vec<FileDifference>,
    /// How fast it is.
    pub rates: Rates,
}

/// Whose data is on a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// Lockstep wrote it.
    Ours,
    /// It holds zeros alone, or does not exist yet.
    Blank,
    /// Somebody else wrote it.
    Foreign,
}

/// Why a plan may not be carried out as it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Objection {
    /// Too much would change.
    #[error("{changed} of `{node}` would change, more than --max-change {limit}")]
    TooMuch {
        /// The node.
        node: NodeName,
        /// How much would change.
        changed: ChangeLimit,
        /// How much may.
        limit: ChangeLimit,
    },
    /// It holds data that Lockstep never wrote.
    #[error("`{node}` holds data that lockstep never wrote, on {device}")]
    NotAdopted {
        /// The node.
        node: NodeName,
        /// Its file or device.
        device: String,
    },
}

impl Objection {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::TooMuch { .. } => {
                "see that this is the right volume, then give a higher --max-change".to_owned()
            }
            Self::NotAdopted { node, .. } => {
                format!("if it can be lost, run it again with --adopt {node}")
            }
        }
    }
}

impl Plan {
    /// The plan for a volume whose primary was frozen with this root and size.
    #[must_use]
    pub fn new(
        cluster: &ClusterName,
        volume: &Volume,
        roles: &Roles,
        frozen: Frozen,
        facts: Vec<NodeFacts>,
    ) -> Self {
        let node = |facts: NodeFacts| facts.plan(volume, frozen.size);
        Self {
            v: FORMAT,
            cluster: cluster.clone(),
            volume: volume.name.clone(),
            id: volume.id,
            made_unix_ms: frozen.at_unix_ms,
            primary: roles.primary.clone(),
            root: frozen.root,
            size: frozen.size,
            nodes: facts.into_iter().map(node).collect(),
        }
    }

    /// Whether anything would be overwritten.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.bytes_differing > 0 || !node.files.is_empty())
    }

    /// Why it may not be carried out: too much would change, or something was never adopted.
    #[must_use]
    pub fn objections(&self, limit: Option<ChangeLimit>, adopted: &[NodeName]) -> Vec<Objection> {
        let mut objections = Vec::new();
        for node in &self.nodes {
            if let Some(limit) =
                limit.filter(|limit| limit.is_exceeded(node.bytes_differing, self.size))
            {
                objections.push(Objection::TooMuch {
                    node: node.node.clone(),
                    changed: ChangeLimit::of(node.bytes_differing, self.size),
                    limit,
                });
            }
            if node.needs_adopt && node.bytes_differing > 0 && !adopted.contains(&node.node) {
                objections.push(Objection::NotAdopted {
                    node: node.node.clone(),
                    device: node.device.clone(),
                });
            }
        }
        objections
    }
}

/// A primary's frozen image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// Its root.
    pub root: Root,
    /// Its size in bytes.
    pub size: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

impl NodeFacts {
    fn plan(self, volume: &Volume, size: u64) -> NodePlan {
        let warnings = self.warnings(volume);
        let bytes_to_send = self
            .rates
            .bytes_to_send(size, self.bytes_differing, self.bytes_zero);
        NodePlan {
            estimate: self
                .rates
                .estimate(size, self.bytes_differing, bytes_to_send),
            node: self.node,
            state: self.state,
            epoch: self.epoch,
            device: self.device,
            root: self.root,
            needs_adopt: self.ownership == Ownership::Foreign,
            bytes_differing: self.bytes_differing,
            bytes_to_send,
            files: self.files,
            services: services(volume),
            warnings,
        }
    }

    fn warnings(&self, volume: &Volume) -> Vec<String> {
        let newer = self.pages_newer.filter(|pages| *pages > 0).map(|pages| {
            let bytes = pages.saturating_mul(PAGE_BYTES);
            format!("has changes newer than its last resync: {pages} pages ({bytes} bytes), which will be lost")
        });
        // Where the pages are not known, another root says that there are some.
        let moved = self.last_root.is_some_and(|last| last != self.root);
        let unknown = (self.pages_newer.is_none() && moved).then(|| {
            // A page that is equal to the primary's is not overwritten, whoever changed it.
            let pages = self.bytes_differing.div_ceil(PAGE_BYTES);
            format!(
                "has changes newer than its last resync, which will be lost: at most {pages} pages"
            )
        });
        let foreign = (self.ownership == Ownership::Foreign)
            .then(|| "holds data that lockstep never wrote, which will be lost".to_owned());
        let state = match self.state {
            NodeState::Failed => Some("its disk failed in the last run".to_owned()),
            NodeState::Inconsistent => Some("was left half overwritten by the last run".to_owned()),
            NodeState::Unknown | NodeState::Consistent => None,
        };
        let unstopped = (volume.hooks.at(Moment::Stop).is_none() && self.bytes_differing > 0)
            .then(|| "no `stop` hook: nothing may use the volume there".to_owned());
        [newer, unknown, foreign, state, unstopped]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn services(volume: &Volume) -> Vec<Service> {
    let on_secondaries = [
        Moment::Stop,
        Moment::Configure,
        Moment::Start,
        Moment::Check,
    ];
    let service = |moment: Moment| {
        Some(Service {
            moment: moment.word().to_owned(),
            argv: volume.hooks.at(moment)?.clone(),
        })
    };
    on_secondaries.into_iter().filter_map(service).collect()
}

impl NodeState {
    /// The state in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Consistent => "consistent",
            Self::Inconsistent => "inconsistent",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests;
