//! What a command line means by the names that it gives: a volume or a group, and nodes.

use std::fmt;

use crate::file::{ClusterFile, Volume};
use crate::roles::Roles;
use crate::value::NodeName;

/// Names that the cluster file does not have; all that were given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownNames {
    /// Neither a volume nor a group.
    pub volumes: Vec<String>,
    /// No node.
    pub nodes: Vec<String>,
    /// What there is.
    known: String,
}

impl fmt::Display for UnknownNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |what: &str, names: &[String]| {
            let quoted: Vec<String> = names.iter().map(|name| crate::value::shown(name)).collect();
            (!names.is_empty()).then(|| format!("no {what} {}", quoted.join(", ")))
        };
        let parts = [
            part("volume or group", &self.volumes),
            part("node", &self.nodes),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "the cluster file has {}", parts.join(" and "))
    }
}

impl std::error::Error for UnknownNames {}

impl UnknownNames {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.known
    }
}

/// The volumes of a command, in the order of the file, and the nodes that it is limited to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection<'a> {
    /// One volume, or those of a group.
    pub volumes: Vec<&'a Volume>,
    /// Only these; all if none is named.
    pub nodes: Vec<NodeName>,
}

/// Nodes that were named and are no secondaries of the volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{nodes} cannot be overwritten: not among the secondaries of `{volume}`")]
pub struct NotSecondaries {
    volume: String,
    nodes: String,
}

/// Finds what the names stand for.
///
/// # Errors
/// Every name that stands for nothing, before anything else is looked at.
pub fn select<'a>(
    cluster: &'a ClusterFile,
    volume: &str,
    nodes: &[String],
) -> Result<Selection<'a>, UnknownNames> {
    let found = volumes(cluster, volume);
    let mut selected = Vec::new();
    let mut unknown = Vec::new();
    for name in nodes {
        match cluster.nodes.iter().find(|node| node.name.as_str() == name) {
            Some(node) if selected.contains(&node.name) => {}
            Some(node) => selected.push(node.name.clone()),
            None if unknown.contains(name) => {}
            None => unknown.push(name.clone()),
        }
    }
    if !found.is_empty() && unknown.is_empty() {
        return Ok(Selection {
            volumes: found,
            nodes: selected,
        });
    }
    Err(UnknownNames {
        volumes: if found.is_empty() {
            vec![volume.to_owned()]
        } else {
            Vec::new()
        },
        nodes: unknown,
        known: known(cluster),
    })
}

impl Selection<'_> {
    /// The secondaries of a volume that the command means.
    ///
    /// # Errors
    /// If a named node is none of them, the primary above all.
    pub fn targets(&self, volume: &Volume, roles: &Roles) -> Result<Vec<NodeName>, NotSecondaries> {
        if self.nodes.is_empty() {
            return Ok(roles.secondaries.clone());
        }
        let others = self
            .nodes
            .iter()
            .filter(|node| !roles.secondaries.contains(node));
        let others: Vec<String> = others
            .map(|node| match *node == roles.primary {
                true => format!("`{node}` (the primary)"),
                false => format!("`{node}`"),
            })
            .collect();
        match others.is_empty() {
            true => Ok(self.nodes.clone()),
            false => Err(NotSecondaries {
                volume: volume.name.to_string(),
                nodes: others.join(", "),
            }),
        }
    }
}

fn volumes<'a>(cluster: &'a ClusterFile, name: &str) -> Vec<&'a Volume> {
    let group = cluster
        .groups
        .iter()
        .find(|group| group.name.as_str() == name);
    let is_meant = |volume: &&Volume| match group {
        Some(group) => group.volumes.contains(&volume.name),
        None => volume.name.as_str() == name,
    };
    cluster.volumes.iter().filter(is_meant).collect()
}

fn known(cluster: &ClusterFile) -> String {
    let list = |names: Vec<&str>| match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    let volumes = cluster.volumes.iter().map(|volume| volume.name.as_str());
    let groups = cluster.groups.iter().map(|group| group.name.as_str());
    let nodes = cluster.nodes.iter().map(|node| node.name.as_str());
    format!(
        "volumes and groups there: {}; nodes: {}",
        list(volumes.chain(groups).collect()),
        list(nodes.collect())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::example;
    use std::collections::BTreeMap;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_group_stands_for_its_volumes() {
        let cluster = example();
        let names = |name: &str| {
            let selected = select(&cluster, name, &[]).unwrap();
            selected
                .volumes
                .iter()
                .map(|volume| volume.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("pg"), ["pgdata", "pgwal"]);
        assert_eq!(names("pgwal"), ["pgwal"]);
    }

    #[test]
    fn all_unknown_names_are_told_at_once() {
        let cluster = example();
        let unknown = select(&cluster, "pgdat", &texts(&["db1", "db7", "db8", "db7"])).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "the cluster file has no volume or group `pgdat` and no node `db7`, `db8`"
        );
        assert!(
            unknown
                .remedy()
                .contains("pgdata, pgwal, queue, pg; nodes: db1, db2, db3"),
            "{}",
            unknown.remedy()
        );
        let unknown = select(&cluster, "pgdata", &texts(&["DB1"])).unwrap_err();
        assert_eq!(unknown.to_string(), "the cluster file has no node `DB1`");
    }

    #[test]
    fn only_secondaries_can_be_targets() {
        let cluster = example();
        let roles = Roles::of(&cluster.volumes[0], &BTreeMap::new()).unwrap();
        let targets = |nodes: &[&str]| {
            let selection = select(&cluster, "pgdata", &texts(nodes)).unwrap();
            selection.targets(&cluster.volumes[0], &roles)
        };
        assert_eq!(targets(&[]).unwrap().len(), 2);
        assert_eq!(targets(&["db3", "db3"]).unwrap()[0].as_str(), "db3");
        let refused = targets(&["db3", "db1"]).unwrap_err().to_string();
        assert!(
            refused.starts_with("`db1` (the primary) cannot be overwritten"),
            "{refused}"
        );
    }
}
