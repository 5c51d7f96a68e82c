//! The verbs of a cluster, from a third machine that has nothing but the cluster file and its key.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Cluster, SLOW};
use super::judge::b3sum;
use super::stand::eventually;

fn lines(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// The nodes of a summary's targets with their results and states.
fn targets(summary: &Value) -> Vec<(&str, &str, &str)> {
    let list = summary["targets"].as_array().unwrap();
    list.iter()
        .map(|it| ["target", "result", "state"].map(|key| it[key].as_str().unwrap()))
        .map(|[target, result, state]| (target, result, state))
        .collect()
}

#[test]
fn a_third_machine_with_the_cluster_file_brings_everybody_back() {
    let cluster = Cluster::new();
    let ran = cluster.run(&["status"]).exits(10);
    assert!(ran.stdout.starts_with("BROKEN\n"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("next: lockstep plan pg"),
        "{}",
        ran.stdout
    );

    let plan = cluster
        .events(&["plan", "pg", "--out", "plan.json"])
        .exits(10);
    assert_eq!(plan.summary()["dry_run"], true);
    assert_eq!(plan.summary()["changed"], false);
    let planned = plan.of_type("plan");
    let nodes = planned[0]["plan"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    assert!(
        nodes.iter().all(|node| node["needs_adopt"] == true),
        "{nodes:?}"
    );
    assert!(cluster.stand.path("ops/plan.json").exists());
    for (node, seed) in [("db1", 1), ("db2", 2), ("db3", 3)] {
        let image = std::fs::read(cluster.image(node, "pg")).unwrap();
        assert!(
            image == super::cluster::random(seed),
            "{node}: a plan writes nothing"
        );
    }
    assert_eq!(cluster.hooks(), lines(&[]));
    assert!(!cluster.gate("db2", "pg"));

    let adopt = ["--adopt", "db2", "--adopt", "db3", "--reason", "a drill"];
    let done = cluster.resync(&adopt).exits(0);
    let summary = done.summary();
    assert_eq!(summary["result"], "ok");
    assert_eq!(summary["epoch"], 1);
    assert_eq!(
        targets(summary),
        [("db2", "ok", "consistent"), ("db3", "ok", "consistent")]
    );
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
    assert_eq!(summary["root"], b3sum(&cluster.image("db1", "pg")));
    for node in ["db2", "db3"] {
        assert_eq!(
            cluster.moments(node),
            ["stop", "configure", "start", "check"]
        );
        assert!(cluster.gate(node, "pg"), "{node}");
    }
    assert_eq!(cluster.moments("db1"), lines(&[]));
    let starts = cluster
        .hooks()
        .into_iter()
        .filter(|line| line.contains(" start "));
    assert!(
        starts
            .clone()
            .all(|line| line.ends_with("start consistent 1 pg"))
    );

    let ran = cluster.run(&["status"]).exits(0);
    assert!(ran.stdout.starts_with("OK\n"), "{}", ran.stdout);
    let status = cluster.status();
    assert_eq!(
        (&status["v"], &status["type"]),
        (&1.into(), &"status".into())
    );
    assert_eq!(status["verdict"], "ok");
    assert_eq!(status["volumes"][0]["name"], "pg");
    assert_eq!(status["volumes"][0]["primary"], "db1");
    let node = cluster.status_of("db2");
    assert_eq!(node["role"], "secondary");
    assert_eq!(node["state"], "consistent");
    assert_eq!(node["epoch"], 1);
    assert_eq!(node["root"], summary["root"]);
    assert!(
        node["verified_at"].is_string() && node["run"].is_null(),
        "{node}"
    );
    assert_eq!(node["link"], "up");

    let past = cluster.run(&["history", "pg"]).exits(0);
    let told: Vec<&str> = past.stdout.lines().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for node in ["db2", "db3"] {
        let line = told.iter().find(|line| line.contains(node)).unwrap();
        assert!(
            line.contains("epoch 1") && line.contains("a drill"),
            "{line}"
        );
    }
    cluster.run(&["plan", "pg"]).exits(0);
    cluster.run(&["verify", "pg"]).exits(0);
}

#[test]
fn verify_lists_what_differs_and_changes_no_state() {
    let cluster = Cluster::synced(|text| text);
    cluster.drift("db3", &[5, 100]);
    let before = (cluster.status_of("db2"), cluster.status_of("db3"));
    let found = cluster.events(&["verify", "pg"]).exits(10);
    assert_eq!(found.summary()["result"], "different");
    let differing = found.of_type("diff");
    let ranges: Vec<&Value> = differing
        .iter()
        .flat_map(|event| event["ranges"].as_array().unwrap())
        .collect();
    let at: Vec<u64> = ranges
        .iter()
        .map(|range| range["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(at, [5 * 4096, 100 * 4096], "{differing:?}");
    let results: Vec<&Value> = found.summary()["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["result"])
        .collect();
    assert_eq!(results, ["ok", "different"]);
    assert_eq!((cluster.status_of("db2"), cluster.status_of("db3")), before);
    assert_eq!(cluster.hooks(), lines(&[]));
    cluster.run(&["verify", "pg", "db2"]).exits(0);

    // The same command repairs it, and ships no more than that.
    let done = cluster.resync(&[]).exits(0);
    let written: Vec<u64> = (done.summary()["targets"].as_array().unwrap().iter())
        .map(|it| it["bytes_written"].as_u64().unwrap())
        .collect();
    assert_eq!(written, [0, 2 * 4096]);
    cluster.assert_equal("db1", "db3");
    cluster.run(&["verify", "pg"]).exits(0);
}

#[test]
fn a_secondary_that_is_gone_is_told_of_and_the_others_are_served() {
    let mut cluster = Cluster::synced(|text| text);
    cluster.kill("db3");
    cluster.drift("db2", &[1]);
    let ran = cluster.run(&["status"]).exits(10);
    assert!(ran.stdout.starts_with("DEGRADED\n"), "{}", ran.stdout);
    assert_eq!(cluster.status_of("db3")["link"], "down");
    let done = cluster.resync(&[]).exits(8);
    assert_eq!(targets(done.summary())[0], ("db2", "ok", "consistent"));
    let error = &done.summary()["targets"][1]["error"];
    assert_eq!(error["exit_code"], 20, "{error}");
    cluster.assert_equal("db1", "db2");
    // With nobody left it is the reason itself.
    cluster.kill("db2");
    cluster.resync(&[]).exits(20);
    let ran = cluster.run(&["status"]).exits(10);
    assert!(ran.stdout.starts_with("BROKEN\n"), "{}", ran.stdout);
    // Without the primary there is nobody to ask.
    cluster.kill("db1");
    let ran = cluster.run(&["plan", "pg"]).exits(20);
    assert!(ran.stderr.contains("db1"), "{}", ran.stderr);
    cluster.run(&["history", "pg"]).exits(20);
}

#[test]
fn a_run_that_is_on_is_named_followed_and_ended() {
    let cluster = Cluster::synced(|text| text);
    cluster.rewrite("db1", 9);
    let printed = cluster
        .run(&super::cluster::agreed(
            "pg",
            &[&SLOW[..], &["--detach"]].concat(),
        ))
        .exits(0);
    let run = printed.stdout.trim().to_owned();
    assert!(
        run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{printed:?}"
    );
    cluster.await_state("db2", "inconsistent");
    assert_eq!(cluster.status_of("db1")["run"], run.as_str());
    assert!(!cluster.gate("db2", "pg"));

    let busy = cluster.resync(&[]).exits(22);
    let message = busy.summary()["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains(&run), "{message}");
    cluster.events(&["plan", "pg"]).exits(22);

    let follower =
        super::stand::Running::start(cluster.command(&["resync", "pg", "--attach"]).arg("--json"));
    std::thread::sleep(Duration::from_millis(500));
    cluster.run(&["cancel", "pg"]).exits(0);
    let followed: super::stand::Events = follower.end().into();
    // One may have been whole already.
    assert!(matches!(followed.code, 8 | 21), "{followed:?}");
    assert_eq!(followed.summary()["run"], run.as_str());
    eventually("the run is over", || {
        cluster.status_of("db1")["run"].is_null()
    });
    assert_eq!(cluster.status_of("db2")["state"], "inconsistent");
    for node in ["db2", "db3"] {
        cluster.assert_served_if_whole(node);
    }
    let ran = cluster.run(&["cancel", "pg"]).exits(2);
    assert!(
        ran.stderr.contains("no run of `pg` is on"),
        "{}",
        ran.stderr
    );

    cluster.resync(&[]).exits(0);
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
    for node in ["db2", "db3"] {
        assert_eq!(cluster.moments(node).last().unwrap(), "check");
    }
}

#[test]
fn a_command_that_ends_does_not_end_its_run() {
    let cluster = Cluster::synced(|text| text);
    cluster.rewrite("db1", 9);
    let mut command = cluster.begin(&["--limit-rate", "600K", "--compress", "off"]);
    cluster.await_hook("db2", "stop", 1);
    command.child().kill().unwrap();
    drop(command);
    for node in ["db2", "db3"] {
        cluster.await_hook(node, "check", 1);
    }
    eventually("the run is over", || {
        cluster.status_of("db1")["run"].is_null()
    });
    assert_eq!(cluster.status()["verdict"], "ok");
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
}
