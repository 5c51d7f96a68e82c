//! What a cluster's operator has to mend, and where. Pure: what nodes said comes in.

use std::collections::BTreeMap;

use lockstep_agent::wire::{Check, Checkup, PeerSeen, PlaceKind, PlaceSeen, RoleWord, VERSION};
use lockstep_cluster::ClusterFile;
use lockstep_cluster::file::{Node, Volume};
use lockstep_cluster::value::NodeName;
use lockstep_protocol::{Failure, FailureKind};

use crate::units;

/// Clocks that differ by more are told; records and the time that undo keeps go by them.
const MAX_SKEW_MS: u64 = 2_000;
/// A difference that makes records of two nodes useless side by side.
const GROSS_SKEW_MS: u64 = 60_000;
/// QUIC's smallest datagrams with the headers of IPv4 (RFC 9000, section 14): less carries nothing.
const LEAST_MTU: u32 = 1228;
/// Of a volume's size, what is asked to be free for what a run overwrites, or a snapshot holds back.
const ROOM_PART: u64 = 20;
/// Below this much room nothing is said of a small volume.
const LEAST_ROOM: u64 = 64 << 20;

/// Something to mend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    /// Where.
    pub(crate) node: String,
    pub(crate) volume: Option<String>,
    /// The other node, if it is about two.
    pub(crate) peer: Option<String>,
    pub(crate) check: Check,
    /// A resync would fail.
    pub(crate) is_fatal: bool,
    pub(crate) message: String,
    pub(crate) fix: String,
}

/// What a node said.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Heard {
    pub(crate) checkup: Checkup,
    /// By how much its clock is ahead of or behind this one, at least.
    pub(crate) skew_ms: i64,
}

/// What is looked at.
pub(crate) struct Facts<'a> {
    pub(crate) cluster: &'a ClusterFile,
    /// BLAKE3 of the cluster file here.
    pub(crate) cluster_file: &'a str,
    pub(crate) release: &'a str,
    pub(crate) heard: &'a BTreeMap<NodeName, Result<Heard, Failure>>,
}

/// Everything that is to be mended, the fatal first.
pub(crate) fn findings(facts: &Facts<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, heard) in facts.heard {
        let Some(node) = facts.cluster.node(name) else {
            continue;
        };
        match heard {
            Err(failure) => lines.push(unreached(node, failure)),
            Ok(heard) => {
                lines.extend(of_node(facts, node, heard));
                lines.extend(own(node, &heard.checkup));
                let peers = &heard.checkup.peers;
                lines.extend(
                    peers
                        .iter()
                        .filter_map(|(peer, seen)| between(facts, node, peer, seen)),
                );
            }
        }
    }
    lines.extend(routes(facts));
    for volume in &facts.cluster.volumes {
        lines.extend(of_volume(facts, volume));
    }
    lines.sort_by(|a, b| {
        (b.is_fatal, &a.node, &a.volume, a.check).cmp(&(a.is_fatal, &b.node, &b.volume, b.check))
    });
    lines
}

fn line(node: &str, check: Check, is_fatal: bool, message: String, fix: String) -> Line {
    let fix = match fix.is_empty() {
        true => "see what its agent logs (`journalctl -u lockstep-agent`)".to_owned(),
        false => fix,
    };
    Line {
        node: node.to_owned(),
        volume: None,
        peer: None,
        check,
        is_fatal,
        message,
        fix,
    }
}

fn unreached(node: &Node, failure: &Failure) -> Line {
    let check = match failure.kind {
        FailureKind::Auth => Check::Key,
        FailureKind::Usage | FailureKind::Internal => Check::Version,
        _ => Check::Reach,
    };
    let fix = match check {
        Check::Reach => format!(
            "start the agent (`systemctl start lockstep-agent`), and let UDP to {} through",
            node.address
        ),
        _ => failure.hint.clone(),
    };
    let message = format!("not reached from here: {}", failure.message);
    line(node.name.as_str(), check, true, message, fix)
}

fn of_node(facts: &Facts<'_>, node: &Node, heard: &Heard) -> Vec<Line> {
    let (name, status) = (node.name.as_str(), &heard.checkup.status);
    let mut lines = Vec::new();
    if status.node != node.name {
        let message = format!(
            "the agent at {} says that it is {}",
            node.address, status.node
        );
        let fix = "correct `node` in its agent.toml, or its --node".to_owned();
        lines.push(line(name, Check::Key, true, message, fix));
    }
    if status.protocol != VERSION {
        let message = format!(
            "it speaks version {} of the protocol, this command version {VERSION}",
            status.protocol
        );
        let fix = "install the same release of lockstep on every node".to_owned();
        lines.push(line(name, Check::Version, true, message, fix));
    } else if status.release.as_str() != facts.release {
        let message = format!(
            "it runs lockstep {}, this machine {}",
            status.release, facts.release
        );
        let fix = "install the same release of lockstep on every node".to_owned();
        lines.push(line(name, Check::Version, false, message, fix));
    }
    if status.cluster_file.as_str() != facts.cluster_file {
        let message = "its cluster file is not the one of this machine".to_owned();
        let fix = "lay the right cluster file there, then `systemctl reload lockstep-agent` (or SIGHUP to the agent)".to_owned();
        lines.push(line(name, Check::ClusterFile, false, message, fix));
    }
    let skew = heard.skew_ms.unsigned_abs();
    if skew > MAX_SKEW_MS {
        let way = match heard.skew_ms > 0 {
            true => "ahead of",
            false => "behind",
        };
        let worth = match skew > GROSS_SKEW_MS {
            true => ": times in its records, and until when undo keeps, are wrong",
            false => "",
        };
        let message = format!(
            "its clock is {} s {way} the one of this machine{worth}",
            skew / 1000
        );
        let fix = "set the clock, and let NTP keep it (`timedatectl set-ntp true`)".to_owned();
        lines.push(line(name, Check::Clock, false, message, fix));
    }
    lines
}

/// What it found itself.
fn own(node: &Node, checkup: &Checkup) -> Vec<Line> {
    let more = (checkup.findings_left_out > 0).then(|| {
        let message = format!("and {} more findings", checkup.findings_left_out);
        let fix = "mend these first, then look again".to_owned();
        line(node.name.as_str(), Check::Reach, false, message, fix)
    });
    let found = checkup.findings.iter();
    found
        .map(|finding| Line {
            volume: finding.volume.as_ref().map(ToString::to_string),
            ..line(
                node.name.as_str(),
                finding.check,
                finding.is_fatal,
                finding.what.to_string(),
                finding.fix.to_string(),
            )
        })
        .chain(more)
        .collect()
}

/// Nodes call each other only for a volume that both have.
fn share_a_volume(cluster: &ClusterFile, a: &NodeName, b: &NodeName) -> bool {
    let mut volumes = cluster.volumes.iter();
    volumes.any(|volume| volume.paths.contains_key(a) && volume.paths.contains_key(b))
}

fn between(facts: &Facts<'_>, node: &Node, peer: &NodeName, seen: &PeerSeen) -> Option<Line> {
    let name = node.name.as_str();
    let found = |at: &str, check, message: String, fix: String| {
        let is_fatal = share_a_volume(facts.cluster, &node.name, peer);
        Some(Line {
            peer: Some(if at == name { peer.as_str() } else { name }.to_owned()),
            ..line(at, check, is_fatal, message, fix)
        })
    };
    let address = facts.cluster.node(peer).map(|node| &node.address)?;
    if let Some(failure) = &seen.failure {
        let failure = Failure::from(failure.clone());
        let (message, hint) = (
            format!("not reached from {name}: {}", failure.message),
            failure.hint,
        );
        return match failure.kind {
            FailureKind::Auth => found(peer.as_str(), Check::Key, message, hint),
            // A node that nobody reaches is told once.
            _ if matches!(facts.heard.get(peer), Some(Err(_))) => None,
            _ => {
                let fix = format!("let UDP from {name} to {address} through");
                found(peer.as_str(), Check::Reach, message, fix)
            }
        };
    }
    if seen.data_port == Some(false) {
        let message = format!("a port for data is not reached from {name}");
        let fix = format!(
            "let UDP from {name} to the ephemeral ports through (`sysctl net.ipv4.ip_local_port_range` shows them)"
        );
        return found(peer.as_str(), Check::DataPort, message, fix);
    }
    if seen.mtu.is_some_and(|mtu| mtu < LEAST_MTU) {
        let message = format!(
            "the route to {peer} takes packets of {} bytes, and QUIC needs {LEAST_MTU}",
            seen.mtu.unwrap_or(0)
        );
        let fix = "raise the MTU of that interface or route".to_owned();
        return found(name, Check::Mtu, message, fix);
    }
    None
}

/// Routes that are not the same both ways: large packets are lost on the way back.
fn routes(facts: &Facts<'_>) -> Vec<Line> {
    let mtu = |from: &NodeName, to: &NodeName| match facts.heard.get(from) {
        Some(Ok(heard)) => heard.checkup.peers.get(to)?.mtu,
        _ => None,
    };
    let names: Vec<&NodeName> = facts.heard.keys().collect();
    let mut lines = Vec::new();
    for (number, a) in names.iter().enumerate() {
        for b in &names[number + 1..] {
            let (Some(there), Some(back)) = (mtu(a, b), mtu(b, a)) else {
                continue;
            };
            if there == back {
                continue;
            }
            let (small, large) = if there < back { (a, b) } else { (b, a) };
            let message = format!(
                "its route to {large} takes packets of {} bytes, the route back {}",
                there.min(back),
                there.max(back)
            );
            let fix = "set the same MTU at both ends".to_owned();
            lines.push(Line {
                peer: Some(large.to_string()),
                ..line(small.as_str(), Check::Mtu, false, message, fix)
            });
        }
    }
    lines
}

/// A volume on a node that answered.
struct Seen<'a> {
    node: &'a NodeName,
    heard: &'a Heard,
    place: &'a PlaceSeen,
}

fn of_volume(facts: &Facts<'_>, volume: &Volume) -> Vec<Line> {
    let there: Vec<Seen<'_>> = (volume.paths.keys())
        .filter_map(|node| match facts.heard.get(node) {
            Some(Ok(heard)) => {
                heard
                    .checkup
                    .places
                    .get(&volume.name)
                    .map(|place| Seen { node, heard, place })
            }
            _ => None,
        })
        .collect();
    let leads = |seen: &&Seen<'_>| seen.place.role == Some(RoleWord::Primary);
    let primaries: Vec<&Seen<'_>> = there.iter().filter(leads).collect();
    let lines = match primaries.as_slice() {
        [primary] => {
            let secondaries = (there.iter())
                .filter(|seen| seen.node != primary.node && volume.replicas.contains(seen.node))
                .flat_map(|seen| of_secondary(seen, primary));
            of_primary(primary).into_iter().chain(secondaries).collect()
        }
        // Whoever was not heard may be it.
        [] if there.len() < volume.paths.len() => Vec::new(),
        several => no_primary(several, volume).into_iter().collect(),
    };
    let name = Some(volume.name.to_string());
    let named = |line| Line {
        volume: name.clone(),
        ..line
    };
    lines.into_iter().map(named).collect()
}

fn no_primary(several: &[&Seen<'_>], volume: &Volume) -> Option<Line> {
    let names: Vec<&str> = several.iter().map(|seen| seen.node.as_str()).collect();
    let message = match names.as_slice() {
        [] => "no node says that it is primary".to_owned(),
        names => format!("{} all say that they are primary", names.join(" and ")),
    };
    let first = several.first().map(|seen| seen.node);
    let node = first.or_else(|| volume.paths.keys().next())?;
    let fix = "let exactly one node be primary, and see what the `probe` of each prints";
    Some(line(
        node.as_str(),
        Check::Role,
        true,
        message,
        fix.to_owned(),
    ))
}

/// Bytes that should be free for what a run overwrites, or a snapshot holds back.
fn room_for(size: u64) -> u64 {
    (size / ROOM_PART).max(LEAST_ROOM.min(size))
}

fn of_primary(primary: &Seen<'_>) -> Option<Line> {
    let room = room_for(primary.place.size);
    let free = primary.place.free.filter(|free| *free < room)?;
    let message = format!(
        "only {} are free beside it: a snapshot may run full during a run",
        units::amount(free)
    );
    let fix = format!("make {} free", units::amount(room));
    Some(line(
        primary.node.as_str(),
        Check::Space,
        false,
        message,
        fix,
    ))
}

fn of_secondary(seen: &Seen<'_>, primary: &Seen<'_>) -> Vec<Line> {
    let mut lines: Vec<Line> = [size(seen, primary.place), room(seen, primary.place)]
        .into_iter()
        .flatten()
        .collect();
    if !seen.place.may_be_overwritten {
        let message = format!("its agent.toml does not let {} overwrite it", primary.node);
        let fix = "see `allow_overwrite` and `sources` there, if that is not what you want";
        lines.push(line(
            seen.node.as_str(),
            Check::Rights,
            false,
            message,
            fix.to_owned(),
        ));
    }
    lines
}

/// A device keeps its size; a file takes the primary's.
fn size(seen: &Seen<'_>, source: &PlaceSeen) -> Option<Line> {
    let place = seen.place;
    if place.kind != PlaceKind::Device || place.size == source.size || source.size == 0 {
        return None;
    }
    let message = format!(
        "its device has {} bytes, the primary's volume {}",
        place.size, source.size
    );
    let fix = match place.size < source.size {
        true => format!(
            "enlarge the device to {} bytes (`lvextend`, or a larger disk)",
            source.size
        ),
        false => "make both the same size, or give --allow-larger-target".to_owned(),
    };
    Some(line(seen.node.as_str(), Check::Device, true, message, fix))
}

fn room(seen: &Seen<'_>, source: &PlaceSeen) -> Option<Line> {
    let (name, place) = (seen.node.as_str(), seen.place);
    let copy = match source.kind {
        PlaceKind::Device => source.size,
        _ => source.allocated,
    };
    let needed = match place.kind {
        PlaceKind::Device => 0,
        _ => copy.saturating_sub(place.allocated),
    };
    let (free, needed_text) = (
        place.free.or(seen.heard.checkup.state_dir_free)?,
        units::amount(needed),
    );
    if free < needed {
        let free = units::amount(free);
        let message = format!("{free} are free, and a whole copy needs {needed_text}");
        let fix = "make room on that filesystem".to_owned();
        return Some(line(name, Check::Space, true, message, fix));
    }
    let room = room_for(source.size);
    if place.kind == PlaceKind::Missing || free - needed >= room {
        return None;
    }
    let message = format!(
        "only {} are free for what a resync overwrites: it may not be kept for `undo`",
        units::amount(free - needed)
    );
    let fix = format!("make {} free, or do without undo", units::amount(room));
    Some(line(name, Check::Space, false, message, fix))
}

impl Line {
    /// The finding in one line.
    pub(crate) fn sentence(&self) -> String {
        let head = match self.is_fatal {
            true => "FATAL",
            false => "warning",
        };
        let volume = match &self.volume {
            Some(volume) => format!(", {volume}"),
            None => String::new(),
        };
        format!(
            "{head}  {}{volume}: {}; on {}: {}",
            self.node, self.message, self.node, self.fix
        )
    }
}

#[cfg(test)]
mod tests;
