//! What the tests stand on: a folder of their own, the program, and the contract of its events.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test: the one that these tests are built with, or another, such as a release.
pub(crate) const LOCKSTEP: &str = match option_env!("LOCKSTEP_TEST_PROGRAM") {
    Some(program) => program,
    None => env!("CARGO_BIN_EXE_lockstep"),
};
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json");
    let schema = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
});

/// A folder with volumes and a ledger.
pub(crate) struct Stand {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What `--json` printed, every line checked against the schema.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) code: i32,
    pub(crate) lines: Vec<Value>,
    pub(crate) stderr: String,
}

/// What must be the same afterwards when nothing was written.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Untouched {
    names: Vec<PathBuf>,
    files: Vec<(Vec<u8>, i64, i64, u64)>,
}

/// Whatever a test leaves mounted in its folder would keep the folder, and its images, for ever.
impl Drop for Stand {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount_points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut own: Vec<&str> = mount_points
            .filter(|at| Path::new(at).starts_with(self.folder()))
            .collect();
        // Inner ones come later, and go first.
        own.reverse();
        for at in own {
            let _ = Command::new("umount").arg(at).status();
        }
    }
}

impl Stand {
    pub(crate) fn new() -> Stand {
        Stand {
            folder: tempfile::Builder::new()
                .prefix("lockstep-cli-")
                .tempdir()
                .unwrap(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of this stand.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The program, in this folder, with its ledger in `state`, and without a terminal.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(LOCKSTEP);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.folder())
            .env("LOCKSTEP_STATE_DIR", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// Runs with `--json`; every line must be an event and the last one the summary.
    pub(crate) fn events<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Events {
        let mut command = self.command(arguments);
        Events::from(Ran::from(command.arg("--json").output().unwrap()))
    }

    /// Names, bytes, times and inodes of everything in the folder but the ledger.
    pub(crate) fn contents(&self) -> Untouched {
        let mut names: Vec<PathBuf> = fs::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("state"))
            .collect();
        names.sort();
        let files = names
            .iter()
            .filter(|path| path.is_file())
            .map(|path| {
                let meta = path.metadata().unwrap();
                (
                    fs::read(path).unwrap(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.ino(),
                )
            })
            .collect();
        Untouched { names, files }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let code = output
            .status
            .code()
            .unwrap_or_else(|| -output.status.signal().unwrap());
        Ran {
            code,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// The same, having ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Ran {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }
}

impl From<Ran> for Events {
    #[track_caller]
    fn from(ran: Ran) -> Events {
        let lines: Vec<Value> = ran
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for line in &lines {
            let errors: Vec<String> = SCHEMA
                .iter_errors(line)
                .map(|error| format!("{error} at {}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{line}: {errors:?}");
        }
        let summaries = lines
            .iter()
            .filter(|line| line["type"] == "summary")
            .count();
        assert_eq!(
            summaries, 1,
            "stdout: {}\nstderr: {}",
            ran.stdout, ran.stderr
        );
        let events = Events {
            code: ran.code,
            lines,
            stderr: ran.stderr,
        };
        let summary = events.summary();
        assert_eq!(summary["type"], "summary", "the summary is the last line");
        assert_eq!(
            summary["exit_code"], events.code,
            "the summary has the exit code: {summary}"
        );
        events
    }
}

impl Events {
    /// The last line.
    #[track_caller]
    pub(crate) fn summary(&self) -> &Value {
        self.lines.last().unwrap()
    }

    pub(crate) fn of_type(&self, name: &str) -> Vec<&Value> {
        self.lines
            .iter()
            .filter(|line| line["type"] == name)
            .collect()
    }

    /// The same, having ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Events {
        assert_eq!(
            self.code,
            code,
            "{:#}\nstderr: {}",
            self.summary(),
            self.stderr
        );
        self
    }

    /// A number of the summary's only target.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        let targets = self.summary()["targets"].as_array().unwrap();
        assert_eq!(targets.len(), 1);
        targets[0][name].as_u64().unwrap()
    }
}

/// Bytes that look like a volume: some repeat, some do not, some are zero.
pub(crate) fn volume(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let page = bytes.len() / 4096;
        let word = match page % 4 {
            0 => [b'a' + (page % 26) as u8; 8],
            3 => [0; 8],
            _ => state.to_le_bytes(),
        };
        bytes.extend_from_slice(&word);
    }
    bytes.truncate(length);
    bytes
}

/// The same with one byte changed in each of these pages.
pub(crate) fn drifted(bytes: &[u8], pages: &[usize]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for page in pages {
        let at = (page * 4096 + 17).min(bytes.len() - 1);
        bytes[at] ^= 0x55;
    }
    bytes
}

/// The remote shell of these tests: it starts the far side on this machine.
pub(crate) fn shell() -> [String; 4] {
    [
        "-e".to_owned(),
        format!("'{LOCKSTEP}' demo-shell"),
        "--remote-path".to_owned(),
        LOCKSTEP.to_owned(),
    ]
}

/// Waits for something that happens soon.
#[track_caller]
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "this did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child that does not outlive its test.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running(Some(child))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn signal(&mut self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn end(mut self) -> Ran {
        Ran::from(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A file system that is unmounted with its guard, also when a test fails.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts with these arguments of mount(8) before the folder; `None` where that is not allowed.
    pub(crate) fn at(folder: &Path, arguments: &[&str]) -> Option<Mounted> {
        let mut command = Command::new("mount");
        let output = command.args(arguments).arg(folder).output().ok()?;
        output.status.success().then(|| Mounted(folder.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Says why a test did nothing.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file that is there and as long as it says, without a byte of data.
pub(crate) fn sparse(path: &Path, length: u64) {
    File::create(path).unwrap().set_len(length).unwrap();
}
