//! Filesystems on loop devices, each with a keeper that thaws it whatever becomes of the test.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_quiesce::{Hook, Quiesce};

const REQUIRED: &str = "LOCKSTEP_REQUIRE_LABS";
/// Seconds after which a keeper thaws even if the test goes on: none takes as long.
const KEEPER_SECONDS: u32 = 120;
/// A write that takes longer is one that waits for a thaw.
pub(crate) const BLOCKED: Duration = Duration::from_millis(300);

/// Ends the test, saying why, if what it needs is not there.
macro_rules! need {
    ($what:expr) => {
        match $what {
            Some(what) => what,
            None => {
                crate::lab::skip(
                    "needs root, loop devices, fsfreeze, and mkfs for ext4, XFS and btrfs",
                );
                return;
            }
        }
    };
}
pub(crate) use need;

pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os(REQUIRED).is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// A folder on the filesystem of the build.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What a program says; `None` if it is missing or fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("{program}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// A filesystem on a loop device, thawed and unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    device: Option<String>,
    keeper: Option<Child>,
    _folder: Option<tempfile::TempDir>,
}

impl Mounted {
    pub(crate) fn new(kind: &str, megabytes: u64) -> Option<Mounted> {
        let folder = folder();
        let mut mounted = Mounted::within(folder.path(), kind, megabytes)?;
        mounted._folder = Some(folder);
        Some(mounted)
    }

    /// Its image and its mount point in this folder.
    pub(crate) fn within(folder: &Path, kind: &str, megabytes: u64) -> Option<Mounted> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let image = folder.join("image");
        File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        run(&format!("mkfs.{kind}"), &["-q", text(&image)])?;
        // Others look for free devices at the same time.
        let device = (0..5).find_map(|_| run("losetup", &["--find", "--show", text(&image)]))?;
        let mut mounted = Mounted::empty(folder);
        mounted.device = Some(device.clone());
        run("mount", &[&device, text(&mounted.point)])?;
        mounted.keeper = Some(keeper(&mounted.point)?);
        Some(mounted)
    }

    /// A filesystem in memory, which cannot be frozen.
    pub(crate) fn in_memory(folder: &Path) -> Option<Mounted> {
        let mounted = Mounted::empty(folder);
        run("mount", &["-t", "tmpfs", "tmpfs", text(&mounted.point)])?;
        Some(mounted)
    }

    fn empty(folder: &Path) -> Mounted {
        let point = folder.join("mounted");
        std::fs::create_dir(&point).unwrap();
        Mounted {
            point,
            device: None,
            keeper: None,
            _folder: None,
        }
    }

    pub(crate) fn fsfreeze(&self, option: &str) -> bool {
        assert_is_loop_mount(&self.point);
        run("fsfreeze", &[option, text(&self.point)]).is_some()
    }

    /// A program that writes a new file, and ends when that is done.
    pub(crate) fn writer(&self) -> Writer {
        let script = "echo written > \"$1/probe.$$\"";
        let mut command = Command::new("sh");
        let child = command
            .args(["-c", script, "sh", text(&self.point)])
            .spawn();
        Writer(child.unwrap())
    }

    pub(crate) fn is_frozen(&self) -> bool {
        !self.writer().is_done_within(BLOCKED)
    }

    /// Whether a write goes through, at the latest after ten seconds.
    pub(crate) fn thaws(&self) -> bool {
        self.writer().is_done_within(Duration::from_secs(10))
    }
}

/// The last line of defence of the machine's own filesystems.
pub(crate) fn assert_is_loop_mount(point: &Path) {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let is_ours = table.lines().any(|line| {
        let mut fields = line.split(' ');
        let (source, target) = (fields.next().unwrap(), fields.next().unwrap());
        target == text(point) && (source.starts_with("/dev/loop") || source == "tmpfs")
    });
    let is_in_scratch = point.starts_with(env!("CARGO_TARGET_TMPDIR"));
    assert!(
        is_ours && is_in_scratch,
        "{} is not a test's own",
        point.display()
    );
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze")
            .args(["--unfreeze", text(&self.point)])
            .stderr(Stdio::null())
            .status();
        // A writer that was held up until now may need a moment to end.
        eventually(|| run("umount", &[text(&self.point)]).is_some());
        if let Some(device) = &self.device {
            run("losetup", &["--detach", device]);
        }
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// Thaws when its input closes, as it does when the test dies in whatever way, or when it took too long.
fn keeper(point: &Path) -> Option<Child> {
    let script =
        "trap '' INT TERM HUP; timeout $2 cat > /dev/null; fsfreeze --unfreeze \"$1\" 2> /dev/null";
    Command::new("sh")
        .args(["-c", script, "sh", text(point), &KEEPER_SECONDS.to_string()])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .ok()
}

pub(crate) struct Writer(Child);

impl Writer {
    pub(crate) fn is_done_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Writer {
    /// Who is held up dies at the thaw; it is not waited for.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.try_wait();
    }
}

/// An ext4 and an XFS, and a state directory on neither.
pub(crate) struct Lab {
    pub(crate) first: Mounted,
    pub(crate) second: Mounted,
    pub(crate) state: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Option<Lab> {
        run("fsfreeze", &["--version"])?;
        Some(Lab {
            first: Mounted::new("ext4", 32)?,
            second: Mounted::new("xfs", 320)?,
            state: folder(),
        })
    }

    pub(crate) fn quiesce(&self) -> Quiesce {
        freezing(&[&self.first, &self.second], self.state.path())
    }

    pub(crate) fn entries(&self) -> usize {
        entries(self.state.path())
    }

    pub(crate) fn assert_thawed(&self) {
        assert!(self.first.thaws() && self.second.thaws());
    }
}

/// Entries of the journal.
pub(crate) fn entries(state_dir: &Path) -> usize {
    let files = std::fs::read_dir(state_dir.join("frozen"));
    let files = files.into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|found| found == "json"))
        .count()
}

/// Takes what a test mounted and no paths, so that nothing else is ever frozen.
pub(crate) fn freezing(mounts: &[&Mounted], state_dir: &Path) -> Quiesce {
    for mounted in mounts {
        assert_is_loop_mount(&mounted.point);
    }
    let points = mounts.iter().map(|mounted| mounted.point.clone());
    Quiesce {
        freeze: points.collect(),
        limit: Duration::from_secs(30),
        watchdog: watchdog(),
        ..hooks_only(state_dir)
    }
}

pub(crate) fn hooks_only(state_dir: &Path) -> Quiesce {
    Quiesce {
        freeze: Vec::new(),
        before: Vec::new(),
        after: Vec::new(),
        limit: Duration::from_secs(10),
        state_dir: state_dir.to_owned(),
        images: Vec::new(),
        watchdog: Vec::new(),
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

/// Names no test; what follows is for the watchdog.
pub(crate) const AS_WATCHDOG: &str = "as-watchdog";

pub(crate) fn shell(name: &str, script: &str) -> Hook {
    Hook {
        name: name.to_owned(),
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
        environment: Vec::new(),
        limit: Duration::from_secs(10),
    }
}
