//! Several targets of one run: each at its own pace, none at the cost of another.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::judge::{Watched, kill, pid_in, same};
use super::lab::{FAR, Wire, root_lab, script};
use super::stand::{LOCKSTEP, Stand, shell, volume};

const SIZE: usize = 64 << 20;
/// What the slow ones lack.
const LACKING: usize = 24 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A remote shell that leaves its process id, and runs its command on this machine or, for a host
/// of the wire, at its far end.
fn shell_to(stand: &Stand, wire: &Wire) -> PathBuf {
    let lines = format!(
        "echo $$ >{}/pid-${{1%@*}}\nplace=$1; shift\n\
         case $place in *@{FAR}) exec {} \"$@\" ;; esac\nexec \"$@\"",
        stand.folder().display(),
        wire.far_prefix()
    );
    script(stand, "shell", &lines)
}

#[test]
fn a_slow_and_a_dying_target_cost_the_fast_one_and_the_source_nothing() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    let a = stand.file("a", &bytes);
    for name in ["slow", "dying"] {
        let mut drifted = bytes.clone();
        drifted[SIZE - LACKING..].fill(0xff);
        stand.file(name, &drifted);
    }
    let wire = Wire::up();
    wire.lab("rate", &["5mbyte"]);
    let shell = shell_to(&stand, &wire);
    let folder = stand.folder().display();
    let targets = [
        format!("fast@127.0.0.1:{folder}/fast"),
        format!("slow@{FAR}:{folder}/slow"),
        format!("dying@{FAR}:{folder}/dying"),
    ];
    let command = stand.command(&[
        "sync",
        "a",
        &targets[0],
        &targets[1],
        &targets[2],
        "--yes",
        "--compress",
        "off",
        "-e",
        shell.to_str().unwrap(),
        "--remote-path",
        LOCKSTEP,
    ]);
    let mut watched = Watched::start(&mut wire.near(&command), stand.folder());
    watched.until_written(2);
    kill(pid_in(&stand.path("pid-dying")));
    let events = watched.end_within(PATIENCE).exits(8);

    let summary = events.summary();
    assert_eq!(summary["result"], "partial");
    let results: Vec<_> = (0..3).map(|n| &summary["targets"][n]["result"]).collect();
    assert_eq!(results, ["ok", "ok", "failed"]);
    assert_eq!(summary["targets"][2]["error"]["exit_code"], 21);
    for name in ["fast", "slow"] {
        assert!(same(&a, &stand.path(name)), "{name}");
        stand.run(&["gate", name]).exits(0);
    }
    assert!(!same(&a, &stand.path("dying")));
    stand.run(&["gate", "dying"]).exits(10);
    let read = summary["source"]["bytes_read"].as_u64().unwrap();
    assert!(read <= SIZE as u64 * 11 / 10, "the source gave {read}");
    let seconds = |n: usize| summary["targets"][n]["seconds"].as_f64().unwrap();
    assert!(
        seconds(0) < seconds(1) / 2.0,
        "the fast one took {} s, the slow one {} s",
        seconds(0),
        seconds(1)
    );
}

#[test]
fn one_place_by_two_names_is_refused_before_anything_is_written() {
    let stand = Stand::new();
    stand.file("a", &volume(1 << 20, 2));
    stand.file("b", &volume(1 << 20, 3));
    std::os::unix::fs::symlink(stand.path("b"), stand.path("link")).unwrap();
    fs::hard_link(stand.path("b"), stand.path("twin")).unwrap();
    let before = stand.contents();
    let there = |host: &str, name: &str| format!("{host}:{}", stand.path(name).display());
    for (one, other) in [
        ("b".to_owned(), "./b".to_owned()),
        ("b".to_owned(), "link".to_owned()),
        ("b".to_owned(), "twin".to_owned()),
        (there("127.0.0.1", "b"), there("127.0.0.1", "b")),
    ] {
        refused_as_one(&stand, &one, &other, 2);
    }
    assert_eq!(stand.contents(), before);
}

/// The far sides find out, since names of hosts and far paths do not tell.
#[test]
fn one_far_place_by_two_names_is_written_by_one_at_most() {
    let stand = Stand::new();
    let bytes = volume(1 << 20, 2);
    stand.file("a", &bytes);
    stand.file("b", &volume(1 << 20, 3));
    std::os::unix::fs::symlink(stand.path("b"), stand.path("link")).unwrap();
    let before = stand.contents();
    let there = |host: &str, name: &str| format!("{host}:{}", stand.path(name).display());
    for (one, other) in [
        (there("127.0.0.1", "b"), there("localhost", "b")),
        (there("127.0.0.1", "b"), there("127.0.0.1", "link")),
        ("b".to_owned(), there("127.0.0.1", "b")),
    ] {
        refused_as_one(&stand, &one, &other, 2);
    }
    assert_eq!(stand.contents(), before);
}

#[track_caller]
fn refused_as_one(stand: &Stand, one: &str, other: &str, code: i32) {
    let shell = shell();
    let mut arguments = vec!["sync", "a", one, other, "--yes"];
    arguments.extend(shell.iter().map(String::as_str));
    let events = stand.events(&arguments);
    assert_eq!(
        events.code,
        code,
        "{one} and {other}: {:#}",
        events.summary()
    );
    assert_eq!(events.summary()["changed"], false);
}
