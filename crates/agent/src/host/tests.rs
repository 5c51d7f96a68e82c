//! The host over a call in memory, with real files, hooks, a real port and a real run.

#[cfg(feature = "crash-points")]
mod crashes;
mod files;
mod lab;
mod recovery;
mod refusals;

use std::time::Duration;

use lockstep_cluster::plan::NodeState;

use self::lab::{Lab, Rate};
use crate::wire::{HostBid, HostTell};

#[test]
fn a_run_stops_overwrites_marks_configures_and_starts() {
    let lab = Lab::new();
    let mut call = lab.call(lab.ask(5));
    assert_eq!(call.granted(), NodeState::Unknown);
    let stopped = call.stop();
    assert_eq!(stopped, None);
    assert_eq!(lab.log(), ["stop unknown 5 run-5 a b data"]);
    let view = lab.host().view(&"data".parse().unwrap()).unwrap();
    assert_eq!(view.run, Some("run-5".parse().unwrap()));
    let (state, failure) = call.sync(&lab, Rate::Full);
    assert_eq!((state, failure), (NodeState::Consistent, None));
    call.say(&HostBid::Conclude { usable: true });
    let HostTell::Concluded {
        state,
        hooks,
        downtime_seconds,
        failure,
        ..
    } = call.hear()
    else {
        panic!("the end")
    };
    assert_eq!((state, failure), (NodeState::Consistent, None));
    assert!(downtime_seconds.unwrap() > 0.0);
    let moments: Vec<&str> = hooks.iter().map(|it| it.moment.as_str()).collect();
    assert_eq!(moments, ["configure", "start", "check"]);
    assert_eq!(
        lab.log()[1..],
        [
            "configure consistent 5 run-5 a b data",
            "start consistent 5 run-5 a b data",
            "check consistent 5 run-5 a b data"
        ]
    );
    assert!(lab.is_equal());
    // Known as soon as the end is told.
    let view = lab.host().view(&"data".parse().unwrap()).unwrap();
    assert_eq!(
        view.data_epoch.unwrap().get(),
        5,
        "the record has the epoch"
    );
    assert_eq!(view.epoch.unwrap().get(), 5);
    assert_eq!((view.run.clone(), view.stopped), (None, false));
    call.over();
    assert!(view.root.is_some() && view.verified_at.is_some());
    assert!(!view.stopped && view.run.is_none());
}

#[test]
fn a_newer_run_ends_the_older_one_while_it_writes() {
    let lab = Lab::synced(4);
    lab.change_source();
    let mut older = lab.call(lab.ask(5));
    older.granted();
    assert_eq!(older.stop(), None);
    let run = older.begin(&lab, Rate::Slow);
    lab.wait_for(NodeState::Inconsistent);
    let mut newer = lab.call(lab.ask(6));
    assert_eq!(newer.granted(), NodeState::Inconsistent);
    let HostTell::Served { state, failure, .. } = older.hear() else {
        panic!("it was served")
    };
    assert_eq!(state, NodeState::Inconsistent);
    assert_eq!(failure.unwrap().exit_code, 6);
    let HostTell::Concluded { failure, hooks, .. } = older.hear() else {
        panic!("it ended")
    };
    assert_eq!(failure.unwrap().exit_code, 6);
    assert!(hooks.is_empty(), "a newer run has the services now");
    assert_ne!(run.join().unwrap().exit_code(), 0);
    lab.clear_log();
    assert_eq!(newer.stop(), None);
    assert_eq!(newer.sync(&lab, Rate::Full).0, NodeState::Consistent);
    newer.conclude(true);
    assert_eq!(lab.moments(), ["stop", "configure", "start", "check"]);
    assert!(lab.is_equal());
}

/// Where the call is lost, what runs afterwards, and whether the services are up.
#[test]
fn a_lost_call_leaves_services_on_whole_data_or_down() {
    let restart = ["stop", "start", "check"];
    let resume = ["stop", "configure", "start", "check"];
    let table: [(&str, bool, &[&str], bool); 9] = [
        ("granted", false, &[], true),
        ("stopped", false, &restart, true),
        ("serving", false, &restart, true),
        ("writing", false, &["stop"], false),
        ("served", false, &resume, true),
        ("granted", true, &[], true),
        ("stopped", true, &restart, true),
        ("writing", true, &["stop"], false),
        ("served", true, &["stop"], false),
    ];
    for (stage, group, runs, is_up) in table {
        let lab = Lab::synced(4);
        lab.change_source();
        let mut ask = lab.ask(5);
        ask.group = group;
        let mut call = lab.call(ask);
        call.granted();
        let mut run = None;
        if stage != "granted" {
            assert_eq!(call.stop(), None);
        }
        match stage {
            "serving" => drop(call.serve()),
            "writing" => {
                run = Some(call.begin(&lab, Rate::Slow));
                lab.wait_for(NodeState::Inconsistent);
            }
            "served" => assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent),
            _ => {}
        }
        call.lose();
        if let Some(run) = run {
            assert_ne!(run.join().unwrap().exit_code(), 0);
        }
        let what = format!("{stage}, group: {group}");
        assert_eq!(lab.moments(), runs, "{what}");
        let view = lab.host().view(&"data".parse().unwrap()).unwrap();
        assert_eq!(view.stopped, !is_up, "{what}");
        // The agent starts anew: nothing else is brought back.
        let again = lab.restarted();
        again.recover();
        assert_eq!(lab.moments(), runs, "{what}");
        if group {
            continue;
        }
        lab.clear_log();
        let mut call = lab.call(lab.ask(6));
        call.granted();
        call.stop();
        assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
        call.conclude(true);
        assert_eq!(lab.moments(), resume, "{what}: the next run");
    }
}

#[test]
fn a_group_starts_only_with_every_volume_new() {
    for wal_too in [false, true] {
        let lab = Lab::synced(4);
        lab.change_source();
        let mut ask = lab.ask(5);
        ask.group = true;
        let mut call = lab.call(ask.clone());
        call.granted();
        call.stop();
        if wal_too {
            let mut wal = lab.call(lab.ask_wal(5));
            wal.granted();
            assert_eq!(wal.stop(), None, "no hooks over this call");
            assert_eq!(wal.sync(&lab, Rate::Full).0, NodeState::Consistent);
            wal.conclude(true);
        }
        assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
        call.conclude(true);
        let runs: &[&str] = match wal_too {
            true => &["stop", "configure", "start", "check"],
            false => &["stop"],
        };
        assert_eq!(lab.moments(), runs);
    }
}

#[test]
fn a_hook_that_fails_is_told_and_nothing_runs_on_after_it() {
    let table: [(&str, &[&str], bool); 4] = [
        ("stop", &["stop", "start", "check"], true),
        ("configure", &["stop", "configure"], false),
        ("start", &["stop", "configure", "start"], false),
        ("check", &["stop", "configure", "start", "check"], true),
    ];
    for (moment, runs, is_up) in table {
        let lab = Lab::synced(4);
        lab.change_source();
        lab.let_fail(moment);
        let mut call = lab.call(lab.ask(5));
        call.granted();
        let stopped = call.stop();
        if moment == "stop" {
            assert!(stopped.unwrap().message.as_str().contains("on purpose"));
        } else {
            assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
        }
        let failure = call.conclude(true);
        assert_eq!(failure.is_some(), moment != "stop", "{moment}");
        assert_eq!(lab.moments(), runs, "{moment}");
        let view = lab.host().view(&"data".parse().unwrap()).unwrap();
        assert_eq!(view.stopped, !is_up, "{moment}");
    }
}

#[test]
fn a_comparison_writes_nothing_and_lets_nobody_write() {
    let lab = Lab::synced(4);
    assert_eq!(lab.compare(lockstep_engine::Purpose::Compare), 0);
    lab.change_source();
    let before = std::fs::read(lab.target()).unwrap();
    assert_eq!(lab.compare(lockstep_engine::Purpose::Compare), 10);
    assert_eq!(lab.compare(lockstep_engine::Purpose::Sync), 5);
    assert_eq!(std::fs::read(lab.target()).unwrap(), before);
    assert!(lab.moments().is_empty());
}

/// What is in use may change while it is read: only an image of it can be compared.
#[test]
fn a_volume_in_use_is_compared_by_its_snapshot_or_not_at_all() {
    let lab = Lab::synced(4);
    let has_snapshots = lockstep_snapshot::choose(
        &lab.target().canonicalize().unwrap(),
        &lockstep_snapshot::Registry::system(),
    )
    .chosen
    .is_some();
    // A run keeps an image of what it made, for the next one.
    let before = lab.files_of_b();
    let used = std::fs::File::open(lab.target()).unwrap();
    let mut user = std::process::Command::new("sleep")
        .arg("600")
        .stdin(used)
        .spawn()
        .unwrap();
    let expected = if has_snapshots { 0 } else { 7 };
    assert_eq!(lab.compare(lockstep_engine::Purpose::Compare), expected);
    lab.change_source();
    let expected = if has_snapshots { 10 } else { 7 };
    assert_eq!(lab.compare(lockstep_engine::Purpose::Compare), expected);
    user.kill().unwrap();
    user.wait().unwrap();
    assert_eq!(lab.files_of_b(), before, "no snapshot stays");
}

#[test]
fn what_is_said_out_of_turn_ends_the_call() {
    let serve = HostBid::Serve(lab::terms(lockstep_transport::quic::PublicKey([1; 32])));
    for bid in [HostBid::FilesEnd, serve] {
        let lab = Lab::synced(4);
        let mut call = lab.call(lab.ask(5));
        call.granted();
        call.say(&bid);
        assert!(matches!(call.hear(), HostTell::Concluded { .. }));
        call.over();
        assert!(lab.moments().is_empty());
    }
    // While the data is on its way, nothing is anybody's turn.
    let lab = Lab::synced(4);
    let mut call = lab.call(lab.ask(5));
    call.granted();
    call.stop();
    let begun = std::time::Instant::now();
    call.serve();
    call.say(&HostBid::Stop);
    assert!(matches!(call.hear(), HostTell::Concluded { .. }));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(lab.moments(), ["stop", "start", "check"]);
}
