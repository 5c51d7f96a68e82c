//! How a node is, and how it sees the others, as `doctor` hears it.

use std::collections::BTreeMap;

use lockstep_cluster::value::{NodeName, VolumeName};
use serde::{Deserialize, Serialize};

use super::ask::{NodeStatus, RoleWord};
use super::fit;
use super::host::WireFailure;
use super::text::Words;

/// How a node is, for `doctor`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkup {
    /// What is known anyway.
    pub status: NodeStatus,
    /// What is not as it should be; what is fatal comes first.
    pub findings: Vec<Finding>,
    /// How much more there is.
    pub findings_left_out: u64,
    /// What the volumes are there.
    pub places: BTreeMap<VolumeName, PlaceSeen>,
    /// Bytes that are free at its state directory.
    pub state_dir_free: Option<u64>,
    /// The other nodes, as it sees them.
    pub peers: BTreeMap<NodeName, PeerSeen>,
}

/// What is left of a sentence about another node: there may be many.
const SHORT: usize = 512;

impl Checkup {
    /// The same, with no more than one frame holds.
    pub(crate) fn fitted(mut self) -> Self {
        self.findings.sort_by_key(|finding| !finding.is_fatal);
        let (findings, left_out) = fit::first(self.findings);
        self.findings = findings;
        self.findings_left_out = self.findings_left_out.saturating_add(left_out);
        let failures = self.peers.values_mut().filter_map(|it| it.failure.as_mut());
        for failure in failures {
            failure.message = failure.message.cut(SHORT);
            failure.hint = failure.hint.cut(SHORT);
        }
        self
    }
}

/// What a volume is on a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceSeen {
    /// File, device, or not there.
    pub kind: PlaceKind,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes of a file that are allocated.
    pub allocated: u64,
    /// Bytes that are free beside it, if it is a file or could become one.
    pub free: Option<u64>,
    /// The node's role, asked now; none if it cannot be said.
    pub role: Option<RoleWord>,
    /// Whether the node's own file lets the volume be overwritten by any primary.
    pub may_be_overwritten: bool,
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// Nothing yet.
    Missing,
    /// It cannot be looked at, or is nothing that can be a volume.
    Unfit,
}

/// How one node sees another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSeen {
    /// Why it was not reached; none if it was.
    pub failure: Option<WireFailure>,
    /// Largest packet on the route to it.
    pub mtu: Option<u32>,
    /// Whether a fresh port there is reached too; none if that was not tried.
    pub data_port: Option<bool>,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// Whether runs fail because of it.
    pub is_fatal: bool,
    /// The volume concerned.
    pub volume: Option<VolumeName>,
    /// What is wrong.
    pub what: Words,
    /// What to do about it, on that node.
    pub fix: Words,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Whether UDP gets through, both ways.
    Reach,
    /// Whether both ends know each other's keys.
    Key,
    /// The protocol and the release.
    Version,
    /// Whether all have the same cluster file.
    ClusterFile,
    /// Whether the clocks agree.
    Clock,
    /// Whether the state directory can be used.
    StateDir,
    /// Whether there is room.
    Space,
    /// What a volume's path leads to.
    Device,
    /// Whether there is one primary.
    Role,
    /// Whether the hooks' programs are there.
    Hook,
    /// Whether services are down.
    Services,
    /// Whether the node lets its volume be overwritten.
    Rights,
    /// The largest packets.
    Mtu,
    /// Whether the ports for data are open.
    DataPort,
}

impl Check {
    /// Its word, as in events.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Check::Reach => "reach",
            Check::Key => "key",
            Check::Version => "version",
            Check::ClusterFile => "cluster-file",
            Check::Clock => "clock",
            Check::StateDir => "state-dir",
            Check::Space => "space",
            Check::Device => "device",
            Check::Role => "role",
            Check::Hook => "hook",
            Check::Services => "services",
            Check::Rights => "rights",
            Check::Mtu => "mtu",
            Check::DataPort => "data-port",
        }
    }
}
