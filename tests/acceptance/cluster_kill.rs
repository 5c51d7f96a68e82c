//! Agents are killed at every step of a run: nothing that is a mixture is called consistent or served,
//! services come back where they may, and the same command makes all good.

use super::cluster::{Cluster, SLOW};
use super::stand::{Events, Running, eventually};

/// A new version of the primary's data; it and the one before may be served.
fn change(cluster: &Cluster, seed: u64) {
    let _ = std::fs::remove_dir_all(cluster.stand.path("allowed"));
    cluster.allow("earlier", "db2");
    cluster.rewrite("db1", seed);
    cluster.allow("now", "db1");
    cluster.forget_hooks();
}

#[track_caller]
fn assert_converges(cluster: &Cluster, when: &str) {
    cluster.assert_no_mixture(when);
    let done = cluster.resync(&[]);
    assert_eq!(done.code, 0, "{when}: {done:?}");
    for node in ["db2", "db3"] {
        cluster.assert_equal("db1", node);
        assert!(cluster.gate(node, "pg"), "{when}");
    }
    cluster.assert_no_mixture(when);
    assert_eq!(cluster.status()["verdict"], "ok", "{when}");
}

/// Each in a cluster of its own: nearly all of the time is spent waiting for a peer that is gone.
fn in_each(moments: &[&'static str], scene: impl Fn(&'static str) + Sync) {
    std::thread::scope(|scope| {
        let scene = &scene;
        let all: Vec<_> = moments
            .iter()
            .map(|&moment| (moment, scope.spawn(move || scene(moment))))
            .collect();
        let failed: Vec<&str> = all
            .into_iter()
            .filter_map(|(moment, thread)| thread.join().is_err().then_some(moment))
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

const STEPS: [&str; 4] = ["stop", "writing", "configure", "start"];

/// A run that is in the middle of a step on db2.
fn begun(cluster: &Cluster, moment: &str) -> Running {
    change(cluster, 11);
    if moment == "writing" {
        let run = cluster.begin(&SLOW);
        cluster.await_state("db2", "inconsistent");
        return run;
    }
    cluster.sign(&format!("hold-db2-{moment}"), true);
    let run = cluster.begin(&[]);
    cluster.await_hook("db2", moment, 1);
    run
}

fn go_on(cluster: &Cluster, moment: &str) {
    if moment != "writing" {
        cluster.sign(&format!("hold-db2-{moment}"), false);
    }
}

#[test]
fn a_secondary_that_is_killed_at_any_step_serves_whole_data_or_nothing() {
    in_each(&STEPS, |moment| {
        let mut cluster = Cluster::synced(|text| text);
        let run = begun(&cluster, moment);
        cluster.kill("db2");
        go_on(&cluster, moment);
        if moment == "writing" {
            cluster.run(&["cancel", "pg"]).exits(0);
        } else {
            let ended: Events = run.end().into();
            assert_eq!(ended.code, 8, "{moment}: {ended:?}");
            assert_eq!(ended.summary()["targets"][1]["result"], "ok", "{moment}");
        }
        cluster.assert_no_mixture(moment);
        cluster.restart("db2");
        if moment == "writing" {
            assert!(!cluster.gate("db2", "pg"));
            assert_eq!(cluster.status_of("db2")["services"], "stopped");
            assert_eq!(cluster.moments("db2"), ["stop"]);
        } else {
            // Its data is whole, old or new: so are its services.
            assert_eq!(cluster.status_of("db2")["services"], "up", "{moment}");
            assert_eq!(cluster.moments("db2").last().unwrap(), "check", "{moment}");
        }
        eventually("the run is over", || {
            cluster.status_of("db1")["run"].is_null()
        });
        assert_converges(&cluster, moment);
    });
}

#[test]
fn a_primary_that_is_killed_at_any_step_leaves_whole_data_or_stopped_services() {
    in_each(&STEPS, |moment| {
        let mut cluster = Cluster::synced(|text| text);
        let run = begun(&cluster, moment);
        cluster.kill("db1");
        go_on(&cluster, moment);
        let ended: Events = run.end().into();
        assert_eq!(ended.code, 20, "{moment}: {ended:?}");
        eventually("the secondaries have let go", || {
            ["db2", "db3"]
                .iter()
                .all(|node| cluster.status_of(node)["run"].is_null())
        });
        cluster.assert_no_mixture(moment);
        for node in ["db2", "db3"] {
            cluster.assert_served_if_whole(node);
        }
        let is_broken = cluster.status_of("db2")["state"] == "inconsistent";
        assert_eq!(is_broken, moment == "writing", "{moment}");
        cluster.restart("db1");
        assert_converges(&cluster, moment);
    });
}
