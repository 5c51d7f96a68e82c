//! The cluster file, and a node's own `agent.toml`.
//!
//! Reading is in two steps. Each section is read by itself into what was found, with places; then
//! `check` looks at what sections say of each other. Both go on after a mistake, so that all of them
//! are told at once; a [`ClusterFile`] exists only if there was none.

mod agent;
mod check;
mod group;
mod guard;
mod hooks;
mod keys;
mod mistake;
mod node;
mod notify;
mod section;
mod trust;
mod volume;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

pub use agent::{AgentFile, VolumeRules};
pub use group::Group;
pub use hooks::{Hooks, Limits, MAX_LIMIT, MAX_STILL, Moment};
pub use keys::Keys;
pub use mistake::{MAX_MISTAKES, Mistake, Mistakes, Position};
pub use node::{Node, Operator, SshTarget};
pub use notify::{Ending, Login, Mail, Notify, Webhook};
pub use trust::{Keeping, TrustError, Trusted, trust};
pub use volume::{Primary, Volume};

use self::mistake::Notes;
use self::section::{Section, kind};
use crate::value::{ClusterName, NodeName, Unfit, VolumeName};

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most nodes of a cluster.
pub const MAX_NODES: usize = 64;
/// Most operators of a cluster.
pub const MAX_OPERATORS: usize = 64;
/// Most volumes of a cluster; a ledger keeps records of twice as many.
pub const MAX_VOLUMES: usize = 128;
/// The only format so far.
const FORMAT: u64 = 1;

/// A cluster file without mistakes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterFile {
    /// The cluster's name.
    pub name: ClusterName,
    /// Its nodes; no two share a name, an address or a key.
    pub nodes: Vec<Node>,
    /// Who may start runs; no two share a name or a key, with a node neither.
    pub operators: Vec<Operator>,
    /// Its volumes; no two share a name, an id, or a place on a node.
    pub volumes: Vec<Volume>,
    /// Its groups; their names are no volumes', and no volume is in two of them.
    pub groups: Vec<Group>,
    /// Who is told how a resync ended.
    pub notify: Notify,
}

/// Why there is no cluster file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Root would go by a file that others can change.
    #[error("root does not go by {}: {what}", path.display())]
    Exposed {
        /// The file.
        path: std::path::PathBuf,
        /// Who can change it.
        what: String,
        /// What to type.
        remedy: String,
    },
    /// It has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

impl ClusterFile {
    /// Reads a file; root reads none that others can change.
    ///
    /// # Errors
    /// If it cannot be read or relied on, and every mistake in it.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Ok(Self::parse(&bytes_of(path)?, path)?)
    }

    /// Reads the bytes of a file; `name` is what mistakes call it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(bytes: &[u8], name: &Path) -> Result<Self, Mistakes> {
        parsed(bytes, name, read)
    }

    /// The node with a name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    /// The volume with a name.
    #[must_use]
    pub fn volume(&self, name: &VolumeName) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == *name)
    }
}

/// The bytes of a file, if it is a file and not too large to be a configuration.
fn bytes_of(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    guard::check(&file, path)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(failed(io::Error::other("it is larger than 1 MiB"))),
        false => Ok(bytes),
    }
}

/// Runs a reader over a file's root table. What it returns counts only without mistakes.
fn parsed<T>(
    bytes: &[u8],
    name: &Path,
    read: impl FnOnce(Section<'_>, &mut Notes<'_>) -> Option<T>,
) -> Result<T, Mistakes> {
    let mut notes = Notes::new(bytes);
    let value = match std::str::from_utf8(bytes) {
        Ok(text) => {
            let (root, errors) = DeTable::parse_recoverable(text);
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                notes.syntax(span, syntax(error.message()));
            }
            let root = root.into_inner();
            read(Section::new("the file", 0..0, &root), &mut notes)
        }
        Err(error) => {
            let at = error.valid_up_to();
            let unfit = Unfit::new("this is not UTF-8", "save the file as UTF-8 text");
            notes.syntax(at..at, unfit);
            None
        }
    };
    match (notes.into_mistakes(name), value) {
        (Some(mistakes), _) => Err(mistakes),
        (None, Some(value)) => Ok(value),
        // Nothing was found wrong and nothing came of it: never take such a file for good.
        (None, None) => Err(incomplete(name)),
    }
}

fn syntax(message: &str) -> Unfit {
    let remedy = match message {
        "duplicate key" => {
            "keep one of the two; a section that can be repeated has double brackets, as `[[node]]`"
        }
        _ => "see https://toml.io for how a line is written",
    };
    Unfit::new(format!("this is not TOML: {message}"), remedy)
}

fn incomplete(name: &Path) -> Mistakes {
    Mistakes {
        file: name.to_owned(),
        list: vec![Mistake {
            at: Position { line: 1, column: 1 },
            what: "the file is incomplete".to_owned(),
            remedy: "compare it with docs/cluster.toml, and please report this".to_owned(),
        }],
        left_out: 0,
    }
}

/// The format comes first: of a file of another format nothing else can be said.
fn has_known_format(root: &mut Section<'_>, notes: &mut Notes<'_>) -> bool {
    let Some(value) = root.take("format") else {
        notes.missing(
            &(0..0),
            "the file has no `format`",
            format!("add `format = {FORMAT}` as its first line"),
        );
        return true;
    };
    let span: Range<usize> = value.span();
    match value.get_ref() {
        toml::de::DeValue::Integer(number) if number.radix() == 10 && number.as_str() == "1" => {
            true
        }
        toml::de::DeValue::Integer(number) => {
            let what = format!("the file has format {number}, which this version does not know");
            notes.wrong(&span, what, format!("write `format = {FORMAT}`, or use the version of lockstep that the file was written for"));
            false
        }
        other => {
            notes.wrong(
                &span,
                format!("`format` is {}, not a number", kind(other)),
                format!("write `format = {FORMAT}`"),
            );
            true
        }
    }
}

fn read(mut root: Section<'_>, notes: &mut Notes<'_>) -> Option<ClusterFile> {
    if !has_known_format(&mut root, notes) {
        return None;
    }
    let name = root.needed_word::<ClusterName>("cluster", "add `cluster = \"prod\"`", notes);
    let nodes = root.sections("node", "node", MAX_NODES, notes);
    let operators = root.sections("operator", "operator", MAX_OPERATORS, notes);
    let defaults = root.section("defaults", "defaults", notes);
    let volumes = root.sections("volume", "volume", MAX_VOLUMES, notes);
    let groups = root.sections("group", "group", MAX_VOLUMES, notes);
    let notify = root.section("notify", "notify", notes);
    root.finish(notes);

    let defaults = volume::read_defaults(defaults, notes);
    let found = check::Found {
        nodes: nodes
            .into_iter()
            .map(|section| node::read(section, notes))
            .collect(),
        operators: operators
            .into_iter()
            .map(|section| node::read_operator(section, notes))
            .collect(),
        volumes: volumes
            .into_iter()
            .map(|section| volume::read(section, &defaults, notes))
            .collect(),
        groups: groups
            .into_iter()
            .map(|section| group::read(section, notes))
            .collect(),
        default_operators: defaults.operators,
    };
    let notify = notify::read(notify, notes);
    check::check(&found, notes);
    Some(ClusterFile {
        name: name?.value,
        nodes: found
            .nodes
            .into_iter()
            .map(node::FoundNode::whole)
            .collect::<Option<_>>()?,
        operators: found
            .operators
            .into_iter()
            .map(node::FoundOperator::whole)
            .collect::<Option<_>>()?,
        volumes: found
            .volumes
            .into_iter()
            .map(volume::FoundVolume::whole)
            .collect::<Option<_>>()?,
        groups: found
            .groups
            .into_iter()
            .map(group::FoundGroup::whole)
            .collect::<Option<_>>()?,
        notify,
    })
}

#[cfg(test)]
pub(crate) mod tests;
