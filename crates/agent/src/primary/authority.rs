//! Who may ask an agent what. Deny by default.
//!
//! | who | may |
//! | --- | --- |
//! | an operator of the volume | everything that a person asks: runs, undo, cancel, status, history |
//! | this node itself, with its own key | the same |
//! | another node of the cluster | status, role, facts and files; its part in a run, which the host judges further |
//! | anybody else | nothing: the connection is refused before a word is said |

use lockstep_cluster::file::Volume;
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
                format!("{self} may not start runs of `{}`", volume.name),
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
