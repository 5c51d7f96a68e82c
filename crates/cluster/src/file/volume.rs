//! `[[volume]]` and `[defaults]`: what is kept equal, where it lies, and who is told about it.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use super::hooks::{self, Hooks, Limits};
use super::mistake::Notes;
use super::section::{Placed, Section, kind, word};
use crate::value::{
    AbsolutePath, Argv, NodeName, OperatorName, SnapshotWord, VolumeId, VolumeName,
};

const MAX_FILES: usize = 256;

/// A volume of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its identity, which stays when the name or a place changes.
    pub id: VolumeId,
    /// How its primary is known.
    pub primary: Primary,
    /// The nodes that may be overwritten.
    pub replicas: Vec<NodeName>,
    /// Who may start runs of it; none named means every operator of the file.
    pub operators: Option<Vec<OperatorName>>,
    /// How the primary's volume is frozen.
    pub snapshot: SnapshotWord,
    /// Files and folders that are kept equal to the primary's.
    pub files: Vec<AbsolutePath>,
    /// Where it lies on each node.
    pub paths: BTreeMap<NodeName, AbsolutePath>,
    /// What runs around a resync.
    pub hooks: Hooks,
    /// How long that may take.
    pub limits: Limits,
}

/// How a volume's primary is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Primary {
    /// The file says so.
    Node(NodeName),
    /// A program says so on each node: it prints `primary` or `replica`.
    Probe(Argv),
}

/// `[defaults]`: what volumes have that say nothing else.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Defaults {
    pub(super) snapshot: SnapshotWord,
    pub(super) operators: Option<Placed<Vec<Placed<OperatorName>>>>,
    pub(super) hooks: Hooks,
    pub(super) limits: Limits,
}

/// Where a volume lies; a place that makes no sense is named all the same.
pub(super) type FoundPaths = Placed<Vec<(Placed<NodeName>, Option<Placed<AbsolutePath>>)>>;

pub(super) enum FoundPrimary {
    Node(Placed<NodeName>),
    Probe(Argv),
}

/// What reading found of a volume, with the places that other mistakes point at.
pub(super) struct FoundVolume {
    pub(super) title: String,
    pub(super) name: Option<Placed<VolumeName>>,
    pub(super) id: Option<Placed<VolumeId>>,
    pub(super) primary: Option<FoundPrimary>,
    pub(super) replicas: Option<Placed<Vec<Placed<NodeName>>>>,
    pub(super) operators: Option<Placed<Vec<Placed<OperatorName>>>>,
    pub(super) snapshot: SnapshotWord,
    pub(super) files: Vec<AbsolutePath>,
    pub(super) paths: Option<FoundPaths>,
    pub(super) hooks: Hooks,
    pub(super) limits: Limits,
}

pub(super) fn read_defaults(section: Option<Section<'_>>, notes: &mut Notes<'_>) -> Defaults {
    let Some(mut section) = section else {
        return Defaults::default();
    };
    let snapshot = section.word("snapshot", notes);
    let operators = section.words("operators", notes);
    let hooks = section.section("hooks", "defaults.hooks", notes);
    let limits = section.section("limits", "defaults.limits", notes);
    let defaults = Defaults {
        snapshot: snapshot.map(|word| word.value).unwrap_or_default(),
        operators,
        hooks: hooks::read(hooks, &Hooks::default(), notes),
        limits: hooks::read_limits(limits, &Limits::default(), notes),
    };
    section.finish(notes);
    defaults
}

pub(super) fn read(
    mut section: Section<'_>,
    defaults: &Defaults,
    notes: &mut Notes<'_>,
) -> FoundVolume {
    let name = section.needed_word::<VolumeName>("name", "add `name = \"pgdata\"`", notes);
    if let Some(name) = &name {
        section.is_called(name.value.as_str());
    }
    let id = section.needed_word(
        "id",
        "add `id = \"…\"`, with a UUID as `uuidgen` prints it",
        notes,
    );
    let primary = section
        .need(
            "primary",
            "add `primary = \"db1\"`, or `primary = { probe = [\"/usr/local/bin/role\"] }`",
            notes,
        )
        .and_then(|value| primary(value, notes));
    let replicas = replicas(&mut section, notes);
    let operators = section
        .words("operators", notes)
        .or_else(|| defaults.operators.clone());
    let snapshot = section.word("snapshot", notes);
    let files = files(&mut section, notes);
    let paths = section
        .need(
            "path",
            "add `[volume.path]` with a line for each node, such as `db1 = \"/dev/vg0/pgdata\"`",
            notes,
        )
        .and_then(|value| Section::of("volume.path", value, notes))
        .map(|section| paths(&section, notes));
    let hooks = section.section("hooks", "volume.hooks", notes);
    let limits = section.section("limits", "volume.limits", notes);
    let found = FoundVolume {
        title: section.title().to_owned(),
        name,
        id,
        primary,
        replicas,
        operators,
        snapshot: snapshot.map_or_else(|| defaults.snapshot.clone(), |word| word.value),
        files,
        paths,
        hooks: hooks::read(hooks, &defaults.hooks, notes),
        limits: hooks::read_limits(limits, &defaults.limits, notes),
    };
    section.finish(notes);
    found
}

fn primary(value: &Spanned<DeValue<'_>>, notes: &mut Notes<'_>) -> Option<FoundPrimary> {
    match value.get_ref() {
        DeValue::String(_) => word("primary", value, notes).map(FoundPrimary::Node),
        DeValue::Table(table) => {
            let mut section = Section::new("volume.primary", value.span(), table);
            let probe = section.need("probe", "add `probe = [\"/usr/local/bin/role\"]`", notes);
            let probe = probe.and_then(|value| hooks::command("probe", value, notes));
            section.finish(notes);
            probe.map(FoundPrimary::Probe)
        }
        other => {
            notes.wrong(
                &value.span(),
                format!("`primary` is {}, not a node", kind(other)),
                "write one node's name, or `{ probe = [\"/usr/local/bin/role\"] }`: there is one primary at a time",
            );
            None
        }
    }
}

fn replicas(
    section: &mut Section<'_>,
    notes: &mut Notes<'_>,
) -> Option<Placed<Vec<Placed<NodeName>>>> {
    section.need("replicas", "add `replicas = [\"db2\", \"db3\"]`", notes)?;
    let replicas = section.words::<NodeName>("replicas", notes)?;
    if let Some(span) = section.empty_list("replicas") {
        notes.missing(
            &span,
            format!("{} has no replica", section.title()),
            "name at least one node that is to be kept equal to the primary",
        );
    }
    Some(replicas)
}

fn files(section: &mut Section<'_>, notes: &mut Notes<'_>) -> Vec<AbsolutePath> {
    let Some(files) = section.words::<AbsolutePath>("files", notes) else {
        return Vec::new();
    };
    if files.value.len() > MAX_FILES {
        notes.wrong(
            &files.span,
            format!("`files` names {} places", files.value.len()),
            format!("name the folders that they are in: at most {MAX_FILES} places are possible"),
        );
    }
    files.value.into_iter().map(|file| file.value).collect()
}

fn paths(section: &Section<'_>, notes: &mut Notes<'_>) -> FoundPaths {
    let mut paths = Vec::new();
    for (key, value) in section.entries() {
        let node = match key.value.parse::<NodeName>() {
            Ok(name) => Placed {
                value: name,
                span: key.span,
            },
            Err(unfit) => {
                notes.unfit(&key.span, unfit);
                continue;
            }
        };
        let path = word::<AbsolutePath>(node.value.as_str(), value, notes);
        paths.push((node, path));
    }
    Placed {
        value: paths,
        span: section.span().clone(),
    }
}

impl FoundVolume {
    /// The volume, if nothing of it was wrong.
    pub(super) fn whole(self) -> Option<Volume> {
        let values = |list: Placed<Vec<Placed<OperatorName>>>| {
            list.value.into_iter().map(|one| one.value).collect()
        };
        Some(Volume {
            name: self.name?.value,
            id: self.id?.value,
            primary: match self.primary? {
                FoundPrimary::Node(node) => Primary::Node(node.value),
                FoundPrimary::Probe(probe) => Primary::Probe(probe),
            },
            replicas: self
                .replicas?
                .value
                .into_iter()
                .map(|node| node.value)
                .collect(),
            operators: self.operators.map(values),
            snapshot: self.snapshot,
            files: self.files,
            paths: self
                .paths?
                .value
                .into_iter()
                .map(|(node, path)| Some((node.value, path?.value)))
                .collect::<Option<_>>()?,
            hooks: self.hooks,
            limits: self.limits,
        })
    }
}
