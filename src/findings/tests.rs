use super::*;
use lockstep_agent::wire::{Finding, NodeStatus, WireFailure, Words};
use std::path::Path;

const GIB: u64 = 1 << 30;

fn cluster() -> ClusterFile {
    let key = |byte| lockstep_cluster::key::PublicKey::from_bytes([byte; 32]);
    let node = |name: &str, byte: u8| {
        format!(
            "[[node]]\nname = \"{name}\"\naddress = \"10.0.0.{byte}:7801\"\nkey = \"{}\"\n",
            key(byte)
        )
    };
    let text = format!(
        "format = 1\ncluster = \"c\"\n{}{}{}[[volume]]\nname = \"pg\"\nid = \"0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e77\"\nprimary = \"a\"\nreplicas = [\"b\", \"c\"]\n[volume.path]\na = \"/v\"\nb = \"/v\"\nc = \"/v\"\n",
        node("a", 1),
        node("b", 2),
        node("c", 3)
    );
    ClusterFile::parse(text.as_bytes(), Path::new("c")).unwrap()
}

type All = BTreeMap<NodeName, Result<Heard, Failure>>;

fn place(role: RoleWord) -> PlaceSeen {
    PlaceSeen {
        kind: PlaceKind::Device,
        size: GIB,
        allocated: 0,
        free: None,
        role: Some(role),
        may_be_overwritten: true,
    }
}

/// Three nodes with nothing to mend.
fn well() -> All {
    let names = ["a", "b", "c"];
    let heard = |name: &str| {
        let peers = names.iter().filter(|peer| **peer != name);
        let role = match name {
            "a" => RoleWord::Primary,
            _ => RoleWord::Replica,
        };
        Heard {
            checkup: Checkup {
                status: NodeStatus {
                    node: name.parse().unwrap(),
                    protocol: VERSION,
                    release: Words::new("1"),
                    now_unix_ms: 0,
                    cluster_file: Words::new("file"),
                    volumes: BTreeMap::new(),
                },
                findings: Vec::new(),
                findings_left_out: 0,
                places: [("pg".parse().unwrap(), place(role))].into(),
                state_dir_free: Some(10 * GIB),
                peers: peers
                    .map(|peer| {
                        let seen = PeerSeen {
                            failure: None,
                            mtu: Some(1500),
                            data_port: Some(true),
                        };
                        (peer.parse().unwrap(), seen)
                    })
                    .collect(),
            },
            skew_ms: 0,
        }
    };
    let each = names.iter();
    each.map(|name| (name.parse().unwrap(), Ok(heard(name))))
        .collect()
}

fn of<'a>(all: &'a mut All, name: &str) -> &'a mut Heard {
    let heard = all.get_mut(&name.parse().unwrap()).unwrap();
    heard.as_mut().unwrap()
}

fn spot<'a>(all: &'a mut All, name: &str) -> &'a mut PlaceSeen {
    let places = &mut of(all, name).checkup.places;
    places.get_mut(&"pg".parse().unwrap()).unwrap()
}

fn peer<'a>(all: &'a mut All, name: &str, other: &str) -> &'a mut PeerSeen {
    let peers = &mut of(all, name).checkup.peers;
    peers.get_mut(&other.parse().unwrap()).unwrap()
}

fn found(all: &All) -> Vec<Line> {
    findings(&Facts {
        cluster: &cluster(),
        cluster_file: "file",
        release: "1",
        heard: all,
    })
}

/// One change to what is well leads to one finding: where, of what, whether it is fatal.
#[track_caller]
fn one(change: impl FnOnce(&mut All)) -> Line {
    let mut all = well();
    change(&mut all);
    let mut lines = found(&all);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "said so").hint("do this")
}

#[test]
fn where_all_is_well_nothing_is_found() {
    assert_eq!(found(&well()), []);
}

#[test]
fn each_change_is_one_finding_at_the_host_that_can_mend_it() {
    let seen = |line: Line| (line.node, line.check, line.is_fatal);
    let at = |node: &str, check, is_fatal| (node.to_owned(), check, is_fatal);
    let line = one(|all| of(all, "b").skew_ms = -2500);
    assert!(line.message.contains("behind"), "{}", line.message);
    assert_eq!(seen(line), at("b", Check::Clock, false));
    let line = one(|all| of(all, "b").checkup.status.cluster_file = Words::new("other"));
    assert_eq!(seen(line), at("b", Check::ClusterFile, false));
    let line = one(|all| of(all, "b").checkup.status.release = Words::new("2"));
    assert_eq!(seen(line), at("b", Check::Version, false));
    let line = one(|all| of(all, "b").checkup.status.protocol = VERSION + 1);
    assert_eq!(seen(line), at("b", Check::Version, true));
    let line = one(|all| spot(all, "b").size = GIB - 4096);
    assert!(line.fix.contains("1073741824"), "{}", line.fix);
    assert_eq!(seen(line), at("b", Check::Device, true));
    let line = one(|all| spot(all, "c").may_be_overwritten = false);
    assert_eq!(seen(line), at("c", Check::Rights, false));
    let line = one(|all| of(all, "c").checkup.state_dir_free = Some(GIB / 21));
    assert_eq!(seen(line), at("c", Check::Space, false));
    let line = one(|all| {
        let place = spot(all, "c");
        (place.kind, place.free) = (PlaceKind::Missing, Some(GIB - 1));
    });
    assert_eq!(seen(line), at("c", Check::Space, true));
    let line = one(|all| spot(all, "a").free = Some(GIB / 21));
    assert_eq!(seen(line), at("a", Check::Space, false));
    let line = one(|all| spot(all, "b").role = Some(RoleWord::Primary));
    assert!(line.message.contains("a and b"), "{}", line.message);
    assert_eq!(seen(line), at("a", Check::Role, true));
    let line = one(|all| peer(all, "b", "a").mtu = Some(1400));
    assert_eq!(seen(line), at("b", Check::Mtu, false));
    let line = one(|all| peer(all, "a", "b").data_port = Some(false));
    assert_eq!(line.peer.as_deref(), Some("a"));
    assert_eq!(seen(line), at("b", Check::DataPort, true));
    let line = one(|all| {
        let own = Finding {
            check: Check::Hook,
            is_fatal: true,
            volume: Some("pg".parse().unwrap()),
            what: Words::new("gone"),
            fix: Words::new("install it"),
        };
        of(all, "c").checkup.findings.push(own);
    });
    assert_eq!(line.sentence(), "FATAL  c, pg: gone; on c: install it");
}

#[test]
fn a_key_that_one_end_does_not_know_is_mended_at_the_other_end() {
    let line = one(|all| {
        let refused = failure(FailureKind::Auth);
        peer(all, "a", "b").failure = Some(WireFailure::from(&refused));
    });
    assert_eq!((line.node.as_str(), line.check), ("b", Check::Key));
    assert_eq!(line.peer.as_deref(), Some("a"));
    assert!(line.is_fatal && line.fix == "do this");
}

#[test]
fn a_node_that_nobody_reaches_is_told_once() {
    let line = one(|all| {
        let silent = failure(FailureKind::Temporary);
        for name in ["a", "b"] {
            peer(all, name, "c").failure = Some(WireFailure::from(&silent));
        }
        all.insert("c".parse().unwrap(), Err(silent));
    });
    assert_eq!((line.node.as_str(), line.check), ("c", Check::Reach));
    assert!(line.fix.contains("10.0.0.3:7801"), "{}", line.fix);
}

#[test]
fn a_way_that_is_closed_between_two_nodes_is_told_though_both_are_reached_from_here() {
    let line = one(|all| {
        let silent = failure(FailureKind::Temporary);
        peer(all, "a", "b").failure = Some(WireFailure::from(&silent));
    });
    assert_eq!((line.node.as_str(), line.check), ("b", Check::Reach));
    assert!(line.message.contains("from a"), "{}", line.message);
}

#[test]
fn without_the_primarys_word_nothing_is_said_of_sizes() {
    let mut all = well();
    spot(&mut all, "b").size = 1;
    all.remove(&"a".parse().unwrap());
    assert_eq!(found(&all), []);
}
