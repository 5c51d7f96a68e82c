//! Plans of the example's cluster.

use std::collections::BTreeMap;

use super::estimate::tests::RATES;
use super::*;
use crate::file::tests::example;

fn root(byte: u8) -> Root {
    Root::from_bytes([byte; 32])
}

fn facts(node: &str) -> NodeFacts {
    NodeFacts {
        node: node.parse().unwrap(),
        state: NodeState::Consistent,
        epoch: Epoch::new(7),
        device: "device partuuid 1 size 1073741824".to_owned(),
        root: root(2),
        last_root: Some(root(2)),
        ownership: Ownership::Ours,
        bytes_differing: 1 << 20,
        bytes_zero: 0,
        pages_newer: None,
        files: Vec::new(),
        rates: RATES,
    }
}

/// The plan for pgdata, with the facts of both secondaries.
fn plan_of(facts: Vec<NodeFacts>) -> Plan {
    let cluster = example();
    let volume = &cluster.volumes[0];
    let roles = Roles::of(volume, &BTreeMap::new()).unwrap();
    let frozen = Frozen {
        root: root(1),
        size: 1 << 30,
        at_unix_ms: 1_700_000_000_000,
    };
    Plan::new(&cluster.name, volume, &roles, frozen, facts)
}

fn plan() -> Plan {
    plan_of(vec![facts("db2"), facts("db3")])
}

#[test]
fn a_plan_says_what_would_be_done_on_each_secondary() {
    let plan = plan();
    assert_eq!(plan.primary.as_str(), "db1");
    let node = &plan.nodes[0];
    let moments: Vec<&str> = node
        .services
        .iter()
        .map(|service| service.moment.as_str())
        .collect();
    assert_eq!(moments, ["stop", "configure", "start", "check"]);
    assert_eq!(node.bytes_to_send, (1 << 19) + (1 << 14) * 32);
    assert_eq!(node.warnings, [""; 0]);
    assert!(plan.changes_anything());
    let equal = NodeFacts {
        bytes_differing: 0,
        ..facts("db2")
    };
    assert!(!plan_of(vec![equal]).changes_anything());
}

#[test]
fn what_would_be_lost_is_a_warning() {
    let warned = |facts: NodeFacts| plan_of(vec![facts]).nodes[0].warnings.join("; ");
    let newer = warned(NodeFacts {
        pages_newer: Some(3),
        ..facts("db2")
    });
    assert!(
        newer.contains("newer than its last resync: 3 pages (12288 bytes)"),
        "{newer}"
    );
    let moved = warned(NodeFacts {
        last_root: Some(root(9)),
        ..facts("db2")
    });
    assert!(
        moved.contains("newer than its last resync, which will be lost: at most"),
        "{moved}"
    );
    let foreign = warned(NodeFacts {
        ownership: Ownership::Foreign,
        last_root: None,
        ..facts("db2")
    });
    assert!(foreign.contains("never wrote"), "{foreign}");
    let half = warned(NodeFacts {
        state: NodeState::Inconsistent,
        last_root: None,
        ..facts("db2")
    });
    assert!(half.contains("half overwritten"), "{half}");
}

#[test]
fn too_much_and_never_adopted_are_objections() {
    let foreign = NodeFacts {
        ownership: Ownership::Foreign,
        bytes_differing: 1 << 29,
        ..facts("db3")
    };
    let plan = plan_of(vec![facts("db2"), foreign]);
    let objections = |limit: Option<&str>, adopted: &[&str]| {
        let adopted: Vec<NodeName> = adopted.iter().map(|node| node.parse().unwrap()).collect();
        let limit = limit.map(|limit| limit.parse().unwrap());
        let all = plan.objections(limit, &adopted);
        all.iter().map(Objection::to_string).collect::<Vec<_>>()
    };
    assert_eq!(objections(None, &["db3"]), [""; 0]);
    assert_eq!(
        objections(Some("50"), &["db3"]),
        [""; 0],
        "exactly as much as may change"
    );
    assert_eq!(
        objections(Some("49.99"), &[]),
        [
            "50 % of `db3` would change, more than --max-change 49.99 %",
            "`db3` holds data that lockstep never wrote, on device partuuid 1 size 1073741824",
        ]
    );
    assert_eq!(
        objections(None, &["db2"]).len(),
        1,
        "each node is adopted by its own name"
    );
}

#[test]
fn a_plan_survives_its_file() {
    let plan = plan();
    let text = plan.to_json().unwrap();
    assert_eq!(Plan::from_json(text.as_bytes()).unwrap(), plan);
    assert!(matches!(
        Plan::from_json(text.replace("\"v\": 1", "\"v\": 2").as_bytes()),
        Err(PlanFileError::Format(2))
    ));
    let unknown = text.replacen("\"v\": 1,", "\"v\": 1, \"also\": 1,", 1);
    assert!(matches!(
        Plan::from_json(unknown.as_bytes()),
        Err(PlanFileError::Json(_))
    ));
    for cut in (0..text.len() - 1).step_by(7) {
        assert!(
            Plan::from_json(&text.as_bytes()[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    assert!(matches!(
        Plan::from_json(&vec![b' '; MAX_PLAN_BYTES + 1]),
        Err(PlanFileError::TooLarge)
    ));
}

#[test]
fn the_same_again_is_not_stale() {
    let mut later = plan();
    later.made_unix_ms += 60_000;
    later.nodes[0].estimate.seconds = None;
    later.nodes[0].bytes_to_send += 1;
    later.nodes[0].warnings.push("x".to_owned());
    later.nodes.reverse();
    assert_eq!(plan().stale_against(&later), []);
}

/// Each of these would do something else than the plan says.
#[test]
fn whatever_else_would_be_done_makes_a_plan_stale() {
    type Change = fn(&mut Plan);
    let changes: [(&str, Change); 14] = [
        ("cluster", |plan| plan.cluster = "test".parse().unwrap()),
        ("volume is", |plan| plan.volume = "pgwal".parse().unwrap()),
        ("volume's id", |plan| {
            plan.id = "0198f3b2-8c7e-7d11-9a51-2f6c0a1b9e78".parse().unwrap()
        }),
        ("primary is", |plan| plan.primary = "db2".parse().unwrap()),
        ("primary's size", |plan| plan.size += 4096),
        ("primary's data", |plan| plan.root = root(8)),
        ("`db3` is no secondary any more", |plan| {
            plan.nodes.truncate(1)
        }),
        ("state", |plan| {
            plan.nodes[0].state = NodeState::Inconsistent
        }),
        ("epoch", |plan| plan.nodes[0].epoch = Epoch::new(8)),
        ("file or device", |plan| {
            plan.nodes[0].device = "file".to_owned()
        }),
        ("data changed", |plan| plan.nodes[0].root = root(8)),
        ("differing bytes", |plan| plan.nodes[0].bytes_differing += 1),
        ("services", |plan| plan.nodes[0].services.truncate(1)),
        ("ownership", |plan| plan.nodes[0].needs_adopt = true),
    ];
    for (words, change) in changes {
        let mut fresh = plan();
        change(&mut fresh);
        let stale = plan().stale_against(&fresh);
        assert_eq!(stale.len(), 1, "{words}: {stale:?}");
        assert!(
            stale[0].to_string().contains(words),
            "{words}: {}",
            stale[0]
        );
    }
    let alone = plan_of(vec![facts("db2")]);
    assert_eq!(
        alone.stale_against(&plan())[0].to_string(),
        "`db3` is a secondary now"
    );
}
