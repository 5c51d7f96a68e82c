//! Sources that are frozen while somebody goes on writing them, and runs that read only what changed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::judge::{Watched, b3sum, same};
use super::lab::{Disk, Mount, root_lab, script};
use super::liars::lying_provider;
use super::stand::{Events, Stand, drifted, eventually, volume};

const MIB: usize = 1 << 20;
const DISK: u64 = 1 << 30;
const SIZE: usize = 96 * MIB;
/// Pages that the writers below write in turn.
const TURN: u64 = 4096;

/// Writes page after page, round and round, each with its number in it, and never stops.
const WRITER: &str = r#"
import mmap, os, struct, sys
path, how, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
flags = os.O_RDWR | (os.O_DIRECT if how == "direct" else 0)
file = os.open(path, flags)
page = mmap.mmap(-1, 4096)
shared = mmap.mmap(file, pages * 4096) if how == "mmap" else None
number = 0
while True:
    number += 1
    at = number % pages * 4096
    page[:8] = struct.pack("<Q", number)
    page[4088:] = struct.pack("<Q", number)
    if shared:
        shared[at:at + 4096] = page[:]
    else:
        os.pwrite(file, page, at)
    if number == pages:
        print("round", flush=True)
"#;

struct Writer(Child);

impl Writer {
    /// Starts it, and waits until every page was written once.
    fn start(path: &Path, how: &str) -> Writer {
        let pages = TURN.to_string();
        let mut child = Command::new("python3")
            .args(["-c", WRITER, path.to_str().unwrap(), how, &pages])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        Writer(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of the last page written, if the pages are those of one instant. Stores to a mapping are
/// no single step: there the last page may be half written.
fn instant(path: &Path, how: &str) -> Option<u64> {
    let bytes = fs::read(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let pages = 0..usize::try_from(TURN).unwrap();
    let last = pages.clone().map(|page| number(page * 4096)).max()?;
    let whole = pages.clone().all(|page| {
        let (head, tail) = (number(page * 4096), number(page * 4096 + 4088));
        // The newest number of this page that is not newer than the last one of all.
        let expected = last - (last - page as u64) % TURN;
        let is_half = how == "mmap" && expected == last && tail + TURN == last;
        head == expected && (tail == expected || is_half)
    });
    whole.then_some(last)
}

/// A volume on a filesystem with reflinks.
pub(super) struct Field {
    pub(super) stand: Stand,
    pub(super) source: PathBuf,
    _mount: Mount,
    _disk: Disk,
}

impl Field {
    pub(super) fn new(kind: &str) -> Field {
        Field::of(kind, SIZE, DISK)
    }

    fn of(kind: &str, size: usize, disk: u64) -> Field {
        let stand = Stand::new();
        let (disk, mount) = Mount::with_reflinks(&stand, kind, disk);
        let source = stand.path(kind).join("volume.img");
        fs::write(&source, volume(size, 3)).unwrap();
        Field {
            stand,
            source,
            _mount: mount,
            _disk: disk,
        }
    }

    fn sync(&self, extra: &[&str]) -> Events {
        let mut arguments = vec!["sync", self.source.to_str().unwrap(), "b", "--yes"];
        arguments.extend(extra);
        self.stand.events(&arguments)
    }

    /// The snapshots that are there, by their files.
    fn images(&self) -> Vec<PathBuf> {
        let folder = self.source.with_file_name(".lockstep-snapshots");
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    pub(super) fn change(&self, page: usize) {
        let file = OpenOptions::new().write(true).open(&self.source).unwrap();
        file.write_all_at(&[page as u8 | 1; 100], page as u64 * 4096)
            .unwrap();
        file.sync_all().unwrap();
    }
}

#[test]
fn a_target_is_one_instant_of_a_source_that_is_never_left_alone() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::new(kind);
        for how in ["buffered", "mmap", "direct"] {
            let writer = Writer::start(&field.source, how);
            let events = field.sync(&["--snapshot", "auto"]).exits(0);
            drop(writer);
            let target = field.stand.path("b");
            assert!(instant(&target, how).is_some(), "{kind}, {how}: torn");
            assert_eq!(events.summary()["snapshot"], "reflink");
            assert_eq!(events.summary()["consistency"], "point-in-time");
            let images = field.images();
            assert_eq!(images.len(), 1, "{images:?}");
            assert_eq!(events.summary()["root"], b3sum(&images[0]), "{kind}, {how}");
            assert!(same(&images[0], &target));
            field.stand.run(&["gate", "b"]).exits(0);
        }
    }
}

#[test]
fn the_second_run_reads_what_changed_and_says_how_much_it_proves() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::new(kind);
        let events = field.sync(&[]).exits(0);
        assert_eq!(events.summary()["proof"], "full");
        for page in [100, 101, 102, 20_000] {
            field.change(page);
        }
        let events = field.sync(&[]).exits(0);
        assert_eq!(
            events.summary()["proof"],
            "delta",
            "{:?}",
            events.of_type("warning")
        );
        let read = events.summary()["source"]["bytes_read"].as_u64().unwrap();
        assert!(read < SIZE as u64 / 10, "{kind}: {read} bytes read");
        assert_eq!(events.count("bytes_written"), 4 * 4096);
        assert!(same(&field.source, &field.stand.path("b")));
        assert_eq!(events.summary()["root"], b3sum(&field.source));
        field.stand.run(&["gate", "b"]).exits(0);
        field.stand.run(&["gate", "b", "--proof", "full"]).exits(10);

        let events = field.sync(&["--no-delta"]).exits(0);
        assert_eq!(events.summary()["proof"], "full");
        assert_eq!(events.summary()["source"]["bytes_read"], SIZE as u64);
        field.stand.run(&["gate", "b", "--proof", "full"]).exits(0);
        assert_eq!(field.images().len(), 1, "only the newest base stays");
    }
}

/// The contract: where 1 % of the pages changed at random, at most 5 % of the volume is read again,
/// edges, sample and what is shipped included.
#[test]
fn scattered_changes_cost_little_more_than_themselves() {
    if !root_lab() {
        return;
    }
    const LARGE: usize = 512 * MIB;
    for kind in ["xfs", "btrfs"] {
        let field = Field::of(kind, LARGE, 2 << 30);
        field.sync(&[]).exits(0);
        let pages = LARGE / 4096;
        let changed: BTreeSet<usize> = (0..pages as u64 / 100)
            .map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as usize % pages)
            .collect();
        let file = OpenOptions::new().write(true).open(&field.source).unwrap();
        for page in &changed {
            let bytes = [*page as u8 | 1; 4096];
            file.write_all_at(&bytes, *page as u64 * 4096).unwrap();
        }
        file.sync_all().unwrap();
        let events = field.sync(&[]).exits(0);
        let summary = events.summary();
        assert_eq!(summary["proof"], "delta", "{:?}", events.of_type("warning"));
        let read = summary["source"]["bytes_read"].as_u64().unwrap();
        assert!(read <= LARGE as u64 / 20, "{kind}: {read} bytes read");
        assert!(same(&field.source, &field.stand.path("b")), "{kind}");
        assert_eq!(summary["root"], b3sum(&field.source), "{kind}");
    }
}

/// What differs for another reason than the source's changes is found all the same.
#[test]
fn a_replica_that_drifted_by_itself_is_made_equal_by_a_delta_run() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let target = field.stand.path("b");
    field.sync(&[]).exits(0);
    field.change(3000);
    let file = OpenOptions::new().write(true).open(&target).unwrap();
    for page in [3, 3001, 15_000] {
        file.write_all_at(b"drift", page * 4096).unwrap();
    }
    drop(file);
    let events = field.sync(&[]).exits(0);
    assert_eq!(events.summary()["proof"], "delta");
    assert_eq!(events.count("bytes_written"), 4 * 4096);
    assert!(same(&field.source, &target));
    assert_eq!(events.summary()["root"], b3sum(&target));
}

#[test]
fn every_so_many_runs_everything_is_read() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let proofs: Vec<String> = (0..7)
        .map(|round| {
            field.change(round * 50);
            let events = field.sync(&["--full-scan-runs", "3"]).exits(0);
            assert!(same(&field.source, &field.stand.path("b")));
            events.summary()["proof"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        proofs,
        ["full", "delta", "delta", "full", "delta", "delta", "full"]
    );
}

#[test]
fn a_grown_or_cut_source_is_read_and_made_equal() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::new(kind);
        field.sync(&[]).exits(0);
        for size in [SIZE + 5 * MIB + 77, SIZE - 3 * MIB - 1] {
            let file = OpenOptions::new().write(true).open(&field.source).unwrap();
            file.set_len(size as u64).unwrap();
            file.write_all_at(b"end", size as u64 - 3).unwrap();
            drop(file);
            field.sync(&[]).exits(0);
            assert!(same(&field.source, &field.stand.path("b")), "{kind} {size}");
        }
    }
}

#[test]
fn a_base_that_is_gone_means_that_everything_is_read() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    field.sync(&[]).exits(0);
    field.change(7);
    field
        .stand
        .run(&["snapshot", "release", field.source.to_str().unwrap()])
        .exits(0);
    assert_eq!(field.images().len(), 0);
    let events = field.sync(&[]).exits(0);
    assert_eq!(events.summary()["proof"], "full");

    // Removed behind our back: the index is there, its snapshot is not.
    for image in field.images() {
        let mut chattr = Command::new("chattr");
        assert!(chattr.arg("-i").arg(&image).status().unwrap().success());
        fs::remove_file(&image).unwrap();
    }
    field.change(9000);
    let events = field.sync(&[]).exits(0);
    assert_eq!(events.summary()["proof"], "full");
    let warning = &events.of_type("warning")[0]["message"];
    assert!(
        warning
            .as_str()
            .unwrap()
            .contains("the base snapshot is gone"),
        "{warning}"
    );
    assert!(same(&field.source, &field.stand.path("b")));
}

#[test]
fn what_a_killed_run_left_is_found_and_released() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let source = field.source.to_str().unwrap();
    field.sync(&[]).exits(0);
    fs::write(&field.source, drifted(&volume(SIZE, 3), &[5, 500, 5000])).unwrap();
    for _ in 0..3 {
        fs::write(field.stand.path("b"), volume(SIZE, 4)).unwrap();
        let mut slow = field.stand.command(&["sync", source, "b", "--yes"]);
        let mut watched = Watched::start(slow.args(["--limit-rate", "2M"]), field.stand.folder());
        watched.until_written(0);
        let listed = field.stand.events(&["snapshot", "list", source]).exits(0);
        let used: Vec<&str> = listed
            .of_type("listed")
            .iter()
            .map(|one| one["used"].as_str().unwrap())
            .collect();
        assert!(used.contains(&"run") && used.contains(&"base"), "{used:?}");
        watched.kill();
        eventually("the killed run's image is nobody's", || {
            let listed = field.stand.events(&["snapshot", "list", source]).exits(0);
            let mut used = listed.of_type("listed").into_iter();
            used.all(|one| one["used"] != "run")
        });
    }
    assert!(field.images().len() >= 2, "{:?}", field.images());
    field.sync(&[]).exits(0);
    assert_eq!(field.images().len(), 1, "only the newest base is left");
    assert!(same(&field.source, &field.stand.path("b")));
}

#[test]
fn a_comparison_reads_everything_and_leaves_no_snapshot() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let source = field.source.to_str().unwrap();
    field.sync(&[]).exits(0);
    field.change(77);
    let events = field.stand.events(&["diff", source, "b"]).exits(10);
    assert_eq!(events.summary()["proof"], "full");
    assert_eq!(events.summary()["snapshot"], "reflink");
    assert_eq!(events.count("bytes_differing"), 4096);
    assert_eq!(field.images().len(), 1, "only the base");
    assert_eq!(field.sync(&[]).exits(0).summary()["proof"], "delta");
}

#[test]
fn a_snapshot_is_given_up_before_its_volumes_writers_find_the_disk_full() {
    const FULL: usize = 400 * MIB;
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let source = field.source.to_str().unwrap();
    fs::write(&field.source, volume(FULL, 7)).unwrap();
    let mut slow = field.stand.command(&["sync", source, "b", "--yes"]);
    let mut watched = Watched::start(slow.args(["--limit-rate", "4M"]), field.stand.folder());
    watched.until_written(0);
    // What the writer overwrites stays in the image, so the disk fills at this rate.
    let writer = std::thread::spawn({
        let path = field.source.clone();
        move || {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            for number in 0..FULL / MIB {
                file.write_all_at(&vec![number as u8; MIB], (number * MIB) as u64)
                    .expect("the volume's writer finds the disk full");
                file.sync_data().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        }
    });
    let filler = field.source.with_file_name("filler");
    let free = rustix::fs::statvfs(&field.source).unwrap();
    let left = free.f_bavail * free.f_frsize;
    // Room for half of what is about to be overwritten.
    let taken = std::fs::File::create(&filler).unwrap();
    let length = left - FULL as u64 / 2;
    rustix::fs::fallocate(&taken, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    let events = watched
        .end_within(std::time::Duration::from_secs(60))
        .exits(21);
    writer.join().unwrap();
    let said: Vec<String> = events
        .of_type("warning")
        .iter()
        .map(|warning| warning["message"].to_string())
        .collect();
    assert!(
        said.iter().any(|text| text.contains("bytes are left"))
            || events.summary()["error"]
                .to_string()
                .contains("bytes are left"),
        "{said:?}"
    );
    assert_eq!(field.images().len(), 0, "the snapshot is gone");
    field.stand.run(&["gate", "b"]).exits(10);
    fs::remove_file(filler).unwrap();
    field.sync(&[]).exits(0);
    assert!(same(&field.source, &field.stand.path("b")));
}

#[test]
fn a_delta_that_lies_is_caught_alarms_and_is_never_believed_again() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    // Few enough pages that the sample is all of them: it is caught for certain.
    fs::write(&field.source, volume(4 * MIB, 5)).unwrap();
    let provider = lying_provider(&field);
    let sync = |field: &Field| field.sync(&["--snapshot", &provider]).exits(0);
    let events = sync(&field);
    assert_eq!(events.summary()["snapshot"], "exec");
    for round in 0..2 {
        field.change(40 + 300 * round);
        let events = sync(&field);
        let warnings = events.of_type("warning");
        let said = warnings[0]["message"].as_str().unwrap();
        match round {
            0 => assert!(said.starts_with("ALARM"), "{said}"),
            _ => assert!(said.contains("earlier delta"), "{said}"),
        }
        assert_eq!(events.summary()["proof"], "full");
        assert!(same(&field.source, &field.stand.path("b")));
    }
}

#[test]
fn a_mounted_volume_is_frozen_and_its_application_told_around_the_snapshot_only() {
    if !root_lab() {
        return;
    }
    let field = Field::new("xfs");
    let source = field.source.to_str().unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", source])
        .status();
    assert!(made.unwrap().success());
    let inner = Disk::over(&field.source);
    let mount = Mount::of(&field.stand, "inner", &inner);
    let mounted = field.stand.path("inner");
    fs::write(mounted.join("unflushed"), volume(MIB, 8)).unwrap();

    let hook = script(
        &field.stand,
        "hook",
        "echo \"$1 $LOCKSTEP_VOLUME\" >>\"$(dirname \"$0\")/called\"",
    );
    let events = field
        .sync(&["--freeze", mounted.to_str().unwrap()])
        .exits(0);
    assert_eq!(events.summary()["level"], "filesystem-consistent");
    let recorded = |field: &Field| field.stand.events(&["gate", "b"]).exits(0);
    assert_eq!(recorded(&field).summary()["level"], "filesystem-consistent");
    let said = field.stand.run(&["gate", "b"]).exits(0).stderr;
    assert!(said.contains("source filesystem-consistent"), "{said}");
    let hooked = ["--snapshot-hook", hook.to_str().unwrap()];
    let events = field.sync(&hooked).exits(0);
    assert_eq!(events.summary()["level"], "application-consistent");
    assert_eq!(
        recorded(&field).summary()["level"],
        "application-consistent"
    );
    let called = fs::read_to_string(field.stand.path("called")).unwrap();
    assert_eq!(called, format!("before {source}\nafter {source}\n"));
    let events = field.sync(&[]).exits(0);
    assert_eq!(events.summary()["level"], "crash-consistent");
    assert_eq!(recorded(&field).summary()["level"], "crash-consistent");

    // What was never flushed is in a copy of a frozen filesystem.
    let copy = Disk::over(&field.stand.path("b"));
    let copied = Mount::of(&field.stand, "copied", &copy);
    assert!(same(
        &mounted.join("unflushed"),
        &field.stand.path("copied/unflushed")
    ));
    drop((copied, copy));

    // The filesystem that holds the image would never thaw by itself: it is refused.
    let outer = field.source.parent().unwrap().to_str().unwrap();
    let events = field.sync(&["--freeze", outer]).exits(3);
    assert_eq!(events.summary()["changed"], false);
    let failing = script(&field.stand, "failing", "[ \"$1\" = after ]");
    field
        .sync(&["--snapshot-hook", failing.to_str().unwrap()])
        .exits(3);
    fs::write(mounted.join("goes on"), b"written").unwrap();
    drop((mount, inner));
}
