//! Who may write: the newest claim alone, whatever else is on, ends, or comes back.

use std::fs;

use super::cluster::{Cluster, SLOW, agreed, probed, random};
use super::stand::{Events, Running, eventually};

/// What the summary says of its first target's failure, or of the run's.
fn why(events: &Events) -> String {
    let summary = events.summary();
    format!("{} {}", summary["error"], summary["targets"])
}

#[test]
fn a_promise_holds_against_older_and_equal_epochs_and_over_restarts() {
    let mut cluster = Cluster::synced(|text| text);
    cluster.resync(&["--epoch", "7"]).exits(0);
    assert_eq!(cluster.status_of("db2")["epoch"], 7);
    cluster.rewrite("db1", 9);
    let old = fs::read(cluster.image("db2", "pg")).unwrap();
    for round in ["before", "after a crash of the agents"] {
        cluster.forget_hooks();
        for epoch in ["6", "7"] {
            let fenced = cluster.resync(&["--epoch", epoch]).exits(6);
            assert!(why(&fenced).contains('7'), "{round}: {}", why(&fenced));
        }
        assert_eq!(cluster.hooks(), Vec::<String>::new(), "{round}");
        for node in ["db2", "db3"] {
            assert!(
                fs::read(cluster.image(node, "pg")).unwrap() == old,
                "{round}"
            );
            cluster.kill(node);
            cluster.restart(node);
        }
    }
    let done = cluster.resync(&[]).exits(0);
    assert_eq!(done.summary()["epoch"], 8);
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
}

/// The cluster file of somebody who takes `node` for the primary.
fn other_file(cluster: &Cluster, node: &str) -> String {
    let text = fs::read_to_string(cluster.stand.path("cluster.toml")).unwrap();
    let others: Vec<String> = super::cluster::NODES
        .iter()
        .filter(|it| **it != node)
        .map(|it| format!("\"{it}\""))
        .collect();
    text.replace(
        "primary = \"db1\"\nreplicas = [\"db2\", \"db3\"]",
        &format!("primary = \"{node}\"\nreplicas = [{}]", others.join(", ")),
    )
}

#[test]
fn two_primaries_by_two_cluster_files_never_overwrite_each_other() {
    // db1 takes itself for the primary, db2 itself, and db3 believes db1.
    let mut cluster = Cluster::synced(|text| text);
    cluster.write_file("other.toml", other_file(&cluster, "db2"));
    cluster.kill("db2");
    cluster.start("db2", "other.toml", &[]);
    cluster.await_ready("db2");
    cluster.rewrite("db1", 9);
    cluster.rewrite("db2", 8);
    let one = Running::start(cluster.command(&agreed("pg", &SLOW)).arg("--json"));
    let mut command = cluster.command(&agreed("pg", &["-c", "../other.toml"]));
    let two: Events = Running::start(command.arg("--json")).end().into();
    // Nobody lets db2 in: for db1 and db3 it is no primary.
    two.exits(5);
    cluster.await_state("db3", "inconsistent");
    cluster.run(&["cancel", "pg"]).exits(0);
    drop(one);
    eventually("the run is over", || {
        cluster.status_of("db1")["run"].is_null()
    });
    let done = cluster.resync(&[]).exits(8);
    // db2 takes itself for the primary and refuses the claim: whose data it is cannot be decided.
    assert_eq!(done.summary()["targets"][0]["result"], "failed");
    assert_eq!(done.summary()["targets"][1]["state"], "consistent");
    assert!(fs::read(cluster.image("db1", "pg")).unwrap() == random(9));
    assert!(fs::read(cluster.image("db2", "pg")).unwrap() == random(8));
    cluster.assert_equal("db1", "db3");
    // Once all agree, all are the same.
    cluster.kill("db2");
    cluster.restart("db2");
    cluster.resync(&[]).exits(0);
    cluster.assert_equal("db1", "db2");
}

#[test]
fn a_newer_claim_ends_the_run_that_writes_and_what_it_leaves_is_overwritten() {
    // db1 is primary, and its run writes db3 slowly; then db2 becomes it.
    let cluster = Cluster::laid_out(probed);
    for (node, role) in [("db1", "primary"), ("db2", "replica"), ("db3", "replica")] {
        cluster.role(node, role);
    }
    let cluster = cluster.started();
    cluster
        .resync(&["--adopt", "db2", "--adopt", "db3"])
        .exits(0);
    cluster.rewrite("db1", 9);
    let mut words = agreed("pg", &SLOW);
    words.insert(2, "db3");
    let older = Running::start(cluster.command(&words).arg("--json"));
    cluster.await_state("db3", "inconsistent");
    cluster.forget_hooks();

    cluster.role("db1", "replica");
    cluster.role("db2", "primary");
    cluster.drift("db2", &[12]);
    let expected = fs::read(cluster.image("db2", "pg")).unwrap();
    let newer = cluster.resync(&["--adopt", "db1"]);
    let older: Events = older.end().into();
    older.exits(6);
    if newer.code != 0 {
        // db1 was still reading its own volume for the run that was fenced.
        assert_eq!(newer.code, 8, "{}", why(&newer));
        cluster.resync(&["--adopt", "db1"]).exits(0);
    }
    for node in super::cluster::NODES {
        assert!(
            fs::read(cluster.image(node, "pg")).unwrap() == expected,
            "{node}"
        );
    }
    for node in ["db1", "db3"] {
        assert!(cluster.gate(node, "pg"));
        assert_eq!(cluster.moments(node).last().unwrap(), "check");
    }
    assert_eq!(cluster.status()["verdict"], "ok");
}
