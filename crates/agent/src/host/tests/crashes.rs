//! The process is ended at every point of a run, and an agent starts anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep_cluster::plan::{FileState, NodeState, Root};

use super::lab::{Lab, Rate};
use crate::crash;
use crate::wire::{FileBytes, HostBid};

const FOLDER: &str = "LOCKSTEP_TEST_FOLDER";
const CHILD: &str = "host::tests::crashes::child";
const FILE: &[u8] = b"new";

/// A run of epoch 5 that is ended at the point that the environment names.
#[test]
#[ignore = "started by the test below"]
fn child() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    whole_run(&Lab::over(&folder, "a"), 5);
}

fn whole_run(lab: &Lab, epoch: u64) {
    let mut call = lab.call(lab.ask(epoch));
    call.granted();
    let path = format!("{}/conf/x", lab.dir().display()).parse().unwrap();
    let state = FileState {
        hash: Root::from_bytes(*blake3::hash(FILE).as_bytes()),
        mode: 0o644,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    let states = BTreeMap::from([(path, state)]);
    call.say(&HostBid::Files {
        states: states.clone(),
    });
    call.hear();
    for (path, state) in states {
        if std::fs::read(path.as_path()).is_ok_and(|bytes| bytes == FILE) {
            continue;
        }
        call.say(&HostBid::File(FileBytes {
            path,
            state: Some(state),
            bytes: FILE.len() as u64,
        }));
        call.send(FILE);
    }
    call.say(&HostBid::FilesEnd);
    call.hear();
    assert_eq!(call.stop(), None);
    assert_eq!(call.sync(lab, Rate::Full).0, NodeState::Consistent);
    call.conclude(true);
}

fn crashed_at(point: &str, folder: &Path) {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, "--exact", "--ignored"])
        .env(FOLDER, folder)
        .env(crash::VARIABLE, point)
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
    assert_eq!(signal, Some(6), "{point} was never passed: {ended:?}");
}

/// At every moment: never a wrong `consistent`, never `configure` or `start` on a mixture, and
/// services that were stopped come back at the agent's start wherever the data lets them.
#[test]
fn a_crash_at_any_point_leaves_services_on_whole_data_or_down() {
    for point in crash::HOST {
        let lab = Lab::synced(4);
        lab.change_source();
        let old = std::fs::read(lab.target()).unwrap();
        crashed_at(point, lab.dir());
        let agent = lab.restarted();
        agent.recover();
        let view = agent.view(&"data".parse().unwrap()).unwrap();
        assert_eq!(view.state, NodeState::Consistent, "{point}");
        assert!(!view.stopped, "{point}: whole data is served");
        let is_new = lab.is_equal();
        assert!(
            is_new || std::fs::read(lab.target()).unwrap() == old,
            "{point}"
        );
        assert_eq!(view.data_epoch.unwrap().get() == 5, is_new, "{point}");
        let moments = lab.moments();
        let count = |moment: &str| moments.iter().filter(|it| *it == moment).count();
        assert!(count("stop") == 0 || count("start") > 0, "{point}");
        assert!(is_new || count("configure") == 0, "{point}");
        assert!(!is_new || count("configure") > 0, "{point}");
        let file = std::fs::read(lab.dir().join("conf/x")).ok();
        assert_eq!(file.is_some(), is_new, "{point}: files belong to the data");
        let again = Lab::over(lab.dir(), "a");
        again.host().recover();
        whole_run(&again, 6);
        assert!(again.is_equal(), "{point}");
        assert_eq!(again.moments().last().unwrap(), "check", "{point}");
    }
}
