//! Who may ask an agent what. Deny by default.
//!
//! | who | may |
//! | --- | --- |
//! | any operator or node of the cluster file | the status, which says no more than how old what is where |
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

    /// What a caller may of a volume on `db1`: know, compare, run.
    fn rights(caller: &Caller, volume: &str) -> [bool; 3] {
        let example = include_bytes!("../../../../docs/cluster.toml");
        let config = Config {
            node: "db1".parse().unwrap(),
            cluster: ClusterFile::parse(example, Path::new("x")).unwrap(),
            own: AgentFile::default(),
            fingerprint: String::new(),
            state_dir: "/x".into(),
        };
        let volume = config.cluster.volume(&volume.parse().unwrap()).unwrap();
        [
            caller.may_know(&config, volume).is_ok(),
            caller.may_compare(&config, volume).is_ok(),
            caller.may_run(&config, volume).is_ok(),
        ]
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
