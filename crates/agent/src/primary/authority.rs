//! Who may ask an agent what. Deny by default.
//!
//! | who | may |
//! | --- | --- |
//! | any operator or node of the cluster file | the status, which says no more than how old what is where |
//! | any operator, and this node itself | a checkup, which says what is wrong here, and whom this node reaches |
//! | another node that has a volume in common with this one | the same |
//! | an operator of the volume | everything that a person asks: runs, undo, cancel, role, history, facts, files |
//! | this node itself, with its own key | the same |
//! | another node with a place for the volume | role and history |
//! | another node that could be the volume's primary | facts and files; its part in a run, which the host judges further |
//! | anybody else | nothing: the connection is refused before a word is said |

use lockstep_cluster::file::{Primary, Volume};
use lockstep_cluster::key::PublicKey;
use lockstep_cluster::value::{NodeName, OperatorName};
use lockstep_protocol::{Failure, FailureKind};

use crate::config::Config;

/// Who asks, by the key that the connection proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A node of the cluster file.
    Node(NodeName),
    /// An operator of the cluster file.
    Operator(OperatorName),
}

impl Caller {
    /// The owner of a key, if the cluster file has it.
    #[must_use]
    pub fn of(config: &Config, key: &PublicKey) -> Option<Self> {
        let cluster = &config.cluster;
        let node = cluster.nodes.iter().find(|node| node.keys.accept(key));
        let operator = cluster.operators.iter().find(|one| one.keys.accept(key));
        match (node, operator) {
            (Some(node), _) => Some(Self::Node(node.name.clone())),
            (None, Some(operator)) => Some(Self::Operator(operator.name.clone())),
            (None, None) => None,
        }
    }

    /// Whether it may know what became of a volume here: its role and its history.
    ///
    /// # Errors
    /// `Auth`.
    pub fn may_know(&self, config: &Config, volume: &Volume) -> Result<(), Failure> {
        match self {
            Self::Node(node) if volume.paths.contains_key(node) => Ok(()),
            _ => self.may_run(config, volume),
        }
    }

    /// Whether it may know what a volume is here: its facts and its files.
    ///
    /// # Errors
    /// `Auth`.
    pub fn may_compare(&self, config: &Config, volume: &Volume) -> Result<(), Failure> {
        let could_be_primary = |node: &NodeName| match &volume.primary {
            Primary::Node(primary) => primary == node,
            Primary::Probe(_) => volume.paths.contains_key(node),
        };
        match self {
            Self::Node(node) if could_be_primary(node) => Ok(()),
            _ => self.may_run(config, volume),
        }
    }

    /// Whether it may have this node look at itself, and call all others.
    ///
    /// # Errors
    /// `Auth`.
    pub fn may_check_up(&self, config: &Config) -> Result<(), Failure> {
        let has_place = |volume: &Volume, node: &NodeName| volume.paths.contains_key(node);
        let may = match self {
            Self::Operator(_) => true,
            Self::Node(node) if *node == config.node => true,
            Self::Node(node) => (config.cluster.volumes.iter())
                .any(|volume| has_place(volume, node) && has_place(volume, &config.node)),
        };
        match may {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Auth,
                format!("{self} has no volume in common with `{}`", config.node),
            )
            .hint("look at it with an operator's key")),
        }
    }

    /// Whether it may start, end and undo runs of a volume from this node.
    ///
    /// # Errors
    /// `Auth`.
    pub fn may_run(&self, config: &Config, volume: &Volume) -> Result<(), Failure> {
        let may = match self {
            Self::Node(node) => *node == config.node,
            Self::Operator(operator) => {
                (volume.operators.as_ref()).is_none_or(|operators| operators.contains(operator))
            }
        };
        match may {
            true => Ok(()),
            false => Err(Failure::new(
                FailureKind::Auth,
                format!("{self} has no such right on `{}`", volume.name),
            )
            .hint("use the key of one of its operators, or the node's own on the node itself")),
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node `{name}`"),
            Self::Operator(name) => write!(f, "operator `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Caller;
    use crate::config::Config;
    use lockstep_cluster::{AgentFile, ClusterFile};
    use std::path::Path;

    fn config(node: &str) -> Config {
        let example = include_bytes!("../../../../docs/cluster.toml");
        Config {
            node: node.parse().unwrap(),
            cluster: ClusterFile::parse(example, Path::new("x")).unwrap(),
            own: AgentFile::default(),
            fingerprint: String::new(),
            state_dir: "/x".into(),
        }
    }

    /// What a caller may of a volume on `db1`: know, compare, run.
    fn rights(caller: &Caller, volume: &str) -> [bool; 3] {
        let config = config("db1");
        let volume = config.cluster.volume(&volume.parse().unwrap()).unwrap();
        [
            caller.may_know(&config, volume).is_ok(),
            caller.may_compare(&config, volume).is_ok(),
            caller.may_run(&config, volume).is_ok(),
        ]
    }

    #[test]
    fn whoever_has_nothing_in_common_with_a_node_has_it_look_at_nothing() {
        let mut config = config("db1");
        // Without them db3 has nothing that db1 has.
        config
            .cluster
            .volumes
            .retain(|volume| volume.name.as_str() == "queue");
        let node = |name: &str| Caller::Node(name.parse().unwrap());
        let operator = Caller::Operator("other".parse().unwrap());
        let may = |caller: Caller| caller.may_check_up(&config).is_ok();
        assert!(may(operator) && may(node("db1")) && may(node("db2")));
        assert!(!may(node("db3")) && !may(node("db9")));
    }

    #[test]
    fn nobody_may_more_than_a_part_needs() {
        let node = |name: &str| Caller::Node(name.parse().unwrap());
        let operator = |name: &str| Caller::Operator(name.parse().unwrap());
        assert_eq!(rights(&operator("ops"), "pgdata"), [true; 3]);
        assert_eq!(rights(&operator("other"), "pgdata"), [false; 3]);
        assert_eq!(rights(&node("db1"), "pgdata"), [true; 3], "itself");
        assert_eq!(rights(&node("db2"), "pgdata"), [true, false, false]);
        assert_eq!(rights(&node("db2"), "queue"), [true, true, false]);
        assert_eq!(rights(&node("db3"), "queue"), [false; 3], "no place");
    }
}
