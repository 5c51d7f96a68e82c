//! Filesystems on loop devices, and programs; undone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Set where a test that cannot run is a failure.
const REQUIRED: &str = "LOCKSTEP_REQUIRE_LABS";

/// What the test needs, or its end with the reason.
macro_rules! need {
    ($what:expr, $why:literal) => {
        match $what {
            Some(what) => what,
            None => {
                crate::lab::skip($why);
                return;
            }
        }
    };
}
pub(crate) use need;

pub(crate) fn skip(why: &str) {
    let is_required = std::env::var_os(REQUIRED).is_some();
    assert!(!is_required, "{why}, and {REQUIRED} is set");
    eprintln!("skipped: {why}");
}

/// What a program says; `None`, and why on standard error, if it is missing or fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("{program} {arguments:?}: {said}");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct LoopDevice(String);

impl LoopDevice {
    fn on(file: &Path) -> Option<Self> {
        // Others look for free devices at the same time.
        let attach = || run("losetup", &["--find", "--show", text(file)]);
        (0..5).find_map(|_| attach()).map(Self)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

/// A filesystem on a loop device, unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    options: String,
    device: LoopDevice,
    _folder: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn xfs() -> Option<Self> {
        Self::new("xfs", 320, "defaults")
    }

    pub(crate) fn btrfs() -> Option<Self> {
        Self::new("btrfs", 512, "defaults")
    }

    pub(crate) fn new(kind: &str, megabytes: u64, options: &str) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = folder.path().join("filesystem");
        File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        run(&format!("mkfs.{kind}"), &[text(&image)])?;
        let device = LoopDevice::on(&image)?;
        let point = folder.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let mounted = Self {
            point,
            options: options.to_owned(),
            device,
            _folder: folder,
        };
        mounted.mount().map(|()| mounted)
    }

    fn mount(&self) -> Option<()> {
        let (device, point) = (&self.device.0, text(&self.point));
        run("mount", &["-o", &self.options, device, point]).map(drop)
    }

    /// Unmounts and mounts it again: nothing that was in memory only is left.
    pub(crate) fn remount(&self) {
        self.unmount();
        self.mount().unwrap();
    }

    /// Patiently: a process that another test is just starting has all our files open for a moment.
    fn unmount(&self) {
        let unmounted = || run("umount", &[text(&self.point)]).is_some();
        for _ in 0..50 {
            if unmounted() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        run("umount", &["--lazy", text(&self.point)]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}
