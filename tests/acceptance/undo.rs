//! What a run overwrote comes back, whatever was killed, and only that: every comparison is with a
//! copy that was made before.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::judge::{Watched, b3sum, same};
use super::lab::{Disk, Mount, Sshd, missing, root_lab};
use super::stand::{Events, LOCKSTEP, Stand, drifted, volume};

const SIZE: usize = 6 * (1 << 20) + 77;
const PAGES: usize = SIZE.div_ceil(4096);

/// A source, a target that differs from it, and a copy of the target from before any run.
struct Field {
    stand: Stand,
    a: PathBuf,
    b: PathBuf,
    before: PathBuf,
    /// The target as it is named on the command line.
    name: String,
}

impl Field {
    /// The target in a folder of the stand.
    fn new(stand: Stand, folder: &str, a: &[u8], b: &[u8]) -> Field {
        let name = format!("{folder}b");
        Field {
            a: stand.file("a", a),
            b: stand.file(&name, b),
            before: stand.file("before", b),
            stand,
            name,
        }
    }

    fn drifted_in(stand: Stand, folder: &str) -> Field {
        let (a, b) = contents(SIZE);
        Field::new(stand, folder, &a, &b)
    }

    fn sync(&self, more: &[&str]) -> Events {
        let mut arguments = vec!["sync", "a", &self.name, "--yes"];
        arguments.extend(more);
        self.stand.events(&arguments)
    }

    fn undo(&self, more: &[&str]) -> Events {
        let mut arguments = vec!["undo", &self.name];
        arguments.extend(more);
        self.stand.events(&arguments)
    }

    /// The target is what it was before the first run, byte for byte.
    #[track_caller]
    fn is_back(&self, story: &str) {
        assert!(same(&self.b, &self.before), "{story}");
    }

    /// Undoes, and judges.
    #[track_caller]
    fn comes_back(&self, story: &str) -> Events {
        let events = self.undo(&["--yes"]);
        assert_eq!(events.code, 0, "{story}: {:#}", events.summary());
        self.is_back(story);
        assert_eq!(events.summary()["root"], b3sum(&self.before), "{story}");
        events
    }

    /// Files of undos in the state directory, but the locks, which stay.
    fn kept(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.stand.path("state/undo")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".lock")).collect()
    }

    fn start(&self, more: &[&str]) -> Watched {
        let mut arguments = vec!["sync", "a", &self.name, "--yes", "--compress", "off"];
        arguments.extend(more);
        Watched::start(&mut self.stand.command(&arguments), self.stand.folder())
    }

    /// A run that is killed once it has written something.
    fn killed_while_writing(&self) {
        let mut run = self.start(&["--limit-rate", "150k"]);
        run.until_written(0);
        run.kill();
        assert!(!same(&self.b, &self.before), "it was killed too early");
        assert!(!same(&self.b, &self.a), "it was killed too late");
    }
}

/// Zeros where the other has data, data where the other has zeros, and scattered pages.
fn contents(size: usize) -> (Vec<u8>, Vec<u8>) {
    let mut a = volume(size, 1);
    let scattered: Vec<usize> = (0..size.div_ceil(4096)).step_by(9).collect();
    let mut b = drifted(&a, &scattered);
    a[1 << 20..(1 << 20) + 200_000].fill(0);
    b[3 << 20..(3 << 20) + 300_000].fill(0);
    (a, b)
}

fn kind(events: &Events) -> &str {
    let undo = &events.summary()["targets"][0]["undo"];
    undo["kind"].as_str().unwrap_or("none")
}

/// A stand with a small ext4, and what keeps it mounted.
fn on_ext4(size: u64) -> Option<(Stand, Mount, Disk)> {
    if !root_lab() {
        return None;
    }
    let stand = Stand::new();
    let disk = Disk::blank(&stand, "disk", size);
    let mount = Mount::ext4(&stand, "mnt", &disk);
    Some((stand, mount, disk))
}

#[test]
fn from_a_log_a_target_of_any_size_comes_back() {
    let (a, b) = contents(SIZE);
    for (story, a, b) in [
        ("same size", &a[..], &b[..]),
        ("the run cut it", &a[..2 * (1 << 20) + 5000], &b[..]),
        ("the run grew it", &a[..], &b[..3 * (1 << 20) + 4097]),
        ("the run cut it inside a page", &a[..10], &b[..9000]),
        ("the run emptied it", &a[..0], &b[..9000]),
        ("it was empty", &a[..9000], &b[..0]),
        ("it was all zeros", &a[..], &vec![0; SIZE][..]),
        ("the run made it zeros", &vec![0; SIZE][..], &b[..]),
    ] {
        for way in [&[][..], &["--full"]] {
            let Some((stand, _mount, _disk)) = on_ext4(320 << 20) else {
                return;
            };
            let field = Field::new(stand, "mnt/", a, b);
            let events = field.sync(way).exits(0);
            assert!(same(&field.a, &field.b), "{story}");
            assert_eq!(kind(&events), "log", "{story}");
            field.comes_back(story);
            assert_eq!(field.kept(), [] as [String; 0], "{story}");
            field.undo(&["--yes"]).exits(7);
            field.is_back(story);
        }
    }
}

/// Clones of what was overwritten; a target's own base for its next run is there too.
fn clones(images: &Path) -> usize {
    let entries = fs::read_dir(images).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_str().unwrap().starts_with("lockstep-undo."))
        .count()
}

#[test]
fn a_clone_brings_a_target_back_at_once() {
    if !root_lab() {
        return;
    }
    for filesystem in ["xfs", "btrfs"] {
        let stand = Stand::new();
        let (_disk, _mount) = Mount::with_reflinks(&stand, filesystem, 512 << 20);
        let folder = format!("{filesystem}/");
        let field = Field::drifted_in(stand, &folder);
        let images = field.stand.path(&format!("{folder}.lockstep-snapshots"));
        let events = field.sync(&[]).exits(0);
        assert_eq!(kind(&events), "reflink", "{filesystem}");
        assert!(same(&field.a, &field.b));
        assert_eq!(clones(&images), 1);
        // Another run replaces it, and what is before that run is what counts.
        fs::write(&field.a, volume(SIZE + 4096, 9)).unwrap();
        fs::copy(&field.b, &field.before).unwrap();
        field.sync(&[]).exits(0);
        assert_eq!(clones(&images), 1, "{filesystem}");
        let events = field.comes_back(filesystem);
        assert_eq!(
            events.summary()["targets"][0]["state"],
            "consistent",
            "what the first run proved is there again"
        );
        assert_eq!(clones(&images), 0, "the clone is gone: {filesystem}");
        assert_eq!(field.kept(), [] as [String; 0]);
    }
}

#[test]
fn runs_that_were_killed_are_undone_to_before_the_first_of_them() {
    if !root_lab() {
        return;
    }
    for filesystem in ["ext4", "xfs", "btrfs"] {
        for finishes in [false, true] {
            let stand = Stand::new();
            let (_disk, _mount, folder) = if filesystem == "ext4" {
                let disk = Disk::blank(&stand, "disk", 320 << 20);
                let mount = Mount::ext4(&stand, "mnt", &disk);
                (disk, mount, "mnt/".to_owned())
            } else {
                let (disk, mount) = Mount::with_reflinks(&stand, filesystem, 512 << 20);
                (disk, mount, format!("{filesystem}/"))
            };
            let field = Field::drifted_in(stand, &folder);
            let story = format!("{filesystem}, finished: {finishes}");
            field.killed_while_writing();
            field.killed_while_writing();
            if finishes {
                field.sync(&[]).exits(0);
                assert!(same(&field.a, &field.b), "{story}");
            }
            field.comes_back(&story);
            let images = field.stand.path(&format!("{folder}.lockstep-snapshots"));
            assert_eq!(clones(&images), 0, "{story}");
            assert_eq!(field.kept(), [] as [String; 0], "{story}");
            field.stand.run(&["gate", &field.name]).exits(10);
        }
    }
}

#[test]
fn a_run_killed_at_any_moment_is_undone_and_leaks_nothing() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let (_disk, _mount) = Mount::with_reflinks(&stand, "xfs", 512 << 20);
    for folder in ["", "xfs/"] {
        for milliseconds in (0..16).map(|step| step * step * 2) {
            let inner = Stand::new();
            let (a, b) = contents(SIZE);
            let field = Field::new(inner, "", &a, &b);
            // The target where the loop says, everything else in a stand of its own.
            let b_path = stand.path(&format!("{folder}b"));
            fs::write(&b_path, &b).unwrap();
            let field = Field {
                name: b_path.display().to_string(),
                b: b_path,
                ..field
            };
            let run = field.start(&["--limit-rate", "20M"]);
            std::thread::sleep(Duration::from_millis(milliseconds));
            run.kill();
            let story = format!("{folder:?} after {milliseconds} ms");
            let events = field.undo(&["--yes"]);
            // Before anything was written there is nothing to undo.
            assert!([0, 7].contains(&events.code), "{story}: {events:?}");
            field.is_back(&story);
            field.sync(&[]).exits(0);
            assert!(same(&field.a, &field.b), "{story}");
            field.comes_back(&story);
            let images = stand.path("xfs/.lockstep-snapshots");
            assert_eq!(clones(&images), 0, "{story}: a clone was left");
            assert_eq!(field.kept(), [] as [String; 0], "{story}");
        }
    }
}

/// Opens a file for writing, and closes it, as soon as it is locked and no lease is asked for.
const INTRUDER: &str = r"
import os, sys
path = sys.argv[1]
inode = ':%d' % os.stat(path).st_ino
while True:
    locks = [line.split() for line in open('/proc/locks')]
    kinds = {line[1] for line in locks if any(word.endswith(inode) for word in line)}
    if 'FLOCK' in kinds and 'LEASE' not in kinds:
        break
os.close(os.open(path, os.O_RDWR))
";

#[test]
fn what_somebody_may_have_written_during_an_undo_is_not_called_consistent() {
    if !root_lab() {
        return;
    }
    let mut tried = 0;
    loop {
        let field = Field::drifted_in(Stand::new(), "");
        field.sync(&["--undo", "off"]).exits(0);
        fs::write(&field.a, volume(SIZE, 9)).unwrap();
        fs::copy(&field.b, &field.before).unwrap();
        field.sync(&[]).exits(0);
        let mut intruder = Command::new("python3");
        intruder.args(["-c", INTRUDER]).arg(&field.b);
        let intruder = Watched::start(&mut intruder, field.stand.folder());
        // It takes Python longer to start than the undo takes.
        std::thread::sleep(Duration::from_millis(500));
        let events = field.undo(&["--yes"]);
        intruder.kill();
        tried += 1;
        // It may come between the lock and the lease, which then refuses.
        if events.code == 7 && tried < 20 {
            continue;
        }
        assert_eq!(events.code, 0, "{:#}", events.summary());
        field.is_back("nothing was written after all");
        let state = &events.summary()["targets"][0]["state"];
        assert_eq!(state, "inconsistent");
        return;
    }
}

#[test]
fn an_undo_that_is_killed_can_be_run_again() {
    if !root_lab() {
        return;
    }
    let size = 48 << 20;
    let a = volume(size, 1);
    let b = volume(size - 5, 2);
    for (folder, filesystem) in [("", ""), ("xfs/", "xfs")] {
        let stand = Stand::new();
        let _lab =
            (!filesystem.is_empty()).then(|| Mount::with_reflinks(&stand, filesystem, 640 << 20));
        let field = Field::new(stand, folder, &a, &b);
        for step in 1..9 {
            field.sync(&[]).exits(0);
            let arguments = ["undo", &field.name, "--yes", "--threads", "1"];
            let undo = Watched::start(&mut field.stand.command(&arguments), field.stand.folder());
            std::thread::sleep(Duration::from_millis(step * step * 4));
            undo.kill();
            let story = format!("{folder:?}, step {step}");
            let open = field.stand.run(&["gate", &field.name]).code == 0;
            assert!(!open || same(&field.a, &field.b), "the gate lies: {story}");
            let again = field.undo(&["--yes"]);
            assert!(
                [0, 7].contains(&again.code),
                "{story}: {:#}",
                again.summary()
            );
            field.is_back(&story);
            assert_eq!(field.kept(), [] as [String; 0], "{story}");
        }
    }
}

#[test]
fn without_room_nothing_is_kept_or_nothing_is_overwritten() {
    let Some((stand, _mount, _disk)) = on_ext4(48 << 20) else {
        return;
    };
    let field = Field::drifted_in(stand, "mnt/");
    let state = field.stand.path("mnt/state");
    let state = ["--state-dir", state.to_str().unwrap()];
    let events = field
        .sync(&[&state[..], &["--undo", "require"]].concat())
        .exits(3);
    assert_eq!(events.summary()["changed"], false);
    field.is_back("require");

    let events = field.sync(&state).exits(0);
    assert_eq!(kind(&events), "none");
    let warnings = events.of_type("warning");
    let said =
        |warning: &&&serde_json::Value| warning["message"].as_str().unwrap().contains("not kept");
    assert_eq!(warnings.iter().filter(said).count(), 1, "{warnings:?}");
    assert!(same(&field.a, &field.b));
    field.undo(&[&state[..], &["--yes"]].concat()).exits(7);
    assert!(same(&field.a, &field.b));
}

#[test]
fn where_the_state_directory_is_full_the_log_lies_beside_the_target() {
    let Some((stand, _mount, _disk)) = on_ext4(320 << 20) else {
        return;
    };
    let _memory = Mount::memory(&stand, "small", 8 << 20);
    let field = Field::drifted_in(stand, "mnt/");
    let state = field.stand.path("small/state");
    let state = ["--state-dir", state.to_str().unwrap()];
    let events = field
        .sync(&[&state[..], &["--undo", "require"]].concat())
        .exits(0);
    assert_eq!(kind(&events), "log");
    let folder = field.stand.path("mnt/.lockstep-undo/undo");
    let logs = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".log")).count()
    };
    assert_eq!(logs(&folder), 1);
    field.undo(&[&state[..], &["--yes"]].concat()).exits(0);
    field.is_back("beside");
    assert_eq!(logs(&folder), 0);
}

#[test]
fn a_log_that_outgrows_its_room_is_given_up_and_the_run_goes_on() {
    // 20 MiB of 92 are free beside the reserve, and half of that may be taken unasked.
    let Some((stand, _mount, _disk)) = on_ext4(160 << 20) else {
        return;
    };
    let size = 40 << 20;
    let a = volume(size, 1);
    let b: Vec<u8> = a.iter().map(|byte| byte ^ 0x5a).collect();
    let field = Field::new(stand, "mnt/", &a, &b);
    let state = field.stand.path("mnt/state");
    let state = ["--state-dir", state.to_str().unwrap()];
    let required = [&state[..], &["--undo", "require"]].concat();
    let events = field.sync(&required).exits(3);
    assert_eq!(events.summary()["changed"], false);
    field.is_back("too much differs");
    let events = field.sync(&state).exits(0);
    assert_eq!(kind(&events), "none", "{:#}", events.summary());
    assert!(same(&field.a, &field.b));
    field.undo(&[&state[..], &["--yes"]].concat()).exits(7);
    let left = fs::read_dir(field.stand.path("mnt/state/undo")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter()
            .all(|name| name.to_string_lossy().ends_with(".lock")),
        "{left:?}"
    );
}

#[test]
fn what_has_expired_is_not_restored_and_the_next_run_releases_it() {
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&["--keep-undo", "1s"]).exits(0);
    assert!(!field.kept().is_empty());
    std::thread::sleep(Duration::from_millis(1100));
    field
        .stand
        .events(&["sync", "a", "other", "--yes"])
        .exits(0);
    assert_eq!(field.kept(), [] as [String; 0]);
    field.undo(&["--yes"]).exits(7);

    let other = Field::drifted_in(Stand::new(), "");
    other.sync(&["--keep-undo", "1s"]).exits(0);
    std::thread::sleep(Duration::from_millis(1100));
    let kept = other.kept();
    other.undo(&["--dry-run"]).exits(7);
    assert_eq!(other.kept(), kept, "a look removes nothing");
    other.undo(&["--yes"]).exits(7);
    assert!(same(&other.a, &other.b), "an expired undo changes nothing");
    assert_eq!(other.kept(), [] as [String; 0]);
}

#[test]
fn nobody_is_overwritten_unasked_and_a_dry_run_changes_nothing() {
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&[]).exits(0);
    let contents = field.stand.contents();
    let events = field.undo(&[]).exits(4);
    assert_eq!(events.summary()["changed"], false);
    let events = field.undo(&["--dry-run"]).exits(0);
    assert_eq!(events.summary()["root"], b3sum(&field.before));
    assert_eq!(events.summary()["changed"], false);
    assert!(kind(&events) != "none");
    assert_eq!(field.stand.contents(), contents);
    let listed = field.stand.events(&["undo", "--list"]).exits(0);
    assert_eq!(listed.of_type("listed").len(), 1);
    assert_eq!(listed.of_type("listed")[0]["used"], "undo");
    field.undo(&["--release"]).exits(0);
    assert_eq!(field.kept(), [] as [String; 0]);
    field.undo(&["--yes"]).exits(7);
    assert_eq!(field.stand.contents(), contents);
}

#[test]
fn an_equal_target_keeps_its_undo_and_off_lets_it_go() {
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&[]).exits(0);
    let events = field.sync(&["--undo", "off"]).exits(0);
    assert_eq!(events.count("bytes_written"), 0);
    field.comes_back("nothing was written since");

    field.sync(&[]).exits(0);
    let mut other = volume(SIZE, 1);
    other[5] ^= 1;
    fs::write(&field.a, other).unwrap();
    let events = field.sync(&["--undo", "off"]).exits(0);
    assert_eq!(kind(&events), "none");
    assert_eq!(events.of_type("warning").len(), 0, "nobody asked for more");
    field.undo(&["--yes"]).exits(7);
    assert!(same(&field.a, &field.b));
    assert_eq!(field.kept(), [] as [String; 0]);
}

#[test]
fn a_file_that_the_run_made_has_nothing_to_go_back_to() {
    let stand = Stand::new();
    stand.file("a", &volume(SIZE, 1));
    let events = stand
        .events(&["sync", "a", "b", "--yes", "--undo", "require"])
        .exits(0);
    assert_eq!(kind(&events), "none");
    assert_eq!(events.of_type("warning").len(), 0);
    stand.events(&["undo", "b", "--yes"]).exits(7);
    assert!(same(&stand.path("a"), &stand.path("b")));
}

#[test]
fn what_a_run_had_proved_before_is_proved_again() {
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&[]).exits(0);
    fs::copy(&field.b, &field.before).unwrap();
    let pages: Vec<usize> = (0..PAGES).step_by(3).collect();
    let next = drifted(&volume(SIZE, 1), &pages);
    fs::write(&field.a, next).unwrap();
    field.sync(&[]).exits(0);
    let events = field.comes_back("the second run");
    assert_eq!(events.summary()["targets"][0]["state"], "consistent");
    field.stand.run(&["gate", "b"]).exits(0);
    // What the very first run overwrote was never proved by anybody.
    field.undo(&["--yes"]).exits(7);
}

#[test]
fn what_was_never_proved_is_not_marked() {
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&[]).exits(0);
    let events = field.comes_back("the first run");
    assert_eq!(events.summary()["targets"][0]["state"], "inconsistent");
    field.stand.run(&["gate", "b"]).exits(10);
}

#[test]
fn damage_and_later_writes_are_found_before_anything_is_restored() {
    let Some((stand, _mount, _disk)) = on_ext4(320 << 20) else {
        return;
    };
    let field = Field::drifted_in(stand, "mnt/");
    field.sync(&[]).exits(0);
    let contents = fs::read(&field.b).unwrap();
    let log = field.kept().into_iter().find(|name| name.ends_with(".log"));
    let log = field.stand.path(&format!("state/undo/{}", log.unwrap()));
    let whole = fs::read(&log).unwrap();
    for at in [0, 140, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&log, &damaged).unwrap();
        field.undo(&["--yes"]).exits(7);
        assert!(fs::read(&field.b).unwrap() == contents, "byte {at}");
    }
    fs::write(&log, &whole[..whole.len() - 4096]).unwrap();
    field.undo(&["--yes"]).exits(7);
    assert!(fs::read(&field.b).unwrap() == contents, "a cut log");

    fs::write(&log, &whole).unwrap();
    let written = OpenOptions::new().write(true).open(&field.b).unwrap();
    written.write_all_at(&[0xee], 4096 * 2 + 1).unwrap();
    drop(written);
    let contents = fs::read(&field.b).unwrap();
    let events = field.undo(&["--yes"]).exits(7);
    let message = events.summary()["targets"][0]["error"]["message"].to_string();
    assert!(message.contains("mix two states"), "{message}");
    assert!(fs::read(&field.b).unwrap() == contents, "a later write");
}

#[test]
fn a_target_that_is_mounted_or_another_one_is_left_alone() {
    if !root_lab() {
        return;
    }
    let stand = Stand::new();
    let size = 24 << 20;
    let made = |name: &str, label: &str| {
        let path = stand.file(name, &volume(size, 3));
        let status = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-L", label])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
        path
    };
    let (a, b) = (made("a", "source"), made("b", "target"));
    let before = stand.path("before");
    fs::copy(&b, &before).unwrap();
    let disk = Disk::over(&b);
    let events = stand.events(&["sync", "a", disk.name(), "--yes"]).exits(0);
    assert_eq!(kind(&events), "log");
    assert!(same(&a, disk.path()));
    fs::create_dir(stand.path("mnt")).unwrap();
    let mounted = Command::new("mount")
        .args(["-o", "ro,noload", disk.name()])
        .arg(stand.path("mnt"))
        .status();
    assert!(mounted.unwrap().success());
    let events = stand.events(&["undo", disk.name(), "--yes"]).exits(7);
    assert_eq!(events.summary()["changed"], false);
    let unmounted = Command::new("umount").arg(stand.path("mnt")).status();
    assert!(unmounted.unwrap().success());
    assert!(same(&a, disk.path()));
    stand.events(&["undo", disk.name(), "--yes"]).exits(0);
    assert!(same(&before, disk.path()));

    // Another file of the same name is not what the undo is of.
    let field = Field::drifted_in(Stand::new(), "");
    field.sync(&[]).exits(0);
    fs::rename(&field.b, field.stand.path("moved")).unwrap();
    fs::copy(&field.a, &field.b).unwrap();
    field.undo(&["--yes"]).exits(7);
    assert!(same(&field.a, &field.b));
    fs::remove_file(&field.b).unwrap();
    field.undo(&["--yes"]).exits(7);
    assert!(!field.b.exists());
    fs::rename(field.stand.path("moved"), &field.b).unwrap();
    field.comes_back("the file is back at its place");
}

#[test]
fn a_target_on_another_machine_keeps_and_comes_back_there() {
    if !(Path::new("/usr/sbin/sshd").exists() || missing("sshd is not installed")) {
        return;
    }
    let field = Field::drifted_in(Stand::new(), "");
    let sshd = Sshd::start(&field.stand, &[]);
    let target = format!("127.0.0.1:{}", field.b.display());
    let shell = ["-e", &sshd.command, "--remote-path", LOCKSTEP];
    let run = |verb: &[&str], more: &[&str]| {
        let arguments: Vec<&str> = [verb, &shell[..], more].concat();
        field.stand.events(&arguments)
    };
    let sync = ["sync", "a", &target, "--yes"];
    let events = run(&sync, &["--keep-undo", "3d", "--undo", "require"]).exits(0);
    assert_ne!(kind(&events), "none");
    assert!(same(&field.a, &field.b));
    let undo = ["undo", target.as_str()];
    run(&undo, &[]).exits(4);
    let events = run(&undo, &["--dry-run"]).exits(0);
    assert_eq!(events.summary()["root"], b3sum(&field.before));
    assert!(same(&field.a, &field.b));
    let events = run(&undo, &["--yes"]).exits(0);
    field.is_back("over ssh");
    assert_eq!(events.summary()["root"], b3sum(&field.before));
    assert_eq!(events.summary()["targets"][0]["transport"], "quic");
    run(&undo, &["--yes"]).exits(7);

    run(&sync, &["--undo", "off"]).exits(0);
    run(&undo, &["--yes", "--transport", "ssh"]).exits(7);
    assert!(same(&field.a, &field.b));
}
