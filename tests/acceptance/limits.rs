//! What a run may use: limits that hold, priorities that the kernel sees, and changes while it goes on.

use std::fs;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, SIZE, SLOW};
use super::stand::{Events, Running, Stand, eventually, volume};

const MIB: u64 = 1 << 20;
/// What is read at once from a volume that is in memory.
const PIECE: u64 = 256 << 10;

#[test]
fn a_limit_of_reading_is_kept_and_the_replica_is_proved() {
    let stand = Stand::new();
    let bytes = volume(usize::try_from(6 * MIB).unwrap(), 1);
    stand.file("a", &bytes);
    stand.file("b", &volume(usize::try_from(6 * MIB).unwrap(), 2));
    let begun = Instant::now();
    let events = stand
        .events(&["sync", "a", "b", "--yes", "--limit-read", "2M"])
        .exits(0);
    let took = begun.elapsed().as_secs_f64();
    let read = events.summary()["source"]["bytes_read"].as_u64().unwrap();
    assert!(read >= 6 * MIB, "{read}");
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let least = (read - PIECE) as f64 / (2 * MIB) as f64;
    assert!(took >= least, "{took} s, {least} at least");
    assert!(stand.read("b") == bytes);
    stand.run(&["gate", "b"]).exits(0);
    assert!(events.summary().get("paced").is_none(), "nobody asked");
}

#[test]
fn two_targets_share_one_limit_of_reading() {
    let stand = Stand::new();
    stand.file("a", &volume(usize::try_from(2 * MIB).unwrap(), 1));
    let begun = Instant::now();
    stand
        .events(&["sync", "a", "b", "c", "--yes", "--limit-read", "1M"])
        .exits(0);
    assert!(begun.elapsed() >= Duration::from_millis(1750));
    assert_eq!(stand.read("b"), stand.read("a"));
    assert_eq!(stand.read("c"), stand.read("a"));
}

#[test]
fn a_paced_run_says_what_that_cost() {
    let stand = Stand::new();
    stand.file("a", &volume(usize::try_from(12 * MIB).unwrap(), 1));
    let begun = Instant::now();
    let events = stand
        .events(&["sync", "a", "b", "--pace", "auto", "-v"])
        .exits(0);
    assert_eq!(stand.read("b"), stand.read("a"));
    if fs::metadata("/proc/pressure/io").is_err() && events.summary().get("paced").is_none() {
        let warnings = events.of_type("warning");
        let said = |it: &&serde_json::Value| it["message"].as_str().unwrap().contains("--pace");
        assert!(warnings.iter().any(said), "{warnings:?}");
        return;
    }
    let paced = &events.summary()["paced"];
    assert!(paced["seconds_held"].as_f64().unwrap() >= 0.0, "{paced}");
    let lowest = paced["lowest_rate"].as_u64();
    assert!(lowest.is_none_or(|rate| rate >= 8 * MIB), "{paced}");
    assert!(events.stderr.contains("pace: watches"), "{}", events.stderr);
    // It begins with 8 MiB a second, until it knows the disk.
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

/// The nice values of a process's threads with such names.
fn nices(pid: u32, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            let (before, after) = stat.rsplit_once(") ")?;
            let is_it = before.split_once('(')?.1.starts_with(name);
            is_it
                .then(|| after.split(' ').nth(16)?.parse().ok())
                .flatten()
        })
        .collect()
}

#[test]
fn the_threads_that_scan_have_the_priority_that_was_asked_for() {
    let stand = Stand::new();
    stand.file("a", &volume(usize::try_from(16 * MIB).unwrap(), 1));
    stand.file("b", &volume(usize::try_from(16 * MIB).unwrap(), 1));
    let arguments = ["sync", "a", "b", "--yes", "--priority", "idle", "--json"];
    let slow = ["--limit-read", "2M", "--threads", "2"];
    let mut run = Running::start(&mut stand.command(&[&arguments[..], &slow].concat()));
    let pid = run.child().id();
    // Of each end two, for as long as they are there.
    eventually("threads scan with nice 19", || {
        let nices = nices(pid, "scan-");
        !nices.is_empty() && nices.iter().all(|nice| *nice == 19)
    });
    let events: Events = run.end().into();
    events.exits(0);
    assert_eq!(stand.read("b"), stand.read("a"));
}

#[test]
fn a_cluster_run_goes_faster_or_slower_while_it_is_on() {
    let cluster = Cluster::synced(|text| text);
    cluster.rewrite("db1", 9);
    // Two secondaries with 2 MiB each at 64 KiB a second: a minute.
    let begun = Instant::now();
    let run = cluster.begin(&SLOW);
    cluster.await_state("db2", "inconsistent");
    cluster
        .run(&["limit", "pg", "--limit-rate", "off", "--pace", "auto"])
        .exits(0);
    let events: Events = run.end().into();
    let summary = events.exits(0).summary().clone();
    assert!(begun.elapsed() < Duration::from_secs(40), "{summary}");
    cluster.assert_equal("db1", "db2");
    cluster.assert_equal("db1", "db3");
    assert!(cluster.log("db1").contains("limits changed"));
    if fs::metadata("/proc/pressure/io").is_ok() {
        assert!(summary["paced"]["seconds_held"].is_number(), "{summary}");
    }
}

#[test]
fn the_nodes_own_limit_stays_whatever_is_asked() {
    let mut cluster = Cluster::synced(|text| text);
    let own = "format = 1\n[limits]\nread = \"200000/s\"\n";
    cluster.write_file("agent-db1.toml", own.to_owned());
    cluster.kill("db1");
    cluster.restart("db1");
    let begun = Instant::now();
    let run = cluster.begin(&["--limit-read", "1G", "--no-delta"]);
    eventually("a run is on", || {
        cluster.run(&["limit", "pg", "--limit-read", "off"]).code == 0
    });
    let events: Events = run.end().into();
    events.exits(0);
    let least = (SIZE as u64 - PIECE) / 200_000;
    assert!(begun.elapsed() >= Duration::from_secs(least));
    cluster.assert_equal("db1", "db2");
}

#[test]
fn limits_of_no_run_and_limits_without_a_change_are_mistakes() {
    let cluster = Cluster::synced(|text| text);
    let ran = cluster.run(&["limit", "pg", "--pace", "off"]).exits(2);
    assert!(
        ran.stderr.contains("no run of `pg` is on"),
        "{}",
        ran.stderr
    );
    cluster.run(&["limit", "pg"]).exits(2);
    cluster
        .run(&["limit", "pg", "--limit-rate", "fast"])
        .exits(2);
}
