//! Arguments that cannot be carried out: exit 2, before anything is opened, and said as JSON when asked.

use super::stand::{Stand, volume};

/// Every command here must be refused with exit 2.
const REFUSED: [&[&str]; 29] = [
    &[],
    &["bogus"],
    &["sync"],
    &["sync", "a"],
    &["sync", "", "b"],
    &["sync", "a", ""],
    &["sync", "a", "b", "b"],
    &["sync", "a", "b", "./b"],
    &["sync", "a", "db2:/x", "root@db2:/x"],
    &["sync", "db1:a", "b"],
    &["sync", "a", ":/x"],
    &["sync", "a", "db2:"],
    &["sync", "a", "db2::module"],
    &["sync", "a", "ssh://db2/x"],
    &["sync", "a", "-oProxyCommand=x:/y"],
    &["sync", "a", "b", "--memory", "1M"],
    &["sync", "a", "b", "--memory", "much"],
    &["sync", "a", "b", "--limit-rate", "5MB/h"],
    &["sync", "a", "b", "--limit-read", "-1"],
    &["sync", "a", "b", "--priority", "high"],
    &["sync", "a", "b", "--pace", "slow"],
    &["sync", "a", "b", "--compress", "20"],
    &["sync", "a", "b", "--threads", "0"],
    &["sync", "a", "b", "--connections", "17"],
    &["sync", "a", "b", "--snapshot", "bogus"],
    &["sync", "a", "b", "--snapshot", "exec:"],
    &["sync", "a", "b", "--max-duration", "soon"],
    &["sync", "a", "h:b", "-e", "ssh 'x"],
    &["diff", "a", "b", "c"],
];

#[test]
fn commands_that_make_no_sense_change_nothing_and_exit_2() {
    let stand = Stand::new();
    stand.file("a", &volume(100_000, 1));
    stand.file("b", &volume(100_000, 2));
    let before = stand.contents();
    for arguments in REFUSED {
        let ran = stand.run(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
        assert!(
            !ran.stderr.is_empty(),
            "{arguments:?} is refused without a word"
        );
        assert!(
            ran.stdout.is_empty(),
            "{arguments:?} printed {}",
            ran.stdout
        );
    }
    assert_eq!(stand.contents(), before);
    assert!(!stand.path("state").exists(), "no ledger was made");
}

#[test]
fn a_refusal_with_json_ends_in_a_summary_without_targets() {
    let stand = Stand::new();
    stand.file("a", b"a");
    stand.file("b", b"b");
    for arguments in REFUSED {
        let events = stand.events(arguments).exits(2);
        let summary = events.summary();
        assert_eq!(summary["result"], "failed", "{arguments:?}");
        assert_eq!(summary["targets"].as_array().map(Vec::len), Some(0));
        assert!(summary["root"].is_null());
        assert_eq!(summary["error"]["code"], "usage");
        assert_eq!(summary["error"]["retriable"], false);
    }
}

#[test]
fn a_provider_that_does_not_suit_the_volume_says_why() {
    let stand = Stand::new();
    stand.file("a", b"a");
    for (provider, why) in [
        ("zfs", "zvol"),
        ("lvm", "block device"),
        ("exec:/bin/false", "false"),
    ] {
        let ran = stand
            .run(&["sync", "a", "b", "--snapshot", provider])
            .exits(3);
        assert!(ran.stderr.contains(why), "{provider}: {}", ran.stderr);
        assert!(!stand.path("b").exists());
    }
}

#[test]
fn links_to_one_file_are_one_target() {
    let stand = Stand::new();
    stand.file("a", b"a");
    let b = stand.file("b", b"b");
    std::os::unix::fs::symlink(&b, stand.path("link")).unwrap();
    std::fs::hard_link(&b, stand.path("hard")).unwrap();
    for twin in ["link", "hard"] {
        let ran = stand.run(&["sync", "a", "b", twin, "--yes"]).exits(2);
        assert!(ran.stderr.contains("same place"), "{}", ran.stderr);
    }
    assert_eq!(stand.read("b"), b"b");
}

#[test]
fn help_and_version_are_not_failures() {
    let stand = Stand::new();
    let help = stand.run(&["--help"]).exits(0);
    for verb in ["sync", "diff", "hash", "gate", "bench", "demo"] {
        assert!(help.stdout.contains(verb), "help names {verb}");
    }
    assert!(!help.stdout.contains("remote-"), "hidden verbs stay hidden");
    let version = stand.run(&["--version"]).exits(0);
    assert!(version.stdout.starts_with("lockstep "));
    stand.run(&["sync", "--help"]).exits(0);
}

#[test]
fn settings_come_from_the_environment_and_flags_win() {
    let stand = Stand::new();
    stand.file("a", b"a");
    let mut command = stand.command(&["sync", "a", "b"]);
    let refused = command.env("LOCKSTEP_COMPRESS", "99").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let mut command = stand.command(&["sync", "a", "b", "--compress", "off"]);
    let taken = command.env("LOCKSTEP_COMPRESS", "3").output().unwrap();
    assert_eq!(taken.status.code(), Some(0));
}

#[test]
fn a_closed_stdout_is_no_reason_to_panic() {
    let stand = Stand::new();
    stand.file("a", &volume(1 << 20, 1));
    for arguments in [
        &["hash", "a"][..],
        &["hash", "--json", "a"],
        &["sync", "--json", "a", "c"],
        &["diff", "a", "c", "--json"],
        &["--help"],
    ] {
        let mut command = stand.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
