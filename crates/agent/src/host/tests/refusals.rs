//! Who is not let in, and that nothing was touched then.

use std::fs;

use lockstep_cluster::AgentFile;
use lockstep_cluster::plan::NodeState;
use lockstep_cluster::value::VolumeId;

use super::lab::{Lab, Rate};
use crate::config::Config;
use crate::wire::WriteAsk;

fn code(lab: &Lab, caller: &str, ask: WriteAsk) -> u8 {
    let (failure, _) = lab.call_of(caller, ask).refused();
    assert!(!failure.hint.as_str().is_empty(), "{failure:?}");
    assert!(lab.log().is_empty(), "nothing was stopped");
    failure.exit_code
}

#[test]
fn nobody_but_the_primary_is_let_in_and_only_to_what_both_files_allow() {
    let lab = Lab::new();
    assert_eq!(code(&lab, "c", lab.ask(5)), 5, "not the primary");
    assert_eq!(code(&lab, "b", lab.ask(5)), 5, "the node itself");
    assert_eq!(code(&lab, "stranger", lab.ask(5)), 5);
    let unknown = WriteAsk {
        volume: "other".parse().unwrap(),
        ..lab.ask(5)
    };
    assert_eq!(code(&lab, "a", unknown), 5);
    let other = WriteAsk {
        id: VolumeId::from_bytes([9; 16]).unwrap(),
        ..lab.ask(5)
    };
    assert_eq!(code(&lab, "a", other), 7);
    let config = lab.current.get();
    lab.current.set(Config {
        own: AgentFile {
            allow_overwrite: false,
            ..AgentFile::default()
        },
        ..Config::clone(&config)
    });
    assert_eq!(code(&lab, "a", lab.ask(5)), 7, "agent.toml wins");
    let mut cluster = config.cluster.clone();
    cluster.volumes[0].replicas = vec!["c".parse().unwrap()];
    lab.current.set(Config {
        cluster,
        ..Config::clone(&config)
    });
    assert_eq!(code(&lab, "a", lab.ask(5)), 7, "no replica");
    let mut cluster = config.cluster.clone();
    cluster.groups.clear();
    lab.current.set(Config {
        cluster,
        ..Config::clone(&config)
    });
    let grouped = WriteAsk {
        group: true,
        ..lab.ask(5)
    };
    assert_eq!(code(&lab, "a", grouped), 7, "another cluster file");
    assert!(!lab.target().exists());
    let promises = lab.dir().join("state/promises");
    assert!(!promises.exists(), "no promise was made");
}

#[test]
fn a_primary_and_one_that_does_not_know_refuse_everything() {
    let lab = Lab::with("b");
    assert_eq!(code(&lab, "a", lab.ask(5)), 5, "`a` is not the primary");
    let lab = Lab::with("probe");
    for (role, expected) in [("primary", 7), ("what", 7), ("", 7)] {
        fs::write(lab.dir().join("role"), role).unwrap();
        assert_eq!(code(&lab, "a", lab.ask(5)), expected, "{role}");
    }
    fs::remove_file(lab.dir().join("role")).unwrap();
    assert_eq!(code(&lab, "a", lab.ask(5)), 7, "the probe fails");
    fs::write(lab.dir().join("role"), "replica\n").unwrap();
    let mut call = lab.call(lab.ask(5));
    call.granted();
    call.lose();
}

#[test]
fn an_older_epoch_and_an_equal_one_of_another_run_are_fenced() {
    let lab = Lab::synced(5);
    let (failure, promised) = lab.call(lab.ask(4)).refused();
    assert_eq!(failure.exit_code, 6);
    assert_eq!(promised.unwrap().get(), 5);
    let other = WriteAsk {
        run: "another".parse().unwrap(),
        ..lab.ask(5)
    };
    let (failure, promised) = lab.call(other).refused();
    assert_eq!((failure.exit_code, promised.unwrap().get()), (6, 5));
    let mut newest = lab.call(lab.ask(6));
    newest.granted();
    newest.lose();
    let mut again = lab.call(lab.ask(6));
    assert_eq!(again.granted(), NodeState::Consistent, "the same run again");
    let twice = lab.call(lab.ask(6)).refused();
    assert_eq!(twice.0.exit_code, 22, "and once only");
    again.conclude(false);
}

#[test]
fn foreign_data_is_overwritten_only_if_somebody_adopts_it() {
    let lab = Lab::new();
    lab.dirty_target();
    let (failure, _) = lab.call(lab.ask(5)).refused();
    assert_eq!(failure.exit_code, 7);
    assert!(failure.hint.as_str().contains("--adopt b"), "{failure:?}");
    let adopted = WriteAsk {
        adopt: true,
        ..lab.ask(5)
    };
    let mut call = lab.call(adopted);
    call.granted();
    call.stop();
    assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
    call.conclude(true);
    // From now on it is ours; another file in its place is not.
    let mut call = lab.call(lab.ask(6));
    call.granted();
    call.conclude(false);
    fs::remove_file(lab.target()).unwrap();
    lab.dirty_target();
    assert_eq!(lab.call(lab.ask(7)).refused().0.exit_code, 7);
}

#[test]
fn a_node_serves_no_more_runs_than_its_own_file_says() {
    let lab = Lab::new();
    let config = lab.current.get();
    lab.current.set(Config {
        own: AgentFile {
            runs: 1,
            ..AgentFile::default()
        },
        ..Config::clone(&config)
    });
    let mut first = lab.call(lab.ask(5));
    first.granted();
    let other = |hooks: bool| WriteAsk {
        hooks,
        run: "another".parse().unwrap(),
        ..lab.ask_wal(5)
    };
    for hooks in [true, false] {
        let wal = lab.call(other(hooks)).refused();
        assert_eq!(wal.0.exit_code, 22);
    }
    // Another volume of the same run is no other run, whoever runs its hooks.
    let of_the_same = WriteAsk {
        hooks: true,
        ..lab.ask_wal(4)
    };
    let mut of_the_same = lab.call(WriteAsk {
        run: lab.ask(5).run,
        ..of_the_same
    });
    of_the_same.granted();
    of_the_same.lose();
    first.conclude(false);
    let mut wal = lab.call(lab.ask_wal(5));
    wal.granted();
    wal.lose();
}
