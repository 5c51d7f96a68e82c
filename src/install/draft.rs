//! The first cluster file of a cluster, and what lies beside it on each node. Pure.

use std::fmt::Write;

use lockstep_cluster::key::PublicKey;
use lockstep_cluster::value::{AbsolutePath, Address, Host, NodeName, VolumeName};

/// The unit as it is shipped.
const UNIT: &str = include_str!("../../packaging/lockstep-agent.service");
/// What of it changes.
const UNIT_PROGRAM: &str = "/usr/local/bin/lockstep";
const UNIT_FILE: &str = "/etc/lockstep/cluster.toml";
const UNIT_STATE: &str = "/var/lib/lockstep";

/// What a cluster file is made of.
pub(crate) struct Draft {
    pub(crate) cluster: String,
    /// The first is the primary.
    pub(crate) nodes: Vec<DraftNode>,
    /// The caller's name and key, if no node has it.
    pub(crate) operator: Option<(String, PublicKey)>,
    pub(crate) volumes: Vec<DraftVolume>,
}

pub(crate) struct DraftNode {
    pub(crate) name: NodeName,
    pub(crate) address: Address,
    pub(crate) key: PublicKey,
    pub(crate) ssh: Option<String>,
}

pub(crate) struct DraftVolume {
    pub(crate) name: VolumeName,
    pub(crate) id: String,
    /// In the order of the nodes.
    pub(crate) paths: Vec<AbsolutePath>,
}

impl Draft {
    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# The cluster file: the same on every node, and wherever `lockstep` is run. After a change\n\
             # lay it on every node and reload the agents (`systemctl reload lockstep-agent`).\n\
             # `lockstep config check` finds mistakes; docs/cluster.toml shows every key.\n\n\
             format  = 1\ncluster = {}\n",
            quoted(&self.cluster)
        );
        for node in &self.nodes {
            self.node(node, &mut text);
        }
        if let Some((name, key)) = &self.operator {
            let fingerprint = key.fingerprint();
            add(
                &mut text,
                &format!(
                    "\n# Who may start runs, from any machine.\n[[operator]]\nname = {}\nkey  = {}    # fingerprint {fingerprint}\n",
                    quoted(name),
                    quoted(&key.to_string())
                ),
            );
        }
        for volume in &self.volumes {
            self.volume(volume, &mut text);
        }
        text
    }

    fn node(&self, node: &DraftNode, text: &mut String) {
        let key = quoted(&node.key.to_string());
        let fingerprint = node.key.fingerprint();
        add(
            text,
            &format!(
                "\n[[node]]\nname    = {}\naddress = {}    # UDP\nkey     = {key}    # fingerprint {fingerprint}\n",
                quoted(node.name.as_str()),
                quoted(&node.address.to_string()),
            ),
        );
        if let Some(ssh) = &node.ssh {
            add(text, &format!("ssh     = {}\n", quoted(ssh)));
        }
    }

    fn volume(&self, volume: &DraftVolume, text: &mut String) {
        let names: Vec<String> = (self.nodes.iter())
            .map(|node| quoted(node.name.as_str()))
            .collect();
        let (primary, replicas) = match names.split_first() {
            Some((first, rest)) => (first.as_str(), rest.join(", ")),
            None => ("", String::new()),
        };
        add(
            text,
            &format!(
                "\n[[volume]]\nname     = {}\nid       = {}    # stays when names and paths change\n\
                 primary  = {primary}\nreplicas = [{replicas}]    # only these are ever overwritten\n[volume.path]\n",
                quoted(volume.name.as_str()),
                quoted(&volume.id),
            ),
        );
        for (name, path) in names.iter().zip(&volume.paths) {
            add(text, &format!("{name} = {}\n", quoted(path.as_str())));
        }
        add(
            text,
            "# [volume.hooks]    # stop and start what uses it on a secondary, ask the primary how it is\n\
             # health = [\"pg_isready\", \"-q\"]\n\
             # stop   = [\"systemctl\", \"stop\", \"postgresql\"]\n\
             # start  = [\"systemctl\", \"start\", \"postgresql\"]\n",
        );
    }
}

/// A node's own file.
pub(crate) fn agent_file(node: &DraftNode) -> String {
    let mut text = format!(
        "# This node's own settings; docs/agent.toml shows every key.\nformat = 1\nnode   = {}\n",
        quoted(node.name.as_str())
    );
    let port = node.address.port;
    let listen = match &node.address.host {
        Host::Ip(ip) if ip.is_loopback() => return text,
        Host::Ip(ip) if ip.is_ipv6() => format!("[::]:{port}"),
        _ => format!("0.0.0.0:{port}"),
    };
    // The address of the cluster file need not be one of the machine's own.
    add(&mut text, &format!("listen = {}\n", quoted(&listen)));
    text
}

/// The unit, with the places of this node; none if one of them cannot stand there as it is.
pub(crate) fn unit(program: &str, file: &str, state_dir: &str) -> Option<String> {
    let is_plain = |place: &str| {
        place.starts_with('/')
            && place
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
    };
    if ![program, file, state_dir].into_iter().all(is_plain) {
        return None;
    }
    let text = UNIT
        .replace(UNIT_PROGRAM, program)
        .replace(UNIT_FILE, file)
        .replace(
            &format!("--state-dir {UNIT_STATE}"),
            &format!("--state-dir {state_dir}"),
        );
    Some(match state_dir == UNIT_STATE {
        true => text,
        false => text.replace("StateDirectory=lockstep\nStateDirectoryMode=0700\n", ""),
    })
}

/// A UUID of version 7 (RFC 9562, section 5.7).
pub(crate) fn uuid_v7(unix_ms: u64, random: [u8; 10]) -> String {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// A string of TOML; JSON's escapes are its own, but for DEL, which it wants escaped too.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007f")
}

fn add(text: &mut String, more: &str) {
    // Writing to a String cannot fail.
    let _ = text.write_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_cluster::{AgentFile, ClusterFile};
    use std::path::Path;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    fn draft() -> Draft {
        let node = |name: &str, address: &str, byte| DraftNode {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
            key: key(byte),
            ssh: Some(format!("admin@{name}")),
        };
        Draft {
            cluster: "prod".to_owned(),
            nodes: vec![
                node("db1.x", "db1.example.org:7801", 1),
                node("db2", "10.0.0.2:7801", 2),
                node("db3", "[fd00::3]:7801", 3),
            ],
            operator: Some(("ops".to_owned(), key(9))),
            volumes: vec![DraftVolume {
                name: "pg".parse().unwrap(),
                id: uuid_v7(1_700_000_000_123, [0xff; 10]),
                paths: ["/dev/vg0/pg", "/srv/a \"b\".img", "/srv/ü.img"]
                    .map(|path| path.parse().unwrap())
                    .to_vec(),
            }],
        }
    }

    #[test]
    fn what_is_drafted_has_no_mistakes_and_says_what_was_meant() {
        let draft = draft();
        let cluster = ClusterFile::parse(draft.text().as_bytes(), Path::new("c")).unwrap();
        assert_eq!(cluster.nodes.len(), 3);
        assert!(cluster.operators[0].keys.accept(&key(9)));
        let volume = &cluster.volumes[0];
        assert_eq!(volume.replicas.len(), 2);
        let path = &volume.paths[&"db2".parse().unwrap()];
        assert_eq!(path.as_str(), "/srv/a \"b\".img");
        for node in &draft.nodes {
            let text = agent_file(node);
            let own = AgentFile::parse(text.as_bytes(), Path::new("a"), &cluster).unwrap();
            assert_eq!(own.node.as_ref(), Some(&node.name));
            assert!(own.listen.unwrap().is_unspecified());
        }
    }

    #[test]
    fn ids_are_uuids_of_version_7_in_the_order_of_time() {
        let id = uuid_v7(0x0198_f3b2_8c7e, [0; 10]);
        assert_eq!(id, "0198f3b2-8c7e-7000-8000-000000000000");
        assert_eq!(&uuid_v7(1, [0xff; 10])[14..], "7fff-bfff-ffffffffffff");
        assert!(uuid_v7(1, [0xff; 10]) < uuid_v7(2, [0; 10]));
    }

    #[test]
    fn the_unit_names_the_places_of_the_node() {
        let unit = |file, state| super::unit("/opt/lockstep", file, state).unwrap();
        let usual = unit("/etc/lockstep/cluster.toml", "/var/lib/lockstep");
        assert!(usual.contains(
            "ExecStart=/opt/lockstep agent -c /etc/lockstep/cluster.toml --state-dir /var/lib/lockstep\n"
        ));
        assert!(usual.contains("StateDirectory=lockstep"));
        let other = unit("/srv/c/cluster.toml", "/srv/c/state");
        assert!(other.contains("-c /srv/c/cluster.toml --state-dir /srv/c/state\n"));
        assert!(!other.contains("StateDirectory"));
        assert_eq!(super::unit("/a b", "/c", "/d"), None);
        assert_eq!(super::unit("/a%n", "/c", "/d"), None);
    }
}
