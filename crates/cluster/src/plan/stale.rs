//! Whether a plan still says what would happen.

use super::{NodePlan, Plan};
use crate::value::NodeName;

/// One thing that is not as it was when the plan was made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stale {
    /// It is for something else.
    #[error("the {what} is another one: {then} then, {now} now")]
    Other {
        /// What.
        what: &'static str,
        /// In the plan.
        then: String,
        /// Now.
        now: String,
    },
    /// A node is missing or new.
    #[error("`{node}` is {}", if *.is_new { "a secondary now" } else { "no secondary any more" })]
    Nodes {
        /// The node.
        node: NodeName,
        /// Whether it was not there then.
        is_new: bool,
    },
    /// Something about a node changed.
    #[error("on `{node}` the {what} changed")]
    Node {
        /// The node.
        node: NodeName,
        /// What changed.
        what: &'static str,
    },
}

impl Plan {
    /// Everything in which a fresh plan differs from this one; nothing means that exactly this would
    /// be done. Times, estimates and warnings do not count: they say nothing of what is done.
    #[must_use]
    pub fn stale_against(&self, fresh: &Self) -> Vec<Stale> {
        let mut stale = Vec::new();
        let mut other = |what, then: String, now: String| {
            if then != now {
                stale.push(Stale::Other { what, then, now });
            }
        };
        other(
            "cluster",
            self.cluster.to_string(),
            fresh.cluster.to_string(),
        );
        other("volume", self.volume.to_string(), fresh.volume.to_string());
        other("volume's id", self.id.to_string(), fresh.id.to_string());
        other(
            "primary",
            self.primary.to_string(),
            fresh.primary.to_string(),
        );
        other(
            "primary's size",
            self.size.to_string(),
            fresh.size.to_string(),
        );
        other(
            "primary's data",
            self.root.to_string(),
            fresh.root.to_string(),
        );
        for node in &self.nodes {
            match fresh.nodes.iter().find(|now| now.node == node.node) {
                Some(now) => stale.extend(node.stale_against(now)),
                None => stale.push(Stale::Nodes {
                    node: node.node.clone(),
                    is_new: false,
                }),
            }
        }
        let is_new = |now: &&NodePlan| !self.nodes.iter().any(|node| node.node == now.node);
        stale.extend(fresh.nodes.iter().filter(is_new).map(|now| Stale::Nodes {
            node: now.node.clone(),
            is_new: true,
        }));
        stale
    }
}

impl NodePlan {
    fn stale_against(&self, now: &Self) -> impl Iterator<Item = Stale> + use<> {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            node,
            state,
            epoch,
            device,
            root,
            needs_adopt,
            bytes_differing,
            bytes_to_send: _,
            estimate: _,
            files,
            services,
            warnings: _,
        } = self;
        let changed = [
            ("state", *state != now.state),
            ("epoch", *epoch != now.epoch),
            ("file or device", *device != now.device),
            ("data", *root != now.root),
            ("ownership", *needs_adopt != now.needs_adopt),
            (
                "number of differing bytes",
                *bytes_differing != now.bytes_differing,
            ),
            ("set of differing files", *files != now.files),
            ("list of services", *services != now.services),
        ];
        let node = node.clone();
        changed
            .into_iter()
            .filter(|(_, changed)| *changed)
            .map(move |(what, _)| Stale::Node {
                node: node.clone(),
                what,
            })
    }
}
