//! `[[node]]` and `[[operator]]`: who is who, and by which key.

use std::str::FromStr;

use super::keys::{self, Keys, PlacedKeys};
use super::mistake::Notes;
use super::section::{Placed, Section};
use crate::value::{Address, NodeName, OperatorName, Unfit, shown};

/// A machine of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Where its agent is reached, over UDP.
    pub address: Address,
    /// By which keys it is known.
    pub keys: Keys,
    /// `[USER@]HOST` for ssh, for `init` and `doctor`.
    pub ssh: Option<SshTarget>,
}

/// Someone who may start runs from any machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operator {
    /// Their name.
    pub name: OperatorName,
    /// By which keys they are known.
    pub keys: Keys,
}

/// Where ssh goes: `[USER@]HOST`, which cannot be taken for an option.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SshTarget(String);

impl SshTarget {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SshTarget {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        const MAX_BYTES: usize = 320;
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('-')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.:[]%+".contains(c))
        };
        let (user, host) = text
            .split_once('@')
            .map_or((None, text), |(user, host)| (Some(user), host));
        if text.len() <= MAX_BYTES && user.is_none_or(plain) && plain(host) {
            return Ok(Self(text.to_owned()));
        }
        let what = format!("{} is not where ssh could go", shown(text));
        Err(Unfit::new(
            what,
            "write `USER@HOST` or `HOST`; options belong into ~/.ssh/config",
        ))
    }
}

/// What reading found of a node, with the places that other mistakes point at.
pub(super) struct FoundNode {
    pub(super) name: Option<Placed<NodeName>>,
    pub(super) address: Option<Placed<Address>>,
    pub(super) keys: Option<PlacedKeys>,
    pub(super) ssh: Option<SshTarget>,
}

pub(super) struct FoundOperator {
    pub(super) name: Option<Placed<OperatorName>>,
    pub(super) keys: Option<PlacedKeys>,
}

pub(super) fn read(mut section: Section<'_>, notes: &mut Notes<'_>) -> FoundNode {
    let name = section.needed_word::<NodeName>("name", "add `name = \"db1\"`", notes);
    if let Some(name) = &name {
        section.is_called(name.value.as_str());
    }
    let address =
        section.needed_word::<Address>("address", "add `address = \"10.0.0.11:7801\"`", notes);
    if let Some(address) = address
        .as_ref()
        .filter(|address| address.value.is_unspecified())
    {
        notes.wrong(
            &address.span,
            format!("nobody reaches a node at {}", address.value),
            "write the address that the other nodes use; what the agent listens on stands in agent.toml",
        );
    }
    let keys = keys::read(&mut section, notes);
    let ssh = section.word::<SshTarget>("ssh", notes).map(|ssh| ssh.value);
    section.finish(notes);
    FoundNode {
        name,
        address,
        keys,
        ssh,
    }
}

pub(super) fn read_operator(mut section: Section<'_>, notes: &mut Notes<'_>) -> FoundOperator {
    let name = section.needed_word::<OperatorName>("name", "add `name = \"ops\"`", notes);
    if let Some(name) = &name {
        section.is_called(name.value.as_str());
    }
    let keys = keys::read(&mut section, notes);
    section.finish(notes);
    FoundOperator { name, keys }
}

impl FoundNode {
    /// The node, if nothing of it was wrong.
    pub(super) fn whole(self) -> Option<Node> {
        Some(Node {
            name: self.name?.value,
            address: self.address?.value,
            keys: self.keys?.keys,
            ssh: self.ssh,
        })
    }
}

impl FoundOperator {
    /// The operator, if nothing of it was wrong.
    pub(super) fn whole(self) -> Option<Operator> {
        Some(Operator {
            name: self.name?.value,
            keys: self.keys?.keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::SshTarget;

    #[test]
    fn nothing_for_ssh_is_an_option() {
        for good in ["db1", "admin@db1.example.org", "root@fd00::1", "a-b@h"] {
            assert_eq!(good.parse::<SshTarget>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "a@",
            "@h",
            "a@-h",
            "a b",
            "h;x",
            "a@b@c",
            "h\n",
        ] {
            assert!(bad.parse::<SshTarget>().is_err(), "{bad:?}");
        }
    }
}
