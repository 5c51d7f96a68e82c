//! `hash` and `sync` between files of one machine: the bytes, the work, the memory.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::Signal;

use super::judge::{Watched, allocated, b3sum, differing, modified, peak_memory, same};
use super::stand::{Ran, Running, Stand, drifted, sparse, volume};

const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB + 1234;

#[test]
fn a_hash_is_what_b3sum_prints() {
    let stand = Stand::new();
    for length in [
        0,
        1,
        1023,
        1024,
        1025,
        (64 << 10) - 1,
        64 << 10,
        (64 << 10) + 1,
        MIB - 1,
        MIB,
        MIB + 1,
        3 * MIB + 7,
    ] {
        let path = stand.file("a", &volume(length, 7));
        let ran = stand.run(&["hash", "a"]).exits(0);
        assert_eq!(
            ran.stdout,
            format!("{}  a\n", b3sum(&path)),
            "{length} bytes"
        );
    }
}

#[test]
fn exactly_the_differing_pages_are_written_and_then_none() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 1);
    let a = stand.file("a", &bytes);
    let pages: Vec<usize> = (0..SIZE / 4096).step_by(37).collect();
    let b = stand.file("b", &drifted(&bytes, &pages));
    let missing = differing(&a, &b);
    assert_eq!(missing, 4096 * pages.len() as u64);

    let events = stand.events(&["sync", "a", "b", "--yes"]).exits(0);
    assert!(same(&a, &b));
    assert_eq!(events.summary()["root"], b3sum(&a));
    assert_eq!(events.count("bytes_differing"), missing);
    assert_eq!(events.count("bytes_written"), missing);
    assert_eq!(events.of_type("hashed")[0]["root"], b3sum(&b));

    let before = modified(&b);
    let events = stand.events(&["sync", "a", "b"]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
    assert_eq!(modified(&b), before, "an identical target is not touched");
    stand.run(&["gate", "b"]).exits(0);
}

#[test]
fn missing_shorter_and_longer_targets_become_equal() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 2);
    let a = stand.file("a", &bytes);
    stand.file("shorter", &bytes[..SIZE / 3]);
    stand.file("longer", &volume(SIZE + 3 * MIB, 2));
    stand.file("empty", b"");
    for name in ["missing", "shorter", "longer", "empty"] {
        stand.events(&["sync", "a", name, "--yes"]).exits(0);
        assert!(same(&a, &stand.path(name)), "{name}");
        stand.run(&["gate", name]).exits(0);
        let before = modified(&stand.path(name));
        let events = stand.events(&["sync", "a", name]).exits(0);
        assert_eq!(events.count("bytes_written"), 0, "{name}");
        assert_eq!(modified(&stand.path(name)), before, "{name}");
    }
}

#[test]
fn a_large_identical_pair_costs_a_thousandth_on_the_link() {
    const LARGE: usize = 256 * MIB;
    let stand = Stand::new();
    let a = stand.file("a", &volume(LARGE, 3));
    let b = stand.path("b");
    fs::copy(&a, &b).unwrap();
    let before = modified(&b);
    let events = stand.events(&["sync", "a", "b"]).exits(0);
    let crossed = events.count("bytes_sent") + events.count("bytes_received");
    assert!(crossed <= LARGE as u64 / 1000, "{crossed} bytes crossed");
    assert_eq!(events.count("bytes_written"), 0);
    assert_eq!(events.summary()["changed"], false);
    assert_eq!(modified(&b), before);
    assert!(same(&a, &b));
}

#[test]
fn options_of_shipping_and_proof_change_the_cost_but_not_the_result() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 4);
    let a = stand.file("a", &bytes);
    let b = stand.path("b");
    let mut sent = Vec::new();
    for options in [
        &["--compress", "off"][..],
        &["--compress", "3"],
        &["--compress", "off", "--full"],
        &["--compress", "3", "--verify", "full"],
        &["--io", "threads", "--verify", "written", "--memory", "16M"],
    ] {
        fs::write(&b, drifted(&bytes, &[1, 900, 901, 4000])).unwrap();
        let mut arguments = vec!["sync", "a", "b", "--yes"];
        arguments.extend(options);
        let events = stand.events(&arguments).exits(0);
        assert!(same(&a, &b), "{options:?}");
        sent.push(events.count("bytes_sent"));
    }
    assert!(sent[1] <= sent[0], "compression ships more: {sent:?}");
    // A quarter of such a volume is zeros, which ship as ranges.
    assert!(sent[2] > SIZE as u64 / 2, "--full compares: {sent:?}");
    assert!(sent[3] < MIB as u64, "a full proof ships nothing: {sent:?}");
}

#[test]
fn without_a_terminal_and_yes_nothing_is_touched() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 5);
    stand.file("a", &bytes);
    stand.file("b", &drifted(&bytes, &[3]));
    let before = stand.contents();
    let events = stand.events(&["sync", "a", "b"]).exits(4);
    assert_eq!(events.summary()["changed"], false);
    assert_eq!(stand.contents(), before);
    stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn holes_of_the_target_are_filled_and_zeros_punched() {
    let stand = Stand::new();
    let a = stand.path("a");
    sparse(&a, 64 << 20);
    let file = OpenOptions::new().write(true).open(&a).unwrap();
    file.write_all_at(&volume(MIB, 6), 40 << 20).unwrap();
    drop(file);
    stand.file("full", &vec![0xff; 64 * MIB]);
    sparse(&stand.path("holes"), 64 << 20);
    for name in ["full", "holes"] {
        stand.events(&["sync", "a", name, "--yes"]).exits(0);
        assert!(same(&a, &stand.path(name)), "{name}");
        let taken = allocated(&stand.path(name));
        assert!(taken <= allocated(&a) + MIB as u64, "{name} takes {taken}");
    }
}

/// 100 MB in 64 GiB: in time and memory of what is there, and in no more space.
#[test]
fn a_huge_sparse_volume_stays_sparse_and_needs_little_memory() {
    const HUGE: u64 = 64 << 30;
    const PIECES: u64 = 100;
    let stand = Stand::new();
    let a = stand.path("a");
    let file = File::create(&a).unwrap();
    file.set_len(HUGE).unwrap();
    let piece = volume(1_000_000, 8);
    for number in 0..PIECES {
        let at = (HUGE - piece.len() as u64) / (PIECES - 1) * number;
        file.write_all_at(&piece, at).unwrap();
    }
    drop(file);

    let mut running = Running::start(&mut stand.command(&["sync", "a", "b", "--progress", "none"]));
    let pid = running.child().id();
    let mut peak = 0;
    while running.child().try_wait().unwrap().is_none() {
        peak = peak_memory(pid).unwrap_or(peak).max(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran: Ran = running.end();
    ran.exits(0);
    let (source, target) = (allocated(&a), allocated(&stand.path("b")));
    assert!(target <= source + MIB as u64, "{target}, source {source}");
    assert!(0 < peak && peak <= 400 << 20, "{peak} bytes of memory");
    stand.run(&["gate", "b"]).exits(0);
    same_data(&stand, &piece, HUGE, PIECES);
}

/// Equality where reading 64 GiB of holes would take too long: the data, and that nothing else is
/// allocated, which was seen before.
fn same_data(stand: &Stand, piece: &[u8], size: u64, pieces: u64) {
    let file = File::open(stand.path("b")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut found = vec![0; piece.len()];
    for number in 0..pieces {
        let at = (size - piece.len() as u64) / (pieces - 1) * number;
        file.read_exact_at(&mut found, at).unwrap();
        assert!(found == piece, "the piece at {at}");
    }
}

#[test]
fn a_run_ended_by_sigterm_is_told_truthfully_and_resumed() {
    let stand = Stand::new();
    let bytes = volume(SIZE, 9);
    let a = stand.file("a", &bytes);
    let pages: Vec<usize> = (0..SIZE / 4096).step_by(2).collect();
    let b = stand.file("b", &drifted(&bytes, &pages));
    let missing = differing(&a, &b);
    let command = ["sync", "a", "b", "--yes", "--compress", "off"];

    let mut slow = stand.command(&command);
    let mut watched = Watched::start(slow.args(["--limit-rate", "2M"]), stand.folder());
    watched.until_written(0);
    watched.signal(Signal::TERM);
    let events = watched.end_within(Duration::from_secs(10)).exits(143);
    assert_eq!(events.summary()["changed"], true);
    assert_eq!(events.summary()["targets"][0]["state"], "inconsistent");
    let left = differing(&a, &b);
    assert!(0 < left && left < missing, "{left} of {missing} are left");
    assert_eq!(
        events.count("bytes_written"),
        missing - left,
        "what it says it has written is what is there"
    );
    stand.run(&["gate", "b"]).exits(10);

    let events = stand.events(&command).exits(0);
    assert_eq!(events.count("bytes_written"), left, "only what was missing");
    assert!(same(&a, &b));
    stand.run(&["gate", "b"]).exits(0);
}
