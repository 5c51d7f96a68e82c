//! Running programs: an argument list, never a shell, and limits of time and output.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::SnapshotError;

/// Bytes kept of what a program wrote to its standard error.
const KEPT_STDERR: usize = 1024;
/// How often a program is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// How long the rest of its output is waited for once it has ended.
const GRACE: Duration = Duration::from_secs(2);

/// What a program may use up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) time: Duration,
    pub(crate) output_bytes: usize,
}

/// One start of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) program: OsString,
    pub(crate) arguments: Vec<OsString>,
    /// What it reads from its standard input, at most what a pipe holds.
    pub(crate) input: Vec<u8>,
    pub(crate) limits: Limits,
}

impl Call {
    pub(crate) fn new<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        limits: Limits,
    ) -> Self {
        let owned = |argument: A| argument.as_ref().to_os_string();
        Self {
            program: program.as_ref().to_os_string(),
            arguments: arguments.into_iter().map(owned).collect(),
            input: Vec::new(),
            limits,
        }
    }

    /// The program and its first argument, for messages.
    fn title(&self) -> String {
        let mut title = printable(self.program.as_encoded_bytes());
        if let Some(first) = self.arguments.first() {
            title.push(' ');
            title.push_str(&printable(first.as_encoded_bytes()));
        }
        title
    }

    pub(crate) fn failed(&self, why: impl Into<String>, said: &[u8]) -> SnapshotError {
        SnapshotError::Program {
            program: self.title(),
            why: why.into(),
            said: printable(said),
        }
    }
}

/// Whoever runs programs: the system, or a test's script of what they would say.
pub(crate) trait Programs: Debug + Send + Sync {
    /// What the program wrote to its standard output, if it ended well.
    fn run(&self, call: &Call) -> Result<Vec<u8>, SnapshotError>;
}

/// Runs them for real.
#[derive(Debug)]
pub(crate) struct System;

impl Programs for System {
    fn run(&self, call: &Call) -> Result<Vec<u8>, SnapshotError> {
        let mut running = Running::start(call)?;
        running.tell(&call.input);
        let status = running.wait(call)?;
        let (output, said) = running.outputs(call)?;
        if !status.success() {
            return Err(call.failed(status.to_string(), &said));
        }
        Ok(output)
    }
}

/// A program at work; it and its children are killed when this is dropped before its end.
struct Running {
    child: Child,
    deadline: Instant,
    /// The output, or nothing if it was too long.
    output: Receiver<Option<Vec<u8>>>,
    said: Receiver<Vec<u8>>,
    has_ended: bool,
}

impl Running {
    fn start(call: &Call) -> Result<Self, SnapshotError> {
        let mut child = Command::new(&call.program)
            .args(&call.arguments)
            // The words of LVM and ZFS are compared.
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            // Nobody else is to speak to the service manager in our name.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| call.failed(format!("it cannot be started: {error}"), b""))?;
        let limit = call.limits.output_bytes;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let running = Self {
            child,
            deadline: Instant::now() + call.limits.time,
            output: in_background(move || stdout.map_or(Some(Vec::new()), |pipe| all(pipe, limit))),
            said: in_background(move || stderr.map_or_else(Vec::new, end)),
            has_ended: false,
        };
        Ok(running)
    }

    fn tell(&mut self, input: &[u8]) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A program that does not read is judged by what it answers.
            let _ = stdin.write_all(input);
        }
    }

    fn wait(&mut self, call: &Call) -> Result<ExitStatus, SnapshotError> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.deadline = self.deadline.min(Instant::now() + GRACE);
                    return Ok(status);
                }
                Ok(None) if Instant::now() >= self.deadline => {
                    self.kill();
                    return Err(SnapshotError::TimedOut {
                        program: call.title(),
                        limit: call.limits.time,
                        said: printable(&self.said.recv_timeout(GRACE).unwrap_or_default()),
                    });
                }
                Ok(None) => thread::sleep(POLL),
                Err(error) => return Err(call.failed(error.to_string(), b"")),
            }
        }
    }

    fn outputs(mut self, call: &Call) -> Result<(Vec<u8>, Vec<u8>), SnapshotError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let output = self
            .output
            .recv_timeout(left.max(POLL))
            .map_err(|_| call.failed("it left a process behind that holds its output open", b""))?;
        let said = self.said.recv_timeout(GRACE).unwrap_or_default();
        let output = output.ok_or_else(|| {
            let limit = call.limits.output_bytes;
            call.failed(format!("it wrote more than {limit} bytes"), &said)
        })?;
        self.has_ended = true;
        Ok((output, said))
    }

    fn kill(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // It has ended already if this fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill();
        }
    }
}

fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        // Nobody waits for it any more if this fails.
        let _ = sender.send(work());
    });
    receiver
}

/// All of a pipe, or nothing if that is more than `limit`; the rest is left unread then, so that
/// whoever writes it stops.
fn all(pipe: impl Read, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = pipe.take(limit as u64 + 1).read_to_end(&mut bytes);
    read.ok().filter(|length| *length <= limit).map(|_| bytes)
}

/// The end of a pipe, which is read to its end.
fn end(mut pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; KEPT_STDERR];
    while let Ok(length @ 1..) = pipe.read(&mut piece) {
        kept.extend_from_slice(&piece[..length]);
        let surplus = kept.len().saturating_sub(KEPT_STDERR);
        kept.drain(..surplus);
    }
    kept
}

/// Text of somebody else, on one line and without control characters.
pub(crate) fn printable(bytes: &[u8]) -> String {
    // A letter has at most four bytes, and whoever wrote a gigabyte is not quoted in full.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * KEPT_STDERR)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .join(" ")
        .chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .take(KEPT_STDERR)
        .collect()
}

/// What programs would say, in the order that they are expected to be asked.
#[cfg(test)]
pub(crate) mod script {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::{Call, Programs, SnapshotError};

    #[derive(Debug, Default)]
    pub(crate) struct Script(Mutex<VecDeque<(String, Result<String, String>)>>);

    impl Script {
        pub(crate) fn new<const N: usize>(lines: [(&str, Result<&str, &str>); N]) -> Self {
            let lines = lines.map(|(call, answer)| {
                let answer = answer.map(str::to_owned).map_err(str::to_owned);
                (call.to_owned(), answer)
            });
            Self(Mutex::new(lines.into()))
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                let left = self.0.lock().unwrap();
                assert!(left.is_empty(), "never asked: {left:?}");
            }
        }
    }

    impl Programs for Script {
        fn run(&self, call: &Call) -> Result<Vec<u8>, SnapshotError> {
            let words = [call.program.clone()]
                .into_iter()
                .chain(call.arguments.clone());
            let words: Vec<String> = words.map(|word| word.into_string().unwrap()).collect();
            let asked = words.join(" ");
            let next = self.0.lock().unwrap().pop_front();
            let (expected, answer) = next.unwrap_or_else(|| panic!("not expected: {asked}"));
            // The beginning is enough: long field lists would drown the story.
            assert!(
                asked == expected
                    || expected
                        .split_once(" … ")
                        .is_some_and(|(from, to)| asked.starts_with(from) && asked.ends_with(to)),
                "expected {expected}, was asked {asked}"
            );
            answer
                .map(String::into_bytes)
                .map_err(|said| call.failed("exit status: 5", said.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_secs(10),
        output_bytes: 1000,
    };

    fn shell(script: &str, limits: Limits) -> Result<Vec<u8>, SnapshotError> {
        let mut call = Call::new("sh", ["-c", script], limits);
        call.input = b"hello\n".to_vec();
        System.run(&call)
    }

    #[test]
    fn a_program_is_told_and_answers() {
        assert_eq!(shell("cat", LIMITS).unwrap(), b"hello\n");
        assert_eq!(shell("echo $LC_ALL", LIMITS).unwrap(), b"C\n");
        let failed = shell(
            "echo out; echo 'what\u{1b}[31m is\n  wrong' >&2; exit 3",
            LIMITS,
        );
        let text = failed.unwrap_err().to_string();
        assert_eq!(text, "sh -c: exit status: 3 (what?[31m is wrong)");
        let missing = System.run(&Call::new("/nowhere/at/all", [""], LIMITS));
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("cannot be started")
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let limits = Limits {
            time: Duration::from_millis(200),
            ..LIMITS
        };
        let begun = Instant::now();
        let error = shell("echo soon >&2; sleep 60 & sleep 60", limits).unwrap_err();
        assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("(soon)"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn endless_output_and_an_output_that_stays_open_are_errors() {
        let endless = shell("yes", LIMITS).unwrap_err().to_string();
        assert!(endless.contains("more than 1000 bytes"), "{endless}");
        let begun = Instant::now();
        let held = shell("sleep 60 & echo done", LIMITS)
            .unwrap_err()
            .to_string();
        assert!(held.contains("holds its output open"), "{held}");
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
}
