//! `agent.toml`: what a node says for itself, against which nobody else's word counts.

use std::collections::BTreeMap;
use std::path::Path;

use super::mistake::{Mistakes, Notes};
use super::section::{Placed, Section};
use super::{ClusterFile, FileError, bytes_of, has_known_format, parsed};
use crate::value::{Address, ByteCount, ByteRate, NodeName, VolumeName};

/// Least memory for a run; the same as on the command line.
const MIN_MEMORY_BYTES: u64 = 16 << 20;
const DEFAULT_MEMORY_BYTES: u64 = 128 << 20;
const DEFAULT_RUNS: u64 = 4;
const MAX_RUNS: u64 = 64;

/// A node's own settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentFile {
    /// Which node of the cluster file this machine is.
    pub node: Option<NodeName>,
    /// What to listen on, instead of the address in the cluster file.
    pub listen: Option<Address>,
    /// False: no volume here is ever overwritten, whoever asks.
    pub allow_overwrite: bool,
    /// Most runs at once.
    pub runs: usize,
    /// Most bytes of buffers for one run.
    pub memory: ByteCount,
    /// Most bytes a second that one run sends.
    pub rate: Option<ByteRate>,
    /// Most bytes a second that one run reads from a volume here as its source.
    pub read: Option<ByteRate>,
    /// What holds for single volumes.
    pub volumes: BTreeMap<VolumeName, VolumeRules>,
}

/// A node's rules for one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRules {
    /// False: this volume is never overwritten here.
    pub allow_overwrite: bool,
    /// The only nodes that may overwrite it here; none named means any primary.
    pub sources: Option<Vec<NodeName>>,
}

impl Default for AgentFile {
    fn default() -> Self {
        Self {
            node: None,
            listen: None,
            allow_overwrite: true,
            runs: usize::try_from(DEFAULT_RUNS).unwrap_or(1),
            memory: ByteCount(DEFAULT_MEMORY_BYTES),
            rate: None,
            read: None,
            volumes: BTreeMap::new(),
        }
    }
}

impl AgentFile {
    /// Reads a file and holds it against the cluster file.
    ///
    /// # Errors
    /// If it cannot be read, and every mistake in it.
    pub fn read(path: &Path, cluster: &ClusterFile) -> Result<Self, FileError> {
        Ok(Self::parse(&bytes_of(path)?, path, cluster)?)
    }

    /// Reads the bytes of a file; `name` is what mistakes call it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(bytes: &[u8], name: &Path, cluster: &ClusterFile) -> Result<Self, Mistakes> {
        parsed(bytes, name, |root, notes| read(root, cluster, notes))
    }

    /// Whether this node lets a volume be overwritten with the data of `source`.
    #[must_use]
    pub fn lets_overwrite(&self, volume: &VolumeName, source: &NodeName) -> bool {
        let rules = self.volumes.get(volume);
        self.allow_overwrite
            && rules.is_none_or(|rules| {
                let named = rules.sources.as_ref();
                rules.allow_overwrite && named.is_none_or(|sources| sources.contains(source))
            })
    }
}

fn read(mut root: Section<'_>, cluster: &ClusterFile, notes: &mut Notes<'_>) -> Option<AgentFile> {
    if !has_known_format(&mut root, notes) {
        return None;
    }
    let defaults = AgentFile::default();
    let node = root.word::<NodeName>("node", notes);
    if let Some(node) = &node {
        known_node(node, cluster, notes);
    }
    let listen = root.word::<Address>("listen", notes);
    let allow_overwrite = root.flag("allow_overwrite", notes);
    let limits = root.section("limits", "limits", notes);
    let volumes = root.section("volume", "volume", notes);
    root.finish(notes);
    let mut agent = AgentFile {
        node: node.map(|node| node.value),
        listen: listen.map(|listen| listen.value),
        allow_overwrite: allow_overwrite.unwrap_or(defaults.allow_overwrite),
        ..defaults
    };
    if let Some(limits) = limits {
        read_limits(limits, &mut agent, notes);
    }
    if let Some(volumes) = volumes {
        agent.volumes = read_volumes(&volumes, cluster, notes);
    }
    Some(agent)
}

fn read_limits(mut section: Section<'_>, agent: &mut AgentFile, notes: &mut Notes<'_>) {
    if let Some(runs) = section.number("runs", 1..=MAX_RUNS, notes) {
        agent.runs = usize::try_from(runs.value).unwrap_or(agent.runs);
    }
    if let Some(memory) = section.word::<ByteCount>("memory", notes) {
        if memory.value.0 < MIN_MEMORY_BYTES {
            notes.wrong(
                &memory.span,
                "a run cannot do with so little memory",
                "write at least `16MiB`",
            );
        }
        agent.memory = memory.value;
    }
    agent.rate = section
        .word::<ByteRate>("rate", notes)
        .map(|rate| rate.value);
    agent.read = section
        .word::<ByteRate>("read", notes)
        .map(|rate| rate.value);
    section.finish(notes);
}

fn read_volumes(
    section: &Section<'_>,
    cluster: &ClusterFile,
    notes: &mut Notes<'_>,
) -> BTreeMap<VolumeName, VolumeRules> {
    let mut volumes = BTreeMap::new();
    for (key, value) in section.entries() {
        let name = match key.value.parse::<VolumeName>() {
            Ok(name) => name,
            Err(unfit) => {
                notes.unfit(&key.span, unfit);
                continue;
            }
        };
        if cluster.volume(&name).is_none() {
            notes.missing(
                &key.span,
                format!("the cluster file has no volume `{name}`"),
                "write the name that stands there: a rule for a volume that does not exist protects nothing",
            );
        }
        let title = format!("volume.{name}");
        if let Some(section) = Section::of(&title, value, notes) {
            volumes.insert(name, read_rules(section, cluster, notes));
        }
    }
    volumes
}

fn read_rules(
    mut section: Section<'_>,
    cluster: &ClusterFile,
    notes: &mut Notes<'_>,
) -> VolumeRules {
    let allow_overwrite = section.flag("allow_overwrite", notes);
    let sources = section.words::<NodeName>("sources", notes);
    for node in sources.iter().flat_map(|sources| &sources.value) {
        known_node(node, cluster, notes);
    }
    section.finish(notes);
    VolumeRules {
        allow_overwrite: allow_overwrite.unwrap_or(true),
        sources: sources.map(|sources| sources.value.into_iter().map(|node| node.value).collect()),
    }
}

fn known_node(node: &Placed<NodeName>, cluster: &ClusterFile, notes: &mut Notes<'_>) {
    if cluster.node(&node.value).is_none() {
        notes.missing(
            &node.span,
            format!("the cluster file has no node `{}`", node.value),
            "write the name that stands there",
        );
    }
}
