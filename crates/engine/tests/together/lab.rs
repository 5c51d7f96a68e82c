//! Filesystems in images on filesystems that clone, and who writes them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_engine::{SnapshotChoice, Stillness, TakenSnapshot, Together};

const REQUIRED: &str = "LOCKSTEP_REQUIRE_LABS";
const MIB: u64 = 1 << 20;
/// The least that mkfs.xfs makes.
const OUTER: u64 = 320 * MIB;
const INNER: u64 = 24 * MIB;
/// Seconds after which a keeper thaws even if the test goes on: none takes as long.
const KEEPER_SECONDS: u32 = 120;
/// Names no test; what follows is for the watchdog.
pub(crate) const AS_WATCHDOG: &str = "as-watchdog";

/// Whether this test can be run here; says why not.
pub(crate) fn is_possible() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let tools = [
        ("fsfreeze", "--version"),
        ("mkfs.xfs", "-V"),
        ("mkfs.ext4", "-V"),
        ("debugfs", "-V"),
        ("losetup", "--version"),
    ];
    let has = |(tool, option): &(&str, &str)| Command::new(tool).arg(option).output().is_ok();
    if is_root && tools.iter().all(has) {
        return true;
    }
    let why = "needs root, loop devices, fsfreeze, debugfs, and mkfs for ext4 and XFS";
    assert!(std::env::var_os(REQUIRED).is_none(), "{why}");
    eprintln!("skipped: {why}");
    false
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A filesystem in an image, thawed and unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) image: PathBuf,
    pub(crate) point: PathBuf,
    device: String,
    keeper: Child,
}

impl Mounted {
    /// With this image, and mounted on this new folder.
    fn new(kind: &str, image: PathBuf, point: PathBuf, size: u64) -> Mounted {
        File::create(&image).unwrap().set_len(size).unwrap();
        fs::create_dir(&point).unwrap();
        run(&format!("mkfs.{kind}"), &["-q", text(&image)]);
        let device = run("losetup", &["--find", "--show", text(&image)]);
        run("mount", &[&device, text(&point)]);
        Mounted {
            keeper: keeper(&point),
            image,
            point,
            device,
        }
    }

    /// Whether a new file can be written, at the latest after ten seconds.
    pub(crate) fn is_writable(&self) -> bool {
        self.is_writable_within(Duration::from_secs(10))
    }

    pub(crate) fn is_writable_within(&self, limit: Duration) -> bool {
        let script = "echo written > \"$1/probe\"";
        let mut command = Command::new("sh");
        let mut child = command
            .args(["-c", script, "sh", text(&self.point)])
            .spawn()
            .unwrap();
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            if Instant::now() > deadline {
                // It dies at the thaw, and is not waited for.
                let _ = child.kill();
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .args(["--unfreeze", text(&self.point)])
            .stderr(Stdio::null())
            .status();
        // A writer that was held up until now may need a moment to end.
        eventually(|| {
            let umount = Command::new("umount").arg(&self.point).output();
            umount.is_ok_and(|output| output.status.success())
        });
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Thaws when its input closes, as it does when the test dies in whatever way, or when it took too long.
fn keeper(point: &Path) -> Child {
    let script =
        "trap '' INT TERM HUP; timeout $2 cat > /dev/null; fsfreeze --unfreeze \"$1\" 2> /dev/null";
    Command::new("sh")
        .args(["-c", script, "sh", text(point), &KEEPER_SECONDS.to_string()])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Two ext4 filesystems in images on one XFS, or on one each.
pub(crate) struct Lab {
    // In the order in which they are taken down.
    pub(crate) data: Mounted,
    pub(crate) log: Mounted,
    outers: Vec<Mounted>,
    pub(crate) folder: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new(outers: usize) -> Lab {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: String| folder.path().join(name);
        let outers: Vec<Mounted> = (0..outers)
            .map(|at| {
                let (image, point) = (path(format!("xfs-{at}.img")), path(format!("xfs-{at}")));
                Mounted::new("xfs", image, point, OUTER)
            })
            .collect();
        let inner = |name: &str, outer: &Mounted| {
            let image = outer.point.join(format!("{name}.img"));
            Mounted::new("ext4", image, path(name.to_owned()), INNER)
        };
        fs::create_dir(path("state".to_owned())).unwrap();
        Lab {
            data: inner("data", &outers[0]),
            log: inner("log", &outers[outers.len() - 1]),
            outers,
            folder,
        }
    }

    /// Both volumes, and one mount point named twice.
    pub(crate) fn together(&self, run: &str) -> Together {
        together(self.folder.path(), run, SnapshotChoice::Auto)
    }

    pub(crate) fn data_image(&self) -> &Path {
        &self.data.image
    }

    pub(crate) fn log_image(&self) -> &Path {
        &self.log.image
    }

    /// The snapshots that are there, by their files.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        let folders = self
            .outers
            .iter()
            .map(|outer| outer.point.join(".lockstep-snapshots"));
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok());
        entries
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect()
    }

    #[track_caller]
    pub(crate) fn assert_thawed(&self) {
        assert!(self.data.is_writable() && self.log.is_writable());
    }

    /// A script that can be run.
    pub(crate) fn script(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// What a lab in this folder asks for.
pub(crate) fn together(folder: &Path, run: &str, choice: SnapshotChoice) -> Together {
    let image = |name: &str| {
        let outers = ["xfs-0", "xfs-1"].map(|outer| folder.join(outer).join(format!("{name}.img")));
        outers.into_iter().find(|path| path.exists()).unwrap()
    };
    let (data, log) = (folder.join("data"), folder.join("log"));
    Together {
        volumes: vec![(image("log"), choice.clone()), (image("data"), choice)],
        stillness: Stillness {
            freeze: vec![data.clone(), log, data],
            hooks: Vec::new(),
            limit: Duration::from_secs(30),
        },
        state_dir: folder.join("state"),
        run: run.to_owned(),
        watchdog: watchdog(),
    }
}

/// This program once more, as `kill::watchdog_child`.
fn watchdog() -> Vec<OsString> {
    let words = [
        "/proc/self/exe",
        "--exact",
        "--test-threads=1",
        "kill::watchdog_child",
        AS_WATCHDOG,
    ];
    words.map(OsString::from).to_vec()
}

/// Writes a number to the data volume and then to the log volume, each time until it is durable, and
/// never stops.
pub(crate) struct Writer(Child);

const WRITER: &str = r#"
import os, sys
files = [os.open(os.path.join(folder, "seq"), os.O_RDWR | os.O_CREAT) for folder in sys.argv[1:]]
number = 0
while True:
    number += 1
    for file in files:
        os.pwrite(file, b"%020d" % number, 0)
        os.fsync(file)
    if number == 1:
        print("begun", flush=True)
"#;

impl Writer {
    /// Starts it, and waits until it has written once.
    pub(crate) fn start(lab: &Lab) -> Writer {
        let mut child = Command::new("python3")
            .args(["-c", WRITER, text(&lab.data.point), text(&lab.log.point)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut begun).unwrap();
        Writer(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number in a snapshot of a filesystem, as e2fsprogs read it, who replay no journal.
#[track_caller]
pub(crate) fn number_in(snapshot: &TakenSnapshot) -> u64 {
    let image = snapshot.open().unwrap();
    let number = run("debugfs", &["-R", "cat /seq", text(&image.path)]);
    number.parse().unwrap()
}
