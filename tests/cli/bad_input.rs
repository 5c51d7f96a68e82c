//! Volumes that cannot be a source or a target: each with its exit code, nothing written.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stand::{
    Events, Mounted, Ran, Running, Stand, drifted, eventually, is_root, skip, volume,
};

const NOBODY: u32 = 65_534;

/// A stand with a source `a` and a drifted target `b`.
fn stand() -> Stand {
    let stand = Stand::new();
    let bytes = volume(300_000, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[3]));
    stand
}

fn fifo(stand: &Stand, name: &str) {
    let made = Command::new("mkfifo")
        .arg(stand.path(name))
        .status()
        .unwrap();
    assert!(made.success());
}

#[test]
fn a_source_that_is_no_volume_is_refused() {
    let stand = stand();
    fs::create_dir(stand.path("folder")).unwrap();
    fifo(&stand, "fifo");
    let before = stand.contents();
    for source in ["missing", "folder", "fifo", "/dev/null", "no/such/folder/a"] {
        let events = stand.events(&["sync", source, "b", "--yes"]).exits(2);
        assert_eq!(events.summary()["changed"], false);
        stand.events(&["diff", source, "b"]).exits(2);
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_target_that_is_no_volume_is_refused() {
    let stand = stand();
    fs::create_dir(stand.path("folder")).unwrap();
    fifo(&stand, "fifo");
    std::os::unix::fs::symlink("nowhere", stand.path("dangling")).unwrap();
    let before = stand.contents();
    for target in ["folder", "fifo", "/dev/null", "dangling"] {
        let events = stand.events(&["sync", "a", target, "--yes"]);
        assert!(
            [2, 7, 20].contains(&events.code),
            "{target}: {:#}",
            events.summary()
        );
        assert_eq!(events.summary()["changed"], false);
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_target_in_a_missing_folder_is_not_made() {
    let stand = stand();
    let before = stand.contents();
    let events = stand.events(&["sync", "a", "missing/b", "--yes"]).exits(20);
    assert!(
        events.summary()["targets"][0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains("missing")
    );
    assert_eq!(stand.contents(), before);
}

#[test]
fn source_and_target_must_be_two_files() {
    let stand = stand();
    std::os::unix::fs::symlink(stand.path("a"), stand.path("link")).unwrap();
    fs::hard_link(stand.path("a"), stand.path("hard")).unwrap();
    let before = stand.contents();
    for twin in ["a", "./a", "link", "hard"] {
        let events = stand.events(&["sync", "a", twin, "--yes"]).exits(7);
        assert_eq!(
            events.summary()["targets"][0]["error"]["code"],
            "guard",
            "{twin}"
        );
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_target_that_is_open_elsewhere_is_not_written() {
    let stand = stand();
    let before = stand.contents();
    let held = File::open(stand.path("b")).unwrap();
    let events = stand.events(&["sync", "a", "b", "--yes"]).exits(7);
    let message = events.summary()["targets"][0]["error"]["message"].to_string();
    assert!(
        message.contains(&std::process::id().to_string()),
        "it names who: {message}"
    );
    drop(held);
    assert_eq!(stand.contents(), before);
    stand.events(&["sync", "a", "b", "--yes"]).exits(0);
}

#[test]
fn a_source_that_somebody_may_write_is_refused() {
    let stand = stand();
    let before = stand.contents();
    let writer = File::options().append(true).open(stand.path("a")).unwrap();
    for how in ["auto", "exclusive"] {
        let events = stand
            .events(&["sync", "a", "b", "--yes", "--snapshot", how])
            .exits(3);
        assert_eq!(events.summary()["changed"], false);
    }
    assert_eq!(stand.contents(), before);
    // The writer is idle: reading twice proves that nothing changed.
    let events = stand
        .events(&["sync", "a", "b", "--yes", "--snapshot", "none"])
        .exits(0);
    assert_eq!(events.summary()["snapshot"], "none");
    drop(writer);
    assert_eq!(stand.read("b"), stand.read("a"));
}

#[test]
fn a_source_that_changes_while_it_is_read_never_makes_a_target_consistent() {
    let stand = Stand::new();
    stand.file("a", &volume(32 << 20, 1));
    let writer = File::options().write(true).open(stand.path("a")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0u64.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let page = number.wrapping_mul(4_093) % 8192;
                writer
                    .write_all_at(&number.to_le_bytes(), page * 4096)
                    .unwrap();
            }
        });
        let arguments = ["sync", "a", "b", "--yes", "--snapshot", "none"];
        let events = stand.events(&arguments);
        over.store(true, Ordering::Relaxed);
        let summary = events.summary();
        assert_eq!(summary["consistency"], "fuzzy", "{summary:#}");
        assert_ne!(summary["targets"][0]["state"], "consistent");
    });
    stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn a_source_that_shrinks_while_it_is_read_is_no_source() {
    let stand = Stand::new();
    stand.file("a", &volume(32 << 20, 1));
    let writer = File::options().write(true).open(stand.path("a")).unwrap();
    let arguments = [
        "sync",
        "a",
        "b",
        "--json",
        "--snapshot",
        "none",
        "--limit-rate",
        "4M",
    ];
    let running = Running::start(&mut stand.command(&arguments));
    eventually("the target is being written", || {
        stand.path(".b.lockstep-partial").exists()
    });
    writer.set_len(1 << 20).unwrap();
    let events = Events::from(running.end());
    assert!([12, 21].contains(&events.code), "{:#}", events.summary());
    assert!(!stand.path("b").exists());
    stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn an_unusable_state_directory_ends_the_run_before_any_write() {
    let stand = stand();
    stand.file("file", b"");
    let before = stand.contents();
    let state = ["--state-dir", "file/state"];
    for target in ["b", "new"] {
        let arguments = ["sync", "a", target, "--yes"];
        let events = stand.events(&[&arguments[..], &state].concat()).exits(12);
        assert_eq!(events.summary()["changed"], false);
    }
    assert_eq!(stand.contents(), before);
    stand
        .run(&[&["diff", "a", "b"][..], &state].concat())
        .exits(10);
}

#[test]
fn what_this_user_may_not_write_stays() {
    if !is_root() {
        return skip("another user can only be had by root");
    }
    let stand = stand();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(stand.folder(), open.clone()).unwrap();
    fs::create_dir(stand.path("state")).unwrap();
    fs::set_permissions(stand.path("state"), open).unwrap();
    fs::create_dir(stand.path("closed")).unwrap();
    let before = stand.contents();
    for target in ["b", "closed/b"] {
        let mut command =
            stand.command(&["sync", "a", target, "--yes", "--json", "--snapshot", "none"]);
        let Ok(output) = command.uid(NOBODY).gid(NOBODY).output() else {
            return skip("the program is not where another user can start it");
        };
        let events = Events::from(Ran::from(output)).exits(20);
        assert_eq!(events.summary()["changed"], false, "{target}");
    }
    assert_eq!(stand.contents(), before);
}

#[test]
fn a_full_disk_leaves_nothing_that_looks_whole() {
    let stand = Stand::new();
    let bytes = volume(8 << 20, 1);
    stand.file("a", &bytes);
    fs::create_dir(stand.path("small")).unwrap();
    let Some(_mounted) = Mounted::at(
        &stand.path("small"),
        &["-t", "tmpfs", "-o", "size=2m", "none"],
    ) else {
        return skip("a small file system can only be mounted by root");
    };
    let events = stand.events(&["sync", "a", "small/b", "--yes"]);
    assert!([3, 12, 20].contains(&events.code), "{:#}", events.summary());
    assert!(!stand.path("small/b").exists());
    assert_ne!(events.summary()["targets"][0]["state"], "consistent");
    stand.run(&["gate", "small/b"]).exits(10);
}

#[test]
fn a_target_on_a_read_only_file_system_is_refused() {
    let stand = stand();
    fs::create_dir(stand.path("ro")).unwrap();
    let Some(_mounted) = Mounted::at(&stand.path("ro"), &["-t", "tmpfs", "-o", "ro", "none"])
    else {
        return skip("a read-only file system can only be mounted by root");
    };
    let events = stand.events(&["sync", "a", "ro/b", "--yes"]).exits(20);
    assert_eq!(events.summary()["changed"], false);
}
