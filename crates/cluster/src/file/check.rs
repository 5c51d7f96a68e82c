//! What the sections of a cluster file say of each other.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

use super::group::FoundGroup;
use super::mistake::Notes;
use super::node::{FoundNode, FoundOperator};
use super::section::Placed;
use super::volume::{FoundPrimary, FoundVolume};
use crate::value::{GroupName, NodeName, OperatorName, VolumeName};

/// Everything that was read, right or wrong.
pub(super) struct Found {
    pub(super) nodes: Vec<FoundNode>,
    pub(super) operators: Vec<FoundOperator>,
    pub(super) volumes: Vec<FoundVolume>,
    pub(super) groups: Vec<FoundGroup>,
    pub(super) default_operators: Option<Placed<Vec<Placed<OperatorName>>>>,
}

pub(super) fn check(found: &Found, notes: &mut Notes<'_>) {
    if found.nodes.is_empty() {
        notes.missing(
            &(0..0),
            "the file has no [[node]]",
            "add a `[[node]]` for each machine",
        );
    }
    nobody_twice(found, notes);
    for volume in &found.volumes {
        roles(volume, &found.nodes, notes);
        paths(volume, &found.nodes, notes);
        operators(volume.operators.as_ref(), found, notes);
    }
    operators(found.default_operators.as_ref(), found, notes);
    places(&found.volumes, notes);
    groups(found, notes);
}

fn nobody_twice(found: &Found, notes: &mut Notes<'_>) {
    let remedy = "give each a name of its own";
    unique(
        "node",
        found.nodes.iter().filter_map(|node| node.name.as_ref()),
        remedy,
        notes,
    );
    unique(
        "operator",
        found.operators.iter().filter_map(|one| one.name.as_ref()),
        remedy,
        notes,
    );
    unique(
        "volume",
        found
            .volumes
            .iter()
            .filter_map(|volume| volume.name.as_ref()),
        remedy,
        notes,
    );
    unique(
        "group",
        found.groups.iter().filter_map(|group| group.name.as_ref()),
        remedy,
        notes,
    );
    unique(
        "node with the address",
        found.nodes.iter().filter_map(|node| node.address.as_ref()),
        "give each its own host or port: data would go to the wrong node",
        notes,
    );
    unique(
        "volume with the id",
        found.volumes.iter().filter_map(|volume| volume.id.as_ref()),
        "make another with `uuidgen`: data would go to the wrong volume",
        notes,
    );
    let of_nodes = found.nodes.iter().filter_map(|node| node.keys.as_ref());
    let of_operators = found
        .operators
        .iter()
        .filter_map(|operator| operator.keys.as_ref());
    let each = of_nodes.chain(of_operators).flat_map(|keys| {
        // The same key twice in one list was told there.
        let second = keys
            .each
            .get(1)
            .filter(|second| second.value != keys.each[0].value);
        keys.each.first().into_iter().chain(second)
    });
    unique(
        "node or operator with the key",
        each,
        "every state directory has a key of its own: see `lockstep node show` on each machine",
        notes,
    );
}

/// Reports every value that an earlier one equals.
fn unique<'a, T: Ord + Display + 'a>(
    what: &str,
    each: impl Iterator<Item = &'a Placed<T>>,
    remedy: &str,
    notes: &mut Notes<'_>,
) {
    let mut first: BTreeMap<&T, &Range<usize>> = BTreeMap::new();
    for Placed { value, span } in each {
        if let Some(earlier) = first.get(value) {
            let line = notes.line_of(earlier);
            notes.wrong(
                span,
                format!("there is already a {what} `{value}`, in line {line}"),
                remedy,
            );
        } else {
            first.insert(value, span);
        }
    }
}

fn roles(volume: &FoundVolume, nodes: &[FoundNode], notes: &mut Notes<'_>) {
    let replicas = volume
        .replicas
        .as_ref()
        .map_or(&[][..], |replicas| &replicas.value);
    for replica in replicas {
        known_node(replica, nodes, notes);
    }
    match &volume.primary {
        Some(FoundPrimary::Node(primary)) => {
            known_node(primary, nodes, notes);
            if let Some(both) = replicas
                .iter()
                .find(|replica| replica.value == primary.value)
            {
                notes.wrong(
                    &both.span,
                    format!(
                        "{} is the primary of {}, and cannot be its replica",
                        both.value, volume.title
                    ),
                    "remove it from `replicas`, or let a `probe` say who is primary",
                );
            }
        }
        // Who is primary is not overwritten: a single candidate has nobody to be kept equal.
        Some(FoundPrimary::Probe(_)) => {
            let paths = volume.paths.as_ref().map_or(0, |paths| paths.value.len());
            if let Some(placed) = volume.paths.as_ref().filter(|_| paths < 2) {
                notes.missing(
                    &placed.span,
                    format!("{} has a place on fewer than two nodes", volume.title),
                    "add the path on every node that can be primary or replica",
                );
            }
        }
        None => {}
    }
}

fn known_node(node: &Placed<NodeName>, nodes: &[FoundNode], notes: &mut Notes<'_>) {
    let names: Vec<&NodeName> = nodes
        .iter()
        .filter_map(|node| node.name.as_ref())
        .map(|name| &name.value)
        .collect();
    if !names.contains(&&node.value) {
        notes.missing(
            &node.span,
            format!("there is no node `{}`", node.value),
            format!(
                "write one of {}, or add a [[node]] with this name",
                listed(&names)
            ),
        );
    }
}

fn paths(volume: &FoundVolume, nodes: &[FoundNode], notes: &mut Notes<'_>) {
    let Some(paths) = &volume.paths else {
        return;
    };
    for (node, _) in &paths.value {
        known_node(node, nodes, notes);
    }
    let primary = match &volume.primary {
        Some(FoundPrimary::Node(primary)) => Some(primary),
        _ => None,
    };
    let replicas = volume.replicas.iter().flat_map(|replicas| &replicas.value);
    let needed = primary.into_iter().chain(replicas);
    for node in needed {
        if !paths
            .value
            .iter()
            .any(|(known, _)| known.value == node.value)
        {
            notes.missing(
                &node.span,
                format!("{} has no path on `{}`", volume.title, node.value),
                format!("add `{} = \"/…\"` to its [volume.path]", node.value),
            );
        }
    }
}

fn operators(
    named: Option<&Placed<Vec<Placed<OperatorName>>>>,
    found: &Found,
    notes: &mut Notes<'_>,
) {
    let known: Vec<&OperatorName> = found
        .operators
        .iter()
        .filter_map(|one| one.name.as_ref())
        .map(|name| &name.value)
        .collect();
    for operator in named.iter().flat_map(|named| &named.value) {
        if !known.contains(&&operator.value) {
            notes.missing(
                &operator.span,
                format!("there is no operator `{}`", operator.value),
                format!(
                    "write one of {}, or add an [[operator]] with this name",
                    listed(&known)
                ),
            );
        }
    }
}

/// Two volumes at one place would overwrite each other.
fn places(volumes: &[FoundVolume], notes: &mut Notes<'_>) {
    let mut taken = BTreeMap::new();
    for volume in volumes {
        for (node, path) in volume.paths.iter().flat_map(|paths| &paths.value) {
            let Some(path) = path else {
                continue;
            };
            let earlier = taken.insert((&node.value, &path.value), (&volume.title, &path.span));
            if let Some((title, span)) = earlier {
                let line = notes.line_of(span);
                notes.wrong(
                    &path.span,
                    format!(
                        "{} is already the place of {title} on `{}`, in line {line}",
                        path.value, node.value
                    ),
                    "give each volume a place of its own: one would overwrite the other",
                );
            }
        }
    }
}

fn groups(found: &Found, notes: &mut Notes<'_>) {
    let volumes: Vec<(&VolumeName, &FoundVolume)> = found
        .volumes
        .iter()
        .filter_map(|volume| Some((&volume.name.as_ref()?.value, volume)))
        .collect();
    let mut taken: BTreeMap<&VolumeName, (&str, usize)> = BTreeMap::new();
    for group in &found.groups {
        if let Some(name) = &group.name {
            not_a_volumes(name, &volumes, notes);
        }
        let mut members = Vec::new();
        for volume in group.volumes.iter().flat_map(|volumes| &volumes.value) {
            let Some((_, member)) = volumes.iter().find(|(name, _)| **name == volume.value) else {
                let names: Vec<&VolumeName> = volumes.iter().map(|(name, _)| *name).collect();
                notes.missing(
                    &volume.span,
                    format!("there is no volume `{}`", volume.value),
                    format!(
                        "write one of {}, or add a [[volume]] with this name",
                        listed(&names)
                    ),
                );
                continue;
            };
            let line = notes.line_of(&volume.span);
            if let Some((title, line)) = taken.insert(&volume.value, (&group.title, line)) {
                notes.wrong(
                    &volume.span,
                    format!(
                        "the volume `{}` is already in {title}, in line {line}",
                        volume.value
                    ),
                    "a volume can be in one group; put all that belong together into one",
                );
            }
            members.push((volume, *member));
        }
        alike(&members, notes);
    }
}

fn not_a_volumes(
    name: &Placed<GroupName>,
    volumes: &[(&VolumeName, &FoundVolume)],
    notes: &mut Notes<'_>,
) {
    if volumes
        .iter()
        .any(|(volume, _)| volume.as_str() == name.value.as_str())
    {
        notes.wrong(
            &name.span,
            format!("a volume is called `{}` too", name.value),
            "give the group another name: it stands where a volume's can",
        );
    }
}

/// Volumes that are frozen and marked together have one primary and the same replicas.
fn alike(members: &[(&Placed<VolumeName>, &FoundVolume)], notes: &mut Notes<'_>) {
    let Some(((first_name, first), others)) = members.split_first() else {
        return;
    };
    for (name, other) in others {
        let (Some(left), Some(right)) = (&first.primary, &other.primary) else {
            continue;
        };
        if !left.is_same(right) || replicas(first) != replicas(other) {
            notes.wrong(
                &name.span,
                format!(
                    "`{}` and `{}` of one group have not the same primary and replicas",
                    first_name.value, name.value
                ),
                "give the volumes of a group the same `primary` and `replicas`",
            );
        }
    }
}

fn replicas(volume: &FoundVolume) -> Option<Vec<&NodeName>> {
    let replicas = volume.replicas.as_ref()?;
    let mut names: Vec<&NodeName> = replicas
        .value
        .iter()
        .map(|replica| &replica.value)
        .collect();
    names.sort();
    Some(names)
}

impl FoundPrimary {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Node(left), Self::Node(right)) => left.value == right.value,
            (Self::Probe(left), Self::Probe(right)) => left == right,
            _ => false,
        }
    }
}

/// Names for a remedy.
fn listed<T: Display>(names: &[T]) -> String {
    const MAX_LISTED: usize = 8;
    if names.is_empty() {
        return "those that there are (none yet)".to_owned();
    }
    let shown: Vec<String> = names
        .iter()
        .take(MAX_LISTED)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = if names.len() > MAX_LISTED {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}
