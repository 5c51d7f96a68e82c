//! Independent comparison, and runs that are watched from outside.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::stand::{Events, Ran, eventually};

/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Whether two volumes have the same bytes, as cmp(1) sees them.
#[track_caller]
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    let status = Command::new("cmp").arg("-s").args([a, b]).status().unwrap();
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("cmp cannot read {} or {}", a.display(), b.display()),
    }
}

/// The root, from the program that everybody has.
#[track_caller]
pub(crate) fn b3sum(path: &Path) -> String {
    let output = Command::new("b3sum")
        .arg("--no-names")
        .arg(path)
        .output()
        .expect("b3sum is installed by tools/setup");
    assert!(output.status.success(), "b3sum {}", path.display());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Bytes of the 4 KiB pages that differ, the last one at its true length.
#[track_caller]
pub(crate) fn differing(a: &Path, b: &Path) -> u64 {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/differing");
    let output = Command::new(tool).args([a, b]).output().unwrap();
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    counts["pages_bytes"].as_u64().unwrap()
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    // st_blocks counts 512 bytes whatever the file system's blocks are: stat(3type).
    path.metadata().unwrap().blocks() * 512
}

/// Modification time, to the nanosecond.
pub(crate) fn modified(path: &Path) -> (i64, i64) {
    let meta = path.metadata().unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

/// The most memory that a process ever had, as long as it lives: `VmHWM` of proc_pid_status(5).
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Whether a process is there and no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended by itself a moment ago.
    let _ = kill_process(pid, Signal::KILL);
}

/// The process id that a script left in a file.
#[track_caller]
pub(crate) fn pid_in(path: &Path) -> u32 {
    let mut pid = None;
    eventually("a process leaves its id", || {
        pid = fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

/// Waits until a process is gone; returns whether it went in time.
pub(crate) fn gone_within(pid: u32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while alive(pid) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Seconds since midnight of an event's time.
pub(crate) fn clock(event: &Value) -> f64 {
    let time = event["ts"].as_str().unwrap();
    let digits = time[11..].trim_end_matches('Z');
    digits
        .split(':')
        .map(|part| part.parse::<f64>().unwrap())
        .fold(0.0, |sum, part| sum * 60.0 + part)
}

/// A run with `--json` whose events can be read while it goes on.
pub(crate) struct Watched {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: bool,
}

impl Watched {
    /// Starts the command, its output in files of this folder.
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Watched {
        let stdout = folder.join("events.ndjson");
        let stderr = folder.join("stderr.txt");
        let child = command
            .arg("--json")
            .stdout(Stdio::from(File::create(&stdout).unwrap()))
            .stderr(Stdio::from(File::create(&stderr).unwrap()))
            .spawn()
            .unwrap();
        Watched {
            child,
            stdout,
            stderr,
            ended: false,
        }
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) {
        eventually(what, || {
            let text = fs::read_to_string(&self.stdout).unwrap();
            let seen = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .any(|event| wanted(&event));
            let ended = self.child.try_wait().unwrap().is_some();
            assert!(seen || !ended, "ended before {what}: {text}");
            seen
        });
    }

    /// Waits until the target at this place has been written to.
    #[track_caller]
    pub(crate) fn until_written(&mut self, target: usize) {
        self.until("a target is being written", |event| {
            event["targets"][target]["bytes_written"]
                .as_u64()
                .is_some_and(|bytes| bytes > 0)
        });
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ended = true;
    }

    /// Waits for the end, for so long at most.
    #[track_caller]
    pub(crate) fn end_within(mut self, limit: Duration) -> Events {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {limit:?}: {}{}",
                fs::read_to_string(&self.stdout).unwrap(),
                fs::read_to_string(&self.stderr).unwrap()
            );
            std::thread::sleep(POLL);
        };
        self.ended = true;
        Events::from(Ran {
            code: status.code().unwrap(),
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: fs::read_to_string(&self.stderr).unwrap(),
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
