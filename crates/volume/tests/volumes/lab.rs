//! Loop devices, mounted filesystems, child processes and fresh folders, undone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_volume::{
    IoEngine, OpenError, OpenErrorKind, Target, TargetRequest, Volume, open_target,
};

/// How long something passing is waited for, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Ends the test, saying why, if what it needs is not there.
macro_rules! need {
    ($what:expr, $why:literal) => {
        match $what {
            Some(what) => what,
            None => {
                eprintln!("skipped: {}", $why);
                return;
            }
        }
    };
}
pub(crate) use need;

/// A folder on the filesystem of the build, not on tmpfs if that can be helped.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file with this content.
pub(crate) fn file_with(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A sparse file of this many bytes.
pub(crate) fn sparse_file(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

/// Bytes in which every page differs from every other.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|at| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8 | 1)
        .collect()
}

pub(crate) fn request(path: &Path, size: u64) -> TargetRequest<'_> {
    TargetRequest {
        path,
        size,
        source: None,
        allow_larger: false,
        read_only: false,
        mode_bits: 0o640,
        engine: IoEngine::Threads,
    }
}

/// Opens a target and makes it fit for writing. A program that another test starts has this one's
/// descriptors for a moment, longer on a loaded machine than a run would wait.
pub(crate) fn begun(path: &Path, size: u64) -> Target {
    let deadline = Instant::now() + PATIENCE;
    let target = loop {
        match open_target(&request(path, size)) {
            Err(error) if error.kind() == OpenErrorKind::InUse && Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            opened => break opened.unwrap(),
        }
    };
    target.begin_overwrite().unwrap();
    target
}

pub(crate) fn refused(path: &Path, size: u64) -> OpenError {
    open_target(&request(path, size)).unwrap_err()
}

pub(crate) fn read(volume: &dyn Volume, offset: u64, length: usize) -> Vec<u8> {
    let mut buf = vec![0xEE; length];
    volume.read_at(offset, &mut buf).unwrap();
    buf
}

pub(crate) fn read_back(volume: &dyn Volume, offset: u64, length: usize) -> Vec<u8> {
    let mut buf = vec![0xEE; length];
    volume.read_back(offset, &mut buf).unwrap();
    buf
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

/// A loop device, detached when dropped.
pub(crate) struct LoopDevice(pub(crate) PathBuf);

impl LoopDevice {
    pub(crate) fn on(file: &Path) -> Option<LoopDevice> {
        Self::with_options(file, &[])
    }

    pub(crate) fn with_options(file: &Path, options: &[&str]) -> Option<LoopDevice> {
        let arguments = [&["--find", "--show"], options, &[text(file)]].concat();
        // Others look for free devices at the same time.
        let found = (0..5).find_map(|_| run("losetup", &arguments))?;
        Some(LoopDevice(PathBuf::from(found)))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["--detach", text(&self.0)]);
    }
}

/// A filesystem on a loop device, unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) point: PathBuf,
    pub(crate) device: LoopDevice,
    _folder: tempfile::TempDir,
}

impl Mounted {
    pub(crate) fn new(kind: &str, megabytes: u64) -> Option<Mounted> {
        let folder = folder();
        let image = sparse_file(folder.path(), "filesystem", megabytes << 20);
        run(&format!("mkfs.{kind}"), &[text(&image)])?;
        let device = LoopDevice::on(&image)?;
        let point = folder.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        run("mount", &[text(&device.0), text(&point)])?;
        Some(Mounted {
            point,
            device,
            _folder: folder,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[text(&self.point)]);
    }
}

/// A child process, ended when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// A program that only sleeps, with this file as its input.
    pub(crate) fn holding(file: File) -> Running {
        let child = Command::new("sleep").arg("60").stdin(file).spawn();
        Running(child.unwrap())
    }

    pub(crate) fn start(program: &str, arguments: &[&str]) -> Option<Running> {
        let quiet = || Stdio::null();
        let mut command = Command::new(program);
        command.args(arguments).stdout(quiet()).stderr(quiet());
        Some(Running(command.spawn().ok()?))
    }

    /// Waits until it has this file open.
    pub(crate) fn has_open(&self, path: &Path) -> bool {
        let descriptors = format!("/proc/{}/fd", self.0.id());
        let wanted = path.canonicalize().unwrap();
        eventually(|| {
            let mut entries = std::fs::read_dir(&descriptors).into_iter().flatten();
            entries.any(|entry| {
                std::fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == wanted)
            })
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
