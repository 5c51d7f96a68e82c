//! Targets that need not read themselves again, and never miss what was written behind their back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::judge::{Watched, b3sum, same};
use super::lab::{Disk, Mount, root_lab};
use super::stand::{Events, LOCKSTEP, Running, Stand, eventually, shell, volume};

const MIB: usize = 1 << 20;
const DISK: u64 = 1 << 30;
const SIZE: usize = 96 * MIB;
const PAGE: usize = 4096;
/// What the sample of a volume of this size and a few edges come to, and more.
const LITTLE: u64 = SIZE as u64 / 10;

/// Ways of changing page 5000 of a file, and letting it go.
const WRITERS: [(&str, &str); 6] = [
    (
        "buffered",
        "f=os.open(p, os.O_RDWR); os.pwrite(f, b'behind', 5000*4096+9)",
    ),
    (
        "flushed, and its time set back",
        "t=os.stat(p); f=os.open(p, os.O_RDWR); os.pwrite(f, b'behind', 5000*4096); os.fsync(f); os.utime(p, ns=(t.st_atime_ns, t.st_mtime_ns))",
    ),
    (
        "mmap",
        "f=os.open(p, os.O_RDWR); m=mmap.mmap(f, 0); os.close(f); m[5000*4096+77]=7; m.close()",
    ),
    (
        "direct",
        "f=os.open(p, os.O_RDWR|os.O_DIRECT); os.pwrite(f, mmap.mmap(-1, 4096), 5000*4096)",
    ),
    (
        "cut and grown again",
        "n=os.stat(p).st_size; os.truncate(p, 5000*4096); os.truncate(p, n)",
    ),
    (
        "hole",
        "subprocess.run(['fallocate', '-p', '-o', str(5000*4096), '-l', '4096', p], check=True)",
    ),
];

/// Waits for the file to get its name, and writes as soon as it is let in.
const AMBUSH: &str = r"
import os, sys
while True:
    try:
        file = os.open(sys.argv[1], os.O_RDWR)
        break
    except FileNotFoundError:
        pass
os.pwrite(file, b'ambush', 4096 * 6000)
";

/// A source, and a target on a filesystem with reflinks.
struct Field {
    stand: Stand,
    source: PathBuf,
    target: PathBuf,
    _mount: Mount,
    _disk: Disk,
}

impl Field {
    fn new(kind: &str) -> Field {
        let stand = Stand::new();
        let (disk, mount) = Mount::with_reflinks(&stand, kind, DISK);
        Field {
            source: stand.file("source", &volume(SIZE, 3)),
            target: stand.path(kind).join("target.img"),
            stand,
            _mount: mount,
            _disk: disk,
        }
    }

    /// The same with both on one disk, so that both can be snapshotted.
    fn on_one_disk(kind: &str, size: usize, disk: u64) -> Field {
        let stand = Stand::new();
        let (disk, mount) = Mount::with_reflinks(&stand, kind, disk);
        let (near, far) = (stand.path(kind).join("near"), stand.path(kind).join("far"));
        fs::create_dir(&near).unwrap();
        fs::create_dir(&far).unwrap();
        fs::write(near.join("source.img"), volume(size, 3)).unwrap();
        Field {
            source: near.join("source.img"),
            target: far.join("target.img"),
            stand,
            _mount: mount,
            _disk: disk,
        }
    }

    /// With a target that was made equal once.
    fn synced(kind: &str) -> Field {
        let field = Field::new(kind);
        let events = field.sync(&[]);
        assert_eq!(events.summary()["proof"], "full");
        assert_eq!(field.images().len(), 1, "{kind}: {:?}", field.images());
        field
    }

    fn arguments(&self, extra: &[&str]) -> Vec<String> {
        let (source, target) = (self.source.to_str(), self.target.to_str());
        let mut arguments = vec!["sync", source.unwrap(), target.unwrap(), "--yes"];
        arguments.extend(extra);
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// Runs to a good end; `cmp` is the judge.
    #[track_caller]
    fn sync(&self, extra: &[&str]) -> Events {
        let events = self.stand.events(&self.arguments(extra)).exits(0);
        assert!(same(&self.source, &self.target), "{:#}", events.summary());
        events
    }

    fn images(&self) -> Vec<PathBuf> {
        let folder = self.target.with_file_name(".lockstep-snapshots");
        let entries = fs::read_dir(folder).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        // What a run overwrites is kept there too.
        let is_undo = |path: &PathBuf| path.to_str().unwrap().contains("/lockstep-undo.");
        paths.filter(|path| !is_undo(path)).collect()
    }

    fn change_source(&self, page: usize) {
        let file = OpenOptions::new().write(true).open(&self.source).unwrap();
        file.write_all_at(&[page as u8 | 1; 100], (page * PAGE) as u64)
            .unwrap();
    }

    fn python(&self, script: &str) {
        let script = format!("import os, sys, mmap, subprocess; p=sys.argv[1]; {script}");
        let mut python = Command::new("python3");
        python.args(["-c", &script]).arg(&self.target);
        assert!(python.status().unwrap().success(), "{script}");
    }

    /// The source as it is, and as it was when the target was made equal.
    fn drift(&self, pages: impl IntoIterator<Item = usize>) {
        fs::copy(&self.source, self.stand.path("before")).unwrap();
        pages.into_iter().for_each(|page| self.change_source(page));
    }

    /// The gate may be open only for what a run has proved: the source as it is, or as it was.
    #[track_caller]
    fn judge(&self, story: &str) {
        let target = self.target.to_str().unwrap();
        let code = self.stand.run(&["gate", target]).code;
        assert!([0, 10, 22].contains(&code), "gate: {code}, {story}");
        let proved = [self.source.clone(), self.stand.path("before")];
        let is_one = proved.iter().any(|source| same(source, &self.target));
        assert!(code != 0 || is_one, "the gate lies, {story}");
    }
}

#[track_caller]
fn read_of(events: &Events) -> u64 {
    events.summary()["targets"][0]["bytes_read"]
        .as_u64()
        .unwrap()
}

fn warning(events: &Events) -> String {
    let warnings = events.of_type("warning");
    warnings[0]["message"].as_str().unwrap().to_owned()
}

#[test]
fn the_second_and_the_third_run_read_little_of_the_target_and_say_so() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::synced(kind);
        let target = field.target.to_str().unwrap();
        for pages in [&[100, 101, 20_000][..], &[7], &[]] {
            for page in pages {
                field.change_source(*page);
            }
            let events = field.sync(&[]);
            let summary = events.summary();
            assert!(read_of(&events) < LITTLE, "{kind}: {summary:#}");
            assert_eq!(events.count("bytes_written"), (pages.len() * PAGE) as u64);
            assert_eq!(summary["proof"], "delta", "{:?}", events.of_type("warning"));
            assert_eq!(summary["root"], b3sum(&field.target));
            field.stand.run(&["gate", target]).exits(0);
            field
                .stand
                .run(&["gate", target, "--proof", "full"])
                .exits(10);
            assert_eq!(field.images().len(), 1, "only the newest stays");
        }
        for everything in [
            &["--no-delta"][..],
            &["--verify", "full"],
            &["--full-scan-runs", "1"],
        ] {
            let events = field.sync(everything);
            assert_eq!(events.summary()["proof"], "full", "{everything:?}");
            // Holes are not read.
            assert!(read_of(&events) > SIZE as u64 / 2, "{everything:?}");
            field
                .stand
                .run(&["gate", target, "--proof", "full"])
                .exits(0);
        }
        assert_eq!(field.sync(&[]).summary()["proof"], "delta");
    }
}

#[test]
fn a_far_target_inherits_too_and_is_told_when_not_to() {
    if !root_lab() {
        return;
    }
    let field = Field::synced("xfs");
    let far = format!("127.0.0.1:{}", field.target.display());
    let shell = shell();
    for (no_delta, proof) in [(false, "delta"), (true, "full")] {
        field.change_source(77);
        let mut arguments = vec!["sync", field.source.to_str().unwrap(), &far, "--yes"];
        arguments.extend(shell.iter().map(String::as_str));
        arguments.extend(no_delta.then_some("--no-delta"));
        let events = field.stand.events(&arguments).exits(0);
        assert_eq!(events.summary()["proof"], proof);
        assert!(same(&field.source, &field.target));
    }
}

#[test]
fn what_was_written_behind_its_back_is_found_however_it_was_written() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::synced(kind);
        for (how, script) in WRITERS {
            field.python(script);
            assert!(!same(&field.source, &field.target), "{kind}, {how}");
            let events = field.sync(&[]);
            assert!(events.count("bytes_written") > 0, "{kind}, {how}");
            assert_eq!(events.summary()["proof"], "delta", "{kind}, {how}");
            // The source changes in the same place, so that the target has what it had.
            field.python(script);
            field.change_source(5000);
            field.sync(&[]);
        }
    }
}

#[test]
fn what_was_written_through_a_loop_device_is_found() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::synced(kind);
        for flags in ["conv=fsync,notrunc", "oflag=direct"] {
            let disk = Disk::over(&field.target);
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/urandom", "bs=64K", "count=1", "seek=40", flags]);
            dd.arg(format!("of={}", disk.name()));
            assert!(dd.output().unwrap().status.success());
            drop(disk);
            eventually("the loop device lets go of the file", || {
                let mut losetup = Command::new("losetup");
                let users = losetup.arg("-j").arg(&field.target).output().unwrap();
                users.stdout.is_empty()
            });
            assert!(!same(&field.source, &field.target), "{kind}, {flags}");
            let events = field.sync(&[]);
            assert_eq!(events.summary()["proof"], "delta");
        }
    }
}

#[test]
fn whoever_writes_as_soon_as_the_target_is_let_go_is_found() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::new(kind);
        for round in 0..3 {
            let mut ambush = Command::new("python3");
            let mut ambush = Running::start(ambush.args(["-c", AMBUSH]).arg(&field.target));
            let arguments = field.arguments(&[]);
            field.stand.events(&arguments).exits(0);
            assert!(ambush.child().wait().unwrap().success());
            assert!(!same(&field.source, &field.target), "{kind}, {round}");
            let events = field.sync(&[]);
            assert_eq!(events.count("bytes_written"), PAGE as u64);
            field.sync(&[]);
            fs::remove_file(&field.target).unwrap();
        }
    }
}

/// The contract: where 1 % of the pages changed at random, at most 5 % of the volume is read again at
/// either end, sample, edges and what is shipped included, whoever wrote which end.
#[test]
fn scattered_changes_cost_little_more_than_themselves_at_either_end() {
    if !root_lab() {
        return;
    }
    const LARGE: usize = 512 * MIB;
    let pages = LARGE / PAGE;
    let scattered = |salt: u64| {
        (0..pages as u64 / 100).map(move |number| {
            let mixed = (number + salt * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 20) as usize % pages
        })
    };
    let scatter = |path: &Path, salt: u64| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for page in scattered(salt) {
            // Some become zeros, some change in one byte only.
            let (bytes, at) = match page % 8 {
                0 => (vec![0; PAGE], page * PAGE),
                1 => (vec![page as u8 | 1], page * PAGE + 4095),
                _ => (vec![page as u8 | 1; PAGE], page * PAGE),
            };
            file.write_all_at(&bytes, at as u64).unwrap();
        }
    };
    for kind in ["xfs", "btrfs"] {
        let field = Field::on_one_disk(kind, LARGE, 16 << 30);
        field.sync(&[]);
        for (salt, also_the_target) in [(1, false), (2, true), (3, false)] {
            scatter(&field.source, salt);
            if also_the_target {
                scatter(&field.target, 100 + salt);
            }
            let events = field.sync(&[]);
            let summary = events.summary();
            assert_eq!(summary["proof"], "delta", "{:?}", events.of_type("warning"));
            assert_eq!(summary["root"], b3sum(&field.target));
            let source = summary["source"]["bytes_read"].as_u64().unwrap();
            let target = read_of(&events);
            let story = format!("{kind}, {salt}: {source} and {target} bytes read");
            assert!(source.max(target) <= LARGE as u64 / 20, "{story}");
            if !also_the_target {
                // The sample, and nothing of the groups that were written.
                assert!(target <= LARGE as u64 / 100, "{story}");
            }
            let inherited = summary["targets"][0]["bytes_inherited"].as_u64().unwrap();
            assert!(inherited >= LARGE as u64 * 97 / 100, "{story}");
        }
    }
}

/// Ways of having the target open for writing while a run is under way, and whether it is written.
const INTRUDERS: [(&str, &str, bool); 4] = [
    (
        "write",
        "f=os.open(p, os.O_RDWR); os.pwrite(f, b'meanwhile', 20000*4096)",
        true,
    ),
    (
        "mmap",
        "f=os.open(p, os.O_RDWR); m=mmap.mmap(f, 0); os.close(f); m[20000*4096+77]=7",
        true,
    ),
    (
        "direct",
        "f=os.open(p, os.O_RDWR|os.O_DIRECT); os.pwrite(f, mmap.mmap(-1, 4096), 20000*4096)",
        true,
    ),
    ("nothing", "f=os.open(p, os.O_RDWR)", false),
];

#[test]
fn whoever_writes_what_is_not_read_while_the_run_goes_on_leaves_no_false_mark() {
    if !root_lab() {
        return;
    }
    let field = Field::synced("xfs");
    let target = field.target.to_str().unwrap();
    for (how, script, writes) in INTRUDERS {
        // Pages that no packing shrinks, which take four seconds at this rate.
        field.drift([]);
        let noise = Command::new("dd")
            .args(["if=/dev/urandom", "bs=4096", "count=4000", "conv=notrunc"])
            .arg(format!("of={}", field.source.display()))
            .output();
        assert!(noise.unwrap().status.success());
        let mut command = field
            .stand
            .command(&field.arguments(&["--limit-rate", "4M"]));
        let mut run = Watched::start(&mut command, field.stand.folder());
        run.until("the target is being written", |event| {
            event["type"] == "state" && event["state"] == "inconsistent"
        });
        field.python(script);
        let events = run.end_within(Duration::from_secs(30));
        let told = format!("{how}: {:?}", events.of_type("warning"));
        assert!(warning(&events).contains("once more"), "{told}");
        if writes {
            assert_eq!(events.code, 21, "{told}");
            field.stand.run(&["gate", target]).exits(10);
        } else {
            assert_eq!(events.code, 0, "{told}");
            assert_eq!(events.summary()["proof"], "full");
            assert!(same(&field.source, &field.target));
        }
        field.sync(&[]);
    }
}

#[test]
fn killed_at_any_moment_no_gate_lies_and_nothing_is_missed() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::synced(kind);
        for round in 0..16 {
            let moment = Duration::from_millis(6 * round);
            let story = format!("{kind}, killed after {moment:?}");
            field.drift((0..40).map(|page| (page * 601 + round as usize * 13) % 24_000));
            let mut command = field.stand.command(&field.arguments(&[]));
            let mut running = Running::start(&mut command);
            std::thread::sleep(moment);
            running.child().kill().unwrap();
            running.end();
            field.judge(&story);
            if round % 3 == 0 {
                field.python(WRITERS[usize::from(round % 2 == 0) * 2].1);
            }
            field.sync(&[]);
            field.judge(&story);
            assert_eq!(field.images().len(), 1, "{story}: {:?}", field.images());
        }
    }
}

#[test]
fn killed_at_every_step_between_the_proof_and_the_index_nothing_is_missed() {
    if !root_lab() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        super::stand::skip("strace is not installed");
        return;
    }
    let field = Field::synced("xfs");
    // Of the calls of each thread: the clones, and what makes an image, an index or a record durable.
    let steps = [
        "ioctl",
        "fsync",
        "renameat,renameat2,rename",
        "unlinkat,unlink",
    ];
    for (calls, times) in steps.into_iter().zip([12, 8, 5, 4]) {
        for when in 1..=times {
            let story = format!("killed at call {when} of {calls}");
            field.drift([when * 37]);
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
            strace.arg(format!("trace={calls}")).arg("-e");
            strace.arg(format!("inject={calls}:signal=KILL:when={when}"));
            let plain = field.stand.command(&field.arguments(&["--io", "threads"]));
            strace.arg(LOCKSTEP).args(plain.get_args());
            strace.current_dir(field.stand.folder());
            strace.envs(
                plain
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            Running::start(&mut strace).end();
            field.judge(&story);
            // It has what the killed run left there, and somebody's bytes too.
            field.python(WRITERS[0].1);
            field.sync(&[]);
            assert_eq!(field.images().len(), 1, "{story}: {:?}", field.images());
        }
    }
}

#[test]
fn a_base_that_is_not_what_it_was_is_told_and_everything_is_read() {
    if !root_lab() {
        return;
    }
    let field = Field::synced("xfs");
    let indexes = || {
        let folder = field.stand.path("state").join("indexes");
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut found = paths.filter(|path| path.to_str().unwrap().ends_with(".target.index"));
        found.next()
    };
    let index = indexes().expect("an index of the target");

    let mut bytes = fs::read(&index).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&index, bytes).unwrap();
    field.python(WRITERS[0].1);
    let events = field.sync(&[]);
    assert_eq!(events.summary()["proof"], "full");
    assert!(warning(&events).contains("damaged"), "{}", warning(&events));

    for image in field.images() {
        let mut chattr = Command::new("chattr");
        assert!(chattr.arg("-i").arg(&image).status().unwrap().success());
        fs::remove_file(&image).unwrap();
    }
    field.python(WRITERS[2].1);
    let events = field.sync(&[]);
    assert_eq!(events.summary()["proof"], "full");
    assert!(warning(&events).contains("gone"), "{}", warning(&events));

    // A copy that differs, in the file's place.
    let copy = field.target.with_extension("copy");
    fs::copy(&field.target, &copy).unwrap();
    fs::rename(&copy, &field.target).unwrap();
    field.python(WRITERS[3].1);
    let events = field.sync(&[]);
    assert_eq!(events.summary()["proof"], "full");
    assert!(warning(&events).contains("ledger"), "{}", warning(&events));
    assert_eq!(field.images().len(), 1);
    assert_eq!(field.sync(&[]).summary()["proof"], "delta");
}

#[test]
fn a_target_s_snapshot_is_listed_and_released_with_its_index() {
    if !root_lab() {
        return;
    }
    let field = Field::synced("btrfs");
    let target = field.target.to_str().unwrap();
    for arguments in [&["snapshot", "list"][..], &["snapshot", "list", target]] {
        let listed = field.stand.events(arguments).exits(0);
        let listed = listed.of_type("listed");
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0]["used"], "base");
        assert_eq!(listed[0]["volume"], target);
    }
    field.stand.run(&["snapshot", "release", target]).exits(0);
    assert_eq!(field.images().len(), 0);
    let events = field.sync(&["--keep-base", "never"]);
    assert_eq!(events.summary()["proof"], "full");
    assert_eq!(events.of_type("warning").len(), 0);
    assert_eq!(field.images().len(), 0);
}

#[test]
fn a_target_that_grows_or_shrinks_is_made_equal() {
    if !root_lab() {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let field = Field::synced(kind);
        for size in [SIZE + 5 * MIB + 77, SIZE - 3 * MIB - 1] {
            let file = OpenOptions::new().write(true).open(&field.source).unwrap();
            file.set_len(size as u64).unwrap();
            file.write_all_at(b"end", size as u64 - 3).unwrap();
            drop(file);
            assert_eq!(field.sync(&[]).summary()["proof"], "full");
            assert_eq!(field.sync(&[]).summary()["proof"], "delta");
        }
    }
}
