//! Configuration files over a call.

use std::collections::BTreeMap;
use std::fs;

use lockstep_cluster::plan::{FileState, NodeState, Root};
use lockstep_cluster::value::AbsolutePath;

use super::lab::{Call, Lab, Rate};
use crate::wire::{FileBytes, HostBid, HostTell};

fn path(lab: &Lab, name: &str) -> AbsolutePath {
    format!("{}/{name}", lab.dir().display()).parse().unwrap()
}

fn state(bytes: &[u8]) -> FileState {
    FileState {
        hash: Root::from_bytes(*blake3::hash(bytes).as_bytes()),
        mode: 0o640,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    }
}

fn offer(lab: &Lab, call: &mut Call, bytes: &[u8]) -> Vec<String> {
    let states = BTreeMap::from([(path(lab, "conf/new/x.conf"), state(bytes))]);
    call.say(&HostBid::Files { states });
    let HostTell::Differing { files, left_out: 0 } = call.hear() else {
        panic!("files")
    };
    files.iter().map(ToString::to_string).collect()
}

fn send(lab: &Lab, call: &mut Call, bytes: &[u8]) {
    let file = |name: &str, state, bytes| {
        HostBid::File(FileBytes {
            path: path(lab, name),
            state,
            bytes,
        })
    };
    call.say(&file(
        "conf/new/x.conf",
        Some(state(bytes)),
        bytes.len() as u64,
    ));
    for part in bytes.chunks(1000) {
        call.send(part);
    }
    call.say(&file("conf/old.conf", None, 0));
    call.say(&HostBid::FilesEnd);
    assert!(matches!(call.hear(), HostTell::Staged { failure: None }));
}

#[test]
fn files_are_put_in_place_with_consistent_data_and_not_before() {
    let lab = Lab::synced(4);
    let bytes = vec![7; 2500];
    fs::write(lab.dir().join("conf/old.conf"), b"old").unwrap();
    for lost in [true, false] {
        let mut call = lab.call(lab.ask(if lost { 5 } else { 6 }));
        call.granted();
        assert_eq!(offer(&lab, &mut call, &bytes).len(), 2);
        send(&lab, &mut call, &bytes);
        call.stop();
        assert!(lab.dir().join("conf/old.conf").exists());
        assert!(!lab.dir().join("conf/new/x.conf").exists());
        if lost {
            call.lose();
            assert!(lab.dir().join("conf/old.conf").exists());
            assert!(!lab.dir().join("conf/new/.x.conf.lockstep-staged").exists());
            continue;
        }
        assert_eq!(call.sync(&lab, Rate::Full).0, NodeState::Consistent);
        call.say(&HostBid::Conclude { usable: true });
        let HostTell::Concluded { files, failure, .. } = call.hear() else {
            panic!("the end")
        };
        assert_eq!((files.len(), failure), (2, None));
    }
    assert_eq!(fs::read(lab.dir().join("conf/new/x.conf")).unwrap(), bytes);
    assert!(!lab.dir().join("conf/old.conf").exists());
    let kept = lab.dir().join("conf/.old.conf.lockstep-previous");
    assert_eq!(fs::read(kept).unwrap(), b"old");
}

#[test]
fn what_nobody_asked_for_ends_the_call() {
    for (name, bytes) in [
        ("conf/new/x.conf", 17 << 20),
        ("conf/y.conf", 1),
        ("evil", 1),
    ] {
        let lab = Lab::synced(4);
        let mut call = lab.call(lab.ask(5));
        call.granted();
        offer(&lab, &mut call, b"x");
        call.say(&HostBid::File(FileBytes {
            path: path(&lab, name),
            state: Some(state(b"x")),
            bytes,
        }));
        assert!(matches!(call.hear(), HostTell::Concluded { .. }), "{name}");
        call.over();
        assert!(!lab.dir().join(name).exists());
    }
}

#[test]
fn more_bytes_than_announced_end_the_call() {
    let lab = Lab::synced(4);
    let mut call = lab.call(lab.ask(5));
    call.granted();
    offer(&lab, &mut call, b"x");
    call.say(&HostBid::File(FileBytes {
        path: path(&lab, "conf/new/x.conf"),
        state: Some(state(b"x")),
        bytes: 1,
    }));
    call.send(b"xy");
    assert!(matches!(call.hear(), HostTell::Concluded { .. }));
    call.over();
}
