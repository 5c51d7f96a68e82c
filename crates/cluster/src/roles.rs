//! Who is primary and who is replica of a volume, and what may be resynced.
//!
//! ```text
//!  file: primary = "db1"          ─► db1 is it
//!  probes: what each node printed ─► exactly one `primary`, and every other an answer
//!  the others of `replicas`       ─► secondaries; only they can be overwritten
//! ```
//!
//! Pure: probes are run elsewhere, and what they printed comes in.

use std::collections::BTreeMap;

use crate::file::{Primary, Volume};
use crate::value::{NodeName, VolumeName};

/// What a node says of its role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Its data is the one that counts.
    Primary,
    /// It follows the primary.
    Replica,
}

/// What a probe on a node ended with.
pub type Probed = Result<Role, String>;

/// The role that a probe printed.
///
/// # Errors
/// What is wrong with the output, as a lowercase fragment.
pub fn role_from_output(output: &[u8]) -> Probed {
    match output.trim_ascii() {
        b"primary" => Ok(Role::Primary),
        b"replica" => Ok(Role::Replica),
        b"" => Err("it printed nothing".to_owned()),
        _ => Err("it printed something else than `primary` or `replica`".to_owned()),
    }
}

/// A volume's primary and secondaries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roles {
    /// Where the data comes from.
    pub primary: NodeName,
    /// Which nodes can be overwritten, in the order of the file; never empty.
    pub secondaries: Vec<NodeName>,
}

/// Why a volume cannot be resynced.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RolesUnclear {
    /// Two nodes or more say that they are it.
    #[error("{} all say that they are the primary of `{volume}`", names(nodes))]
    Several {
        /// The volume.
        volume: VolumeName,
        /// Those nodes.
        nodes: Vec<NodeName>,
    },
    /// No node says so.
    #[error(
        "`{volume}` has no primary: {} all say that they are replicas",
        names(nodes)
    )]
    None {
        /// The volume.
        volume: VolumeName,
        /// All its nodes.
        nodes: Vec<NodeName>,
    },
    /// Some nodes gave no answer, and might be it.
    #[error("the role probe of `{volume}` failed on {}", failures(failed))]
    ProbeFailed {
        /// The volume.
        volume: VolumeName,
        /// On which nodes, and why.
        failed: Vec<(NodeName, String)>,
    },
    /// There is nobody to overwrite.
    #[error("`{volume}` has the primary `{primary}`, but no replica")]
    NoReplica {
        /// The volume.
        volume: VolumeName,
        /// Its primary.
        primary: NodeName,
    },
    /// The primary has no path in the file.
    #[error("`{primary}` is the primary of `{volume}`, which has no path there")]
    NoPath {
        /// The volume.
        volume: VolumeName,
        /// Its primary.
        primary: NodeName,
    },
}

impl RolesUnclear {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Several { .. } => {
                "let one of them step down, then run the command again: a resync from the wrong one loses data"
            }
            Self::None { .. } => "promote one node first, or let the probe print `primary` there",
            Self::ProbeFailed { .. } => {
                "run the probe there by hand; it has to print `primary` or `replica` and exit 0"
            }
            Self::NoReplica { .. } => "name a node in `replicas` that is not the primary",
            Self::NoPath { .. } => "add the path to [volume.path]",
        }
    }
}

impl Roles {
    /// The nodes whose probes are needed; none where the file names the primary.
    #[must_use]
    pub fn to_probe(volume: &Volume) -> Vec<&NodeName> {
        match &volume.primary {
            Primary::Node(_) => Vec::new(),
            Primary::Probe(_) => volume.paths.keys().collect(),
        }
    }

    /// The roles of a volume, where `probed` holds what each of [`Roles::to_probe`] said. A node that
    /// is not in it has given no answer.
    ///
    /// # Errors
    /// [`RolesUnclear`]: then nothing of the volume may be overwritten.
    pub fn of(volume: &Volume, probed: &BTreeMap<NodeName, Probed>) -> Result<Self, RolesUnclear> {
        let primary = match &volume.primary {
            Primary::Node(node) => node.clone(),
            Primary::Probe(_) => probed_primary(volume, probed)?,
        };
        if !volume.paths.contains_key(&primary) {
            return Err(RolesUnclear::NoPath {
                volume: volume.name.clone(),
                primary,
            });
        }
        let secondaries: Vec<NodeName> = volume
            .replicas
            .iter()
            .filter(|node| **node != primary)
            .cloned()
            .collect();
        if secondaries.is_empty() {
            return Err(RolesUnclear::NoReplica {
                volume: volume.name.clone(),
                primary,
            });
        }
        Ok(Self {
            primary,
            secondaries,
        })
    }
}

fn probed_primary(
    volume: &Volume,
    probed: &BTreeMap<NodeName, Probed>,
) -> Result<NodeName, RolesUnclear> {
    let nodes: Vec<&NodeName> = Roles::to_probe(volume);
    let says_primary = |node: &&&NodeName| matches!(probed.get(**node), Some(Ok(Role::Primary)));
    let primaries: Vec<NodeName> = nodes
        .iter()
        .filter(says_primary)
        .map(|node| (*node).clone())
        .collect();
    let volume_name = volume.name.clone();
    // Two are worse than one without an answer: it is said first.
    if primaries.len() > 1 {
        return Err(RolesUnclear::Several {
            volume: volume_name,
            nodes: primaries,
        });
    }
    let why = |node: &NodeName| match probed.get(node) {
        Some(Ok(_)) => None,
        Some(Err(why)) => Some(why.clone()),
        None => Some("it gave no answer".to_owned()),
    };
    let failed: Vec<(NodeName, String)> = nodes
        .iter()
        .filter_map(|node| Some(((*node).clone(), why(node)?)))
        .collect();
    if !failed.is_empty() {
        return Err(RolesUnclear::ProbeFailed {
            volume: volume_name,
            failed,
        });
    }
    primaries
        .into_iter()
        .next()
        .ok_or_else(|| RolesUnclear::None {
            volume: volume_name,
            nodes: nodes.into_iter().cloned().collect(),
        })
}

fn names(nodes: &[NodeName]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("`{node}`")).collect();
    names.join(", ")
}

fn failures(failed: &[(NodeName, String)]) -> String {
    let each: Vec<String> = failed
        .iter()
        .map(|(node, why)| format!("`{node}`: {why}"))
        .collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::example;
    use proptest::prelude::{Just, prop_oneof, proptest};

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn volume(primary: &str, replicas: &[&str]) -> Volume {
        let mut volume = example().volumes[0].clone();
        volume.primary = match primary {
            "" => Primary::Probe(vec!["role".to_owned()].try_into().unwrap()),
            node => Primary::Node(name(node)),
        };
        volume.replicas = replicas.iter().map(|node| name(node)).collect();
        volume
    }

    fn probed(answers: &[(&str, Probed)]) -> BTreeMap<NodeName, Probed> {
        answers
            .iter()
            .map(|(node, answer)| (name(node), answer.clone()))
            .collect()
    }

    #[test]
    fn the_file_names_the_primary() {
        let roles = Roles::of(&volume("db1", &["db2", "db3"]), &BTreeMap::new()).unwrap();
        assert_eq!(roles.primary, name("db1"));
        assert_eq!(roles.secondaries, [name("db2"), name("db3")]);
    }

    #[test]
    fn the_probe_finds_the_primary_and_never_overwrites_it() {
        let volume = volume("", &["db1", "db2", "db3"]);
        let answers = [
            ("db1", Ok(Role::Replica)),
            ("db2", Ok(Role::Primary)),
            ("db3", Ok(Role::Replica)),
        ];
        let roles = Roles::of(&volume, &probed(&answers)).unwrap();
        assert_eq!(roles.primary, name("db2"));
        assert_eq!(roles.secondaries, [name("db1"), name("db3")]);
    }

    #[test]
    fn unclear_roles_say_what_is_missing() {
        let any = volume("", &["db2"]);
        let unclear =
            |answers: &[(&str, Probed)]| Roles::of(&any, &probed(answers)).unwrap_err().to_string();
        let (primary, replica) = (Ok(Role::Primary), Ok(Role::Replica));
        let two = unclear(&[
            ("db1", primary.clone()),
            ("db2", primary.clone()),
            ("db3", Err("x".to_owned())),
        ]);
        assert_eq!(
            two,
            "`db1`, `db2` all say that they are the primary of `pgdata`"
        );
        let none = unclear(&[
            ("db1", replica.clone()),
            ("db2", replica.clone()),
            ("db3", replica.clone()),
        ]);
        assert!(none.contains("has no primary"), "{none}");
        let failed = unclear(&[
            ("db1", primary),
            ("db2", Err("it exited with 1".to_owned())),
        ]);
        assert_eq!(
            failed,
            "the role probe of `pgdata` failed on `db2`: it exited with 1; `db3`: it gave no answer"
        );
        let alone = Roles::of(&volume("db2", &["db2"]), &BTreeMap::new()).unwrap_err();
        assert!(alone.to_string().contains("no replica"), "{alone}");
        let mut nowhere = volume("db1", &["db2"]);
        nowhere.paths.remove(&name("db1"));
        assert!(
            Roles::of(&nowhere, &BTreeMap::new())
                .unwrap_err()
                .to_string()
                .contains("no path")
        );
    }

    #[test]
    fn only_the_two_words_are_roles() {
        assert_eq!(role_from_output(b"primary\n"), Ok(Role::Primary));
        assert_eq!(role_from_output(b"  replica \n"), Ok(Role::Replica));
        for bad in [
            &b""[..],
            b"\n",
            b"Primary",
            b"primary replica",
            b"master",
            b"\xff",
        ] {
            assert!(role_from_output(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever the nodes say: a primary only if exactly one says so and every other denies it.
        #[test]
        fn one_primary_or_none(answers in proptest::collection::vec(
            prop_oneof![Just(Some(Ok(Role::Primary))), Just(Some(Ok(Role::Replica))), Just(Some(Err(String::new()))), Just(None)], 3)
        ) {
            let volume = volume("", &["db1", "db2", "db3"]);
            let nodes = ["db1", "db2", "db3"];
            let given: BTreeMap<NodeName, Probed> = nodes.iter().zip(&answers)
                .filter_map(|(node, answer)| Some((name(node), answer.clone()?)))
                .collect();
            let count = |wanted: &Option<Probed>| answers.iter().filter(|answer| *answer == wanted).count();
            let clear = count(&Some(Ok(Role::Primary))) == 1 && count(&Some(Ok(Role::Replica))) == 2;
            let roles = Roles::of(&volume, &given);
            assert_eq!(roles.is_ok(), clear);
            if let Ok(roles) = roles {
                assert!(!roles.secondaries.contains(&roles.primary));
            }
        }
    }
}
