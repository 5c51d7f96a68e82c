//! `sync` and `diff` between files of one machine: what is written, and what is said of it.

use std::os::unix::fs::MetadataExt;

use super::stand::{Stand, drifted, sparse, volume};

const SIZE: usize = 5 * 1024 * 1024 + 777;

#[test]
fn a_missing_target_is_made_without_a_question() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    let events = stand.events(&["sync", "a", "b"]).exits(0);
    assert_eq!(stand.read("b"), bytes);
    let summary = events.summary();
    assert_eq!(summary["result"], "ok");
    assert_eq!(summary["changed"], true);
    assert_eq!(summary["size"], SIZE);
    assert_eq!(summary["consistency"], "point-in-time");
    assert_eq!(summary["targets"][0]["state"], "consistent");
    assert_eq!(events.of_type("preflight")[0]["plan"], "create");
    assert_eq!(events.lines[0]["type"], "run_started");
}

#[test]
fn only_differing_pages_are_written_and_a_second_run_writes_none() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[0, 7, 500, SIZE / 4096]));
    let events = stand.events(&["sync", "a", "b", "--yes"]).exits(0);
    assert_eq!(stand.read("b"), bytes);
    let last_page = (SIZE % 4096) as u64;
    assert_eq!(events.count("bytes_differing"), 3 * 4096 + last_page);
    assert_eq!(events.count("bytes_written"), 3 * 4096 + last_page);
    assert_eq!(events.summary()["source"]["bytes_hashed"], SIZE);

    let before = stand.contents();
    let events = stand.events(&["sync", "a", "b", "--yes"]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
    assert_eq!(events.summary()["changed"], false);
    assert_eq!(
        stand.contents(),
        before,
        "an identical target is not touched"
    );
}

#[test]
fn the_root_is_the_same_wherever_it_is_shown() {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE, 3));
    let hash = stand.run(&["hash", "a"]).exits(0).stdout;
    let root = hash.split_whitespace().next().unwrap();
    let events = stand.events(&["sync", "a", "b"]).exits(0);
    assert_eq!(events.summary()["root"], root);
    assert_eq!(events.of_type("hashed")[0]["root"], root);
    let text = stand.run(&["sync", "a", "c"]).exits(0).stdout;
    assert!(text.starts_with(&format!("root {root}, ")), "{text}");
    assert!(text.contains("of a full copy"), "{text}");
}

#[test]
fn a_dry_run_writes_nothing_asks_nothing_and_tells_the_difference() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[9]));
    let before = stand.contents();
    let events = stand.events(&["sync", "-n", "a", "b"]).exits(10);
    assert_eq!(events.summary()["result"], "different");
    assert_eq!(events.summary()["dry_run"], true);
    assert_eq!(events.count("bytes_differing"), 4096);
    assert_eq!(stand.contents(), before);
    stand.file("b", &bytes);
    stand.events(&["sync", "-n", "a", "b"]).exits(0);
}

#[test]
fn without_a_terminal_overwriting_needs_yes() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[9]));
    let before = stand.contents();
    let ran = stand.run(&["sync", "a", "b"]).exits(4);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    let events = stand.events(&["sync", "a", "b"]).exits(4);
    assert_eq!(
        events.summary()["targets"][0]["error"]["code"],
        "not-confirmed"
    );
    assert_eq!(stand.contents(), before);
    stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn an_identical_target_needs_no_yes() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &bytes);
    let before = stand.contents();
    stand.events(&["sync", "a", "b"]).exits(0);
    assert_eq!(stand.contents(), before);
    stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn several_targets_are_each_told_in_their_order() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[1]));
    stand.file("d", &bytes);
    let events = stand
        .events(&["sync", "a", "b", "c", "d", "--yes"])
        .exits(0);
    let targets = events.summary()["targets"].as_array().unwrap();
    let written: Vec<_> = targets
        .iter()
        .map(|target| {
            (
                target["target"].as_str().unwrap(),
                target["bytes_written"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(written[0], ("b", 4096));
    assert_eq!((written[1].0, written[2]), ("c", ("d", 0)));
    assert_eq!(stand.read("c"), bytes);
    let text = stand.run(&["sync", "a", "b", "c"]).exits(0).stdout;
    assert_eq!(
        text.lines().count(),
        3,
        "a line for the root and one a target: {text}"
    );
}

#[test]
fn one_bad_target_does_not_spoil_the_others() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    let events = stand
        .events(&["sync", "a", "b", "nowhere/c", "--yes"])
        .exits(8);
    assert_eq!(events.summary()["result"], "partial");
    assert_eq!(events.summary()["targets"][0]["result"], "ok");
    assert_eq!(events.summary()["targets"][1]["result"], "failed");
    assert_eq!(stand.read("b"), bytes);
}

#[test]
fn a_file_of_another_size_is_resized_and_said_to_be() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("short", &bytes[..SIZE / 3]);
    stand.file("long", &volume(2 * SIZE, 1));
    for name in ["short", "long"] {
        let events = stand.events(&["sync", "a", name, "--yes"]).exits(0);
        assert_eq!(events.of_type("preflight")[0]["plan"], "resize");
        assert!(events.stderr.contains("resized"), "{}", events.stderr);
        assert_eq!(stand.read(name), bytes, "{name}");
        stand.run(&["gate", name]).exits(0);
    }
}

#[test]
fn odd_sizes_are_made_equal() {
    let stand = Stand::new();
    for size in [
        0,
        1,
        4095,
        4097,
        65_535,
        65_537,
        (1 << 20) - 1,
        (1 << 20) + 1,
    ] {
        let bytes = volume(size, 9);
        stand.file("a", &bytes);
        let name = format!("b{size}");
        stand.events(&["sync", "a", &name]).exits(0);
        assert_eq!(stand.read(&name), bytes, "{size} bytes");
        stand.run(&["gate", &name]).exits(0);
    }
}

#[test]
fn holes_stay_holes() {
    let stand = Stand::new();
    sparse(&stand.path("a"), 256 << 20);
    stand.events(&["sync", "a", "b"]).exits(0);
    let made = stand.path("b").metadata().unwrap();
    assert_eq!(made.len(), 256 << 20);
    assert!(
        made.blocks() * 512 <= 1 << 20,
        "{} bytes allocated",
        made.blocks() * 512
    );
}

#[test]
fn full_runs_ship_what_is_equal_too() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &bytes);
    let events = stand
        .events(&[
            "sync",
            "a",
            "b",
            "--full",
            "--yes",
            "--compress",
            "off",
            "--verify",
            "full",
        ])
        .exits(0);
    assert!(events.count("bytes_sent") > SIZE as u64 / 2);
    assert_eq!(stand.read("b"), bytes);
}

#[test]
fn a_limited_rate_is_kept() {
    let stand = Stand::new();
    let started = std::time::Instant::now();
    stand.file("a", &volume(4 << 20, 1));
    stand
        .events(&["sync", "a", "b", "--limit-rate", "1M", "--compress", "off"])
        .exits(0);
    // A quarter of the data is zeros, which cost nothing: 3 MiB are left.
    assert!(started.elapsed().as_secs_f64() > 1.5);
}

#[test]
fn a_run_that_takes_too_long_ends_with_23() {
    let stand = Stand::new();
    stand.file("a", &volume(16 << 20, 1));
    let arguments = [
        "sync",
        "a",
        "b",
        "--limit-rate",
        "1M",
        "--compress",
        "off",
        "--max-duration",
        "2s",
    ];
    let events = stand.events(&arguments).exits(23);
    assert_eq!(events.summary()["result"], "failed");
    assert!(
        !stand.path("b").exists(),
        "a half-written file does not bear its final name"
    );
    stand.run(&["gate", "b"]).exits(10);
    stand.events(&["sync", "a", "b"]).exits(0);
    assert_eq!(stand.read("b"), stand.read("a"));
}

#[test]
fn diff_lists_ranges_and_writes_nothing() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[0, 1, 2, 40, SIZE / 4096]));
    let before = stand.contents();
    let ran = stand.run(&["diff", "a", "b"]).exits(10);
    let last = SIZE / 4096 * 4096;
    assert_eq!(
        ran.stdout,
        format!("0 12288\n163840 4096\n{last} {}\n", SIZE % 4096)
    );
    let events = stand.events(&["diff", "a", "b"]).exits(10);
    let diff = events.of_type("diff")[0];
    assert_eq!(
        diff["ranges"][1],
        serde_json::json!({"offset": 163_840, "length": 4096})
    );
    assert_eq!(diff["ranges"].as_array().map(Vec::len), Some(3));
    assert_eq!(stand.contents(), before);
    assert!(!stand.path("state").exists(), "not even a ledger is made");

    let equal = stand.run(&["diff", "a", "a2"]);
    assert_ne!(equal.code, 0, "a missing file is not equal to anything");
    stand.file("a2", &bytes);
    let equal = stand.run(&["diff", "a", "a2"]).exits(0);
    assert_eq!(equal.stdout, "");
}
